//! Judged records by places, not strings: what a batch keeps, and what becomes an [`event`](super::event) on delivery.
//!
//! Invariant: a row's places count from the start of its message, and of the arena. Judging is left to
//! [`row`](super::row); keeping the bytes to [`decode`](super::decode) and [`batch`](super::batch).

use super::event::{Body, DeviceInfo, NetworkEvent, Record, Unread};
use super::fault::Fault;
use super::token::Text;
use crate::time::Ticks;

/// A judged element of `records`: places in the message, and in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Position in `records`; `None` stands for the whole message.
    pub(super) index: Option<u32>,
    /// The element's own bytes: in the message; once a [`Batch`](super::Batch) has it, in what that keeps of the message.
    pub(super) start: u32,
    /// See `start`; exclusive.
    pub(super) end: u32,
    /// What it holds, or why it does not count.
    pub(super) outcome: Result<Packed, Fault>,
}

/// A [`Record`] by places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    pub(super) arrival: Ticks,
    pub(super) tenant: Text,
    pub(super) body: PackedBody,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum PackedBody {
    Network(PackedNetwork),
    Device { timestamp: Ticks, device_id: Text, device_name: Text, os_platform: Text, device_type: Text },
    Skipped(Text),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PackedNetwork {
    pub(super) timestamp: Ticks,
    pub(super) report_id: i64,
    pub(super) remote_port: Option<u16>,
    pub(super) device_id: Text,
    pub(super) device_name: Text,
    pub(super) action_type: Text,
    pub(super) remote_ip: Text,
    pub(super) remote_ip_type: Text,
    pub(super) remote_url: Text,
    pub(super) company: Text,
    pub(super) product: Text,
    pub(super) file_name: Text,
    pub(super) folder_path: Text,
    pub(super) command_line: Text,
    pub(super) sha256: Text,
    pub(super) account_name: Text,
    pub(super) account_domain: Text,
}

impl Packed {
    /// Whether the detector may refuse the record, and its own bytes may be asked for: event time ahead of the arrival clock,
    /// which is never behind the record's own arrival.
    pub(super) fn may_be_refused(&self) -> bool {
        match &self.body {
            PackedBody::Network(network) => network.timestamp > self.arrival,
            PackedBody::Device { timestamp, .. } => *timestamp > self.arrival,
            PackedBody::Skipped(_) => false,
        }
    }

    /// The record, borrowing from the message and the arena.
    #[inline]
    pub(super) fn record<'a>(&self, message: &'a str, arena: &'a str) -> Record<'a> {
        let text = |t: Text| t.resolve(message, arena);
        let unread = |t: Text| Unread::utf8(t.bytes(message, arena));
        let body = match &self.body {
            PackedBody::Network(n) => Body::Network(NetworkEvent {
                timestamp: n.timestamp,
                device_id: unread(n.device_id),
                device_name: text(n.device_name),
                report_id: n.report_id,
                action_type: unread(n.action_type),
                remote_ip: text(n.remote_ip),
                remote_ip_type: unread(n.remote_ip_type),
                remote_port: n.remote_port,
                remote_url: text(n.remote_url),
                company: text(n.company),
                product: unread(n.product),
                file_name: unread(n.file_name),
                folder_path: unread(n.folder_path),
                command_line: unread(n.command_line),
                sha256: unread(n.sha256),
                account_name: unread(n.account_name),
                account_domain: unread(n.account_domain),
            }),
            &PackedBody::Device { timestamp, device_id, device_name, os_platform, device_type } => Body::Device(DeviceInfo {
                timestamp,
                device_id: text(device_id),
                device_name: text(device_name),
                os_platform: text(os_platform),
                device_type: text(device_type),
            }),
            &PackedBody::Skipped(category) => Body::Skipped(text(category)),
        };
        Record { arrival: self.arrival, tenant: text(self.tenant), body }
    }
}
