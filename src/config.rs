//! Configuration: a TOML file, the environment over it, defaults under it. Everything is checked at start and every mistake is
//! reported at once, with its key and what was expected; a key that is not understood is never ignored. Secrets are never printed.

mod keys;
mod memory;
mod reader;
mod secret;
mod span;
mod suppress;
#[cfg(test)]
mod tests;

pub(crate) use keys::nearest;
pub use memory::StateMemory;
pub use secret::{Property, Secret};
pub use span::parse as parse_span;
pub use suppress::Suppress;

use crate::detector;
use crate::finding::severity::Privileged;
use crate::suppress::{Fate, Suppression};
use crate::time::Span;
use reader::Reader;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The whole configuration, checked. `Config::default()` is what an empty file gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[input]`
    pub input: Input,
    /// `[output]`
    pub output: Output,
    /// `[state]`
    pub state: State,
    /// `[http]`
    pub http: Http,
    /// `[limits]`
    pub limits: Limits,
    /// `[query]`
    pub query: Query,
    /// `[detection]`
    pub detection: Detection,
    /// `[[suppress]]` and `detection.suppress_file`
    pub suppress: Suppress,
}

/// `[kafka]`: how to reach the brokers.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// Which service it is.
    pub preset: Preset,
    /// librdkafka properties as they were given; what they may be is judged where the client is made.
    pub properties: BTreeMap<String, Property>,
}

/// What the brokers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Apache Kafka or what behaves like it.
    Kafka,
    /// Azure Event Hubs' Kafka endpoint.
    EventHubs,
}

impl Kafka {
    /// The librdkafka properties with their secrets in the open, for the client's configuration. Never log them.
    #[must_use]
    pub fn exposed_properties(&self) -> BTreeMap<String, String> {
        self.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    }
}

/// `[input]`: what is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Topics with Defender's messages.
    pub topics: Vec<String>,
    /// Consumer group.
    pub group_id: String,
    /// Where reading starts when nothing is stored yet.
    pub start: Start,
    /// What to do when messages are gone before they were read.
    pub on_gap: OnGap,
    /// The wall clock moves the arrival clock while the input is idle.
    pub idle_advance: bool,
    /// How far behind the wall clock it is held then.
    pub idle_delay: Span,
    /// How far a record's time may run ahead.
    pub max_clock_skew: Span,
    /// How far before the end of history the live input is read again.
    pub handover_overlap: Span,
}

/// Where reading starts when nothing is stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message kept.
    Earliest,
    /// At the end.
    Latest,
}

/// What to do when messages are gone from the input before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Say so, and go on.
    Continue,
    /// End.
    Stop,
}

/// `[output]`: what is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Topic for changes of findings.
    pub findings_topic: String,
    /// Topic for records that can't be read.
    pub dead_letter_topic: String,
    /// Topic for records of devices.
    pub grouped_topic: String,
    /// Create them when they are missing.
    pub create_topics: bool,
    /// What becomes of suppressed changes.
    pub suppressed: Fate,
    /// Least arrival-clock time between a finding's last written change and its next update.
    pub update_interval: Span,
    /// How long after a crash's restart what the dead process may have sent is held back.
    pub settle_delay: Span,
}

/// `[state]`: what is kept on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Directory of snapshots and order journal.
    pub dir: PathBuf,
    /// Time of work between snapshots.
    pub snapshot_interval: Span,
}

/// `[http]`: the HTTP endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Bearer token of `/api`.
    pub api_token: Option<Secret>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// URLs kept for a destination.
    pub urls_per_destination: u32,
    /// Connections kept of all devices.
    pub tracked_connections: Option<u32>,
    /// Reckoned memory of the state.
    pub state_memory: StateMemory,
    /// Connections kept of one device.
    pub connections_per_device: u32,
}

/// `[query]`: the hunting query's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// How long a connection, a server row or a vendor counts.
    pub lookback: Span,
    /// A connection is new while its first event is younger than this.
    pub new_within: Span,
    /// Window of prevalence and URLs.
    pub prevalence_window: Span,
    /// A destination is rare below this many devices.
    pub prevalence_below: u32,
    /// A vendor is rare below this many servers.
    pub vendor_servers_below: u32,
    /// Write a record a device as well.
    pub group_by_device: bool,
}

/// `[detection]`: beyond the query.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Report connections first seen in a late event.
    pub report_late: bool,
    /// Hold a device's findings back until it has been observed this long.
    pub warm_up: Span,
    /// Keep connections of workstations too.
    pub track_workstations: bool,
    /// Name patterns of servers whose findings weigh more.
    pub privileged_servers: Vec<String>,
}

/// One mistake: which key, where from, what is wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key's path.
    pub key: String,
    /// The environment variable that gave it, if one did.
    pub variable: Option<String>,
    /// What was given and what was expected.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variable {
            Some(variable) => write!(f, "{} (from {variable}): {}", self.key, self.message),
            None => write!(f, "{}: {}", self.key, self.message),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file can't be read.
    #[error("--config {}: can't read it: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML. The text holds line and column, not the line itself, which may hold a secret.
    #[error("--config {}: not TOML: {message}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        message: String,
    },
    /// Keys or values are wrong; one a line.
    #[error("{}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
}

impl Config {
    /// Reads and checks a file (none: defaults), with the environment's `FIRSTSEEN_SECTION__KEY` variables over it.
    ///
    /// # Errors
    /// An unreadable file, text that is not TOML, or all mistakes in keys and values.
    pub fn load(path: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
        let Some(path) = path else { return Config::parse("", environment) };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigErrors::Unreadable { path: path.to_owned(), source })?;
        Config::parse(&text, environment).map_err(|e| match e {
            ConfigErrors::NotToml { message, .. } => ConfigErrors::NotToml { path: path.to_owned(), message },
            other => other,
        })
    }

    /// As [`Config::load`], from a text.
    ///
    /// # Errors
    /// Text that is not TOML, or all mistakes in keys and values.
    pub fn parse(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
        let text = text.trim_start_matches('\u{feff}');
        let table = text.parse::<toml::Table>().map_err(|e| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or("");
            let (line, column) = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or("").chars().count() + 1);
            ConfigErrors::NotToml { path: PathBuf::from("TEXT"), message: format!("line {line}, column {column}: {}", e.message()) }
        })?;
        Config::check(Reader::new(table, environment.into_iter().collect()))
    }

    fn check(mut r: Reader) -> Result<Config, ConfigErrors> {
        let suppress = suppress::read(&mut r);
        let kafka = Kafka {
            bootstrap_servers: r.text("kafka.bootstrap_servers"),
            preset: if r.choice("kafka.preset") == "event-hubs" { Preset::EventHubs } else { Preset::Kafka },
            properties: r.properties("kafka.properties"),
        };
        let input = Input {
            topics: r.text_list("input.topics"),
            group_id: r.text("input.group_id"),
            start: if r.choice("input.start") == "latest" { Start::Latest } else { Start::Earliest },
            on_gap: if r.choice("input.on_gap") == "stop" { OnGap::Stop } else { OnGap::Continue },
            idle_advance: r.boolean("input.idle_advance"),
            idle_delay: r.span("input.idle_delay"),
            max_clock_skew: r.span("input.max_clock_skew"),
            handover_overlap: r.span("input.handover_overlap"),
        };
        let asked_to_create = r.is_given("output.create_topics");
        let create = r.boolean("output.create_topics");
        let can_create = kafka.preset != Preset::EventHubs;
        r.refuse(asked_to_create && create && !can_create, "output.create_topics", || {
            "given true, but Event Hubs creates no topics over Kafka; expected false: create the event hubs in Azure".into()
        });
        let (suppressed, suppressed_topic) = (r.choice("output.suppressed"), r.text("output.suppressed_topic"));
        let output = Output {
            findings_topic: r.text("output.findings_topic"),
            dead_letter_topic: r.text("output.dead_letter_topic"),
            grouped_topic: r.text("output.grouped_topic"),
            create_topics: create && can_create,
            suppressed: match suppressed {
                "drop" => Fate::Drop,
                "topic" => Fate::Topic(suppressed_topic),
                _ => Fate::Mark,
            },
            update_interval: r.span("output.update_interval"),
            settle_delay: r.span("output.settle_delay"),
        };
        let format = r.choice("output.format");
        r.refuse(format != "firstseen", "output.format", || {
            format!("given \"{format}\", which is not available yet; expected \"firstseen\"")
        });
        let mode = r.choice("state.mode");
        r.refuse(mode != "standalone", "state.mode", || format!("given \"{mode}\", which is not available yet; expected \"standalone\""));
        let state = State { dir: PathBuf::from(r.text("state.dir")), snapshot_interval: r.span("state.snapshot_interval") };
        let http = Http { listen: r.address("http.listen"), api_token: r.secret("http.api_token") };
        let limits = Limits {
            urls_per_destination: r.integer("limits.urls_per_destination"),
            tracked_connections: r.optional_integer("limits.tracked_connections"),
            state_memory: r.state_memory("limits.state_memory"),
            connections_per_device: r.integer("limits.connections_per_device"),
        };
        let query = Query {
            lookback: r.span("query.lookback"),
            new_within: r.span("query.new_within"),
            prevalence_window: r.span("query.prevalence_window"),
            prevalence_below: r.integer("query.prevalence_below"),
            vendor_servers_below: r.integer("query.vendor_servers_below"),
            group_by_device: r.boolean("query.group_by_device"),
        };
        let detection = Detection {
            report_late: r.boolean("detection.report_late"),
            warm_up: r.span("detection.warm_up"),
            track_workstations: r.boolean("detection.track_workstations"),
            privileged_servers: r.text_list("detection.privileged_servers"),
        };
        let config = Config { kafka, input, output, state, http, limits, query, detection, suppress };
        config.cross_check(&mut r);
        match r.finish() {
            mistakes if mistakes.is_empty() => Ok(config),
            mistakes => Err(ConfigErrors::Mistakes(mistakes)),
        }
    }

    /// What one value must be, given another.
    fn cross_check(&self, r: &mut Reader) {
        let q = &self.query;
        for server in self.kafka.bootstrap_servers.split(',').map(str::trim) {
            let good = server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
            r.refuse(!good, "kafka.bootstrap_servers", || format!("given {server:?}, expected host:port, several separated by commas"));
        }
        r.refuse(self.input.topics.is_empty(), "input.topics", || "given an empty list, expected at least one topic".into());
        let mut seen = std::collections::BTreeSet::new();
        for topic in &self.input.topics {
            r.topic("input.topics", topic);
            r.refuse(!seen.insert(topic), "input.topics", || format!("given {topic:?} twice, expected each topic once"));
        }
        let mut outputs = vec![
            ("output.findings_topic", &self.output.findings_topic),
            ("output.dead_letter_topic", &self.output.dead_letter_topic),
            ("output.grouped_topic", &self.output.grouped_topic),
        ];
        if let Fate::Topic(topic) = &self.output.suppressed {
            outputs.push(("output.suppressed_topic", topic));
        }
        for (n, (key, topic)) in outputs.iter().enumerate() {
            let taken = outputs.iter().take(n).find(|(_, other)| other == topic);
            r.refuse(taken.is_some(), key, || {
                format!("given the same topic as {}, expected a topic of its own", taken.map_or("", |(other, _)| other))
            });
            r.topic(key, topic);
            r.refuse(self.input.topics.contains(topic), key, || {
                format!("given {topic:?}, which is one of input.topics; expected a topic of its own")
            });
        }
        r.refuse(self.state.snapshot_interval < Span::seconds(1), "state.snapshot_interval", || {
            format!("given \"{}\", expected at least \"1s\"", self.state.snapshot_interval)
        });
        r.refuse(
            !self.http.listen.ip().is_loopback() && self.http.api_token.is_none() && !r.has_mistake("http.api_token"),
            "http.api_token",
            || {
                format!(
                    "http.listen is {}, which is not a loopback address; expected a token: {{ file = \"/path\" }} or {{ env = \"NAME\" }}",
                    self.http.listen
                )
            },
        );
        for (key, span) in
            [("query.lookback", q.lookback), ("query.new_within", q.new_within), ("query.prevalence_window", q.prevalence_window)]
        {
            r.refuse(span == Span::ZERO, key, || "given no time at all, expected more than \"0s\"".into());
        }
        r.refuse(q.new_within >= q.lookback, "query.new_within", || {
            format!("given \"{}\", expected less than query.lookback (\"{}\")", q.new_within, q.lookback)
        });
        r.refuse(q.prevalence_window > q.lookback, "query.prevalence_window", || {
            format!("given \"{}\", expected at most query.lookback (\"{}\")", q.prevalence_window, q.lookback)
        });
        if let Err(e) = Privileged::new(&self.detection.privileged_servers) {
            r.mistake("detection.privileged_servers", None, format!("{e}, expected names in which * and ? may stand"));
        }
    }

    /// The suppression rules, and what becomes of what they match.
    #[must_use]
    pub fn suppression(&self) -> Suppression {
        Suppression { rules: self.suppress.rules.clone(), fate: self.output.suppressed.clone() }
    }

    /// The topic for records of devices, if they are written.
    #[must_use]
    pub fn grouped_topic(&self) -> Option<&str> {
        self.query.group_by_device.then_some(self.output.grouped_topic.as_str())
    }

    /// The settings of a detector that keeps a state: with the control group's limit, where `limits.state_memory` is left to it.
    #[must_use]
    pub fn service_settings(&self) -> detector::Settings {
        let mut settings = self.detector_settings();
        settings.limits.state_memory = self.limits.state_memory.bytes();
        settings
    }

    /// The settings of a detector whose answers depend on its input alone, wherever it runs.
    #[must_use]
    pub fn detector_settings(&self) -> detector::Settings {
        detector::Settings {
            lookback: self.query.lookback,
            new_within: self.query.new_within,
            prevalence_window: self.query.prevalence_window,
            prevalence_below: self.query.prevalence_below,
            vendor_servers_below: self.query.vendor_servers_below,
            max_clock_skew: self.input.max_clock_skew,
            update_interval: self.output.update_interval,
            urls_per_destination: usize::try_from(self.limits.urls_per_destination).unwrap_or(usize::MAX),
            report_late: self.detection.report_late,
            warm_up: self.detection.warm_up,
            track_workstations: self.detection.track_workstations,
            limits: detector::Limits {
                tracked_connections: self.limits.tracked_connections.map(u64::from),
                state_memory: match self.limits.state_memory {
                    StateMemory::Bytes(bytes) => Some(bytes),
                    StateMemory::Auto | StateMemory::None => None,
                },
                connections_per_device: self.limits.connections_per_device,
            },
        }
    }
}

/// The process' environment, for [`Config::load`]. What is not UTF-8 is taken with replacement characters, so that a misspelt key is
/// not overlooked.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

impl Default for Config {
    fn default() -> Self {
        Config::check(Reader::new(toml::Table::new(), BTreeMap::new()))
            .expect("INV: the defaults in the table of keys make a good configuration")
    }
}
