//! How long a crash keeps findings waiting (row 8 of docs/benchmarks.md): SIGKILL to the first new finding on its topic, with 10 million
//! tracked connections, the real binary on a real broker.
//!
//! A state directory of that size is made once. Live traffic of a thousand records a second goes on all the while: those of the crowd that
//! the state tracks, and in each message one that makes a finding. Every process gets a while to work, is killed, and another is started at
//! once; a finding counts whose message was sent after the kill. Session timeout, settling and the broker's wait for a group to gather are
//! those of a production cluster (10 s, 30 s and 3 s).
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a bench reads the clock and stops at surprises")]

#[path = "../tests/support/kafka.rs"]
#[allow(dead_code, unreachable_pub, reason = "only a part of it is used here")]
mod broker;
#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/live.rs"]
#[allow(dead_code, reason = "only a part of it is used here")]
mod live;

use broker::{Broker, Extras, unique};
use crowd::Crowd;
use firstseen::defender::{Body, Record};
use firstseen::detector::snapshot::Section;
use firstseen::detector::{Detector, Settings};
use firstseen::fleet::render;
use firstseen::state::Store;
use firstseen::state::disk::Directory;
use firstseen::state::snapshot::Positions;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: u64 = 10_000_000;
const PARTITIONS: i32 = 4;
const KILLS: usize = 3;
/// Between two messages of twenty records.
const PACE: Duration = Duration::from_millis(20);
/// How long each process works before it is killed.
const WORK: Duration = Duration::from_secs(5);
const TARGET: f64 = 6.0;

fn main() {
    let connections = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(CONNECTIONS);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("bench-recovery"));
    let _ = fs::remove_dir_all(&dir);
    let broker = Broker::start_with(Extras { properties: "group.initial.rebalance.delay.ms=3000".to_owned(), ..Extras::default() });
    let input = broker.topic("recovery-input", PARTITIONS as u16);
    let output = broker.topic("recovery-findings", PARTITIONS as u16);
    let dead = broker.topic("recovery-dead", PARTITIONS as u16);
    let crowd = make_state(&dir.join("state"), connections, &input, &[&output, &dead]);
    let config = configuration(&dir, &broker, &input, &output, &dead);

    let done = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let traffic = {
        let (done, sent, broker) = (Arc::clone(&done), Arc::clone(&sent), broker.bootstrap());
        std::thread::spawn(move || traffic(&broker, &input, crowd, &sent, &done))
    };
    let listener = {
        let (done, heard, broker) = (Arc::clone(&done), Arc::clone(&heard), broker.bootstrap());
        std::thread::spawn(move || listen(&broker, &output, &heard, &done))
    };
    // Kept by the instant at which each was sent or heard: the number of its message.
    let first_since = |since: Instant, process: &mut Child| loop {
        assert!(process.try_wait().unwrap().is_none(), "the service ended; see {}", dir.display());
        {
            let (sent, heard) = (sent.lock().unwrap(), heard.lock().unwrap());
            if let Some((at, _)) = heard.iter().find(|(_, n): &&(Instant, usize)| sent.get(*n).is_some_and(|sent| *sent > since)) {
                return *at;
            }
        }
        assert!(since.elapsed() < Duration::from_secs(90), "no finding comes; see {}", dir.display());
        std::thread::sleep(Duration::from_millis(1));
    };

    let begun = Instant::now();
    let mut process = start(&config, &dir, 0);
    println!("first start to first finding: {:.2} s", (first_since(begun, &mut process) - begun).as_secs_f64());
    let mut worst = 0.0f64;
    for kill in 1..=KILLS {
        std::thread::sleep(WORK);
        let killed = Instant::now();
        process.kill().unwrap();
        process.wait().unwrap();
        process = start(&config, &dir, kill);
        let took = (first_since(killed, &mut process) - killed).as_secs_f64();
        worst = worst.max(took);
        println!("kill {kill}: first new finding after {took:.2} s ({})", restored(&dir, kill));
    }
    done.store(true, Ordering::Release);
    process.kill().unwrap();
    process.wait().unwrap();
    traffic.join().unwrap();
    listener.join().unwrap();
    let verdict = if worst <= TARGET { "met" } else { "missed" };
    println!("SIGKILL to the first new finding, worst of {KILLS}: {worst:.2} s (target {TARGET} s: {verdict})");
    let _ = fs::remove_dir_all(&dir);
}

/// A state directory with a snapshot of two weeks of a crowd; the crowd goes on from there.
fn make_state(path: &Path, connections: u64, input: &str, outputs: &[&str]) -> Crowd {
    let begun = Instant::now();
    let (mut crowd, mut detector, mut effects) = (Crowd::new(connections), Detector::new(Settings::default()), Vec::new());
    crowd.two_weeks(|record| {
        detector.record(record, &mut effects);
        effects.clear();
    });
    let tracked = detector.tracked().connections;
    let store = Store::new(Arc::new(Directory::open(path).unwrap()));
    // As a service that was killed right after its first snapshot left it: with the journal's segment, and nothing in it.
    drop(store.begin_segment(0).unwrap());
    let mut writer = store.begin_snapshot(0).unwrap();
    let mut rows: Vec<(Section, Vec<u8>)> = Vec::new();
    detector.begin_snapshot();
    let mut whole = false;
    while !whole {
        whole = detector.snapshot_step(8 << 20, &mut rows);
        rows.drain(..).for_each(|(section, bytes)| writer.section(section, &bytes).unwrap());
    }
    let zeros = |topics: &[&str]| -> Positions {
        topics.iter().flat_map(|topic| (0..PARTITIONS).map(|partition| (((*topic).to_owned(), partition), 0))).collect()
    };
    let bytes = writer.finish(&zeros(&[input]), &zeros(outputs)).unwrap();
    println!("a state of {tracked} connections, {:.0} MB, made in {:.0} s", bytes as f64 / 1e6, begun.elapsed().as_secs_f64());
    crowd
}

fn configuration(dir: &Path, broker: &Broker, input: &str, output: &str, dead: &str) -> PathBuf {
    let path = dir.join("firstseen.toml");
    let text = format!(
        r#"[kafka]
bootstrap_servers = "{}"
[input]
topics = ["{input}"]
idle_advance = false
[output]
findings_topic = "{output}"
dead_letter_topic = "{dead}"
[state]
dir = "{}"
[http]
listen = "127.0.0.1:0"
"#,
        broker.bootstrap(),
        dir.join("state").display()
    );
    fs::write(&path, text).unwrap();
    path
}

fn log(dir: &Path, run: usize) -> PathBuf {
    dir.join(format!("log-{run}"))
}

fn start(config: &Path, dir: &Path, run: usize) -> Child {
    Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .args(["run", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(File::create(log(dir, run)).unwrap())
        .spawn()
        .unwrap()
}

/// What the process' log says of its start.
fn restored(dir: &Path, run: usize) -> String {
    let text = fs::read_to_string(log(dir, run)).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |message: &str, field: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.map_or_else(|| "?".to_owned(), |line| line[field].to_string())
    };
    format!(
        "state and topics read in {} s, {} messages replayed, {} connections",
        of("state restored", "seconds"),
        of("the journal is replayed", "messages"),
        of("state restored", "connections")
    )
}

/// A thousand records a second, in the crowd's time.
fn traffic(bootstrap: &str, topic: &str, mut crowd: Crowd, sent: &Mutex<Vec<Instant>>, done: &AtomicBool) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "0").set("acks", "all").create().unwrap();
    let send = |n: usize, millis: i64, payload: &[u8]| {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(n as i32 % PARTITIONS).timestamp(millis).payload(payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    };
    send(0, crowd.now.0 / 10_000, &live::infos(crowd.now));
    let begun = Instant::now();
    for n in 0.. {
        if done.load(Ordering::Acquire) {
            break;
        }
        std::thread::sleep((begun + PACE * n as u32).saturating_duration_since(Instant::now()));
        let mut records = Vec::new();
        for _ in 1..20 {
            let mut out = Vec::new();
            if let Record { arrival, tenant, body: Body::Network(event) } = crowd.live() {
                render::render_network(&mut out, arrival, tenant, &event, true);
                records.push(out);
            }
        }
        records.push(live::rare(n, crowd.now));
        let payload = render::message(&records);
        sent.lock().unwrap().push(Instant::now());
        send(n, crowd.now.0 / 10_000, &payload);
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

fn listen(bootstrap: &str, topic: &str, heard: &Mutex<Vec<(Instant, usize)>>, done: &AtomicBool) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", unique("listener"))
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    while !done.load(Ordering::Acquire) {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let number = message.unwrap().payload().and_then(live::number);
            heard.lock().unwrap().extend(number.map(|n| (Instant::now(), n)));
        }
    }
}
