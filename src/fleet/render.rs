//! Defender's JSON: one record from its fields, one message from its records.
//!
//! Invariant: the bytes of `properties` depend on the row alone, never on the envelope, so that a repeat has identical
//! properties and a fresh envelope, as Defender's repeats have. Key order and columns follow captured records. Reading them
//! back belongs to `defender`.

use std::io::Write;

use super::random::mix;
use crate::defender::{DeviceInfo, NetworkEvent};
use crate::time::{Span, TICKS_PER_SECOND, Ticks};

/// Appends one `DeviceNetworkEvents` record in its envelope. Empty strings and a missing port become `null`. With `padding`
/// all columns that Defender sends are there (about 2.9 KB), otherwise only those that the detector reads.
pub fn render_network(out: &mut Vec<u8>, arrival: Ticks, tenant: &str, event: &NetworkEvent<'_>, padding: bool) {
    envelope(out, arrival, tenant, "AdvancedHunting-DeviceNetworkEvents");
    let e = event;
    let salt = mix(hash(e.device_id.text()), e.report_id.cast_unsigned());
    let windows = !e.folder_path.text().starts_with('/');
    string(out, "\"DeviceName\":", e.device_name);
    string(out, ",\"DeviceId\":", e.device_id.text());
    number(out, ",\"ReportId\":", e.report_id);
    string(out, ",\"RemoteIP\":", e.remote_ip);
    match e.remote_port {
        Some(port) => number(out, ",\"RemotePort\":", port.into()),
        None => out.extend_from_slice(b",\"RemotePort\":null"),
    }
    if padding {
        let n = hash(e.device_name);
        raw(
            out,
            format_args!(
                ",\"LocalIP\":\"10.{}.{}.{}\",\"LocalPort\":{}",
                n >> 8 & 63,
                n >> 16 & 255,
                n >> 24 & 127,
                49_152 + salt % 16_000
            ),
        );
        out.extend_from_slice(b",\"Protocol\":\"Tcp\"");
    }
    string(out, ",\"RemoteUrl\":", e.remote_url);
    if padding {
        let started = e.timestamp.minus(Span::seconds(i64::try_from(salt % 90_000).unwrap_or(0)));
        time(out, ",\"InitiatingProcessCreationTime\":", started, true);
        number(out, ",\"InitiatingProcessId\":", i64::try_from(salt >> 16 & 0x7ffc).unwrap_or(0));
    }
    string(out, ",\"InitiatingProcessCommandLine\":", e.command_line.text());
    let file = mix(hash(e.sha256.text()), 5);
    if padding {
        time(out, ",\"InitiatingProcessParentCreationTime\":", e.timestamp.minus(Span::hours(30)), true);
        number(out, ",\"InitiatingProcessParentId\":", i64::try_from(salt >> 32 & 0xffc).unwrap_or(0));
        string(out, ",\"InitiatingProcessParentFileName\":", if windows { "services.exe" } else { "systemd" });
        raw(out, format_args!(",\"InitiatingProcessSHA1\":\"{:016x}{:016x}{:08x}\"", file, mix(file, 1), file >> 32));
        raw(out, format_args!(",\"InitiatingProcessMD5\":\"{:016x}{:016x}\"", mix(file, 2), mix(file, 3)));
    }
    string(out, ",\"InitiatingProcessFolderPath\":", e.folder_path.text());
    string(out, ",\"InitiatingProcessAccountName\":", e.account_name.text());
    string(out, ",\"InitiatingProcessAccountDomain\":", e.account_domain.text());
    if padding {
        match e.account_name.text() {
            "system" => string(out, ",\"InitiatingProcessAccountSid\":", "S-1-5-18"),
            other => raw(
                out,
                format_args!(",\"InitiatingProcessAccountSid\":\"S-1-5-21-3439550418-2312797321-815996604-{}\"", 1000 + hash(other) % 9000),
            ),
        }
    }
    string(out, ",\"InitiatingProcessFileName\":", e.file_name.text());
    if padding {
        string(out, ",\"InitiatingProcessIntegrityLevel\":", if windows { "System" } else { "" });
        string(out, ",\"InitiatingProcessTokenElevation\":", if windows { "TokenElevationTypeDefault" } else { "None" });
        out.extend_from_slice(b",\"AppGuardContainerId\":\"\",\"LocalIPType\":\"Private\"");
    }
    string(out, ",\"RemoteIPType\":", e.remote_ip_type.text());
    string(out, ",\"ActionType\":", e.action_type.text());
    string(out, ",\"InitiatingProcessSHA256\":", e.sha256.text());
    if padding {
        string(out, ",\"InitiatingProcessAccountUpn\":", "");
        out.extend_from_slice(b",\"InitiatingProcessAccountObjectId\":null,\"AdditionalFields\":\"");
        additional_fields(out, salt, file);
        number(out, "\",\"InitiatingProcessFileSize\":", i64::try_from(file % 9_000_000 + 30_000).unwrap_or(0));
    }
    string(out, ",\"InitiatingProcessVersionInfoCompanyName\":", e.company);
    string(out, ",\"InitiatingProcessVersionInfoProductName\":", e.product.text());
    if padding {
        let version = format!("{}.{}.{}.{}", file % 24 + 1, file >> 8 & 7, 10_000 + (file >> 16) % 20_000, file >> 40 & 4095);
        string(out, ",\"InitiatingProcessVersionInfoProductVersion\":", if e.product.text().is_empty() { "" } else { &version });
        string(out, ",\"InitiatingProcessVersionInfoInternalFileName\":", e.file_name.text());
        string(out, ",\"InitiatingProcessVersionInfoOriginalFileName\":", e.file_name.text());
        string(out, ",\"InitiatingProcessVersionInfoFileDescription\":", e.product.text());
        out.extend_from_slice(b",\"InitiatingProcessSessionId\":0,\"IsInitiatingProcessRemoteSession\":false,\"InitiatingProcessRemoteSessionDeviceName\":null,");
        out.extend_from_slice(b"\"InitiatingProcessRemoteSessionIP\":null");
        raw(out, format_args!(",\"InitiatingProcessUniqueId\":\"{}\"", mix(salt, 9) >> 12));
    }
    time(out, ",\"Timestamp\":", e.timestamp, true);
    if padding {
        out.extend_from_slice(b",\"MachineGroup\":\"main\"");
    }
    out.extend_from_slice(b"},\"Tenant\":\"DefaultTenant\"}");
}

/// Appends one `DeviceInfo` record in its envelope, by the same rules as [`render_network`].
pub fn render_device(out: &mut Vec<u8>, arrival: Ticks, tenant: &str, info: &DeviceInfo<'_>, padding: bool) {
    envelope(out, arrival, tenant, "AdvancedHunting-DeviceInfo");
    // DeviceInfo's ReportId is a time of its own, of 18 digits: read through a double it would be wrong.
    let report = 621_355_968_000_000_000i64.saturating_add(info.timestamp.0);
    let full = !info.os_platform.is_empty();
    let n = hash(info.device_name);
    if padding {
        raw(out, format_args!("\"ClientVersion\":\"10.8760.20348.{}\",\"PublicIP\":\"198.51.100.{}\",", n % 4000, n >> 12 & 255));
    }
    string(out, "\"DeviceName\":", info.device_name);
    string(out, ",\"DeviceId\":", info.device_id);
    number(out, ",\"ReportId\":", report);
    if padding {
        string(out, ",\"OSArchitecture\":", if full { "64-bit" } else { "" });
    }
    string(out, ",\"OSPlatform\":", info.os_platform);
    if padding {
        out.extend_from_slice(if full {
            b",\"OSBuild\":20348,\"IsAzureADJoined\":false"
        } else {
            b",\"OSBuild\":null,\"IsAzureADJoined\":null"
        });
        out.extend_from_slice(br#","LoggedOnUsers":"[{\"UserName\":\"svc-ops\",\"DomainName\":\"CORP\",\"Sid\":\"S-1-5-21-3439550418-2312797321-815996604-1105\"}]""#);
        out.extend_from_slice(b",\"RegistryDeviceTag\":null,\"OSVersion\":");
        out.extend_from_slice(if full { b"\"10.0\"" } else { b"null" });
        raw(
            out,
            format_args!(",\"AdditionalFields\":null,\"AadDeviceId\":\"{:08x}-1f00-4269-a64b-{:012x}\"", n >> 32, n & 0xffff_ffff_ffff),
        );
        out.extend_from_slice(b",\"MergedDeviceIds\":\"\",\"MergedToDeviceId\":\"\",\"Vendor\":null,\"Model\":null,\"OnboardingStatus\":\"Onboarded\",\"DeviceCategory\":\"Endpoint\"");
    }
    string(out, ",\"DeviceType\":", info.device_type);
    if padding {
        string(out, ",\"DeviceSubtype\":", info.device_type);
        out.extend_from_slice(b",\"OSVersionInfo\":\"\",\"OSDistribution\":null,\"JoinType\":\"Domain Joined\",\"SensorHealthState\":\"Active\",\"IsInternetFacing\":null,");
        out.extend_from_slice(
            b"\"IsExcluded\":false,\"ExclusionReason\":null,\"ExposureLevel\":\"Medium\",\"AssetValue\":null,\"DeviceDynamicTags\":null,",
        );
        out.extend_from_slice(
            b"\"MitigationStatus\":null,\"DeviceManualTags\":null,\"HardwareUuid\":null,\"AzureVmId\":null,\"AzureVmSubscriptionId\":null,",
        );
        out.extend_from_slice(b"\"CloudPlatforms\":null,\"HostDeviceId\":null,\"ConnectivityType\":\"Streamlined\",\"AwsResourceName\":null,\"GcpFullResourceName\":null,");
        out.extend_from_slice(b"\"AzureResourceId\":null,\"IsTransient\":false,\"OsBuildRevision\":null");
    }
    time(out, ",\"Timestamp\":", info.timestamp, true);
    if padding {
        out.extend_from_slice(b",\"MachineGroup\":\"main\"");
    }
    out.extend_from_slice(b"},\"Tenant\":\"DefaultTenant\"}");
}

/// A Kafka message of these records: `{"records":[…]}`.
#[must_use]
pub fn message(records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.iter().map(|r| r.len() + 1).sum::<usize>() + 16);
    open_message(&mut out);
    records.iter().for_each(|record| {
        next_record(&mut out);
        out.extend_from_slice(record);
    });
    close_message(&mut out);
    out
}

const OPEN: &[u8] = b"{\"records\":[";

pub(crate) fn open_message(out: &mut Vec<u8>) {
    out.extend_from_slice(OPEN);
}

/// A comma, unless it is the message's first record.
pub(crate) fn next_record(out: &mut Vec<u8>) {
    if out.len() > OPEN.len() {
        out.push(b',');
    }
}

pub(crate) fn close_message(out: &mut Vec<u8>) {
    out.extend_from_slice(b"]}");
}

/// Opens the record up to and with `"properties":{`.
fn envelope(out: &mut Vec<u8>, arrival: Ticks, tenant: &str, category: &str) {
    time(out, "{\"time\":", arrival, false);
    string(out, ",\"tenantId\":", tenant);
    out.extend_from_slice(b",\"operationName\":\"Publish\"");
    string(out, ",\"category\":", category);
    let lag = mix(arrival.0.cast_unsigned(), 17);
    let received = arrival.minus(Span(i64::try_from(lag % 900_000_000).unwrap_or(0)));
    time(out, ",\"_TimeReceivedBySvc\":", received, true);
    if lag >> 60 == 0 {
        // One in sixteen is written without a zone, as Defender's service does at times.
        out.truncate(out.len() - 2);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"properties\":{");
}

/// A JSON document inside a JSON string, as Defender sends it.
fn additional_fields(out: &mut Vec<u8>, salt: u64, file: u64) {
    out.extend_from_slice(
        br#"{\"Tcp Flags\":0,\"Packet Size\":0,\"direction\":\"Out\",\"conn_state\":\"SF\",\"InitiatingProcessPosixEffectiveUser\":null,"#,
    );
    out.extend_from_slice(br#"\"InitiatingProcessPosixProcessGroup\":null,\"InitiatingProcessSignatureStatus\":\"Valid\",\"InitiatingProcessSignerType\":\"OsVendor\","#);
    raw(
        out,
        format_args!("\\\"uid\\\":\\\"C{salt:016x}\\\",\\\"orig_bytes\\\":{},\\\"resp_bytes\\\":{},", salt % 90_000, salt >> 20 & 0xf_ffff),
    );
    out.extend_from_slice(br#"\"community_id\":\"1:"#);
    raw(out, format_args!("{:016x}{:016x}", mix(salt, 3), mix(salt, 4)));
    out.extend_from_slice(
        br#"=\",\"InitiatingProcessParentSignatureStatus\":\"Valid\",\"InitiatingProcessParentSignerType\":\"OsVendor\",\"#,
    );
    raw(out, format_args!("\"ProcessPosixFileOwner\\\":{{\\\"Id\\\":{},\\\"Group\\\":{}}}", file % 1000, file >> 10 & 1023));
    out.extend_from_slice(br#",\"ja3\":\""#);
    raw(out, format_args!("{:016x}{:016x}", mix(file, 7), mix(file, 8)));
    out.extend_from_slice(br#"\",\"server_name_present\":true,\"established\":true}"#);
}

fn hash(text: &str) -> u64 {
    text.as_bytes().chunks(8).fold(text.len() as u64, |h, chunk| mix(h, chunk.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
}

fn raw(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("INV: writing to memory cannot fail");
}

fn number(out: &mut Vec<u8>, key: &str, value: i64) {
    out.extend_from_slice(key.as_bytes());
    raw(out, format_args!("{value}"));
}

/// `trim`: trailing zeros of the fraction are cut (row columns); otherwise there are seven digits (envelope `time`).
fn time(out: &mut Vec<u8>, key: &str, at: Ticks, trim: bool) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'"');
    if trim {
        raw(out, format_args!("{at}"));
    } else {
        let fraction = at.0.rem_euclid(TICKS_PER_SECOND);
        raw(out, format_args!("{}", Ticks(at.0.saturating_sub(fraction))));
        out.pop(); // the `Z`, to stand behind the fraction
        raw(out, format_args!(".{fraction:07}Z"));
    }
    out.push(b'"');
}

/// The key's text and the value as a JSON string; `null` when it is empty.
fn string(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    if value.is_empty() {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
        from = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => raw(out, format_args!("\\u{control:04x}")),
        }
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
    out.push(b'"');
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
