//! What a shell sees of the command line: exit statuses, and an end without noise when nobody reads on.

use std::process::{Command, Output, Stdio};

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = xtask(arguments).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_wrong_command_line_is_told_from_a_failure() {
    for wrong in
        [&["run", "--cpus", "9"][..], &["run", "--dialect", "tdx"], &["setup", "--verify", "--refresh"], &["x"]]
    {
        let (status, message) = run(wrong);
        assert_eq!(status, Some(2), "{wrong:?}: {message}");
    }
    let (status, message) = run(&["run", "--kernel", "/nonexistent/Image"]);
    assert_eq!(status, Some(1));
    assert!(message.contains("/nonexistent/Image cannot be read"), "{message}");
}

#[test]
fn a_text_file_is_no_initrd() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (status, message) = run(&["run", "--initrd", file]);
    assert_eq!(status, Some(1));
    assert!(message.contains("is no initrd"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    // The reader is gone before the program starts, so that no write of it can come first.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = xtask(&["test", "--list"]).stdout(writer).output().unwrap();
    assert_eq!(out.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}
