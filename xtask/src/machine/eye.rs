//! Looks at the screen of QEMU's machine, through QEMU's monitor.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the monitor says when it waits for a command.
const PROMPT: &str = "(qemu) ";

/// What can look at a screen.
#[derive(Clone)]
pub struct Eye {
    folder: PathBuf,
}

/// What is on a screen.
pub struct Picture {
    /// Elements in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Red, green and blue of each element, line by line.
    pub elements: Vec<[u8; 3]>,
}

impl Eye {
    /// Gives the machine a screen, a device that firmware sets up and describes.
    pub fn open(command: &mut Command, device: &str, folder: &Path) -> Self {
        let eye = Eye { folder: folder.to_owned() };
        command.args(["-device", device, "-monitor"]);
        command.arg(format!("unix:{},server=on,wait=off", eye.monitor().display()));
        eye
    }

    fn monitor(&self) -> PathBuf {
        self.folder.join("monitor")
    }

    /// What is on the screen now.
    pub fn look(&self) -> Result<Picture> {
        let mut monitor = UnixStream::connect(self.monitor()).context("QEMU's monitor")?;
        monitor.set_read_timeout(Some(PATIENCE))?;
        let file = self.folder.join("screen.ppm");
        answer(&mut monitor)?;
        writeln!(monitor, "screendump {}", file.display())?;
        answer(&mut monitor)?;
        picture(&fs::read(&file).context("QEMU's picture of the screen")?)
            .context("QEMU's picture of the screen is none")
    }
}

/// Reads up to the next prompt.
fn answer(monitor: &mut UnixStream) -> Result<()> {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with(PROMPT) {
        let length = monitor.read(&mut buffer).context("QEMU's monitor does not answer")?;
        ensure!(length > 0, "QEMU's monitor is gone");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    Ok(())
}

/// Reads a picture as QEMU writes it: `P6`, width, height, 255, each on a line or with a blank between, then the elements.
fn picture(file: &[u8]) -> Option<Picture> {
    let mut rest = file;
    let mut word = || {
        let end = rest.iter().position(u8::is_ascii_whitespace)?;
        let word = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        Some(word)
    };
    let (kind, width, height, depth) = (word()?, word()?, word()?, word()?);
    let (width, height): (u32, u32) = (width.parse().ok()?, height.parse().ok()?);
    let elements: Vec<[u8; 3]> = rest.as_chunks().0.to_vec();
    let whole = elements.len() as u64 == u64::from(width) * u64::from(height);
    (kind == "P6" && depth == "255" && whole).then_some(Picture { width, height, elements })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_whole_or_not_at_all() {
        let file = b"P6\n2 1\n255\n\x01\x02\x03\xff\x00\x0a";
        let read = picture(file).unwrap();
        assert_eq!((read.width, read.height, read.elements), (2, 1, vec![[1, 2, 3], [255, 0, 10]]));
        for bad in [&file[..file.len() - 1], b"P5\n2 1\n255\n\x01\x02\x03\xff\x00\x0a", b"P6\n2", b""] {
            assert!(picture(bad).is_none());
        }
    }
}
