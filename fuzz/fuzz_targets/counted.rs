//! How much was run: libFuzzer counts executions, not bytes.

use std::sync::atomic::{AtomicU64, Ordering};

static RUNS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Runs the target, and says now and then how many bytes it was given in all.
pub fn run(target: fn(&[u8]), bytes: &[u8]) {
    let sum = BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
    if RUNS.fetch_add(1, Ordering::Relaxed) % 4096 == 4095 {
        eprintln!("bytes: {sum}");
    }
    target(bytes);
}
