//! Writes the transition table into `docs/memory.md`: `cargo run -p guestmem --features fake --example render`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/memory.md");
    let page = std::fs::read_to_string(&path)?;
    let rendered = guestmem::transition::render();
    match guestmem::transition::insert(&page, &rendered) {
        Some(page) => std::fs::write(&path, page),
        None => Err(std::io::Error::other("the page has no place for the table")),
    }
}
