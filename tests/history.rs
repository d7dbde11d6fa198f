//! History in: exports in every form load the same state, whatever stops in between; and the service that takes over says at every
//! instant what it would have said with all of it. Against a real Azurite and a real Kafka.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[allow(dead_code, reason = "the oracle uses all of it")]
mod model;
mod support;

#[path = "history/azurite.rs"]
mod azurite;
#[path = "history/formats.rs"]
mod formats;
#[path = "history/hand_over.rs"]
mod hand_over;
#[path = "history/kit.rs"]
mod kit;
#[path = "history/resume.rs"]
mod resume;
#[path = "service/rig.rs"]
#[allow(dead_code, reason = "the service's tests use all of it")]
mod rig;
#[path = "history/storage.rs"]
mod storage;
