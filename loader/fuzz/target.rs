//! The fuzz target that has this program's name.
#![no_main]

use loader::fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match env!("CARGO_BIN_NAME") {
        "settings" => fuzz::settings(bytes),
        "program" => fuzz::program(bytes),
        "record" => fuzz::record(bytes),
        "multiboot_info" => fuzz::multiboot_info(bytes),
        "event_log" => fuzz::event_log(bytes),
        "acpi_tables" => fuzz::acpi_tables(bytes),
        "received" => fuzz::received(bytes),
        "tpm_answer" => fuzz::tpm_answer(bytes),
        "files" => fuzz::files(bytes),
        name => panic!("there is no target {name}"),
    }
});
