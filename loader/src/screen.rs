//! Picture memory as a boot loader describes it.

use crate::machine::RANGES_MAX;
use crate::{Bytes, Machine, layout, overlap};
use abi::handoff::{HandOff, pixel};

/// Most picture elements in a line, and lines.
const MOST: u32 = 1 << 14;

/// The order of the colours in an element of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Red in the lowest byte.
    Rgb,
    /// Blue in the lowest byte.
    Bgr,
}

/// Picture memory of 32 bits for each element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where it is.
    pub memory: Bytes,
    /// Elements in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Elements from the start of one line to the start of the next.
    pub stride: u32,
    /// Colours.
    pub order: Order,
}

impl Layout {
    /// A layout whose lines all lie in the `size` bytes from `start` on; `None` when they do not.
    pub fn new(start: u64, size: u64, [width, height]: [u32; 2], stride: u32, order: Order) -> Option<Self> {
        let sane = (1..=MOST).contains(&width) && (1..=MOST).contains(&height) && (width..=4 * MOST).contains(&stride);
        // No overflow: both factors are small.
        let needed = sane.then(|| u64::from(stride) * u64::from(height) * 4)?;
        let memory = start..start.checked_add(size)?;
        let fits = needed <= size && start != 0 && start.is_multiple_of(4);
        fits.then_some(Self { memory, width, height, stride, order })
    }

    /// What the UEFI application's record says.
    pub fn of_record(record: &HandOff) -> Option<Self> {
        let order = match record.pixel_format {
            pixel::RGB => Order::Rgb,
            pixel::BGR => Order::Bgr,
            _ => return None,
        };
        Self::new(record.framebuffer.start, record.framebuffer.size, record.resolution, record.stride, order)
    }

    /// Whether Postern may write to it: it is a device, or memory that firmware keeps, and none of `apart`.
    pub fn fits(&self, machine: &Machine, apart: &[Bytes]) -> bool {
        let kept = machine.reserved.iter().any(|kept| kept.start <= self.memory.start && self.memory.end <= kept.end);
        let apart = machine.memory.iter().filter(|_| !kept).chain(apart);
        apart.into_iter().all(|other| !overlap(other, &self.memory))
    }

    /// Has the machine's memory end where the picture is, if firmware keeps that in RAM: it is a device from here on, to
    /// Postern, to the frame database and to the host. As RAM it would be the host's to give away, and Postern would wipe
    /// what it has mapped as a device. False, with nothing changed, when the memory would be in too many pieces.
    pub fn take_from_memory(&self, machine: &mut Machine) -> bool {
        if !machine.memory.iter().any(|range| overlap(range, &self.memory)) {
            return true;
        }
        let rest = layout::without(&machine.memory, core::slice::from_ref(&self.memory));
        if rest.len() > RANGES_MAX {
            return false;
        }
        machine.memory = rest.into_iter().collect();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::EMPTY;
    use abi::handoff::Region;

    #[test]
    fn lines_have_to_lie_in_the_memory() {
        let layout = |start, size, resolution, stride| Layout::new(start, size, resolution, stride, Order::Rgb);
        assert!(layout(0x1000, 800 * 600 * 4, [800, 600], 800).is_some());
        for (start, size, resolution, stride) in [
            (0x1000, 800 * 600 * 4 - 1, [800, 600], 800),
            (0x1000, 800 * 600 * 4, [800, 600], 801),
            (0x1000, 1 << 40, [800, 600], 799),
            (0x1000, 1 << 40, [0, 600], 800),
            (0x1000, 1 << 40, [800, 0], 800),
            (0x1000, u64::MAX - 0x1000, [u32::MAX, u32::MAX], u32::MAX),
            (0x1002, 1 << 40, [800, 600], 800),
            (0, 1 << 40, [800, 600], 800),
            (u64::MAX - 0xfff, 0x1000, [800, 600], 800),
            (u64::MAX - 0xfff, 0x2000, [8, 8], 8),
        ] {
            assert_eq!(layout(start, size, resolution, stride), None, "{start:#x} {size:#x} {resolution:?} {stride}");
        }
    }

    #[test]
    fn it_is_no_ram_unless_firmware_keeps_that() {
        let record = HandOff {
            framebuffer: Region { start: 0x8000, size: 0x1000 },
            resolution: [8, 8],
            stride: 8,
            pixel_format: pixel::BGR,
            ..EMPTY
        };
        let layout = Layout::of_record(&record).unwrap();
        assert_eq!(layout.order, Order::Bgr);
        assert_eq!(Layout::of_record(&EMPTY), None);
        let mut machine = Machine::default();
        let one = core::slice::from_ref;
        assert!(layout.fits(&machine, &[0..0x8000, 0x9000..0xa000]) && !layout.fits(&machine, one(&(0..0x8001))));
        machine.memory.push(0x1000..0x8800);
        assert!(!layout.fits(&machine, &[]));
        machine.reserved.push(0x8000..0x9000);
        assert!(layout.fits(&machine, &[]) && !layout.fits(&machine, one(&(0x8fff..0x9000))));
        assert!(layout.take_from_memory(&mut machine));
        assert_eq!(machine.memory.as_slice(), one(&(0x1000..0x8000)), "the host cannot give it away as RAM");
        machine.memory = (0..RANGES_MAX as u64).map(|n| n * 0x10000..n * 0x10000 + 0xf000).collect();
        let before = machine.memory.clone();
        assert!(!layout.take_from_memory(&mut machine), "too many pieces");
        assert_eq!(machine.memory, before);
    }
}
