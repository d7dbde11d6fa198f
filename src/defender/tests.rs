//! Tests of the decoder: golden Defender messages, hostile input rule by rule, and agreement with a slow reference decoder.

mod differential;
mod golden;
mod hostile;

use super::decode::{Limits, Sink};
use super::twin::{Collect, NO_CLOCK, Said, agree, decode, decode_bare};
use crate::time::Ticks;

fn at(text: &str) -> Ticks {
    Ticks::parse(text).unwrap()
}
