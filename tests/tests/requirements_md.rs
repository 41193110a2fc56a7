//! The tests that `docs/requirements.md` names exist.

use std::fs;
use std::path::Path;

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn every_test_that_docs_requirements_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = String::new();
    for folder in ["arch/src", "guestmem", "hypervisor", "loader/src", "tests/src", "tests/tests", "tests/payloads/src"]
    {
        sources(&root.join(folder), &mut code);
    }
    let page = fs::read_to_string(root.join("docs/requirements.md")).expect("docs/requirements.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let names: Vec<_> = names.filter(|name| !name.contains([' ', '/'])).collect();
    assert!(names.len() > 50, "the table has been read");
    for name in names {
        let known = code.contains(&format!("fn {name}(")) || code.contains(&format!("(\"{name}\","));
        assert!(known, "docs/requirements.md names {name}, which is no test");
    }
}
