//! The screen: lines of text in the picture memory that the boot loader has described, for a machine whose serial line
//! nobody watches.
//!
//! Only until the host runs, whose device it is then; and for a crash, which the host does not survive. Nothing is ever
//! read back: picture memory is slow to read. Fonts and text are the `embedded-graphics` crate's.
#![allow(unsafe_code)] // Picture memory is written.

use core::convert::Infallible;
use core::fmt;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyleBuilder;
use embedded_graphics::mono_font::ascii::FONT_8X13;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::Baseline;
use embedded_graphics::text::renderer::TextRenderer;
use loader::screen::{Layout, Order};

/// Picture elements of a character.
const CHARACTER: Size = FONT_8X13.character_size;
const TEXT: Rgb888 = Rgb888::WHITE;
const BACKGROUND: Rgb888 = Rgb888::BLACK;

/// A screen to write to: a line that is full goes on in the next, and below the last one is the first again.
#[derive(Debug)]
pub struct Screen {
    canvas: Canvas,
    columns: u32,
    rows: u32,
    /// Where the next character goes. The line that is written was made empty when it was begun.
    column: u32,
    row: u32,
    begun: bool,
}

/// The picture memory.
#[derive(Debug)]
struct Canvas {
    base: *mut u32,
    layout: Layout,
}

// SAFETY: the picture memory is reachable from every CPU; the console's lock lets one at a time use it.
unsafe impl Send for Canvas {}

impl Screen {
    /// The screen of this layout; `None` where not even a line of text fits.
    ///
    /// # Safety
    /// `base` points to the picture memory of `layout`, mapped writable and not cached, or cached where the display reads
    /// caches; only this value writes it.
    pub unsafe fn new(layout: &Layout, base: *mut u32) -> Option<Self> {
        let (columns, rows) = (layout.width / CHARACTER.width, layout.height / CHARACTER.height);
        let canvas = Canvas { base, layout: layout.clone() };
        (columns > 0 && rows > 0).then_some(Self { canvas, columns, rows, column: 0, row: 0, begun: false })
    }

    fn character(&mut self, character: char) {
        if character == '\n' {
            self.new_line();
            return;
        }
        if self.column == self.columns {
            self.new_line();
        }
        self.begin();
        let printable = if matches!(character, ' '..='~') { character } else { '?' };
        let style = MonoTextStyleBuilder::new().font(&FONT_8X13).text_color(TEXT).background_color(BACKGROUND).build();
        let at = Point::new((self.column * CHARACTER.width) as i32, (self.row * CHARACTER.height) as i32);
        let Ok(_) = style.draw_string(printable.encode_utf8(&mut [0; 4]), at, Baseline::Top, &mut self.canvas);
        self.column += 1;
    }

    /// Makes the line empty that is about to be written.
    fn begin(&mut self) {
        if !self.begun {
            let corner = Point::new(0, (self.row * CHARACTER.height) as i32);
            let line = Rectangle::new(corner, Size::new(self.canvas.layout.width, CHARACTER.height));
            let Ok(()) = self.canvas.fill_solid(&line, BACKGROUND);
            self.begun = true;
        }
    }

    fn new_line(&mut self) {
        self.begin();
        (self.column, self.row, self.begun) = (0, (self.row + 1) % self.rows, false);
    }
}

impl fmt::Write for Screen {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|character| self.character(character));
        Ok(())
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.layout.width, self.layout.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let Layout { width, height, stride, order, .. } = self.layout;
        for Pixel(Point { x, y }, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { continue };
            if x < width && y < height {
                let [low, high] = match order {
                    Order::Rgb => [colour.r(), colour.b()],
                    Order::Bgr => [colour.b(), colour.r()],
                };
                let element = u32::from_le_bytes([low, colour.g(), high, 0]);
                let at = y as usize * stride as usize + x as usize;
                // SAFETY: a layout's lines lie within its memory (`Layout::new`), and `base` points to all of it.
                unsafe { self.base.add(at).write_volatile(element) };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;
    use std::vec;
    use std::vec::Vec;

    const UNTOUCHED: u32 = 0x5a5a_5a5a;

    /// What a screen of `width` by `height` elements, with five more between its lines, shows of `text`.
    fn shown(width: u32, height: u32, order: Order, text: &str) -> Vec<Vec<u32>> {
        let stride = width + 5;
        let mut memory = vec![UNTOUCHED; (stride * height) as usize];
        let size = memory.len() as u64 * 4;
        let layout = Layout::new(0x1000, size, [width, height], stride, order).expect("a layout");
        // SAFETY: all of the memory that the layout speaks of.
        let mut screen = unsafe { Screen::new(&layout, memory.as_mut_ptr()) }.expect("room for a line");
        screen.write_str(text).expect("never fails");
        memory.chunks(stride as usize).map(<[u32]>::to_vec).collect()
    }

    /// A character's cell as rows of bits.
    fn cell(picture: &[Vec<u32>], column: usize, row: usize) -> Vec<u8> {
        let lines = picture[row * 13..][..13].iter();
        lines
            .map(|line| line[column * 8..][..8].iter().fold(0, |bits, dot| bits << 1 | u8::from(*dot & 0xff_ffff != 0)))
            .collect()
    }

    #[test]
    fn characters_have_the_font_s_shape() {
        let picture = shown(80, 26, Order::Bgr, "I i\u{7}?");
        // The font's capital I: seven dots above, a stem, seven below.
        let i = cell(&picture, 0, 0);
        let dots: Vec<_> = i.iter().copied().filter(|line| *line != 0).collect();
        assert_eq!((dots.first(), dots.last(), dots.len()), (Some(&dots[dots.len() - 1]), dots.first(), 9));
        assert!(dots[1..8].iter().all(|line| line.count_ones() == 1), "{dots:x?}");
        assert_eq!(cell(&picture, 1, 0), [0; 13], "a blank");
        assert_ne!(cell(&picture, 2, 0), i);
        assert_eq!(cell(&picture, 3, 0), cell(&picture, 4, 0), "what cannot be printed is a question mark");
    }

    #[test]
    fn nothing_is_written_but_lines_of_text() {
        let picture = shown(83, 40, Order::Rgb, "postern: x\n");
        for (y, line) in picture.iter().enumerate() {
            for (x, dot) in line.iter().enumerate() {
                assert_eq!(*dot != UNTOUCHED, x < 83 && y < 13, "{x}, {y}");
            }
        }
    }

    #[test]
    fn what_is_beside_the_picture_is_not_drawn() {
        let layout = Layout::new(0x1000, 4 * 10 * 16, [8, 16], 10, Order::Rgb).expect("a layout");
        let mut memory = vec![UNTOUCHED; 10 * 16];
        let mut canvas = Canvas { base: memory.as_mut_ptr(), layout };
        for (x, y) in [(8, 0), (0, 16), (-1, 0), (0, -1), (i32::MAX, i32::MAX)] {
            let Ok(()) = canvas.draw_iter([Pixel(Point::new(x, y), TEXT)]);
        }
        assert!(memory.iter().all(|element| *element == UNTOUCHED));
        let Ok(()) = canvas.draw_iter([Pixel(Point::new(7, 15), Rgb888::new(1, 2, 3))]);
        assert_eq!(memory[157], 0x03_02_01);
    }

    #[test]
    fn long_lines_go_on_and_the_last_line_is_followed_by_the_first() {
        let one = shown(24, 39, Order::Bgr, "abcdef");
        let two = shown(24, 39, Order::Bgr, "abc\ndef");
        assert!(one == two);
        let turned = shown(24, 39, Order::Bgr, "a\nb\nc\nd");
        assert_eq!(cell(&turned, 0, 0), cell(&shown(24, 39, Order::Bgr, "d"), 0, 0));
        assert_eq!(cell(&turned, 0, 1), cell(&shown(24, 39, Order::Bgr, "\nb"), 0, 1));
    }

    #[test]
    fn a_screen_without_room_for_a_character_is_none() {
        let layout = Layout::new(0x1000, 1 << 20, [7, 100], 7, Order::Rgb);
        // SAFETY: nothing is written.
        assert!(layout.is_none_or(|layout| unsafe { Screen::new(&layout, core::ptr::null_mut()) }.is_none()));
    }
}
