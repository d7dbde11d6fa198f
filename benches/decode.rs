//! Decoding against `serde_json` and `sonic-rs` on the same bytes, one core: about 2.9 KB a network record, 20 a message.
//!
//! Each contender decodes all messages in turn, several rounds; the best round of each counts, so that a neighbour's noise
//! does not. The contenders only fill borrowing structs; ours also reads instants and numbers and checks UTF-8 throughout.

use firstseen::defender::{Batch, Body, Decoder, Item, Limits, Reason, Record, Sink, Unread};
use firstseen::time::Span;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::time::Duration;

const MESSAGES: usize = 350;
const RECORDS_A_MESSAGE: usize = 20;
const ROUNDS: usize = 25;
const LIMITS: Limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };

/// A name, and a run over all messages that returns what it added up.
type Contender<'a> = (&'a str, Box<dyn FnMut() -> usize + 'a>);

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn main() {
    let mut seed = Seed(0x9E37_79B9_7F4A_7C15);
    let messages: Vec<String> = (0..MESSAGES).map(|_| message(&mut seed)).collect();
    let bytes: usize = messages.iter().map(String::len).sum();
    let records = MESSAGES * RECORDS_A_MESSAGE;
    println!("{records} records, {:.1} MB, {} bytes a record; best of {ROUNDS} rounds", bytes as f64 / 1e6, bytes / records);

    let mut decoder = Decoder::new();
    let mut batch = Batch::new();
    let mut contenders: [Contender<'_>; 5] = [
        ("serde_json", Box::new(|| messages.iter().map(|m| weigh(&serde_json::from_slice(m.as_bytes()).expect("good JSON"))).sum())),
        ("sonic-rs", Box::new(|| messages.iter().map(|m| weigh(&sonic_rs::from_slice(m.as_bytes()).expect("good JSON"))).sum())),
        ("decoder", {
            Box::new(|| {
                let mut sum = Weight(0);
                messages.iter().for_each(|m| decoder.message(m.as_bytes(), &LIMITS, &mut sum));
                sum.0
            })
        }),
        ("batch, filled", {
            let mut decoder = Decoder::new();
            let mut batch = Batch::new();
            let messages = &messages;
            Box::new(move || {
                let mut len = 0;
                for (n, m) in messages.iter().enumerate() {
                    batch.push_message(&mut decoder, n as u64, m.as_bytes(), &LIMITS);
                    if n % 16 == 15 {
                        len += batch.len();
                        batch.clear();
                    }
                }
                len
            })
        }),
        ("batch, filled and replayed", {
            let mut decoder = Decoder::new();
            let messages = &messages;
            Box::new(move || {
                let mut sum = Weight(0);
                let mut replay = |batch: &mut Batch| {
                    for item in batch.items() {
                        if let Item::Record { index, record, .. } = item {
                            sum.record(index, &record);
                        }
                    }
                    batch.clear();
                };
                for (n, m) in messages.iter().enumerate() {
                    batch.push_message(&mut decoder, n as u64, m.as_bytes(), &LIMITS);
                    if n % 16 == 15 {
                        replay(&mut batch);
                    }
                }
                replay(&mut batch);
                sum.0
            })
        }),
    ];

    // One contender alone, for a profiler.
    if let Some(only) = std::env::args().skip(1).find(|a| a != "--bench") {
        let (_, run) = contenders.iter_mut().find(|(name, _)| *name == only).expect("the name of a contender");
        (0..ROUNDS).for_each(|_| assert!(std::hint::black_box(run()) > 0));
        return;
    }
    let mut best = [Duration::MAX; 5];
    let mut sums = [0; 5];
    for _ in 0..ROUNDS {
        for ((best, sum), (_, run)) in best.iter_mut().zip(&mut sums).zip(&mut contenders) {
            let start = firstseen::host_clock::monotonic();
            *sum = std::hint::black_box(run());
            *best = start.elapsed().min(*best);
        }
    }
    assert!(sums[0] == sums[1] && sums[0] == sums[2] && sums[0] == sums[4], "the contenders must have read the same: {sums:?}");
    println!("{:<28}{:>12}{:>10}{:>22}", "", "records/s", "MB/s", "ratio to serde_json");
    for ((name, _), time) in contenders.iter().zip(best) {
        let seconds = time.as_secs_f64();
        let ratio = best[0].as_secs_f64() / seconds;
        println!("{name:<28}{:>12.0}{:>10.0}{ratio:>22.2}", records as f64 / seconds, bytes as f64 / 1e6 / seconds);
    }
}

/// The rivals' target: only the columns that the decoder keeps, borrowed where the bytes allow it.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    records: Vec<Envelope<'a>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    time: Text<'a>,
    #[serde(borrow, rename = "tenantId")]
    tenant: Text<'a>,
    #[serde(borrow)]
    category: Text<'a>,
    #[serde(borrow)]
    properties: Row<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    #[serde(borrow, default)]
    timestamp: Text<'a>,
    #[serde(borrow, default)]
    device_id: Text<'a>,
    #[serde(borrow, default)]
    device_name: Text<'a>,
    #[serde(default)]
    report_id: Option<i64>,
    #[serde(borrow, default)]
    action_type: Text<'a>,
    #[serde(borrow, default, rename = "RemoteIP")]
    remote_ip: Text<'a>,
    #[serde(borrow, default, rename = "RemoteIPType")]
    remote_ip_type: Text<'a>,
    #[serde(default)]
    remote_port: Option<u16>,
    #[serde(borrow, default)]
    remote_url: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessVersionInfoCompanyName")]
    company: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessVersionInfoProductName")]
    product: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessFileName")]
    file_name: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessFolderPath")]
    folder_path: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessCommandLine")]
    command_line: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessSHA256")]
    sha256: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessAccountName")]
    account_name: Text<'a>,
    #[serde(borrow, default, rename = "InitiatingProcessAccountDomain")]
    account_domain: Text<'a>,
}

/// A string or null, borrowed when it holds no escapes (serde's own `Option<Cow<str>>` always copies).
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or null")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
            fn visit_none<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
                deserializer.deserialize_str(self)
            }
        }
        deserializer.deserialize_option(Read)
    }
}

/// Adds up what was read, so that nothing can be left out.
fn weigh(message: &Message<'_>) -> usize {
    let row = |r: &Row<'_>| {
        [&r.timestamp, &r.device_id, &r.device_name, &r.action_type, &r.remote_ip, &r.remote_ip_type, &r.remote_url, &r.company]
            .into_iter()
            .chain([&r.product, &r.file_name, &r.folder_path, &r.command_line, &r.sha256, &r.account_name, &r.account_domain])
            .map(|t| t.0.len())
            .sum::<usize>()
            - r.timestamp.0.len()
            + (r.report_id.unwrap_or(0) as usize & 0xFF)
            + usize::from(r.remote_port.unwrap_or(0))
    };
    message
        .records
        .iter()
        .map(|e| row(&e.properties) + e.tenant.0.len() + usize::from(!e.time.0.is_empty()) + usize::from(!e.category.0.is_empty()))
        .sum()
}

struct Weight(usize);

impl Sink for Weight {
    fn record(&mut self, _: u32, record: &Record<'_>) {
        let Body::Network(n) = record.body else { return };
        self.0 += [n.device_name, n.remote_ip, n.remote_url, n.company, record.tenant]
            .map(str::as_bytes)
            .into_iter()
            .chain([n.device_id, n.action_type, n.remote_ip_type, n.product, n.file_name, n.folder_path].map(Unread::bytes))
            .chain([n.command_line, n.sha256, n.account_name, n.account_domain].map(Unread::bytes))
            .map(<[u8]>::len)
            .sum::<usize>()
            + (n.report_id as usize & 0xFF)
            + usize::from(n.remote_port.unwrap_or(0))
            + 2;
    }

    fn dead(&mut self, index: Option<u32>, reason: Reason, error: &dyn Display, _: &[u8]) {
        unreachable!("the bench writes only good records: {index:?} {reason} {error}");
    }
}

/// SplitMix64.
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            write!(text, "{:016x}", self.next()).expect("writing to a string");
        }
        text.truncate(digits);
        text
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

fn message(seed: &mut Seed) -> String {
    let records: Vec<String> = (0..RECORDS_A_MESSAGE).map(|_| record(seed)).collect();
    format!("{{\"records\":[{}]}}", records.join(","))
}

/// A `DeviceNetworkEvents` row with all the columns that Defender sends.
fn record(seed: &mut Seed) -> String {
    let stamp = |seed: &mut Seed| {
        format!(
            "2026-03-0{}T{:02}:{:02}:{:02}.{:07}Z",
            1 + seed.below(9),
            seed.below(24),
            seed.below(60),
            seed.below(60),
            seed.below(10_000_000)
        )
    };
    let device = seed.below(20_000);
    let (folder, file, company, product) = [
        ("c:\\\\windows\\\\system32\\\\svchost.exe", "svchost.exe", "Microsoft Corporation", "Microsoft® Windows® Operating System"),
        ("c:\\\\program files\\\\google\\\\chrome\\\\application\\\\chrome.exe", "chrome.exe", "Google LLC", "Google Chrome"),
        (
            "c:\\\\program files (x86)\\\\solarwinds\\\\orion\\\\businesslayerhost.exe",
            "businesslayerhost.exe",
            "SolarWinds Worldwide, LLC.",
            "Orion",
        ),
        (
            "c:\\\\program files\\\\veeam\\\\backup and replication\\\\veeam.backup.service.exe",
            "veeam.backup.service.exe",
            "Veeam Software Group GmbH",
            "Veeam Backup",
        ),
    ][seed.below(4) as usize];
    let host = seed.pick(&["edge.microsoft.com", "settings-win.data.microsoft.com", "api.vendor.example", "update.googleapis.com"]);
    let mut text = String::with_capacity(3200);
    let envelope = stamp(seed);
    write!(
        text,
        "{{\"time\":\"{envelope}\",\"tenantId\":\"72f988bf-86f1-41af-91ab-2d7cd011db47\",\"operationName\":\"Publish\",\
         \"category\":\"AdvancedHunting-DeviceNetworkEvents\",\"_TimeReceivedBySvc\":\"{envelope}\",\"properties\":{{"
    )
    .expect("writing to a string");
    let mut first = true;
    let mut put = |key: &str, value: &str| {
        let comma = if std::mem::take(&mut first) { "" } else { "," };
        write!(text, "{comma}\"{key}\":{value}").expect("writing to a string");
    };
    let quoted = |text: &str| format!("\"{text}\"");
    put("DeviceName", &quoted(&format!("srv-{device:05}.corp.contoso.example")));
    put("DeviceId", &quoted(&format!("{:040x}", u128::from(device) * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)));
    put("ReportId", &(100_000_000_000_000_000 + seed.below(800_000_000_000_000_000)).to_string());
    put("RemoteIP", &quoted(&format!("{}.{}.{}.{}", 20 + seed.below(180), seed.below(256), seed.below(256), seed.below(256))));
    put("RemotePort", seed.pick(&["443", "443", "80", "8443", "53", "49152"]));
    put("RemoteUrl", &if seed.below(3) == 0 { "null".to_owned() } else { quoted(host) });
    put("RemoteIPType", &quoted(seed.pick(&["Public", "Public", "Private", "FourToSixMapping"])));
    put("LocalIP", &quoted(&format!("10.{}.{}.{}", seed.below(256), seed.below(256), seed.below(256))));
    put("LocalPort", &(49152 + seed.below(16000)).to_string());
    put("LocalIPType", "\"Private\"");
    put("Protocol", "\"Tcp\"");
    put("ActionType", &quoted(seed.pick(&["ConnectionSuccess", "ConnectionSuccess", "ConnectionAttempt", "ConnectionFailed"])));
    put("Timestamp", &quoted(&stamp(seed)));
    put("AppGuardContainerId", "\"\"");
    put(
        "AdditionalFields",
        "\"{\\\"direction\\\":\\\"Out\\\",\\\"conn_state\\\":\\\"SF\\\",\\\"duration\\\":0.13,\\\"missed_bytes\\\":0,\\\"orig_bytes\\\":517,\\\"resp_bytes\\\":4096}\"",
    );
    put("MachineGroup", "\"Servers EU\"");
    for prefix in ["InitiatingProcess", "InitiatingProcessParent"] {
        put(&format!("{prefix}FileName"), &quoted(file));
        put(&format!("{prefix}Id"), &seed.below(65_000).to_string());
        put(&format!("{prefix}CreationTime"), &quoted(&stamp(seed)));
    }
    put("InitiatingProcessFolderPath", &quoted(folder));
    put(
        "InitiatingProcessCommandLine",
        &quoted(&format!(
            "\\\"{folder}\\\" --type=utility --utility-sub-type=network.mojom.NetworkService --lang=en-US --field-trial-handle={} /prefetch:8",
            seed.hex(24)
        )),
    );
    put("InitiatingProcessMD5", &quoted(&seed.hex(32)));
    put("InitiatingProcessSHA1", &quoted(&seed.hex(40)));
    put("InitiatingProcessSHA256", &quoted(&seed.hex(64)));
    put("InitiatingProcessFileSize", &seed.below(9_000_000).to_string());
    put("InitiatingProcessIntegrityLevel", "\"System\"");
    put("InitiatingProcessTokenElevation", "\"TokenElevationTypeDefault\"");
    put("InitiatingProcessAccountName", "\"network service\"");
    put("InitiatingProcessAccountDomain", "\"nt authority\"");
    put("InitiatingProcessAccountSid", "\"S-1-5-21-1004336348-1177238915-682003330-512\"");
    put("InitiatingProcessAccountUpn", "\"svc-orion@contoso.example\"");
    put("InitiatingProcessAccountObjectId", &quoted(&seed.hex(32)));
    put("InitiatingProcessLogonId", &seed.below(99_999).to_string());
    put("InitiatingProcessSessionId", "0");
    put("IsInitiatingProcessRemoteSession", "false");
    put("InitiatingProcessRemoteSessionDeviceName", "null");
    put("InitiatingProcessRemoteSessionIP", "null");
    put("InitiatingProcessUniqueId", &quoted(&seed.below(99_999_999_999).to_string()));
    put("InitiatingProcessVersionInfoCompanyName", &quoted(company));
    put("InitiatingProcessVersionInfoProductName", &quoted(product));
    put("InitiatingProcessVersionInfoProductVersion", "\"10.0.17763.1\"");
    put("InitiatingProcessVersionInfoInternalFileName", &quoted(file));
    put("InitiatingProcessVersionInfoOriginalFileName", &quoted(file));
    put("InitiatingProcessVersionInfoFileDescription", "\"Host process for network services of the platform\"");
    put("ProcessUniqueId", "null");
    put("SourceProvider", "\"MicrosoftDefenderForEndpoint\"");
    text.push_str("},\"Tenant\":\"DefaultTenant\"}");
    text
}
