//! `firstseen`: finds, continuously and exactly, the first rare connection of a server in Microsoft Defender telemetry.
//!
//! `ARCHITECTURE.md` is the map of the modules and their invariants.

pub mod defender;
pub mod detector;
pub mod finding;
pub mod kafka;
pub mod time;
