//! Changes of findings: what the detector says and what stands on the findings topic (`firstseen.finding/1`).

pub mod grouped;
pub mod json;
pub mod reason;
pub mod severity;

use crate::time::Ticks;

/// What happened to a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The row entered the hunting query's answer.
    Opened,
    /// Count, prevalence or URLs of an open finding changed.
    Updated,
    /// The row left the answer before its first day was over.
    Retracted,
    /// The finding's first day is over.
    Closed,
}

impl ChangeKind {
    /// The word in the output's `change` field and header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Opened => "opened",
            ChangeKind::Updated => "updated",
            ChangeKind::Retracted => "retracted",
            ChangeKind::Closed => "closed",
        }
    }
}

/// Identity of a finding: the first 16 bytes of SHA-256 over tenant, device, address, port and the instant of the first opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FindingId(pub [u8; 16]);

impl std::fmt::Display for FindingId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One change of one finding, with the row's values at `at`. Empty strings mean "not known" and are absent in the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Stays as long as the candidate lives.
    pub id: FindingId,
    /// 1, 2, 3 … within the finding; `(id, revision)` names a change for ever.
    pub revision: u32,
    /// What happened.
    pub kind: ChangeKind,
    /// The exact instant from which it holds.
    pub at: Ticks,
    /// Tenant.
    pub tenant: String,
    /// Device name (the query's key).
    pub device_name: String,
    /// DeviceId of the connection that opened it.
    pub device_id: String,
    /// OSPlatform of the newest DeviceInfo row that made the device a server.
    pub os_platform: String,
    /// DeviceType of the same row.
    pub device_type: String,
    /// Remote address, as text.
    pub remote_ip: String,
    /// Remote port; `None` is the query's null group.
    pub remote_port: Option<u16>,
    /// Distinct non-empty URLs of the address in the prevalence window, sorted.
    pub urls: Vec<String>,
    /// More URLs were seen than are kept.
    pub urls_truncated: bool,
    /// Event time of the candidate's first and last event.
    pub first_seen: Ticks,
    /// See `first_seen`.
    pub last_seen: Ticks,
    /// The query's `Count`.
    pub count: u64,
    /// The query's `Prevalence`; exact while it is below the cap.
    pub prevalence: u64,
    /// The rare companies that made the device a third-party server, with their server counts, sorted by company.
    pub vendors: Vec<(String, u64)>,
    /// The connection's last event before the candidate, when it is still known.
    pub previous_seen: Option<Ticks>,
    /// Since when the tenant's input is observed: the baseline's age.
    pub observed_since: Ticks,
    /// Since when the device itself is observed, by the same clock.
    pub device_since: Ticks,
    /// Messages that arrived before this instant are missing, and the finding may be wrong for it.
    pub gap: Option<Ticks>,
    /// Connections of the device that were last seen at or before this instant were evicted within the lookback, and it may be one of them.
    pub evicted: Option<Ticks>,
    /// Settings were changed to such as need what was not kept, and the finding may be wrong for it until then.
    pub partial: Option<Ticks>,
    /// First seen in an event that arrived more than a day late.
    pub late: bool,
    /// The suppression rule that matches, by name. The detector knows no rules: it is set on the way out.
    pub suppressed_by: Option<std::sync::Arc<str>>,
    /// Why a finding was retracted, in words; empty otherwise.
    pub cause: &'static str,
    /// The connection that opened it.
    pub event: OpeningEvent,
}

/// What is kept of the event that opened a candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpeningEvent {
    /// `ReportId`.
    pub report_id: i64,
    /// `ActionType`.
    pub action: String,
    /// `InitiatingProcessFileName`.
    pub file_name: String,
    /// `InitiatingProcessFolderPath`.
    pub folder_path: String,
    /// `InitiatingProcessCommandLine`, cut at 4 KiB.
    pub command_line: String,
    /// `InitiatingProcessSHA256`.
    pub sha256: String,
    /// `InitiatingProcessAccountName`, with its domain before a backslash when there is one.
    pub account: String,
    /// `InitiatingProcessVersionInfoCompanyName`.
    pub company: String,
    /// `InitiatingProcessVersionInfoProductName`.
    pub product: String,
}
