//! The service on a real broker (rows 3 and 4 of docs/benchmarks.md): throughput against a bare consumer that decodes and drops,
//! and latency against a bare echo.
//!
//! Throughput: a million records lie ready on four partitions; the time from the first message consumed to the last counts, for
//! both, in alternating rounds, with snapshots every five seconds and the journal on disk. Latency: fifty messages of twenty records a
//! second; each holds one record that makes a finding and each has an echo of the same size on another topic, in the same moment.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a bench reads the clock and stops at surprises")]

#[path = "../tests/support/kafka.rs"]
#[allow(dead_code, unreachable_pub, reason = "only a part of it is used here")]
mod broker;

use broker::{Broker, unique};
use firstseen::config::Config;
use firstseen::defender::{Decoder, DeviceInfo, Limits, NetworkEvent, Reason, Record, Sink};
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

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 4;
const RECORDS: u64 = 1_000_000;
const ROUNDS: usize = 3;
const LATENCY_MESSAGES: usize = 3_000;
const PACE: Duration = Duration::from_millis(20);
const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

fn main() {
    let broker = Broker::start();
    let only = std::env::args().skip(1).find(|a| a != "--bench");
    // Latency first: the disk is busy for a while with the gigabytes that throughput writes.
    if only.as_deref() != Some("throughput") {
        latency(&broker);
    }
    if only.as_deref() != Some("latency") {
        throughput(&broker);
    }
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

fn throughput(broker: &Broker) {
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
    let (mut bare_best, mut ours_best) = ([f64::MAX; 2], [f64::MAX; 2]);
    for round in 0..ROUNDS {
        println!("round {round}");
        let spent = bare(broker, &topic, messages, records);
        bare_best = [0, 1].map(|n| spent[n].min(bare_best[n]));
        let spent = service(broker, &topic, messages, records);
        ours_best = [0, 1].map(|n| spent[n].min(ours_best[n]));
    }
    for (name, [wall, cpu]) in [("bare consumer", bare_best), ("firstseen", ours_best)] {
        println!("{name:<16}{wall:>8.2} s wall {cpu:>8.2} s CPU {:>12.0} records/s", records as f64 / wall);
    }
    println!("ratio, wall time: {:.2}; CPU time: {:.2}", bare_best[0] / ours_best[0], bare_best[1] / ours_best[1]);
}

/// Consumes, decodes and drops.
fn bare(broker: &Broker, topic: &str, messages: u64, records: u64) -> [f64; 2] {
    let consumer = consumer(broker, topic, Offset::Beginning);
    let limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };
    let (mut decoder, mut sink, mut n) = (Decoder::new(), Drop(0), 0);
    let mut begun = None;
    while n < messages {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        begun.get_or_insert_with(|| (Instant::now(), cpu(), threads()));
        decoder.message(message.payload().unwrap(), &limits, &mut sink);
        n += 1;
    }
    let (wall, before, threads_before) = begun.unwrap();
    let spent = [wall.elapsed().as_secs_f64(), cpu() - before];
    assert_eq!(sink.0, records);
    println!("  bare consumer {:.2} s wall, {:.2} s CPU ({})", spent[0], spent[1], by_thread(&threads_before, &threads()));
    spent
}

fn config(broker: &Broker, topic: &str) -> (Config, PathBuf) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("bench-service"));
    let _ = fs::remove_dir_all(&dir);
    let mut config = Config::default();
    config.kafka.bootstrap_servers = broker.bootstrap();
    config.input.topics = vec![topic.to_owned()];
    config.input.group_id = unique("firstseen");
    config.output.findings_topic = unique("findings");
    config.output.dead_letter_topic = unique("dead-letters");
    config.state.dir = dir.clone();
    config.state.snapshot_interval = Span::seconds(5);
    (config, dir)
}

fn drain(service: Service) {
    service.shared.request_stop();
    service.ended(Duration::from_secs(30)).expect("it drains").unwrap();
}

fn service(broker: &Broker, topic: &str, messages: u64, records: u64) -> [f64; 2] {
    let (config, dir) = config(broker, topic);
    let on_disk = written();
    let service = Service::start(&config, Shared::default()).unwrap();
    let consumed = || service.shared.consumed.load(Ordering::Acquire);
    while consumed() == 0 {
        std::thread::sleep(Duration::from_micros(200));
    }
    let (begun, before, threads_before) = (Instant::now(), cpu(), threads());
    while consumed() < messages {
        assert!(service.ended(Duration::from_millis(2)).is_none(), "it must go on");
    }
    let spent = [begun.elapsed().as_secs_f64(), cpu() - before];
    let spent_by_thread = by_thread(&threads_before, &threads());
    let open = service.shared.view.open_findings();
    drain(service);
    let drained = begun.elapsed().as_secs_f64() - spent[0];
    let on_disk = written() - on_disk;
    println!(
        "  firstseen {:.2} s wall, {:.2} s CPU ({spent_by_thread}), drained in {drained:.2} s more; {open} findings open; {:.1} MB written to disk, {:.1} bytes a record",
        spent[0],
        spent[1],
        on_disk as f64 / 1e6,
        on_disk as f64 / records as f64
    );
    let _ = fs::remove_dir_all(dir);
    spent
}

fn latency(broker: &Broker) {
    let (input, echo) = (broker.topic("live", PARTITIONS as u16), broker.topic("echo", PARTITIONS as u16));
    let (config, dir) = config(broker, &input);
    let service = Service::start(&config, Shared::default()).unwrap();
    let producer = producer(broker, "none", "0");
    // The servers make themselves known.
    let infos: Vec<Vec<u8>> = (0..20).map(info).collect();
    send(&producer, &input, 0, millis(host_clock::now()), &render::message(&infos));
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
    let (findings, findings_ready, first) = listen(&config.output.findings_topic, |payload| {
        let text = std::str::from_utf8(payload).unwrap();
        let address = text.split("\"ip\":\"203.").nth(1)?.split('"').next()?;
        let mut parts = address.split('.').map(|part| part.parse::<usize>().unwrap());
        Some(parts.next()? * 65_536 + parts.next()? * 256 + parts.next()?)
    });
    let (echoes, echoes_ready, second) = listen(&echo, |payload| Some(u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize));
    let mut sent = vec![None; LATENCY_MESSAGES + 100];
    let one = |n: usize, sent: &mut Vec<Option<Instant>>| {
        let payload = live(n);
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

fn name(server: usize) -> String {
    format!("srv-{server:02}.corp.example")
}

fn info(server: usize) -> Vec<u8> {
    let (name, mut out) = (name(server), Vec::new());
    let now = host_clock::now();
    let info = DeviceInfo { timestamp: now, device_id: &name, device_name: &name, os_platform: "WindowsServer2022", device_type: "Server" };
    render::render_device(&mut out, now, TENANT, &info, true);
    out
}

/// Twenty records: one of a server and an address never seen, the others of what everybody talks to.
fn live(n: usize) -> Vec<u8> {
    let now = host_clock::now();
    let records: Vec<Vec<u8>> = (0..20)
        .map(|i| {
            let server = name(if i == 0 { n % 5 } else { i });
            let ip = if i == 0 { format!("203.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255) } else { format!("198.18.0.{i}") };
            let id = format!("{server}{}", (n + i) % 40);
            let event = NetworkEvent {
                timestamp: now.minus(Span::seconds(1)),
                device_id: (if i == 0 { &server } else { &id }).into(),
                device_name: &server,
                report_id: (n * 20 + i) as i64,
                action_type: "ConnectionSuccess".into(),
                remote_ip: &ip,
                remote_ip_type: "Public".into(),
                remote_port: Some(443),
                remote_url: "telemetry.niche.example",
                company: if i == 0 { "Niche Software GmbH" } else { "Common Software Inc." },
                product: "Niche Service".into(),
                file_name: "niche.exe".into(),
                folder_path: "c:\\program files\\niche\\niche.exe".into(),
                command_line: "\"c:\\program files\\niche\\niche.exe\" --service".into(),
                sha256: "9e6f0b6e".into(),
                account_name: "system".into(),
                account_domain: "nt authority".into(),
            };
            let mut out = Vec::new();
            render::render_network(&mut out, now, TENANT, &event, true);
            out
        })
        .collect();
    render::message(&records)
}
