//! `docs/calls.md` is made from the tables of the code; `POSTERN_BLESS=1` writes it anew.

use std::path::Path;

#[test]
fn docs_calls_md_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/calls.md");
    let fresh = tests::calls_md::render();
    if std::env::var_os("POSTERN_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("docs/calls.md can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(fresh.lines()).find(|(kept, fresh)| kept != fresh);
    assert!(kept == fresh, "docs/calls.md is stale, POSTERN_BLESS=1 writes it anew; first difference: {differs:?}");
}
