//! Real components that integration tests share.

#![allow(dead_code, reason = "each test binary uses its part of it")]

pub mod kafka;
