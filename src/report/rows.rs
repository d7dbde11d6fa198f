//! Rows of the report's lists.

use crate::time::Ticks;
use serde::Serialize;

/// Times from an opening to its retraction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RetractionTimes {
    /// Retractions by how long after the opening, each longer than the one before.
    pub buckets: Vec<RetractionBucket>,
    /// Half of them came within this many seconds, absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_seconds: Option<f64>,
}

/// Retractions that came within a time, and not within the one before.
#[derive(Clone, Debug, Serialize)]
pub struct RetractionBucket {
    /// As `10m`.
    pub within: &'static str,
    /// How many.
    pub findings: u64,
}

/// Where findings were opened most, each list by `opened`, descending.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Top {
    /// Device names.
    pub devices: Vec<TopRow>,
    /// Remote addresses.
    pub destinations: Vec<TopRow>,
    /// Companies of the software that connected.
    pub companies: Vec<TopRow>,
}

/// A row of a top list.
#[derive(Clone, Debug, Serialize)]
pub struct TopRow {
    /// What; empty is "not known".
    pub name: String,
    /// Findings opened, with suppression rules off.
    pub opened: u64,
    /// The same with the rules on.
    pub shown: u64,
    /// Of those opened, how many were retracted.
    pub retracted: u64,
}

/// A server's openings by hour of the day, with suppression rules off.
#[derive(Clone, Debug, Serialize)]
pub struct HeatRow {
    /// Device name.
    pub device: String,
    /// 24 numbers, from 00 to 23 h UTC.
    pub hours: [u64; 24],
}

/// The findings themselves.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Details {
    /// Findings there were.
    pub of: u64,
    /// The most severe, among equals those that no rule matches, then the newest; at most `--report-findings` of them.
    pub findings: Vec<Finding>,
}

/// A finding, with the values of its last change that was read.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its id on the findings topic.
    pub finding_id: String,
    /// Its tenant.
    pub tenant: String,
    /// `high`, `medium` or `low`.
    pub severity: &'static str,
    /// `open`, `retracted` or `closed`.
    pub state: &'static str,
    /// When it was opened last.
    pub opened: Ticks,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ticks>,
    /// Changes so far.
    pub revision: u32,
    /// Device name.
    pub device: String,
    /// OSPlatform.
    pub os_platform: String,
    /// DeviceType.
    pub device_type: String,
    /// Remote address.
    pub remote_ip: String,
    /// Remote port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// The first of its URLs.
    pub urls: Vec<String>,
    /// URLs beside those.
    pub more_urls: usize,
    /// Event times.
    pub first_seen: Ticks,
    /// See `first_seen`.
    pub last_seen: Ticks,
    /// Connections.
    pub count: u64,
    /// Devices that talk to the destination.
    pub prevalence: u64,
    /// Rare companies that made the device a third-party server, and on how many servers each is.
    pub vendors: Vec<(String, u64)>,
    /// First seen in an event that arrived late.
    pub late: bool,
    /// The suppression rule that matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_by: Option<String>,
    /// The sentence of its opening.
    pub reason: String,
    /// The sentence of its end, if it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The process of the connection that opened it.
    pub process: Process,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// File name.
    pub file_name: String,
    /// Path.
    pub folder_path: String,
    /// Command line, the first 500 characters.
    pub command_line: String,
    /// SHA-256.
    pub sha256: String,
    /// Account.
    pub account: String,
    /// Company.
    pub company: String,
    /// Product.
    pub product: String,
}
