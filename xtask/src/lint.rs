//! House rules that a text search can check; `docs/style.md` says why they are there.

use crate::paths;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines above which a file is refused; above [`LONG`] it is mentioned.
const TOO_LONG: usize = 600;
/// Lines above which a file is mentioned.
const LONG: usize = 500;

/// What is wrong, and what is only worth a look.
#[derive(Default)]
pub struct Findings {
    /// These fail the check.
    pub errors: Vec<String>,
    /// These do not.
    pub warnings: Vec<String>,
}

/// Looks at all source files of the tree.
pub fn check() -> Result<Findings> {
    let root = paths::root();
    let mut findings = Findings::default();
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().into_owned();
        if let Ok(text) = fs::read_to_string(&file) {
            check_file(&name, &text, &mut findings);
        }
    }
    Ok(findings)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<_> = folder.read_dir()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" && name != "corpus" {
                collect(&path, files)?;
            }
        } else if ["rs", "toml", "sh", "ld", "c", "py", "S"].iter().any(|e| path.extension().is_some_and(|x| x == *e))
            || path.parent().and_then(Path::file_name).is_some_and(|name| name == ".ci")
        {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(name: &str, text: &str, findings: &mut Findings) {
    let rust = name.ends_with(".rs");
    let lines = text.lines().count();
    if rust && lines > TOO_LONG {
        findings.errors.push(format!("{name}: {lines} lines; split it (at most {TOO_LONG})"));
    } else if rust && lines > LONG {
        findings.warnings.push(format!("{name}: {lines} lines"));
    }
    // The test programs have folders of their own for an architecture's half.
    let arch_may = name.starts_with("loader/") || name.split('/').any(|part| part == "arch");
    // This file spells out what it looks for.
    let about_rules = name == "xtask/src/lint.rs";
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{name}:{}", number + 1);
        let code = line.trim_start();
        let comment =
            code.starts_with("//") || (code.starts_with('#') && !code.starts_with("#[") && !code.starts_with("#!["));
        if about_rules {
            continue;
        }
        if rust && !arch_may && !comment && code.contains("target_arch") && code.contains("cfg") {
            findings.errors.push(format!("{}: cfg(target_arch) belongs into a folder arch/, or into loader/", at()));
        }
        // The name of an XML name space only looks like an address.
        let address = code.contains("http://") || code.contains("https://");
        if address && !comment && !code.contains("xmlns=") {
            findings.errors.push(format!("{}: an address in code; take it from the machine's configuration", at()));
        }
        if rust && !comment && (code.contains("todo!(") || code.contains("unimplemented!(") || code.contains("FIXME")) {
            findings.errors.push(format!("{}: unfinished", at()));
        }
        if code.contains("/home/") || code.contains("/root/") {
            findings.errors.push(format!("{}: a path of somebody's machine", at()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        check_file(name, text, &mut findings);
        findings.errors
    }

    #[test]
    fn each_rule_can_fail() {
        let arch = "#[cfg(target_arch = \"aarch64\")]\n";
        assert_eq!(errors("guestmem/src/x.rs", &format!("x {arch}")).len(), 1);
        assert_eq!(errors("guestmem/src/x.rs", arch).len(), 1, "an attribute is no comment");
        assert!(errors("arch/src/lib.rs", arch).is_empty());
        assert!(errors("tests/payloads/src/arch/mod.rs", arch).is_empty());
        assert_eq!(errors("tests/payloads/src/lib.rs", arch).len(), 1);
        assert_eq!(errors("x/src/a.rs", "let u = \"https://x\";").len(), 1);
        assert!(errors("x/src/a.rs", "// see https://x").is_empty());
        assert_eq!(errors("x/src/a.rs", "todo!()").len(), 1);
        assert_eq!(errors("x/src/a.rs", &"\n".repeat(TOO_LONG + 1)).len(), 1);
        assert_eq!(errors("x/y.sh", "cd /root/x").len(), 1);
    }
}
