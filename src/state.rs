//! Durability: snapshots of all state, the order journal since the last one, and what recovery needs of both.
//!
//! Nothing is written per event. The detector is deterministic and the input lies durable in Kafka; what is missing is in
//! which order the partitions were consumed, and that is the journal. Snapshot `n` is the state before the first entry of
//! journal segment `n`; recovery loads the newest good snapshot and follows the segments from its number on.

pub mod codec;
pub mod disk;
pub mod history;
pub mod inspect;
pub mod journal;
pub mod segment;
pub mod snapshot;
pub mod store;

pub use store::{Recovered, StateError, Store};
