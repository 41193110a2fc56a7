//! Whether a screen shows what it has to: the lines of Postern's log, drawn as Postern draws them, or why the application cannot
//! boot it, drawn by firmware.

use crate::machine::eye::Picture;
use crate::verdict::{APPLICATION, BOOT_REFUSED};
use loader::screen::{Layout, Order};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What the application says last; what follows is Postern's.
const STARTING: &str = "postern: starting;";
/// What Postern says last before the screen is its host's.
const ENTERING: &str = "postern: entering the host";
/// What no renderer draws.
const NOTHING: u32 = 0xff00_0000;
/// Picture elements of a character that EDK II's console draws: width and height.
const CELL: [usize; 2] = [8, 19];
/// So many characters fit on a line of that console.
const COLUMNS: usize = 80;

/// Lines of the picture in a line of Postern's text.
const TEXT_LINE: u32 = 13;

/// What Postern has logged until the screen was its host's. While the application runs that is nothing.
fn own_lines(log: &str) -> String {
    let by_application = log.lines().any(|line| line.starts_with(APPLICATION));
    let own = log.lines().skip_while(|line| by_application && !line.starts_with(STARTING)).skip(by_application.into());
    let own = own.skip_while(|line| !line.starts_with("postern: ")).take_while(|line| line.starts_with("postern: "));
    let mut text = String::new();
    for line in own {
        text.extend([line, "\n"]);
        if line.starts_with(ENTERING) {
            break;
        }
    }
    text
}

/// Picture memory with this text on it.
fn draw(text: &str, [width, height]: [u32; 2], order: Order) -> Result<Vec<u32>, String> {
    let mut memory = vec![NOTHING; (width * height) as usize];
    let layout = Layout::new(4, memory.len() as u64 * 4, [width, height], width, order).ok_or("an absurd screen")?;
    #[allow(unsafe_code)] // Reason: the renderer writes picture memory, which a vector plays here.
    // SAFETY: memory for all elements of the layout, and nothing else uses it meanwhile.
    let mut screen = unsafe { arch::screen::Screen::new(&layout, memory.as_mut_ptr()) }.ok_or("a tiny screen")?;
    screen.write_str(text).map_err(|error| error.to_string())?;
    match memory.iter().any(|element| *element != NOTHING && *element & 0xff_ffff != 0) {
        true => Ok(memory),
        false => Err("the screen is black".into()),
    }
}

/// Compares a screen with the lines that Postern has logged until its host ran, or with the application's refusal to start it; the
/// error says what is wrong.
pub fn judge(log: &str, picture: &Picture) -> Result<(), String> {
    let text = own_lines(log);
    if text.is_empty() {
        // There are boot services yet.
        let refusal = log.lines().rev().find(|line| line.starts_with(BOOT_REFUSED));
        let refusal = refusal.ok_or("nothing has been logged that the screen could show")?;
        return match spells(refusal, picture) {
            true => Ok(()),
            false => Err(format!("the screen does not say \"{refusal}\"")),
        };
    }
    let memory = draw(&text, [picture.width, picture.height], Order::Rgb)?;
    let mut drawn = memory.iter().zip(&picture.elements).enumerate().filter(|(_, (wanted, _))| **wanted != NOTHING);
    let wrong = drawn.find(|(_, (wanted, shown))| wanted.to_le_bytes()[..3] != shown[..]);
    match wrong.map(|(at, _)| (at as u32 % picture.width, at as u32 / picture.width)) {
        Some((x, y)) => Err(format!("the screen differs from Postern's text at {x}, {y}")),
        None => Ok(()),
    }
}

/// The same with the digests that the host has made of each line of text: `host: screen 800 x 600, 800 from line to line, Bgr`,
/// then `host: screen line 0: ` and SHA-256 of its elements. For machines whose screen nobody looks at from outside.
pub fn judge_by_host(log: &str) -> Result<(), String> {
    let (width, height, order) = log.lines().find_map(described).ok_or("the host has found no screen")?;
    let memory = draw(&own_lines(log), [width, height], order)?;
    let lines = memory.chunks_exact((width * TEXT_LINE) as usize).enumerate();
    for (number, line) in lines.filter(|(_, line)| line[0] != NOTHING) {
        let bytes: Vec<u8> = line.iter().flat_map(|element| (element & 0xff_ffff).to_le_bytes()).collect();
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let told = format!("host: screen line {number}: {digest}");
        if !log.lines().any(|line| line == told) {
            return Err(format!("line {number} of the screen differs from Postern's text"));
        }
    }
    Ok(())
}

/// Width, height and colours of the host's screen.
fn described(line: &str) -> Option<(u32, u32, Order)> {
    let (size, rest) = line.strip_prefix("host: screen ")?.split_once(", ")?;
    let (width, height) = size.split_once(" x ")?;
    let order = match rest.rsplit(' ').next()? {
        "Rgb" => Order::Rgb,
        "Bgr" => Order::Bgr,
        _ => return None,
    };
    Some((width.parse().ok()?, height.parse().ok()?, order))
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

    const LOG: &str = "BdsDxe: x\npostern: UEFI application 0\npostern: starting; what\npostern: ab\npostern: c\nhost: d\npostern: e\n";

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

    #[test]
    fn only_digests_of_the_right_text_pass() {
        let elements = picture("postern: ab\npostern: c\n").elements;
        let lines = elements.chunks(160 * 13).enumerate().map(|(number, line)| {
            let bytes: Vec<u8> = line.iter().flat_map(|[red, green, blue]| [*red, *green, *blue, 0]).collect();
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("host: screen line {number}: {digest}\n")
        });
        let told = format!("{LOG}host: screen 160 x 52, 160 from line to line, Rgb\n{}", lines.collect::<String>());
        assert_eq!(judge_by_host(&told), Ok(()));
        let by_grub = told.lines().skip(3).flat_map(|line| [line, "\n"]).collect::<String>();
        assert_eq!(judge_by_host(&by_grub), Ok(()), "without the application");
        assert!(judge_by_host(&told.replace("postern: c", "postern: d")).is_err(), "another text");
        assert!(judge_by_host(&told.replace("host: screen line 1", "host: screen line 9")).is_err(), "a line too few");
        assert!(judge_by_host(LOG).is_err(), "no screen");
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
        let log = "BdsDxe: x\npostern: UEFI application 0\n\npostern: cannot boot: the CPU has none\n";
        assert_eq!(judge(log, &drawn("postern: cannot boot: the CPU has none")), Ok(()));
        for wrong in ["", "postern: cannot boot: the CPU has nine", "postern: cannot boot: the CPU h"] {
            assert!(judge(log, &drawn(wrong)).is_err(), "{wrong:?}");
        }
    }
}
