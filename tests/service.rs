//! The real binary against a real Kafka: what it finds, that nothing is lost or doubled by restarts and kills, and how it answers
//! what goes wrong.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

#[path = "service/bombs.rs"]
mod bombs;
#[path = "service/commits.rs"]
mod commits;
#[path = "service/dead_letters.rs"]
mod dead_letters;
#[path = "service/disk_answers.rs"]
mod disk_answers;
#[path = "service/end_to_end.rs"]
mod end_to_end;
#[path = "service/input_answers.rs"]
mod input_answers;
#[path = "service/kills.rs"]
mod kills;
#[path = "service/limit_answers.rs"]
mod limit_answers;
#[path = "service/pressure.rs"]
mod pressure;
#[path = "service/refusals.rs"]
mod refusals;
#[path = "service/rig.rs"]
mod rig;
#[path = "service/rules.rs"]
mod rules;
#[path = "service/state_answers.rs"]
mod state_answers;
