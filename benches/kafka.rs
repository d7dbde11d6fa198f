//! The service on a real broker (rows 3, 4 and 7 of docs/benchmarks.md): throughput against a bare consumer that decodes and drops,
//! latency against a bare echo, and what durability costs: throughput against the same pipeline without snapshots and journal.
//!
//! Throughput: a million records lie ready on four partitions; the time from the first message consumed to the last counts, for
//! both, in alternating rounds, with snapshots every five seconds and the journal on disk. Latency: fifty messages of twenty records a
//! second; each holds one record that makes a finding and each has an echo of the same size on another topic, in the same moment.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a bench reads the clock and stops at surprises")]

#[path = "../tests/support/kafka.rs"]
#[allow(dead_code, unreachable_pub, reason = "only a part of it is used here")]
mod broker;
#[path = "support/live.rs"]
mod live;
#[path = "support/undurable.rs"]
mod undurable;

use broker::{Broker, unique};
use firstseen::config::Config;
use firstseen::defender::{Decoder, Limits, Reason, Record, Sink};
use firstseen::fleet::{Fleet, FleetOptions, render};
use firstseen::host_clock;
use firstseen::service::{Service, Shared};
use firstseen::time::Span;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use undurable::Undurable;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 4;
const RECORDS: u64 = 1_000_000;
const ROUNDS: usize = 3;
const LATENCY_MESSAGES: usize = 3_000;
const PACE: Duration = Duration::from_millis(20);
/// Between snapshots, where they are not what is measured.
const SNAPSHOTS: Span = Span::seconds(5);

fn main() {
    let broker = Broker::start();
    let only = std::env::args().skip(1).find(|a| a != "--bench");
    // Latency first: the disk is busy for a while with the gigabytes that throughput writes.
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("latency") {
        latency(&broker);
    }
    if !wanted("throughput") && !wanted("durability") {
        return;
    }
    let input = records(&broker);
    if wanted("throughput") {
        throughput(&broker, &input);
    }
    if wanted("durability") {
        durability(&broker, &input);
    }
}

/// What lies ready on the input topic.
struct Input {
    topic: String,
    messages: u64,
    records: u64,
}

fn producer(broker: &Broker, compression: &str, linger: &str) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("compression.type", compression)
        .set("linger.ms", linger)
        .set("acks", "all")
        .set("queue.buffering.max.kbytes", "65536")
        .create()
        .unwrap()
}

fn consumer(broker: &Broker, topic: &str, from: Offset) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("group.id", unique("bench"))
        .set("enable.auto.commit", "false")
        // As the service has it; librdkafka's defaults rest a second whenever the queue is full.
        .set("fetch.wait.max.ms", "10")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
        list.add_partition_offset(topic, partition.id(), from).unwrap();
    }
    consumer.assign(&list).unwrap();
    consumer
}

fn send<C: ClientContext + rdkafka::producer::ProducerContext<DeliveryOpaque = ()>>(
    producer: &BaseProducer<C>,
    topic: &str,
    partition: i32,
    millis: i64,
    payload: &[u8],
) {
    let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).timestamp(millis).payload(payload);
    while let Err((error, back)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(10));
        record = back;
    }
    producer.poll(Duration::ZERO);
}

fn millis(at: firstseen::time::Ticks) -> i64 {
    at.0 / 10_000
}

/// User and system seconds of this process.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Bytes that this process had written to files.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|l| l.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// User and system seconds of each thread by name, the greatest first: who does what the sum above says.
fn threads() -> Vec<(String, f64)> {
    let mut by_name = std::collections::BTreeMap::<String, f64>::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        *by_name.entry(name.to_owned()).or_default() +=
            rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0;
    }
    by_name.into_iter().collect()
}

/// What the threads did between two looks.
fn by_thread(before: &[(String, f64)], after: &[(String, f64)]) -> String {
    let had = |name: &str| before.iter().find(|(n, _)| n == name).map_or(0.0, |(_, s)| *s);
    let mut spent: Vec<(&str, f64)> = after.iter().map(|(name, s)| (name.as_str(), s - had(name))).filter(|(_, s)| *s >= 0.02).collect();
    spent.sort_by(|a, b| b.1.total_cmp(&a.1));
    spent.iter().map(|(name, s)| format!("{name} {s:.2}")).collect::<Vec<_>>().join(", ")
}

struct Drop(u64);

impl Sink for Drop {
    fn record(&mut self, _: u32, record: &Record<'_>) {
        std::hint::black_box(record);
        self.0 += 1;
    }
    fn dead(&mut self, index: Option<u32>, reason: Reason, error: &dyn Display, _: &[u8]) {
        panic!("the fleet writes only good records: {index:?} {reason} {error}");
    }
}

fn records(broker: &Broker) -> Input {
    let topic = broker.topic("records", PARTITIONS as u16);
    let options = FleetOptions { seed: 7, devices: 3_000, ..FleetOptions::default() }.with_total(RECORDS);
    let producer = producer(broker, "lz4", "20");
    let (mut messages, mut records, mut bytes) = (0u64, 0u64, 0usize);
    for message in Fleet::new(&options) {
        send(&producer, &topic, (messages % PARTITIONS as u64) as i32, millis(message.arrival), &message.bytes);
        messages += 1;
        records += u64::from(message.records);
        bytes += message.bytes.len();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    println!("{records} records in {messages} messages on {PARTITIONS} partitions, {:.2} GB, lz4", bytes as f64 / 1e9);
    Input { topic, messages, records }
}

fn throughput(broker: &Broker, input: &Input) {
    let (mut bare_best, mut ours_best) = ([f64::MAX; 2], [f64::MAX; 2]);
    for round in 0..ROUNDS {
        println!("round {round}");
        let spent = bare(broker, input);
        bare_best = [0, 1].map(|n| spent[n].min(bare_best[n]));
        let spent = service(broker, input, SNAPSHOTS);
        ours_best = [0, 1].map(|n| spent[n].min(ours_best[n]));
    }
    result(input, ("bare consumer", bare_best), ("firstseen", ours_best), 0.75);
}

/// The service with a snapshot every second against the same without snapshots and journal.
fn durability(broker: &Broker, input: &Input) {
    let (mut without_best, mut with_best) = ([f64::MAX; 2], [f64::MAX; 2]);
    for round in 0..ROUNDS {
        println!("round {round}, durability");
        let spent = without(broker, input);
        without_best = [0, 1].map(|n| spent[n].min(without_best[n]));
        let spent = service(broker, input, Span::seconds(1));
        with_best = [0, 1].map(|n| spent[n].min(with_best[n]));
    }
    result(input, ("without", without_best), ("durable", with_best), 0.9);
}

fn result(input: &Input, other: (&str, [f64; 2]), ours: (&str, [f64; 2]), target: f64) {
    for (name, [wall, cpu]) in [other, ours] {
        println!("{name:<16}{wall:>8.2} s wall {cpu:>8.2} s CPU {:>12.0} records/s", input.records as f64 / wall);
    }
    let ratio = other.1[0] / ours.1[0];
    let verdict = if ratio >= target { "met" } else { "missed" };
    println!("ratio, wall time: {ratio:.2} (target {target}: {verdict}); CPU time: {:.2}", other.1[1] / ours.1[1]);
}

/// Consumes, decides and publishes, and keeps nothing.
fn without(broker: &Broker, input: &Input) -> [f64; 2] {
    let (config, dir) = config(broker, &input.topic, SNAPSHOTS);
    let pipeline = Undurable::start(&config);
    let spent = until_consumed(&pipeline.shared, input.messages, || {});
    let open = pipeline.shared.view.open_findings();
    pipeline.stop();
    println!("  without {:.2} s wall, {:.2} s CPU ({}); {open} findings open", spent.wall, spent.cpu, spent.by_thread);
    let _ = fs::remove_dir_all(dir);
    [spent.wall, spent.cpu]
}

struct Spent {
    wall: f64,
    cpu: f64,
    by_thread: String,
}

/// From the first message consumed to the last.
fn until_consumed(shared: &Shared, messages: u64, check: impl Fn()) -> Spent {
    let consumed = || shared.consumed.load(Ordering::Acquire);
    while consumed() == 0 {
        std::thread::sleep(Duration::from_micros(200));
    }
    let (begun, before, threads_before) = (Instant::now(), cpu(), threads());
    while consumed() < messages {
        check();
        std::thread::sleep(Duration::from_millis(2));
    }
    Spent { wall: begun.elapsed().as_secs_f64(), cpu: cpu() - before, by_thread: by_thread(&threads_before, &threads()) }
}

/// Consumes, decodes and drops.
fn bare(broker: &Broker, input: &Input) -> [f64; 2] {
    let consumer = consumer(broker, &input.topic, Offset::Beginning);
    let limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };
    let (mut decoder, mut sink, mut n) = (Decoder::new(), Drop(0), 0);
    let mut begun = None;
    while n < input.messages {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        begun.get_or_insert_with(|| (Instant::now(), cpu(), threads()));
        decoder.message(message.payload().unwrap(), &limits, &mut sink);
        n += 1;
    }
    let (wall, before, threads_before) = begun.unwrap();
    let spent = [wall.elapsed().as_secs_f64(), cpu() - before];
    assert_eq!(sink.0, input.records);
    println!("  bare consumer {:.2} s wall, {:.2} s CPU ({})", spent[0], spent[1], by_thread(&threads_before, &threads()));
    spent
}

fn config(broker: &Broker, topic: &str, snapshots: Span) -> (Config, PathBuf) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("bench-service"));
    let _ = fs::remove_dir_all(&dir);
    let mut config = Config::default();
    config.kafka.bootstrap_servers = broker.bootstrap();
    config.input.topics = vec![topic.to_owned()];
    config.input.group_id = unique("firstseen");
    config.output.findings_topic = unique("findings");
    config.output.dead_letter_topic = unique("dead-letters");
    config.state.dir = dir.clone();
    config.state.snapshot_interval = snapshots;
    (config, dir)
}

fn drain(service: Service) {
    service.shared.request_stop();
    service.ended(Duration::from_secs(30)).expect("it drains").unwrap();
}

fn service(broker: &Broker, input: &Input, snapshots: Span) -> [f64; 2] {
    let (config, dir) = config(broker, &input.topic, snapshots);
    let on_disk = written();
    let service = Service::start(&config, Shared::default()).unwrap();
    let spent = until_consumed(&service.shared, input.messages, || assert!(service.ended(Duration::ZERO).is_none(), "it must go on"));
    let open = service.shared.view.open_findings();
    let begun = Instant::now();
    drain(service);
    let drained = begun.elapsed().as_secs_f64();
    let on_disk = written() - on_disk;
    println!(
        "  firstseen {:.2} s wall, {:.2} s CPU ({}), drained in {drained:.2} s more; {open} findings open; {:.1} MB written to disk, {:.1} bytes a record",
        spent.wall,
        spent.cpu,
        spent.by_thread,
        on_disk as f64 / 1e6,
        on_disk as f64 / input.records as f64
    );
    let _ = fs::remove_dir_all(dir);
    [spent.wall, spent.cpu]
}

fn latency(broker: &Broker) {
    let (input, echo) = (broker.topic("live", PARTITIONS as u16), broker.topic("echo", PARTITIONS as u16));
    let (config, dir) = config(broker, &input, SNAPSHOTS);
    let service = Service::start(&config, Shared::default()).unwrap();
    let producer = producer(broker, "none", "0");
    // The servers make themselves known.
    send(&producer, &input, 0, millis(host_clock::now()), &live::infos(host_clock::now()));
    producer.flush(Duration::from_secs(10)).unwrap();
    broker::wait_for("the servers to be known", || (service.shared.consumed.load(Ordering::Acquire) > 0).then_some(()));

    let done = Arc::new(AtomicBool::new(false));
    let listen = |topic: &str, number: fn(&[u8]) -> Option<usize>| {
        let (consumer, done) = (consumer(broker, topic, Offset::End), Arc::clone(&done));
        let arrivals = Arc::new(Mutex::new(vec![None; LATENCY_MESSAGES + 100]));
        let (heard, ready) = (Arc::clone(&arrivals), Arc::new(AtomicBool::new(false)));
        let thread = {
            let ready = Arc::clone(&ready);
            std::thread::spawn(move || {
                while !done.load(Ordering::Acquire) {
                    if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                        let at = Instant::now();
                        if let Some(n) = message.unwrap().payload().and_then(number) {
                            heard.lock().unwrap()[n].get_or_insert(at);
                            ready.store(true, Ordering::Release);
                        }
                    }
                }
            })
        };
        (arrivals, ready, thread)
    };
    // The two are the same but for what is listened to.
    let (findings, findings_ready, first) = listen(&config.output.findings_topic, live::number);
    let (echoes, echoes_ready, second) = listen(&echo, |payload| Some(u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize));
    let mut sent = vec![None; LATENCY_MESSAGES + 100];
    let one = |n: usize, sent: &mut Vec<Option<Instant>>| {
        let at = host_clock::now();
        let records: Vec<Vec<u8>> = std::iter::once(live::rare(n, at)).chain((1..20).map(|i| live::common(n, i, at))).collect();
        let payload = render::message(&records);
        let mut mirrored = payload.clone();
        mirrored[..4].copy_from_slice(&(n as u32).to_be_bytes());
        let partition = n as i32 % PARTITIONS;
        let now = millis(host_clock::now());
        sent[n] = Some(Instant::now());
        // Which goes first changes, so that neither pays for the other.
        let order = [(&input, &payload), (&echo, &mirrored)];
        for at in [n % 2, 1 - n % 2] {
            send(&producer, order[at].0, partition, now, order[at].1);
        }
    };
    // What End means is settled only when something has come.
    let mut n = LATENCY_MESSAGES;
    while !(findings_ready.load(Ordering::Acquire) && echoes_ready.load(Ordering::Acquire)) {
        assert!(n < sent.len(), "neither finding nor echo comes");
        one(n, &mut sent);
        n += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
    let begun = Instant::now();
    for n in 0..LATENCY_MESSAGES {
        let due = begun + PACE * n as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        one(n, &mut sent);
    }
    let all = |arrivals: &Mutex<Vec<Option<Instant>>>| arrivals.lock().unwrap()[..LATENCY_MESSAGES].iter().all(Option::is_some);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !(all(&findings) && all(&echoes)) {
        assert!(Instant::now() < deadline, "each message must come out");
        std::thread::sleep(Duration::from_millis(50));
    }
    done.store(true, Ordering::Release);
    first.join().unwrap();
    second.join().unwrap();
    drain(service);
    let _ = fs::remove_dir_all(dir);
    println!("\nlatency at {:.0} records/s, {LATENCY_MESSAGES} samples, ms", 20.0 / PACE.as_secs_f64());
    let mut p99 = [0.0; 2];
    for (which, (name, arrivals)) in [("echo", &echoes), ("finding", &findings)].into_iter().enumerate() {
        let arrivals = arrivals.lock().unwrap();
        let mut all: Vec<f64> = (0..LATENCY_MESSAGES).map(|n| (arrivals[n].unwrap() - sent[n].unwrap()).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() as f64 * share) as usize).min(all.len() - 1)];
        p99[which] = at(0.99);
        println!("{name:<10} p50 {:>7.1}  p90 {:>7.1}  p99 {:>7.1}  max {:>7.1}", at(0.5), at(0.9), at(0.99), at(1.0));
    }
    println!("p99 of findings is {:.1} ms above the echo's", p99[1] - p99[0]);
}
