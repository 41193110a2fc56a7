//! Whether a screen shows what it has to: the lines of Postern's log, drawn as Postern draws them.

use crate::machine::eye::Picture;
use loader::screen::{Layout, Order};
use std::fmt::Write;

/// What the application says last; what follows is Postern's.
const STARTING: &str = "postern: starting;";
/// What no renderer draws.
const NOTHING: u32 = 0xff00_0000;

/// Compares a screen with the lines that Postern has logged until its host ran; the error says what is wrong.
pub fn judge(log: &str, picture: &Picture) -> Result<(), String> {
    let own = log.lines().skip_while(|line| !line.starts_with(STARTING)).skip(1);
    let text: String = own.take_while(|line| line.starts_with("postern: ")).flat_map(|line| [line, "\n"]).collect();
    if text.is_empty() {
        return Err("Postern has logged nothing that the screen could show".into());
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
}
