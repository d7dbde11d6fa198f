//! `firstseen demo`: the service as `run` has it, on an embedded broker, with a synthetic fleet and an attack in it.
//!
//! The broker is librdkafka's mock cluster, in this process. It keeps 5 MiB a partition, so the fleet's messages are produced
//! no further ahead of the service than that.

use super::run::{Endpoint, runtime};
use crate::cli;
use crate::config::Config;
use crate::fleet::{Fleet, Message, demo_options};
use crate::host_clock;
use crate::service::{Service, Shared};
use crate::time::{Span, Ticks};
use anyhow::{Context, anyhow};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
/// Bytes that may lie unread on the broker, over all partitions.
const AHEAD: usize = 4 << 20;

pub(super) fn demo(args: &cli::Demo) -> anyhow::Result<ExitCode> {
    let deadline = host_clock::monotonic() + args.for_;
    let broker = Broker::start()?;
    let state = TemporaryState::new()?;
    let config = config(args, &broker.bootstrap, &state.0);
    let runtime = runtime()?;
    let endpoint = runtime.block_on(Endpoint::open(&config))?;
    let end = Ticks(host_clock::now().0 / Span::seconds(1).0 * Span::seconds(1).0);
    let fleet = Fleet::new(&demo_options(end));
    let target = fleet.attack().cloned().ok_or_else(|| anyhow!("the demo's fleet has no server to attack"))?;

    println!("firstseen demo: an embedded broker at {}, a synthetic fleet of 300 devices, 15 days in fast motion", broker.bootstrap);
    println!(
        "  findings topic {} · metrics http://{}/metrics · open findings http://{}/api/v1/findings",
        config.output.findings_topic, endpoint.address, endpoint.address
    );
    let service = Service::start(&config, endpoint.shared.clone())?;
    let mut watcher = Watcher::new(&broker.bootstrap, &config.output.findings_topic)?;
    let found = play(&broker, fleet, &target, &service.shared, &mut watcher, deadline);
    service.shared.request_stop();
    let drained = service.ended(Duration::from_secs(15));
    endpoint.close(&runtime);
    let found = found?;
    if let Some(Err(error)) = drained {
        return Err(error.into());
    }
    println!(
        "{}",
        if found {
            "The attack was found. Next: README.md shows how to connect firstseen to your own Kafka or Event Hubs."
        } else {
            "The attack was NOT found in time. Give it longer with --for 2m; if that does not help, this is a bug: please report it."
        }
    );
    Ok(ExitCode::from(u8::from(!found)))
}

fn config(args: &cli::Demo, bootstrap: &str, state: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.kafka.bootstrap_servers = bootstrap.to_owned();
    config.state.dir = state.to_owned();
    config.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    // Fifteen days pass in seconds: updates of every minute of them would hide the rest.
    config.output.update_interval = Span::hours(6);
    // The topics are the mock cluster's to make.
    config.output.create_topics = false;
    config
}

/// Lives through the days, then lets the implant call home.
fn play(
    broker: &Broker,
    fleet: Fleet,
    target: &crate::fleet::AttackTarget,
    shared: &Shared,
    watcher: &mut Watcher,
    deadline: Instant,
) -> anyhow::Result<bool> {
    let begun = host_clock::monotonic();
    let (mut unread, mut produced, mut bytes, mut records) = (0usize, 0u64, 0u64, 0u64);
    let mut attack_sent = None;
    let mut days = 0;
    let start = target.at.minus(Span::days(15));
    for message in fleet {
        if message.arrival >= target.arrival && attack_sent.is_none() {
            // Everything before it is lived through first, so that what follows is as in live operation.
            if !wait_for(shared, produced, watcher, deadline, None)? {
                return Ok(false);
            }
            let seconds = begun.elapsed().as_secs_f64();
            println!(
                "15 days: {records} records ({:.0} MB) in {seconds:.1} s; {} findings opened, {} open now",
                bytes as f64 / 1e6,
                watcher.opened,
                shared.view.open_findings()
            );
            println!("now an implant in {} on {} calls home to {} …", target.company, target.device_name, target.remote_url);
            attack_sent = Some(host_clock::monotonic());
            unread = 0;
        }
        if attack_sent.is_none() {
            let day = (message.arrival.0 - start.0) / Span::days(1).0;
            if day > days {
                days = day;
                tracing::debug!(day, "a day has passed");
            }
        }
        unread += message.bytes.len();
        bytes += message.bytes.len() as u64;
        records += u64::from(message.records);
        broker.produce(&message, produced)?;
        produced += 1;
        if unread >= AHEAD {
            if !wait_for(shared, produced, watcher, deadline, None)? {
                return Ok(false);
            }
            unread = 0;
        }
        if attack_sent.is_some() && watcher.poll(Some((target, attack_sent)))? {
            return Ok(true);
        }
    }
    wait_for(shared, produced, watcher, deadline, Some((target, attack_sent)))
}

/// Waits until the service has consumed `produced` messages; given an attack, until its finding has come.
fn wait_for(
    shared: &Shared,
    produced: u64,
    watcher: &mut Watcher,
    deadline: Instant,
    attack: Option<(&crate::fleet::AttackTarget, Option<Instant>)>,
) -> anyhow::Result<bool> {
    loop {
        if watcher.poll(attack)? {
            return Ok(true);
        }
        if attack.is_none() && shared.consumed.load(Ordering::Acquire) >= produced {
            return Ok(true);
        }
        if let Some(reason) = shared.health.not_live() {
            return Err(anyhow!(reason));
        }
        if host_clock::monotonic() > deadline {
            return Ok(false);
        }
    }
}

struct Broker {
    bootstrap: String,
    producer: BaseProducer,
    /// Lives as long as the demo.
    _cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    fn start() -> anyhow::Result<Broker> {
        let cluster = MockCluster::new(1).context("the embedded broker could not be started")?;
        let defaults = Config::default();
        for topic in &defaults.input.topics {
            cluster.create_topic(topic, PARTITIONS, 1)?;
        }
        cluster.create_topic(&defaults.output.findings_topic, PARTITIONS, 1)?;
        cluster.create_topic(&defaults.output.dead_letter_topic, 1, 1)?;
        let bootstrap = cluster.bootstrap_servers();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("linger.ms", "2")
            .set("queue.buffering.max.kbytes", "65536")
            .create()?;
        Ok(Broker { bootstrap, producer, _cluster: cluster })
    }

    fn produce(&self, message: &Message, number: u64) -> anyhow::Result<()> {
        let topic = Config::default().input.topics.first().cloned().unwrap_or_default();
        let partition = (number % PARTITIONS as u64) as i32;
        let mut record = BaseRecord::<(), _>::to(&topic).partition(partition).payload(&message.bytes).timestamp(message.arrival.0 / 10_000);
        while let Err((error, back)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(rdkafka::types::RDKafkaErrorCode::QueueFull) {
                return Err(error).context("the embedded broker took no message");
            }
            self.producer.poll(Duration::from_millis(10));
            record = back;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // What is still queued is the embedded broker's own, which goes with it.
        let _ = self.producer.flush(Duration::from_millis(100));
    }
}

/// Reads the findings topic as a consumer would.
struct Watcher {
    consumer: BaseConsumer,
    opened: u64,
}

impl Watcher {
    fn new(bootstrap: &str, topic: &str) -> anyhow::Result<Watcher> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "firstseen-demo")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        Ok(Watcher { consumer, opened: 0 })
    }

    /// Takes what has come; true when the attack's finding is among it.
    fn poll(&mut self, attack: Option<(&crate::fleet::AttackTarget, Option<Instant>)>) -> anyhow::Result<bool> {
        while let Some(message) = self.consumer.poll(Duration::from_millis(2)) {
            let message = message.context("the findings topic can't be read")?;
            let finding: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
            let text = |pointer: &str| finding.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default();
            if text("/change") != "opened" {
                continue;
            }
            self.opened += 1;
            let Some((target, sent)) = attack else { continue };
            if text("/device/name") == target.device_name && text("/remote/ip") == target.remote_ip {
                let after = sent.map_or(0, |at| at.elapsed().as_millis());
                println!(
                    "\n  FINDING  {}  (severity {}, {after} ms after the event was produced)\n",
                    text("/finding_id"),
                    text("/severity")
                );
                println!("  {}\n", text("/reason"));
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A state directory that goes with the demo.
struct TemporaryState(PathBuf);

impl TemporaryState {
    fn new() -> anyhow::Result<TemporaryState> {
        let path = std::env::temp_dir().join(format!("firstseen-demo-{}-{}", std::process::id(), host_clock::now().0));
        std::fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(TemporaryState(path))
    }
}

impl Drop for TemporaryState {
    fn drop(&mut self) {
        // A directory that can't be removed is left to the system's own cleaning.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
