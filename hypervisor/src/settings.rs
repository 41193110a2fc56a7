//! Postern's own settings in the bundle's `config`.

/// The value of `name` in lines of `name=value`; the first one counts.
pub fn get<'a>(settings: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = core::str::from_utf8(settings).ok()?.lines().filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_by_its_whole_name() {
        assert_eq!(get(b"mode=run\npostern.wipe = yes\npostern.wipe=no\n", "postern.wipe"), Some("yes"));
        for settings in [&b""[..], b"wipe=yes\n", b"postern.wipes=yes\n", b"postern.wipe\n", b"\xff"] {
            assert_eq!(get(settings, "postern.wipe"), None);
        }
    }
}
