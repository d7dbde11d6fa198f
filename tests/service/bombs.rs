//! Input that is small and unfolds into much: the real process takes a bounded amount of memory, says what it left out, and goes on.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::rig::{Rig, ends, fleet, say};
use crate::support::kafka::{PATIENCE, broker};
use crate::support::process::{Metrics, Process, memory};

const MIB: usize = 1 << 20;

/// Code, buffers, read-ahead and what the allocator keeps.
const BASE: u64 = 160 << 20;

/// Writes one message in a batch of its own; gives the bytes that it has in the log, about.
fn produce_packed(rig: &Rig, codec: &str, timestamp: i64, bytes: &[u8]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker().bootstrap())
        .set("compression.codec", codec)
        .set("message.max.bytes", "1000000000")
        .create()
        .unwrap();
    producer.send(BaseRecord::<(), [u8]>::to(&rig.input).partition(0).timestamp(timestamp).payload(bytes)).map_err(|e| e.0).unwrap();
    producer.flush(PATIENCE).unwrap();
}

/// Good messages, the one that is given, good messages; a service that has consumed all, and its metrics.
fn consumed(codec: &str, bytes: &[u8]) -> (Rig, Process, Metrics) {
    let rig = Rig::shared("bomb");
    rig.produce(broker(), &fleet()[..50]);
    produce_packed(&rig, codec, fleet()[50].timestamp, bytes);
    rig.produce(broker(), &fleet()[50..100]);
    let mut service = rig.start();
    let metrics = service.caught_up(101);
    (rig, service, metrics)
}

#[test]
fn a_batch_that_unfolds_costs_what_it_unfolds_to_and_harms_nothing_else() {
    let mut outcome = Vec::new();
    // As much as fits into the megabyte that a topic takes, or less.
    for (codec, size) in [("gzip", 300 * MIB), ("lz4", 120 * MIB), ("snappy", 16 * MIB), ("zstd", 30 * MIB)] {
        let (rig, mut service, metrics) = consumed(codec, &vec![b' '; size]);
        let peak = service.peak();
        // librdkafka's, and for a while a copy as a dead letter.
        assert!(peak < BASE + 2 * size as u64 + size as u64 / 4, "{codec}: {} MiB", peak >> 20);
        assert_eq!(metrics.sum("firstseen_dead_letters_total"), 1.0);
        service.drain();
        let letters = rig.read(&rig.dead_letters);
        let reason = if size > 32 * MIB { "too_large" } else { "empty" };
        assert_eq!((letters.len(), letters[0].headers["reason"].as_str()), (1, reason));
        assert_eq!(letters[0].headers["value-omitted"], size.to_string(), "larger than its topic takes");
        outcome.push(format!("{codec} {} MiB: {} MiB at most", size / MIB, peak >> 20));
    }
    say(&format!("batches that unfold, and the process's memory: {}", outcome.join("; ")));
}

#[test]
fn a_message_of_many_tiny_elements_is_one_dead_letter() {
    let many = format!(r#"{{"records":[{}1]}}"#, "1,".repeat(15 * MIB)).into_bytes();
    let (rig, mut service, metrics) = consumed("gzip", &many);
    let peak = service.peak();
    assert!(peak < BASE + 100 * MIB as u64, "{} MiB", peak >> 20);
    assert_eq!(metrics.sum_of("firstseen_dead_letters_total", "too_many_records"), 1.0);
    service.drain();
    assert_eq!(rig.read(&rig.dead_letters).len(), 1);
    // Many of as many elements as are read, each a dead letter of its own.
    let most = format!(r#"{{"records":[{}1]}}"#, "1,".repeat(32_767)).into_bytes();
    let rig = Rig::shared("bombs");
    broker().produce(&rig.input, (0..30).map(|n| (n % 4, 1 + i64::from(n), most.as_slice())));
    let mut service = rig.start();
    service.caught_up(30);
    // A message is counted before what it holds is.
    let all = 30.0 * 32_768.0;
    service.wait_for("each to be counted", |p| p.metrics().filter(|m| m.sum("firstseen_dead_letters_total") >= all));
    let metrics = service.wait_for("them to be written", |p| p.metrics().filter(|m| m.sum("firstseen_consumer_lag") == 0.0));
    assert_eq!(metrics.sum("firstseen_dead_letters_total"), all);
    let many = service.peak();
    assert!(many < 1 << 30, "{} MiB", many >> 20);
    say(&format!(
        "31 MiB of tiny elements: one dead letter, {} MiB at most; 30 messages of 32768 dead letters each: {} MiB at most",
        peak >> 20,
        many >> 20
    ));
}

#[test]
fn answer_batch_that_cannot_be_unpacked() {
    let mut most = 0;
    for raise in [true, false] {
        // Zstandard beyond `receive.message.max.bytes`.
        let mut rig = Rig::shared("packed");
        rig.produce(broker(), &fleet()[..50]);
        produce_packed(&rig, "zstd", fleet()[50].timestamp, &vec![b' '; 150 * MIB]);
        rig.produce(broker(), &fleet()[50..100]);
        let mut service = rig.start();
        service.wait_for("it to be unready, and say why", |p| {
            let (status, reason) = p.get("/readyz")?;
            (status == 503 && reason.contains(&rig.input) && p.log().contains("BadCompression")).then_some(())
        });
        most = service.peak().max(most);
        assert!(most < BASE + 100 * MIB as u64, "{} MiB", most >> 20);
        let before = service.metrics().unwrap();
        assert!(before.sum("firstseen_consumer_lag") > 0.0 && before.sum("firstseen_messages_total") < 101.0, "nothing is passed over");
        // What docs/operations.md says to do.
        if raise {
            service.drain();
            rig.more = vec![r#""receive.message.max.bytes" = "1000000000""#.to_owned()];
            service = rig.start();
        } else {
            broker().delete_before(&rig.input, 0, ends(&fleet()[..50])[&0] + 1);
        }
        let after = service.reached(fleet()[99].arrival);
        assert_eq!(after.sum("firstseen_input_gap_messages_total"), if raise { 0.0 } else { 1.0 });
        service.drain();
        assert_eq!(rig.committed().values().sum::<i64>(), 101, "all of it");
        assert_eq!(rig.read(&rig.dead_letters).len(), usize::from(raise));
    }
    say(&format!(
        "answer, a batch that can't be unpacked: unready with the partition, WARN, {} MiB at most, nothing passed over; with a larger receive.message.max.bytes a dead letter, and deleted a gap of 1",
        most >> 20
    ));
}

/// Writes this many times these bytes, compressed.
fn packed(path: &Path, times: usize, bytes: &[u8]) {
    let file = BufWriter::new(File::create(path).unwrap());
    let mut out: Box<dyn Write> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()))
    } else {
        Box::new(zstd::Encoder::new(file, 1).unwrap().auto_finish())
    };
    for _ in 0..times {
        out.write_all(bytes).unwrap();
    }
    out.flush().unwrap();
}

/// `backtest` of the file: its summary and the most memory that it had, in bytes.
fn backtest(path: &Path) -> (String, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .arg("backtest")
        .arg(path)
        .args(["--threads", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        // It only rises: the last look before the end is the highest.
        peak = memory(child.id(), "VmHWM:").unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(status.success(), "{status}: {said}");
    (said, peak)
}

#[test]
fn files_that_expand_without_end_are_read_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut outcome = Vec::new();
    // Not a bracket: a file that begins with one is an array of rows, with a limit of its own.
    let block = vec![b'x'; MIB];
    let lines = b"1\n".repeat(MIB / 2);
    for (name, mebibytes, bytes) in [("line.json.gz", 1024, &block), ("line.json.zst", 4096, &block), ("lines.json.gz", 64, &lines)] {
        let path: PathBuf = dir.path().join(name);
        packed(&path, mebibytes, bytes);
        let size = path.metadata().unwrap().len();
        let (said, peak) = backtest(&path);
        if name.starts_with("line.") {
            assert!(said.contains("line 1 of") && said.contains("longer than 67108864 bytes and was left out"), "{said}");
        }
        assert!(said.contains("dead letter") || said.contains("left out"), "{said}");
        assert!(peak < 512 * MIB as u64, "{name}: {} MiB", peak >> 20);
        outcome.push(format!("{name}: {} KiB unfold into {mebibytes} MiB, {} MiB of memory at most", size >> 10, peak >> 20));
    }
    say(&format!("files that unfold: {}", outcome.join("; ")));
}
