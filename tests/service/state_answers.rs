//! What docs/operations.md promises of the state directory, on the real binary; one line of outcome each.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::rig::{PARTITIONS, Rig, fleet, say, state};
use crate::support::kafka::broker;

fn inspect(rig: &Rig) -> serde_json::Value {
    let output = state(rig, "inspect");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn export(rig: &Rig) -> Vec<u8> {
    let output = state(rig, "export");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Paths of the snapshots, the oldest first.
fn snapshots(rig: &Rig) -> Vec<PathBuf> {
    let good = |name: &&String| name.starts_with("snapshot-") && !name.contains('.');
    rig.state_files().keys().filter(good).map(|name| rig.state().join(name)).collect()
}

/// Damages one bit in the middle of a file.
fn damage(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn answer_state_inspect_verify_export() {
    let rig = Rig::shared("look").set("state.snapshot_interval", "1s");
    let half = fleet().len() / 2;
    rig.produce(broker(), &fleet()[..half]);
    let mut service = rig.start();
    service.caught_up(half as u64);
    // Beside the running service, again and again while it replaces its files.
    let newest = snapshots(&rig).pop().unwrap();
    let mut looks = 0;
    service.wait_for("newer snapshots", |_| {
        for what in ["inspect", "verify", "export"] {
            let output = state(&rig, what);
            assert!(output.status.success() && output.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            looks += 1;
        }
        (!newest.exists()).then_some(())
    });
    let metrics = service.metrics().unwrap();
    service.drain();

    let report = inspect(&rig);
    for (rows, kind) in [("connections", "connection"), ("devices", "device"), ("destinations", "destination"), ("vendors", "vendor")] {
        assert_eq!(report["rows"][rows].as_f64().unwrap(), metrics.sum_of("firstseen_tracked", &format!("\"{kind}\"")), "{rows}");
    }
    let consumed: i64 = report["input"].as_object().unwrap().values().map(|v| v.as_i64().unwrap()).sum();
    assert_eq!((consumed, report["input"].as_object().unwrap().len()), (half as i64, PARTITIONS as usize));
    assert_eq!(report["settings"]["query.lookback"], "14d");
    let rows = export(&rig);
    assert_eq!(rows, export(&rig), "the same state gives the same bytes");
    let lines: Vec<serde_json::Value> =
        rows.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
    let open = lines.iter().filter(|l| l["candidate"]["finding"]["open"] == true).count();
    assert_eq!(report["rows"]["open_findings"].as_u64().unwrap(), open as u64);

    let good = state(&rig, "verify");
    assert_eq!(good.status.code(), Some(0));
    damage(&snapshots(&rig)[1]);
    let bad = state(&rig, "verify");
    let text = String::from_utf8(bad.stderr).unwrap();
    let name = snapshots(&rig)[1].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(bad.status.code() == Some(1) && text.contains(&name) && text.contains("offset"), "{text}");
    let none = Command::new(env!("CARGO_BIN_EXE_firstseen")).args(["state", "inspect", "--state", "/nowhere"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    say(&format!(
        "answer, state inspect|verify|export: {looks} looks beside a running service, {} rows exported alike twice, damage: exit 1, {}",
        lines.len(),
        text.lines().next().unwrap()
    ));
}

#[test]
fn answer_corrupt_snapshot() {
    let rig = Rig::shared("corrupt").set("state.snapshot_interval", "1s");
    let (before, after) = fleet().split_at(fleet().len() * 2 / 3);
    rig.produce(broker(), before);
    let mut first = rig.start();
    first.caught_up(before.len() as u64);
    first.drain();
    damage(&snapshots(&rig)[1]);
    let files = rig.state_files();
    rig.produce(broker(), after);
    let mut second = rig.start();
    second.reached(fleet().last().unwrap().arrival);
    let replayed = second.metrics().unwrap().sum("firstseen_replayed_messages_total");
    second.drain();
    let log = second.log();
    let warning: serde_json::Value =
        log.lines().filter_map(|l| serde_json::from_str(l).ok()).find(|l: &serde_json::Value| l["level"] == "WARN").unwrap();
    let warning = warning["message"].as_str().unwrap();
    assert!(warning.contains("before it and its journal take over") && warning.contains(".damaged"), "{warning}");
    let aside: Vec<String> = rig.state_files().into_keys().filter(|name| name.ends_with(".damaged")).collect();
    assert!(aside.len() == 1 && files.contains_key(aside[0].trim_end_matches(".damaged")), "{aside:?}");
    rig.holds_what_is_expected();

    // Nothing good left: refused, every file named, nothing touched.
    snapshots(&rig).iter().for_each(damage);
    let files = rig.state_files();
    let mut third = rig.start();
    assert_eq!(third.end().code(), Some(1));
    let log = third.log();
    let last = log.lines().last().unwrap();
    for path in snapshots(&rig) {
        assert!(last.contains(path.file_name().unwrap().to_str().unwrap()), "{last}");
    }
    assert!(last.starts_with("error: ") && last.contains("input.start = \"earliest\""), "{last}");
    assert_eq!(rig.state_files(), files, "nothing is removed without being asked");
    rig.holds_what_is_expected();
    say(&format!(
        "answer, corrupt snapshot: {replayed} messages replayed from the one before it, WARN, 0 lost, 0 doubled; none left: exit 1, nothing removed"
    ));
}

#[test]
fn answer_state_format_version() {
    let rig = Rig::shared("format");
    rig.produce(broker(), &fleet()[..100]);
    let mut first = rig.start();
    first.caught_up(100);
    first.drain();
    let newest = snapshots(&rig).pop().unwrap();
    let set = |path: &PathBuf, version| {
        let mut bytes = fs::read(path).unwrap();
        bytes[8] = version;
        fs::write(path, bytes).unwrap();
    };
    let all: Vec<PathBuf> = rig.state_files().into_keys().filter(|name| name != "LOCK").map(|name| rig.state().join(name)).collect();
    let ours = fs::read(&newest).unwrap()[8];
    let contents = || all.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    for (version, way) in [(1, "run the older program"), (200, "run the newer program")] {
        all.iter().for_each(|path| set(path, version));
        let (files, before) = (rig.state_files(), contents());
        let mut refused = rig.start();
        assert_eq!(refused.end().code(), Some(1));
        let log = refused.log();
        let last = log.lines().last().unwrap();
        for words in
            [&format!("it has format version {version}"), way, "start with a new state.dir", newest.file_name().unwrap().to_str().unwrap()]
        {
            assert!(last.contains(words), "{last}");
        }
        assert!((rig.state_files(), contents()) == (files, before), "nothing is changed");
        let verify = state(&rig, "verify");
        assert!(verify.status.code() == Some(1) && String::from_utf8(verify.stderr).unwrap().contains("format version"));
    }
    // A version that only the newest snapshot has is no other program's.
    all.iter().for_each(|path| set(path, ours));
    set(&newest, 200);
    let mut again = rig.start();
    again.caught_up(0);
    again.drain();
    assert!(again.log().contains("its format version reads 200"), "{}", again.log());
    say(
        "answer, state format version: older and newer refused with exit 1 and the way out, nothing changed; a damaged version is damage; the own version goes on",
    );
}
