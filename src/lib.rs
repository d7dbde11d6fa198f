//! `firstseen`: finds, continuously and exactly, the first rare connection of a server in Microsoft Defender telemetry.
//!
//! `ARCHITECTURE.md` is the map of the modules and their invariants.

pub mod backfill;
pub mod cli;
pub mod commands;
pub mod config;
pub mod defender;
pub mod detector;
pub mod feed;
pub mod files;
pub mod finding;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod host_clock;
pub mod http;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod planted;
pub mod questions;
pub mod report;
pub mod service;
pub mod stage;
pub mod state;
pub mod suppress;
pub mod task;
pub mod time;
pub mod view;
pub mod whatif;
