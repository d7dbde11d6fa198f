//! Suppression rules and explanations on the real binary: rules change while it runs, findings don't but for their marks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use crate::rig::say;
use crate::rig::{Rig, expected, fleet, same};
use crate::support::kafka::broker;

fn rule(name: &str, matcher: &str) -> String {
    format!("[[suppress]]\nname = \"{name}\"\nreason = \"looked at\"\nowner = \"soc\"\n{matcher}\n")
}

/// A change without its mark, and the mark.
fn unmarked(line: &str) -> (String, Option<String>) {
    match line.split_once(r#""suppressed_by":""#) {
        None => (line.to_owned(), None),
        Some((before, rest)) => {
            let (name, after) = rest.split_once(r#"","#).unwrap();
            (format!("{before}{after}"), Some(name.to_owned()))
        }
    }
}

#[test]
fn rules_change_while_it_runs_and_a_wrong_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    fs::write(&file, rule("https", "port = 443")).unwrap();
    let rig = Rig::shared("rules").set("detection.suppress_file", &file.display().to_string()).set("state.snapshot_interval", "1s");
    let half = fleet().len() / 2;
    rig.produce(broker(), &fleet()[..half]);
    let mut service = rig.start();
    service.caught_up(half as u64);
    // A wrong file: told, counted, and the rules before stay in force.
    fs::write(&file, rule("https", "domain_suffix = \"co.uk\"")).unwrap();
    service.wait_for("the refusal", |p| (p.metrics()?.sum_of("firstseen_suppress_reloads_total", "refused") == 1.0).then_some(()));
    assert!(service.log().contains("suppress[1].domain_suffix") && service.log().contains("public suffix"), "{}", service.log());
    let status = service.get("/api/v1/status").unwrap().1;
    assert!(status.contains(r#""rule":"https""#), "{status}");

    fs::write(&file, rule("repeated", "cel = \"finding.count > 1\"")).unwrap();
    service.wait_for("the new rules", |p| p.get("/api/v1/status")?.1.contains(r#""rule":"repeated""#).then_some(()));
    // What is open is shown with the marks of the rules now.
    let open: serde_json::Value = serde_json::from_str(&service.get("/api/v1/findings").unwrap().1).unwrap();
    assert!(!open["findings"].as_array().unwrap().is_empty());
    for finding in open["findings"].as_array().unwrap() {
        let expected = finding["count"].as_u64().is_some_and(|count| count > 1).then_some("repeated");
        assert_eq!(finding["suppressed_by"].as_str(), expected, "{finding}");
    }
    let marked_by_the_first = service.metrics().unwrap().sum("firstseen_suppressed_total");
    service.drain();
    let before = rig.changes().len();

    rig.produce(broker(), &fleet()[half..]);
    let mut service = rig.start();
    let metrics = service.caught_up((fleet().len() - half) as u64);

    // While it runs: why is the first open finding one?
    let found: serde_json::Value = serde_json::from_str(&service.get("/api/v1/findings").unwrap().1).unwrap();
    let of = &found["findings"][0];
    let (device, ip, port) =
        (of["device"]["name"].as_str().unwrap(), of["remote"]["ip"].as_str().unwrap(), of["remote"]["port"].to_string());
    let asked = service.get(&format!("/api/v1/explain?device={device}&ip={ip}&port={port}")).unwrap();
    let said: serde_json::Value = serde_json::from_str(&asked.1).unwrap();
    assert_eq!((asked.0, &said["is_finding"], &said["finding"]["finding_id"]), (200, &serde_json::Value::from(true), &of["finding_id"]));
    service.drain();

    // And from its state directory.
    let arguments = ["--device", device, "--ip", ip, "--port", &port];
    let output =
        Command::new(env!("CARGO_BIN_EXE_firstseen")).args(["explain", "--state"]).arg(rig.state()).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("It is a finding.") && text.contains(of["finding_id"].as_str().unwrap()), "{text}");

    let lines = rig.changes();
    let (plain, marks): (Vec<String>, Vec<Option<String>>) = lines.iter().map(|line| unmarked(line)).unzip();
    same(&plain, expected());
    let (mut marked, mut by_the_first) = (0, 0);
    for (line, mark) in lines.iter().zip(marks) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let port = value["remote"]["port"].as_u64();
        match mark.as_deref() {
            Some("https") => {
                by_the_first += 1;
                assert_eq!(port, Some(443));
            }
            Some("repeated") => assert!(value["count"].as_u64() > Some(1), "{line}"),
            None => {}
            other => panic!("{other:?}"),
        }
        marked += u64::from(mark.is_some());
    }
    assert_eq!(marked_by_the_first + metrics.sum("firstseen_suppressed_total"), marked as f64);
    assert!(by_the_first > 10 && marked > by_the_first, "{by_the_first} of {marked}");
    say(&format!(
        "rules: {before} changes, a refused file, {} changes by other rules; {marked} marked, all the same but for marks",
        lines.len() - before
    ));
}

/// The whole fleet through a service that suppresses small findings to port 443, killed once on the way.
fn through_a_kill(rig: Rig) -> Rig {
    let rules = rig.dir.path().join("rules.toml");
    fs::write(&rules, rule("https", "port = 443\ncel = \"finding.count < 5\"")).unwrap();
    let rig = rig.set("detection.suppress_file", &rules.display().to_string());
    rig.produce(broker(), fleet());
    let mut first = rig.start();
    first.wait_for("some findings", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= 200.0));
    first.kill();
    let mut second = rig.start();
    second.reached(fleet().iter().map(|m| m.arrival).max().unwrap());
    second.drain();
    rig
}

#[test]
fn dropped_changes_are_those_of_backtest_through_a_kill() {
    let rig = Rig::shared("dropped").set("output.suppressed", "drop").set("state.snapshot_interval", "1s");
    let rig = through_a_kill(rig);
    let written: Vec<String> = rig.read(&rig.findings).into_iter().map(|w| String::from_utf8(w.payload).unwrap()).collect();
    let backtest: Vec<String> = rig.backtest(fleet(), &[]).lines().map(str::to_owned).collect();
    assert!(backtest.len() < expected().len(), "something is dropped");
    assert!(
        backtest
            .iter()
            .all(|l| !l.contains("suppressed_by") || l.contains(r#""change":"closed""#) || l.contains(r#""change":"retracted""#))
    );
    same(&written, &backtest);
    say(&format!(
        "rules: {} of {} changes dropped, the others once each through a kill",
        expected().len() - written.len(),
        expected().len()
    ));
}

#[test]
fn suppressed_changes_have_a_topic_of_their_own_each_once_through_a_kill() {
    let elsewhere = crate::support::kafka::unique("suppressed");
    let rig = Rig::shared("elsewhere")
        .set("output.suppressed", "topic")
        .set("output.suppressed_topic", &elsewhere)
        .set("state.snapshot_interval", "1s");
    let rig = through_a_kill(rig);
    let on = |topic: &str| rig.read(topic).into_iter().map(|w| String::from_utf8(w.payload).unwrap()).collect::<Vec<_>>();
    let ends = |l: &&String| l.contains(r#""change":"closed""#) || l.contains(r#""change":"retracted""#);
    let backtest: Vec<String> = rig.backtest(fleet(), &[]).lines().map(str::to_owned).collect();
    let wanted = |suppressed: bool| -> Vec<String> {
        backtest.iter().filter(|l| ends(l) || l.contains("suppressed_by") == suppressed).cloned().collect()
    };
    let (shown, hidden) = (on(&rig.findings), on(&elsewhere));
    same(&shown, &wanted(false));
    same(&hidden, &wanted(true));
    let plain: Vec<String> = backtest.iter().map(|line| unmarked(line).0).collect();
    same(&plain, expected());
    say(&format!("rules: {} changes shown, {} elsewhere, each once through a kill", shown.len(), hidden.len()));
}

#[test]
fn the_last_record_of_each_device_is_its_open_findings_through_a_kill() {
    let devices = crate::support::kafka::unique("devices");
    let rig = Rig::shared("grouped")
        .set("query.group_by_device", "true")
        .set("output.grouped_topic", &devices)
        .set("state.snapshot_interval", "1s");
    rig.produce(broker(), fleet());
    let mut first = rig.start();
    first.wait_for("some findings", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= 200.0));
    first.kill();
    let mut second = rig.start();
    second.reached(fleet().iter().map(|m| m.arrival).max().unwrap());
    second.drain();
    rig.holds_what_is_expected();

    // What is open at the end, by the changes themselves.
    let mut open = BTreeMap::new();
    for line in expected() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = value["finding_id"].as_str().unwrap().to_owned();
        let device = format!("{}/{}", value["tenant_id"].as_str().unwrap(), value["device"]["name"].as_str().unwrap());
        if matches!(value["change"].as_str(), Some("opened" | "updated")) {
            open.insert(id, device);
        } else {
            open.remove(&id);
        }
    }
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, device) in open {
        wanted.entry(device).or_default().insert(id);
    }
    let (mut last, mut records) = (BTreeMap::new(), 0);
    for written in rig.read(&devices) {
        let value: serde_json::Value = serde_json::from_slice(&written.payload).unwrap();
        let ids: BTreeSet<String> =
            value["details"].as_array().unwrap().iter().map(|d| d["finding_id"].as_str().unwrap().to_owned()).collect();
        last.insert(written.key, ids);
        records += 1;
    }
    let ended = last.values().filter(|ids| ids.is_empty()).count();
    last.retain(|_, ids| !ids.is_empty());
    assert!(!wanted.is_empty() && ended > 3);
    assert_eq!(last, wanted);
    say(&format!(
        "grouped: {records} records of {} devices, {} of them with open findings at the end, through a kill",
        last.len() + ended,
        last.len()
    ));
}
