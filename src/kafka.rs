//! Everything that speaks to Kafka: clients, the input's order, findings and dead letters, topics, and what is already published.
//!
//! Invariant: offsets are [`position::NextOffset`]s (the next one to read) wherever a position is meant; the only `+ 1` is there.
//! Positions in the consumer group are for people's tools; the truth is the state directory, which this module does not know.

pub mod admin;
mod certificate;
pub mod client;
pub mod cluster;
mod consume;
pub mod context;
mod group;
mod identity;
pub mod merge;
mod oauth;
pub mod plan;
pub mod position;
pub mod readback;
pub mod sink;
pub mod source;
