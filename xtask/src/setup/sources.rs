//! Finds the machine's own Debian mirror in its apt configuration, so that no host name is written down here.

use anyhow::{Result, bail};
use std::path::Path;

/// One archive of the machine's apt configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    uri: String,
    suite: String,
    components: Vec<String>,
}

/// Base URI of a Debian mirror: `POSTERN_MIRROR`, else the first archive that offers Debian's `main` for the release
/// this machine runs.
pub fn mirror(codename: &str) -> Result<String> {
    if let Ok(uri) = std::env::var("POSTERN_MIRROR") {
        return Ok(uri);
    }
    let mut archives = Vec::new();
    let folder = Path::new("/etc/apt/sources.list.d");
    let mut files: Vec<_> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => archives.extend(one_line_format(&text)),
            Some("sources") => archives.extend(deb822_format(&text)),
            _ => {}
        }
    }
    match pick(&archives, codename) {
        Some(uri) => Ok(uri),
        None => bail!(
            "no Debian mirror found in this machine's apt configuration; \
             set POSTERN_MIRROR to the base address of one and try again"
        ),
    }
}

fn pick(archives: &[Archive], codename: &str) -> Option<String> {
    let rolling = ["stable", "oldstable", "testing", "unstable", "sid"];
    let is_main = |a: &&Archive| a.components.iter().any(|c| c == "main");
    let by_codename = archives.iter().filter(is_main).find(|a| a.suite == codename);
    // Other vendors use names like "stable" too; Debian's own archive ends in /debian.
    let by_alias = || {
        let is_debian = |a: &&Archive| a.uri.trim_end_matches('/').ends_with("/debian");
        archives.iter().filter(is_main).filter(is_debian).find(|a| rolling.contains(&a.suite.as_str()))
    };
    by_codename.or_else(by_alias).map(|archive| archive.uri.clone())
}

/// Reads `deb [options] URI SUITE COMPONENT...` lines (sources.list(5)).
fn one_line_format(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            archives.push(Archive { uri, suite, components: words.collect() });
        }
    }
    archives
}

/// Reads stanzas with `Types:`, `URIs:`, `Suites:` and `Components:` fields (sources.list(5), deb822 style).
fn deb822_format(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    let text: String = text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    for stanza in text.split("\n\n") {
        let field = |name: &str| -> Vec<String> {
            let mut fields = stanza.lines().filter_map(|line| line.split_once(':'));
            let value = fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            value.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        if !field("types").iter().any(|t| t == "deb") || field("enabled") == ["no"] {
            continue;
        }
        for uri in field("uris") {
            for suite in field("suites") {
                archives.push(Archive { uri: uri.clone(), suite, components: field("components") });
            }
        }
    }
    archives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_in_both_formats() {
        let old = "# comment\ndeb-src file:/a/debian trixie main\n\
                   deb [arch=amd64 signed-by=/k.gpg] file:/vendor/apt stable main\n\
                   deb file:/b/debian trixie main contrib\n";
        assert_eq!(pick(&one_line_format(old), "trixie").as_deref(), Some("file:/b/debian"));
        let new = "Types: deb\n# remark\nURIs: file:/c/debian\nSuites: bookworm bookworm-updates\n\
                   Components: main\n\nTypes: deb\nURIs: file:/d/security\nSuites: bookworm-security\n\
                   Components: main\n";
        assert_eq!(pick(&deb822_format(new), "bookworm").as_deref(), Some("file:/c/debian"));
    }

    #[test]
    fn takes_no_other_vendor_for_debian() {
        let text = "deb file:/vendor/apt stable main\n";
        assert_eq!(pick(&one_line_format(text), "trixie"), None);
        let text = "deb file:/e/debian/ sid main\n";
        assert_eq!(pick(&one_line_format(text), "forky").as_deref(), Some("file:/e/debian/"));
    }
}
