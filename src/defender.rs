//! Microsoft Defender's streaming-API messages: bytes in, typed records out. Every Defender quirk lives in this module.

pub mod event;

pub use event::{Body, DeviceInfo, NetworkEvent, Record};
