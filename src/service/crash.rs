//! Places at which a debug build can be told to die, so that tests reach each window between two durable steps exactly.
//!
//! `FIRSTSEEN_CRASH_AT=name` ends the process at the place of that name as a SIGKILL would: nothing is flushed, nothing destroyed;
//! `name:n` at the n-th time. A release build knows no such places and reads no such variable.

/// The place `name` is reached.
#[cfg(debug_assertions)]
pub(super) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static TIMES: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("FIRSTSEEN_CRASH_AT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((armed, times)) = armed
        && armed == name
        && TIMES.fetch_add(1, Ordering::AcqRel) + 1 == *times
    {
        std::process::abort();
    }
}

/// The place `name` is reached.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn point(_name: &str) {}
