//! The fuzz target that has this program's name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::run_bytes(env!("CARGO_BIN_NAME"), bytes));
