//! Real components that integration tests share.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

pub(crate) mod kafka;
pub(crate) mod process;
