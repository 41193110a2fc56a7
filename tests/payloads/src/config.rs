//! Settings as lines of `name=value`.

/// The text of a configuration file.
#[derive(Clone, Copy, Default)]
pub struct Config<'a>(&'a str);

impl<'a> Config<'a> {
    /// Settings in `bytes`; what is not UTF-8 reads as empty.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(core::str::from_utf8(bytes).unwrap_or(""))
    }

    /// The value of `name`; the last line wins.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let lines = self.0.lines().rev().filter_map(|line| line.split_once('='));
        lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The value of `name` as a decimal or 0x number, or `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).and_then(number).unwrap_or(default)
    }
}

/// A decimal or 0x number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The value of `name` in a kernel command line: words of `name=value`; the last one wins.
pub fn argument<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().rev().filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_the_last_line_wins() {
        let config = Config::new(b"mode=run\nmemory = 0x1000\ncpus=4\nmode=demo\nbroken line\n");
        assert_eq!(config.get("mode"), Some("demo"));
        assert_eq!(config.number("memory", 1), 0x1000);
        assert_eq!(config.number("cpus", 1), 4);
        assert_eq!(config.number("absent", 7), 7);
        assert_eq!(argument("a=1 test=x console=ttyAMA0 test=y", "test"), Some("y"));
    }
}
