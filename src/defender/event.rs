//! What the detector reads of Defender's records. A missing key, `null` and `""` are one: the empty string, as in KQL.

use crate::time::Ticks;
use std::fmt;

/// One record of a message whose envelope was good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    /// Envelope `time`: when Defender published it. Moves the tenant's arrival clock.
    pub arrival: Ticks,
    /// Envelope `tenantId`.
    pub tenant: &'a str,
    /// The row itself.
    pub body: Body<'a>,
}

/// The row of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body<'a> {
    /// A row of `DeviceNetworkEvents`.
    Network(NetworkEvent<'a>),
    /// A row of `DeviceInfo`.
    Device(DeviceInfo<'a>),
    /// A row of a table that the detector does not read: it only moves the clock. Holds the envelope's `category`.
    Skipped(&'a str),
}

/// The columns of a `DeviceNetworkEvents` row that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NetworkEvent<'a> {
    /// `Timestamp`: event time.
    pub timestamp: Ticks,
    /// `DeviceId`.
    pub device_id: Unread<'a>,
    /// `DeviceName`.
    pub device_name: &'a str,
    /// `ReportId`; 0 when missing.
    pub report_id: i64,
    /// `ActionType`.
    pub action_type: Unread<'a>,
    /// `RemoteIP`, as text: KQL compares it as text.
    pub remote_ip: &'a str,
    /// `RemoteIPType`.
    pub remote_ip_type: Unread<'a>,
    /// `RemotePort`; a null port is a group of its own.
    pub remote_port: Option<u16>,
    /// `RemoteUrl`.
    pub remote_url: &'a str,
    /// `InitiatingProcessVersionInfoCompanyName`.
    pub company: &'a str,
    /// `InitiatingProcessVersionInfoProductName`.
    pub product: Unread<'a>,
    /// `InitiatingProcessFileName`.
    pub file_name: Unread<'a>,
    /// `InitiatingProcessFolderPath`.
    pub folder_path: Unread<'a>,
    /// `InitiatingProcessCommandLine`.
    pub command_line: Unread<'a>,
    /// `InitiatingProcessSHA256`.
    pub sha256: Unread<'a>,
    /// `InitiatingProcessAccountName`.
    pub account_name: Unread<'a>,
    /// `InitiatingProcessAccountDomain`.
    pub account_domain: Unread<'a>,
}

impl NetworkEvent<'_> {
    /// Whether the hunting query's filter on action and address type lets this row into the baseline.
    ///
    /// `startswith` ignores ASCII case; everything else compares case-sensitively; an empty `RemoteIPType` passes.
    #[must_use]
    pub fn qualifies(&self) -> bool {
        self.action_type.bytes() != b"ListeningConnectionCreated"
            && !matches!(self.remote_ip_type.bytes(), b"Private" | b"Loopback")
            && !(self.remote_ip_type.bytes() == b"FourToSixMapping"
                && self.remote_ip.as_bytes().get(..7).is_some_and(|head| head.eq_ignore_ascii_case(b"::ffff:")))
    }
}

/// The columns of a `DeviceInfo` row that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceInfo<'a> {
    /// `Timestamp`: event time.
    pub timestamp: Ticks,
    /// `DeviceId`.
    pub device_id: &'a str,
    /// `DeviceName`.
    pub device_name: &'a str,
    /// `OSPlatform`; empty in partial rows.
    pub os_platform: &'a str,
    /// `DeviceType`; empty counts as a server.
    pub device_type: &'a str,
}

impl DeviceInfo<'_> {
    /// Whether this row makes its device a server (the query's `server_list`).
    #[must_use]
    pub fn says_server(&self) -> bool {
        !self.os_platform.is_empty() && self.os_platform != "macOS" && self.device_type != "Workstation"
    }
}

/// A text whose bytes nobody has looked at since it was decoded, and mostly nobody will: most columns are only shown, and only of
/// the few events that open a candidate. Cutting a `&str` out of a message looks at the bytes at both its ends, which by then are
/// in no cache; this does not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    /// Bytes that are known to be UTF-8.
    #[inline]
    pub(super) fn utf8(bytes: &'a [u8]) -> Self {
        Unread(bytes)
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text.
    #[must_use]
    pub fn text(self) -> &'a str {
        simdutf8::basic::from_utf8(self.0).expect("INV: an Unread is cut out of UTF-8 between characters")
    }
}

impl<'a> From<&'a str> for Unread<'a> {
    fn from(text: &'a str) -> Self {
        Unread(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Unread<'a> {
    fn from(text: &'a String) -> Self {
        Unread(text.as_bytes())
    }
}

impl fmt::Debug for Unread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text(), f)
    }
}
