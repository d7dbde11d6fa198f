//! What each test needs of its own: topics, a group, a state directory, a configuration; and the fleet that they share, with what
//! `backtest` finds in it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use firstseen::fleet::{Attack, Fleet, FleetOptions};
use firstseen::kafka::readback::read_to_end;
use firstseen::time::{Span, Ticks};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::kafka::{Broker, PATIENCE, broker, unique};
use crate::support::numbers;
use crate::support::process::Process;

/// Partitions of the input.
pub(crate) const PARTITIONS: i32 = 4;

/// A message and the broker timestamp that it gets, in milliseconds: its arrival, strictly increasing, so that the merge of the
/// partitions is the file's order.
pub(crate) struct Message {
    pub(crate) partition: i32,
    pub(crate) timestamp: i64,
    /// Greatest envelope time in it, in milliseconds.
    pub(crate) arrival: i64,
    pub(crate) bytes: Vec<u8>,
}

/// The fleet of this binary: a small company over 16 days, with an attack on the last.
pub(crate) fn fleet() -> &'static [Message] {
    static MESSAGES: OnceLock<Vec<Message>> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let start = FleetOptions::default().start;
        let span = Span::days(16);
        let options = FleetOptions {
            seed: 42,
            devices: 120,
            span,
            records_per_device_day: 12.0,
            new_per_server_day: 0.5,
            attack: Some(Attack { at: start.plus(span).minus(Span::hours(3)) }),
            padding: false,
            ..FleetOptions::default()
        };
        let mut fleet = Fleet::new(&options);
        assert!(fleet.attack().is_some());
        let mut last = 0;
        let mut random = numbers(1);
        let messages: Vec<Message> = fleet
            .by_ref()
            .map(|message| {
                let arrival = message.arrival.0 / 10_000;
                last = arrival.max(last + 1);
                Message { partition: (random() % PARTITIONS as u64) as i32, timestamp: last, arrival, bytes: message.bytes }
            })
            .collect();
        assert!(Ticks(last * 10_000) < start.plus(span).plus(Span::minutes(1)), "timestamps stay arrivals");
        messages
    })
}

/// What `backtest` finds in the fleet, a change a line.
pub(crate) fn expected() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| {
        let rig = Rig::new("backtest");
        rig.backtest(fleet(), &[]).lines().map(str::to_owned).collect()
    })
}

/// A message of an output topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Vec<u8>,
}

/// One deployment: names, configuration and state that no other test has.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) input: String,
    pub(crate) findings: String,
    pub(crate) dead_letters: String,
    pub(crate) group: String,
    pub(crate) bootstrap: String,
    /// Lines that stand before all sections' other keys: `section.key = value`.
    pub(crate) more: Vec<String>,
    /// A command that becomes the service.
    pub(crate) by: Vec<String>,
    environment: Vec<(String, String)>,
    runs: std::cell::Cell<u32>,
}

impl Rig {
    /// A deployment on the broker that the tests share; the input topic is the caller's to make.
    pub(crate) fn new(name: &str) -> Rig {
        Rig {
            dir: tempfile::tempdir().unwrap(),
            input: unique(&format!("{name}-input")),
            findings: unique(&format!("{name}-findings")),
            dead_letters: unique(&format!("{name}-dead")),
            group: unique(&format!("{name}-group")),
            bootstrap: "127.0.0.1:9092".to_owned(),
            more: Vec::new(),
            by: Vec::new(),
            environment: Vec::new(),
            runs: std::cell::Cell::new(0),
        }
    }

    /// The same with an input topic on `broker`.
    pub(crate) fn on(broker: &Broker, name: &str) -> Rig {
        let mut rig = Rig::new(name);
        rig.bootstrap = broker.bootstrap();
        rig.input = broker.topic(&format!("{name}-input"), PARTITIONS as u16);
        rig
    }

    /// With an input topic on the shared broker.
    pub(crate) fn shared(name: &str) -> Rig {
        Rig::on(broker(), name)
    }

    /// A key of the configuration, as its environment name has it.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Rig {
        let name = key.to_uppercase().replace('.', "__");
        self.environment.push((format!("FIRSTSEEN_{name}"), value.to_owned()));
        self
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Writes the configuration and gives its path.
    pub(crate) fn config(&self) -> PathBuf {
        let text = format!(
            r#"[kafka]
bootstrap_servers = "{bootstrap}"
[kafka.properties]
"session.timeout.ms" = "2000"
"heartbeat.interval.ms" = "400"
"topic.metadata.refresh.interval.ms" = "500"
{more}
[input]
topics = ["{input}"]
group_id = "{group}"
idle_advance = false
[output]
findings_topic = "{findings}"
dead_letter_topic = "{dead}"
settle_delay = "2s"
[state]
dir = "{state}"
[http]
listen = "127.0.0.1:0"
"#,
            bootstrap = self.bootstrap,
            more = self.more.join("\n"),
            input = self.input,
            group = self.group,
            findings = self.findings,
            dead = self.dead_letters,
            state = self.state().display(),
        );
        let path = self.dir.path().join("firstseen.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts the service.
    pub(crate) fn start(&self) -> Process {
        self.start_with(&[])
    }

    /// Starts the service so that it dies at the `place` of `src/service/crash.rs`.
    pub(crate) fn start_to_crash(&self, place: &str) -> Process {
        self.start_with(&[("FIRSTSEEN_CRASH_AT", place)])
    }

    /// Starts the service with more environment.
    pub(crate) fn start_with(&self, more: &[(&str, &str)]) -> Process {
        let run = self.runs.replace(self.runs.get() + 1);
        let mut environment: Vec<(&str, &str)> = self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        environment.extend_from_slice(more);
        Process::start_by(&self.by, &self.config(), self.dir.path().join(format!("log-{run}")), &environment)
    }

    /// Writes messages to the input.
    pub(crate) fn produce(&self, broker: &Broker, messages: &[Message]) {
        broker.produce(&self.input, messages.iter().map(|m| (m.partition, m.timestamp, m.bytes.as_slice())));
    }

    /// `backtest --changes` of the messages as one file.
    pub(crate) fn backtest(&self, messages: &[Message], arguments: &[&str]) -> String {
        let input = self.dir.path().join("messages.ndjson");
        let mut file = std::io::BufWriter::new(fs::File::create(&input).unwrap());
        for message in messages {
            file.write_all(&message.bytes).unwrap();
            file.write_all(b"\n").unwrap();
        }
        file.flush().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_firstseen"))
            .arg("backtest")
            .arg(&input)
            .arg("--config")
            .arg(self.config())
            .args(["--changes", "-"])
            .args(arguments)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn settings(&self) -> firstseen::kafka::client::KafkaSettings {
        let mut settings = broker().settings(&self.group);
        settings.bootstrap_servers.clone_from(&self.bootstrap);
        settings
    }

    /// Everything that stands in a topic, by partition.
    pub(crate) fn read(&self, topic: &str) -> Vec<Written> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut all = Vec::new();
        read_to_end(&self.settings(), topic, &BTreeMap::new(), PATIENCE, |record| {
            let headers = record.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
            all.push(Written { key: text(record.key), headers, payload: record.payload.to_vec() });
        })
        .unwrap();
        all
    }

    /// The changes on the findings topic, checked: key and headers say what the value says, and each finding's revisions are
    /// 1, 2, 3 …, each once and in order.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut revisions: HashMap<String, u64> = HashMap::new();
        let read = self.read(&self.findings);
        let changes = read.iter().map(|written| {
            let line = String::from_utf8(written.payload.clone()).unwrap();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            let revision = value["revision"].as_u64().unwrap();
            let last = revisions.insert(written.key.clone(), revision).unwrap_or(0);
            assert_eq!(revision, last + 1, "revisions of {}", written.key);
            assert_eq!(value["finding_id"], written.key.as_str());
            let headers =
                [("change", value["change"].as_str().unwrap()), ("finding-format", "firstseen"), ("revision", &revision.to_string())]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()));
            assert_eq!(written.headers, headers.into());
            line
        });
        changes.collect()
    }

    /// Asserts that the findings topic holds exactly what `backtest` finds in the whole fleet, each change once.
    pub(crate) fn holds_what_is_expected(&self) {
        same(&self.changes(), expected());
    }

    /// Committed offsets of the group, by partition.
    pub(crate) fn committed(&self) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &self.bootstrap).set("group.id", &self.group).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(&self.input, 0, PARTITIONS - 1);
        let committed = consumer.committed_offsets(list, PATIENCE).unwrap();
        committed.elements().iter().filter_map(|e| Some((e.partition(), e.offset().to_raw()?))).filter(|(_, o)| *o >= 0).collect()
    }

    /// Names and sizes of the state directory's files.
    pub(crate) fn state_files(&self) -> BTreeMap<String, u64> {
        let entries = fs::read_dir(self.state()).unwrap().map(Result::unwrap);
        entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())).collect()
    }
}

/// How many of the messages stand in each partition.
pub(crate) fn ends(messages: &[Message]) -> BTreeMap<i32, i64> {
    let mut ends = BTreeMap::new();
    for message in messages {
        *ends.entry(message.partition).or_insert(0) += 1;
    }
    ends
}

/// Asserts that both hold the same lines as often, in any order.
pub(crate) fn same(found: &[String], expected: &[String]) {
    let count = |lines: &[String]| {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for line in lines {
            *counts.entry(line.clone()).or_default() += 1;
        }
        counts
    };
    let (found_counts, expected_counts) = (count(found), count(expected));
    let missing: Vec<_> = expected_counts.iter().filter(|(l, n)| found_counts.get(*l).is_none_or(|m| m < n)).collect();
    let extra: Vec<_> = found_counts.iter().filter(|(l, n)| expected_counts.get(*l).is_none_or(|m| m < n)).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{} lines instead of {}; {} missing, such as {:?}; {} too many, such as {:?}",
        found.len(),
        expected.len(),
        missing.len(),
        missing.first(),
        extra.len(),
        extra.first()
    );
}

/// Past the test runner's capture, so that the outcome stands in every log.
pub(crate) fn say(line: &str) {
    let mut uncaptured = std::io::stdout();
    writeln!(uncaptured, "{line}").unwrap();
}

/// `firstseen state WHAT --state DIR`.
pub(crate) fn state(rig: &Rig, what: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firstseen")).args(["state", what, "--state"]).arg(rig.state()).output().unwrap()
}

/// The topic as a consumer reads it: the open findings with their revisions, and every value. `changes` checks that revisions follow each
/// other; here no change contradicts the one before it.
pub(crate) fn consumer(rig: &Rig) -> (BTreeMap<String, u64>, Vec<serde_json::Value>) {
    let mut open = BTreeMap::new();
    let values: Vec<serde_json::Value> = rig.changes().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for value in &values {
        let (id, revision) = (value["finding_id"].as_str().unwrap().to_owned(), value["revision"].as_u64().unwrap());
        let was_open = open.remove(&id).is_some();
        match value["change"].as_str().unwrap() {
            "opened" => assert!(!was_open, "opened, and was open: {value}"),
            _ => assert!(was_open, "changed, and was not open: {value}"),
        }
        if matches!(value["change"].as_str().unwrap(), "opened" | "updated") {
            open.insert(id, revision);
        }
    }
    (open, values)
}

/// What `state export` calls open.
pub(crate) fn known_open(rig: &Rig) -> BTreeMap<String, u64> {
    let export = state(rig, "export");
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let rows = export.stdout;
    let lines = rows.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice::<serde_json::Value>(l).unwrap());
    let finding = lines.filter_map(|line| line["candidate"]["finding"].as_object().cloned());
    finding.filter(|f| f["open"] == true).map(|f| (f["finding_id"].as_str().unwrap().to_owned(), f["revision"].as_u64().unwrap())).collect()
}
