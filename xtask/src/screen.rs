//! Whether a screen shows what it has to: the lines of Postern's log, drawn as Postern draws them, or why the application cannot
//! boot it, drawn by firmware.

use crate::machine::eye::Picture;
use crate::verdict::BOOT_REFUSED;
use loader::screen::{Layout, Order};
use std::fmt::Write;

/// What the application says last; what follows is Postern's.
const STARTING: &str = "postern: starting;";
/// What no renderer draws.
const NOTHING: u32 = 0xff00_0000;
/// Picture elements of a character that EDK II's console draws: width and height.
const CELL: [usize; 2] = [8, 19];
/// So many characters fit on a line of that console.
const COLUMNS: usize = 80;

/// Compares a screen with the lines that Postern has logged until its host ran, or with the application's refusal to start it; the
/// error says what is wrong.
pub fn judge(log: &str, picture: &Picture) -> Result<(), String> {
    let own = log.lines().skip_while(|line| !line.starts_with(STARTING)).skip(1);
    let text: String = own.take_while(|line| line.starts_with("postern: ")).flat_map(|line| [line, "\n"]).collect();
    if text.is_empty() {
        // There are boot services yet.
        let refusal = log.lines().rev().find(|line| line.starts_with(BOOT_REFUSED));
        let refusal = refusal.ok_or("nothing has been logged that the screen could show")?;
        return match spells(refusal, picture) {
            true => Ok(()),
            false => Err(format!("the screen does not say \"{refusal}\"")),
        };
    }
    let (width, height) = (picture.width, picture.height);
    let mut memory = vec![NOTHING; (width * height) as usize];
    let layout =
        Layout::new(4, memory.len() as u64 * 4, [width, height], width, Order::Rgb).ok_or("an absurd screen")?;
    #[allow(unsafe_code)] // Reason: the renderer writes picture memory, which a vector plays here.
    // SAFETY: memory for all elements of the layout, and nothing else uses it meanwhile.
    let mut screen = unsafe { arch::screen::Screen::new(&layout, memory.as_mut_ptr()) }.ok_or("a tiny screen")?;
    screen.write_str(&text).map_err(|error| error.to_string())?;
    let drawn = memory.iter().zip(&picture.elements).enumerate().filter(|(_, (wanted, _))| **wanted != NOTHING);
    let wrong = drawn.clone().find(|(_, (wanted, shown))| wanted.to_le_bytes()[..3] != shown[..]);
    if let Some((at, _)) = wrong {
        return Err(format!("the screen differs from Postern's text at {}, {}", at as u32 % width, at as u32 / width));
    }
    let lit = drawn.filter(|(_, (wanted, _))| **wanted & 0xff_ffff != 0).count();
    if lit == 0 { Err("the screen is black".into()) } else { Ok(()) }
}

/// Whether firmware has drawn this text somewhere, in whatever font: two characters look alike exactly where they are the same.
/// What does not fit on a line is not looked for.
fn spells(text: &str, picture: &Picture) -> bool {
    let text = &text.as_bytes()[..text.len().min(COLUMNS)];
    let (width, height) = (picture.width as usize, picture.height as usize);
    let alike = |x: usize, y: usize, one: usize, other: usize| {
        (y..y + CELL[1]).all(|line| {
            let [one, other] = [one, other].map(|index| line * width + x + index * CELL[0]);
            picture.elements[one..one + CELL[0]] == picture.elements[other..other + CELL[0]]
        })
    };
    let is_at = |x: usize, y: usize| {
        let pairs = (1..text.len()).flat_map(|other| (0..other).map(move |one| (one, other)));
        pairs.into_iter().all(|(one, other)| alike(x, y, one, other) == (text[one] == text[other]))
    };
    let columns = (width + 1).saturating_sub(text.len() * CELL[0]);
    (0..(height + 1).saturating_sub(CELL[1])).any(|y| (0..columns).any(|x| is_at(x, y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str =
        "BdsDxe: x\npostern: UEFI\npostern: starting; what\npostern: ab\npostern: c\nhost: d\npostern: e\n";

    fn picture(text: &str) -> Picture {
        let (width, height) = (160, 52);
        let mut memory = vec![0_u32; width * height];
        let layout = Layout::new(4, 4 * 160 * 52, [160, 52], 160, Order::Rgb).unwrap();
        #[allow(unsafe_code)] // Reason: as above.
        // SAFETY: memory of this layout.
        let mut screen = unsafe { arch::screen::Screen::new(&layout, memory.as_mut_ptr()) }.unwrap();
        screen.write_str(text).unwrap();
        let elements = memory.iter().map(|element| [*element as u8, (*element >> 8) as u8, (*element >> 16) as u8]);
        Picture { width: 160, height: 52, elements: elements.collect() }
    }

    #[test]
    fn only_the_right_text_passes() {
        assert_eq!(judge(LOG, &picture("postern: ab\npostern: c\n")), Ok(()));
        for wrong in ["", "postern: ab\n", "postern: ab\npostern: d\n", "\npostern: ab\npostern: c\n"] {
            assert!(judge(LOG, &picture(wrong)).is_err(), "{wrong:?}");
        }
        assert!(judge("host: d\n", &picture("")).is_err());
    }

    /// A picture with a line of text in a font that nobody has.
    fn drawn(text: &str) -> Picture {
        let (width, height) = (700, 60);
        let mut picture = Picture { width, height, elements: vec![[0; 3]; (width * height) as usize] };
        for (index, letter) in text.bytes().enumerate().filter(|(_, letter)| *letter != b' ') {
            for dot in 0..CELL[0] * CELL[1] {
                let (x, y) = (index * CELL[0] + dot % CELL[0], dot / CELL[0]);
                if letter >> (dot % 8) & 1 != 0 {
                    picture.elements[(y + 17) * width as usize + x + 5] = [170; 3];
                }
            }
        }
        picture
    }

    #[test]
    fn a_refusal_is_found_in_any_font() {
        let log = "BdsDxe: x\npostern: UEFI\n\npostern: cannot boot: the CPU has none\n";
        assert_eq!(judge(log, &drawn("postern: cannot boot: the CPU has none")), Ok(()));
        for wrong in ["", "postern: cannot boot: the CPU has nine", "postern: cannot boot: the CPU h"] {
            assert!(judge(log, &drawn(wrong)).is_err(), "{wrong:?}");
        }
    }
}
