//! The real binary, a fleet's messages and what the report says of them.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the binary.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firstseen")).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

/// Runs it; it must succeed.
pub(crate) fn succeed(arguments: &[&str]) {
    let output = run(arguments);
    assert!(output.status.success(), "firstseen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory of its own for a test, and a fleet of this many devices and days in it.
pub(crate) fn fleet(devices: u32, days: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.ndjson");
    let (devices, days) = (devices.to_string(), days.to_string());
    succeed(&["generate", "--seed", "11", "--devices", &devices, "--days", &days, "--attack", "--out", text(&file)]);
    (dir, file)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
