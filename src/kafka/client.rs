//! Settings of every Kafka client, and their errors.
//!
//! Order of precedence: built-in values, then the preset's, then the user's properties, then what the guarantees rest on. A user's
//! property that contradicts one of the last is a typed error that names the key; values are never printed, they may be secrets.
//! What clients' callbacks do is in `context`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaConfRes;

pub(super) use super::context::{Logged, log_line};
use super::oauth::{self, TokenClient};

/// Which kind of cluster the built-in values are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preset {
    /// Apache Kafka and what behaves like it.
    #[default]
    Kafka,
    /// Azure Event Hubs' Kafka endpoint.
    EventHubs,
}

/// How to reach Kafka. `properties` hold resolved secrets, so `Debug` prints their keys only.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `bootstrap.servers`: `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// The kind of cluster.
    pub preset: Preset,
    /// librdkafka properties of the user.
    pub properties: BTreeMap<String, String>,
    /// `group.id` of the input's consumer.
    pub group_id: String,
    /// `client.id`: how brokers' logs and quotas name us.
    pub client_id: String,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("preset", &self.preset)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("group_id", &self.group_id)
            .field("client_id", &self.client_id)
            .finish()
    }
}

/// What a client is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The input's consumer, a member of the group.
    Consumer,
    /// Reads an output topic back; assigns itself, never joins or commits.
    Reader,
    /// Writes findings and dead letters.
    Producer,
    /// Asks for metadata, creates topics.
    Metadata,
}

/// Why a client could not be made or the cluster gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// The guarantees rest on this property.
    #[error("kafka.properties.\"{key}\" must not be set otherwise than to {wanted}: {because}")]
    Reserved {
        /// The property.
        key: String,
        /// The value it has here.
        wanted: &'static str,
        /// What it is needed for, or what to use instead.
        because: &'static str,
    },
    /// librdkafka has no such property.
    #[error("kafka.properties.\"{key}\" is no librdkafka property: see librdkafka's CONFIGURATION.md for the names")]
    UnknownProperty {
        /// The property.
        key: String,
    },
    /// librdkafka refuses the value (which is not printed).
    #[error("kafka.properties.\"{key}\" has a value that librdkafka refuses: see librdkafka's CONFIGURATION.md for what it may be")]
    BadProperty {
        /// The property.
        key: String,
    },
    /// librdkafka refuses the combination of properties.
    #[error("the Kafka client could not be made: {reason}")]
    Create {
        /// librdkafka's words.
        reason: String,
    },
    /// What tokens are fetched with is not whole.
    #[error("kafka.properties.\"{key}\" must be {expected} when \"sasl.oauthbearer.method\" is \"oidc\"")]
    Token {
        /// The property.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The cluster refuses the log-in, or there was no token to log in with.
    #[error(
        "Kafka refuses the credentials ({reason}): check \"sasl.mechanism\", \"sasl.username\" and \"sasl.password\" (or the \"sasl.oauthbearer\" properties) in kafka.properties"
    )]
    Credentials {
        /// librdkafka's words.
        reason: String,
    },
    /// There is no trust between a broker and us.
    #[error("no TLS with Kafka broker {server}: {reason}")]
    Certificate {
        /// Its address.
        server: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// No broker answered.
    #[error(
        "no Kafka broker answered at kafka.bootstrap_servers = \"{bootstrap_servers}\" within {waited:?} ({reason}): check the address, the network and kafka.properties"
    )]
    Unreachable {
        /// The configured addresses.
        bootstrap_servers: String,
        /// How long it was tried.
        waited: Duration,
        /// The last thing librdkafka said.
        reason: String,
    },
    /// The cluster does not let us see the topic.
    #[error("Kafka refuses access to topic \"{topic}\": allow DESCRIBE and READ or WRITE for this client")]
    Forbidden {
        /// The topic.
        topic: String,
    },
    /// The cluster answered with an error.
    #[error("Kafka answered {code} about topic \"{topic}\"")]
    Answer {
        /// The topic.
        topic: String,
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
}

/// Upper bound of what librdkafka holds fetched and not yet consumed, over all partitions, in KiB (128 MiB).
const FETCH_AHEAD_KIB: usize = 131_072;

/// Reserved properties: key, the only accepted value, why. `-` accepts none.
const RESERVED: &[(&str, &str, &str)] = &[
    ("bootstrap.servers", "-", "use kafka.bootstrap_servers"),
    ("metadata.broker.list", "-", "use kafka.bootstrap_servers"),
    ("group.id", "-", "use input.group_id"),
    ("enable.auto.commit", "false", "positions are committed only once their effects are safe"),
    ("enable.auto.offset.store", "false", "positions are committed only once their effects are safe"),
    ("auto.offset.reset", "error", "a gap in the input must never be silent; use input.start"),
    ("enable.partition.eof", "true", "a partition at its end must not be waited for"),
    ("partition.assignment.strategy", "range", "one process owns every partition"),
    ("group.protocol", "classic", "one process owns every partition"),
    ("enable.idempotence", "true", "a change must be on the topic once"),
    ("acks", "all", "a change must survive the loss of a broker"),
    ("request.required.acks", "all", "a change must survive the loss of a broker"),
    ("group.instance.id", "-", "the state directory names the member"),
    ("enable.gapless.guarantee", "-", "findings have it, for their order; dead letters must not"),
    ("transactional.id", "-", "exactly once rests on determinism, not on transactions"),
    ("delivery.report.only.error", "false", "every change waits for its acknowledgement"),
    ("allow.auto.create.topics", "false", "topics are created with their settings or not at all; use output.create_topics"),
];

/// Other names of the properties that are built in: the user's value wins under either.
const ALIASES: &[(&str, &str)] = &[
    ("sasl.mechanism", "sasl.mechanisms"),
    ("compression.type", "compression.codec"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("message.timeout.ms", "delivery.timeout.ms"),
];

impl KafkaSettings {
    /// Makes a client of every kind's configuration without connecting.
    ///
    /// # Errors
    /// The first property that is reserved, unknown or refused.
    pub fn check(&self) -> Result<(), ClientError> {
        TokenClient::of(&self.properties)?;
        for role in [Role::Consumer, Role::Reader, Role::Producer, Role::Metadata] {
            self.config(role, 1)?.create_native_config().map_err(client_error)?;
        }
        Ok(())
    }

    /// The configuration of a client; `partitions` is how many it will read (its read-ahead is divided among them).
    ///
    /// # Errors
    /// A user's property contradicts what the guarantees rest on.
    pub fn config(&self, role: Role, partitions: usize) -> Result<ClientConfig, ClientError> {
        for (key, value) in &self.properties {
            if let Some((_, wanted, because)) = RESERVED.iter().find(|(reserved, _, _)| reserved == key) {
                let same = value == wanted || (*wanted == "all" && value == "-1");
                if *wanted == "-" || !same {
                    let wanted = if *wanted == "-" { "nothing" } else { wanted };
                    return Err(ClientError::Reserved { key: key.clone(), wanted, because });
                }
            }
        }
        // A sorted map, because librdkafka's result depends on the order where two names mean one property.
        let mut built_in = BTreeMap::new();
        let mut set = |entries: &[(&str, &str)]| built_in.extend(entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        set(&[("client.id", &self.client_id), ("topic.metadata.refresh.interval.ms", "60000"), ("socket.keepalive.enable", "true")]);
        let event_hubs = self.preset == Preset::EventHubs;
        if event_hubs {
            // librdkafka looks for "azure" in bootstrap.servers and so misses *.servicebus.windows.net, which drops idle connections.
            set(&[
                ("connections.max.idle.ms", "180000"),
                ("security.protocol", "SASL_SSL"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", "$ConnectionString"),
            ]);
        }
        let per_partition = (FETCH_AHEAD_KIB / partitions.max(1)).clamp(1_024, 16_384).to_string();
        match role {
            Role::Consumer | Role::Reader => {
                // The end of a partition shows only in an empty answer: a long poll must not hold it back (and with it the other
                // partitions' messages). It costs requests while idle, so Event Hubs, which is further away, waits longer.
                let wait = if event_hubs { "100" } else { "10" };
                set(&[
                    ("fetch.wait.max.ms", wait),
                    ("queued.max.messages.kbytes", &per_partition),
                    ("fetch.queue.backoff.ms", "10"),
                    ("fetch.error.backoff.ms", "100"),
                    // Also how far a Zstandard batch may unfold (docs/security.md).
                    ("receive.message.max.bytes", "100000000"),
                ]);
                if role == Role::Consumer {
                    // Where the logs end, for the lag.
                    set(&[("statistics.interval.ms", "1000")]);
                }
                // Within this time after a kill the group still waits for the dead member, before it gives one of another name its partitions.
                set(&[("session.timeout.ms", if event_hubs { "30000" } else { "10000" })]);
            }
            Role::Producer => {
                // Java's partitioner, so that others' tools agree on the partition of a key. A message is retried for ever: giving up
                // would lose it, and the outstanding bound holds the pipeline meanwhile.
                set(&[
                    ("compression.type", if event_hubs { "gzip" } else { "zstd" }),
                    ("partitioner", "murmur2_random"),
                    ("linger.ms", "1"),
                    ("message.timeout.ms", "0"),
                    ("message.max.bytes", if event_hubs { "1000000" } else { "10000000" }),
                ]);
                if event_hubs {
                    set(&[("request.timeout.ms", "60000")]);
                }
            }
            Role::Metadata => {}
        }
        for (name, other) in ALIASES {
            if self.properties.contains_key(*other) {
                built_in.remove(*name);
            }
        }
        built_in.extend(self.properties.iter().filter(|(k, _)| !oauth::takes(&self.properties, k)).map(|(k, v)| (k.clone(), v.clone())));
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        for (key, value) in &built_in {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers).set("allow.auto.create.topics", "false");
        match role {
            Role::Consumer | Role::Reader => {
                // A reader needs a group id to be allowed to assign itself; it neither joins the group nor commits.
                config
                    .set("group.id", &self.group_id)
                    .set("enable.auto.commit", "false")
                    .set("enable.auto.offset.store", "false")
                    .set("auto.offset.reset", "error")
                    .set("enable.partition.eof", "true")
                    .set("partition.assignment.strategy", "range")
                    .set("group.protocol", "classic");
                if role == Role::Reader {
                    // Ours are written without transactions; another's open one must not hide them.
                    config.set("isolation.level", "read_uncommitted");
                }
            }
            Role::Producer => {
                config.set("enable.idempotence", "true").set("acks", "all").set("delivery.report.only.error", "false");
            }
            Role::Metadata => {}
        }
        Ok(config)
    }

    /// Whether log-ins need a token.
    pub(super) fn uses_oauth(&self) -> bool {
        ["sasl.mechanism", "sasl.mechanisms"].iter().filter_map(|key| self.properties.get(*key)).any(|m| m == "OAUTHBEARER")
    }

    /// Makes a client.
    pub(super) fn client<C: ClientContext, T: FromClientConfigAndContext<C>>(
        &self,
        role: Role,
        partitions: usize,
        context: C,
    ) -> Result<T, ClientError> {
        self.config(role, partitions)?.create_with_context(context).map_err(client_error)
    }
}

/// librdkafka's refusal, without the value.
pub(super) fn client_error(error: KafkaError) -> ClientError {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => ClientError::UnknownProperty { key },
        KafkaError::ClientConfig(_, _, key, _) => ClientError::BadProperty { key },
        KafkaError::ClientCreation(reason) => ClientError::Create { reason },
        other => ClientError::Create { reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            bootstrap_servers: "localhost:1".into(),
            preset: Preset::Kafka,
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            group_id: "g".into(),
            client_id: "c".into(),
        }
    }

    #[test]
    fn what_the_guarantees_rest_on_cannot_be_set_otherwise() {
        for (key, wanted, _) in RESERVED {
            let error = settings(&[(key, "something else")]).config(Role::Producer, 1).unwrap_err();
            assert!(matches!(&error, ClientError::Reserved { key: k, .. } if k == key), "{error}");
            assert!(error.to_string().contains(key) && !error.to_string().contains("something else"));
            if *wanted != "-" {
                settings(&[(key, wanted)]).config(Role::Consumer, 1).unwrap();
            }
        }
        settings(&[("acks", "-1")]).check().unwrap();
    }

    #[test]
    fn the_users_properties_win_over_the_presets() {
        let mut s = settings(&[("compression.type", "lz4"), ("fetch.wait.max.ms", "77")]);
        for preset in [Preset::Kafka, Preset::EventHubs] {
            s.preset = preset;
            s.check().unwrap();
            assert_eq!(s.config(Role::Producer, 1).unwrap().get("compression.type"), Some("lz4"));
            assert_eq!(s.config(Role::Consumer, 1).unwrap().get("fetch.wait.max.ms"), Some("77"));
            assert_eq!(s.config(Role::Consumer, 1).unwrap().get("enable.auto.commit"), Some("false"));
        }
    }

    #[test]
    fn the_users_properties_win_also_under_their_other_names() {
        for (name, other) in ALIASES {
            let value = match *name {
                "sasl.mechanism" => "OAUTHBEARER",
                "compression.type" => "none",
                _ => "11",
            };
            let mut s = settings(&[(other, value)]);
            s.preset = Preset::EventHubs;
            let config = s.config(Role::Producer, 1).unwrap();
            assert_eq!(config.create_native_config().unwrap().get(name), Ok(value.to_owned()));
        }
    }

    #[test]
    fn event_hubs_gets_what_it_needs() {
        let mut s = settings(&[]);
        s.preset = Preset::EventHubs;
        s.check().unwrap();
        let (consumer, producer) = (s.config(Role::Consumer, 1).unwrap(), s.config(Role::Producer, 1).unwrap());
        for config in [&consumer, &producer] {
            assert_eq!(config.get("connections.max.idle.ms"), Some("180000"));
            assert_eq!(config.get("socket.keepalive.enable"), Some("true"));
            assert!(config.get("topic.metadata.refresh.interval.ms").unwrap().parse::<u32>().unwrap() <= 180_000);
        }
        assert_eq!(consumer.get("session.timeout.ms"), Some("30000"));
        assert_eq!((producer.get("compression.type"), producer.get("request.timeout.ms")), (Some("gzip"), Some("60000")));
    }

    #[test]
    fn read_ahead_is_divided_among_the_partitions() {
        let kib = |n| settings(&[]).config(Role::Consumer, n).unwrap().get("queued.max.messages.kbytes").unwrap().to_owned();
        assert_eq!((kib(1), kib(8), kib(32), kib(1000)), ("16384".into(), "16384".into(), "4096".into(), "1024".into()));
    }

    #[test]
    fn a_wrong_property_is_named_and_its_value_is_not() {
        let unknown = settings(&[("sasl.pasword", "hunter2")]).check().unwrap_err();
        assert_eq!(unknown, ClientError::UnknownProperty { key: "sasl.pasword".into() });
        let bad = settings(&[("security.protocol", "hunter2")]).check().unwrap_err();
        assert_eq!(bad, ClientError::BadProperty { key: "security.protocol".into() });
        let secret = settings(&[("sasl.password", "hunter2")]);
        for text in [unknown.to_string(), bad.to_string(), format!("{secret:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(format!("{secret:?}").contains("sasl.password"));
    }
}
