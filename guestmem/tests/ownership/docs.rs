//! The documents say what the code does.

use guestmem::transition;

#[test]
fn the_transition_table_in_memory_md_is_the_one_in_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/memory.md");
    let page = std::fs::read_to_string(path).unwrap();
    let fresh = transition::insert(&page, &transition::render()).expect("markers around the table");
    assert!(page == fresh, "stale: run `cargo run -p guestmem --features fake --example render`");
}
