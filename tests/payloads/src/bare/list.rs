//! A list for what is read before there is a heap.

const MAX: usize = 16;

/// A list of fixed capacity: paging and the heap are not up yet when the tree is read.
pub struct List<T> {
    items: [T; MAX],
    length: usize,
}

impl<T: Default> Default for List<T> {
    fn default() -> Self {
        Self { items: core::array::from_fn(|_| T::default()), length: 0 }
    }
}

impl<T> List<T> {
    /// Adds an item; what does not fit is left out.
    pub fn push(&mut self, item: T) {
        if let Some(slot) = self.items.get_mut(self.length) {
            *slot = item;
            self.length += 1;
        }
    }
}

impl<T> core::ops::DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.length]
    }
}

impl<T> core::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.length]
    }
}
