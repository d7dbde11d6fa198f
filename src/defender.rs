//! Microsoft Defender's streaming-API messages: bytes in, typed records out. Every Defender quirk lives in this module.
//!
//! [`decode`] holds the rules and the [`Decoder`]; [`batch`] packs what it delivers; [`reason`] names what may be wrong.

pub mod batch;
pub mod decode;
pub mod event;
mod fault;
mod lanes;
mod packed;
pub mod reason;
mod row;
mod scan;
mod token;
#[cfg(any(test, fuzzing))]
pub(crate) mod twin;

pub use batch::{Batch, Item};
pub use decode::{Decoder, Limits, Sink};
pub use event::{Body, DeviceInfo, NetworkEvent, Record, Unread};
pub use reason::Reason;

#[cfg(test)]
mod tests;
