//! What keeps the service from starting, or from answering: one clear line each, and the documented exit code.

use std::fs;
use std::net::TcpListener;

use crate::rig::{Rig, fleet, say};
use crate::support::kafka::{Broker, broker};
use crate::support::process::Process;

/// Starts it, expects it to end with `code`, and gives what it wrote to stderr but for its log lines.
fn refused(rig: &Rig, code: i32) -> String {
    let mut process = rig.start();
    let status = process.end();
    let log = process.log();
    assert_eq!(status.code(), Some(code), "{log}");
    let errors: Vec<&str> = log.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(log.lines().last(), errors.last().copied(), "the last line says what to do:\n{log}");
    errors.join("\n")
}

/// Asserts one line that holds all of `words`.
fn one_line(text: &str, words: &[&str]) {
    println!("refused, {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn wrong_configuration_is_refused_by_key() {
    let text = refused(&Rig::new("wrong").set("state.snapshot_interval", "soon"), 2);
    one_line(&text, &["state.snapshot_interval", "soon"]);
    let text = refused(&Rig::new("wrong").set("input.topic", "x"), 2);
    one_line(&text, &["input.topic"]);
    let mut rig = Rig::new("wrong");
    rig.more.push(r#""enable.auto.commit" = "true""#.to_owned());
    one_line(&refused(&rig, 2), &["enable.auto.commit"]);
}

#[test]
fn an_absent_broker_and_an_absent_topic_are_told_by_name() {
    let mut rig = Rig::new("absent");
    rig.bootstrap = "127.0.0.1:1".to_owned();
    one_line(&refused(&rig, 1), &["kafka.bootstrap_servers", "127.0.0.1:1"]);
    rig.bootstrap = broker().bootstrap();
    one_line(&refused(&rig, 1), &[&rig.input, "does not exist"]);
    let rig = Rig::shared("absent").set("output.create_topics", "false");
    one_line(&refused(&rig, 1), &[&rig.findings, "output.create_topics"]);
}

#[test]
fn answer_brokers_away_at_a_start() {
    let broker = Broker::start();
    let rig = Rig::on(&broker, "away");
    let half = fleet().len() / 2;
    rig.produce(&broker, &fleet()[..half]);
    let mut first = rig.start();
    first.caught_up(half as u64);
    first.kill();
    rig.produce(&broker, &fleet()[half..]);
    broker.kill();
    let waits = |p: &mut Process| {
        let (status, reason) = p.get("/readyz")?;
        let waits = status == 503 && reason.contains("the start waits for the brokers") && p.get("/livez")?.0 == 200;
        waits.then(|| p.metrics().map(|m| m.sum("firstseen_start_waits_total"))).flatten().filter(|n| *n > 1.0)
    };
    let mut stopped = rig.start();
    stopped.wait_for("it to wait", waits);
    stopped.drain();
    let mut second = rig.start();
    let asked = second.wait_for("it to wait", waits);
    broker.resurrect();
    second.reached(fleet().last().unwrap().arrival);
    second.drain();
    let log = second.log();
    assert!(log.contains("no Kafka broker answered at kafka.bootstrap_servers") && log.contains("the brokers answer"), "{log}");
    rig.holds_what_is_expected();

    // A cluster that never answered may be the wrong one.
    let mut other = Rig::new("never");
    other.bootstrap = "127.0.0.1:1".to_owned();
    one_line(&refused(&other, 1), &["kafka.bootstrap_servers", "127.0.0.1:1"]);
    say(&format!(
        "answer, brokers away at a start: waited for (asked {asked} times), unready and alive, a stop ends it with exit 0; 0 lost, 0 doubled. Never reached before: exit 1"
    ));
}

#[test]
fn a_port_in_use_names_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let rig = Rig::new("port").set("http.listen", &address);
    one_line(&refused(&rig, 1), &["http.listen", &address, "in use"]);
}

#[test]
fn a_state_directory_has_one_process() {
    let rig = Rig::shared("locked");
    let mut first = rig.start();
    first.caught_up(0);
    one_line(&refused(&rig, 1), &["state.dir", &rig.state().display().to_string(), "in use by another process"]);
    // The one that was there goes on.
    assert_eq!(first.get("/readyz").unwrap().0, 200);
    first.drain();
}

#[test]
fn a_state_directory_of_another_version_and_an_unreadable_one_are_refused() {
    let rig = Rig::shared("version");
    rig.produce(broker(), &fleet()[..100]);
    let mut first = rig.start();
    first.caught_up(100);
    first.drain();
    let kept = rig.state_files();
    let snapshots: Vec<_> = kept.keys().filter(|name| name.starts_with("snapshot-")).map(|name| rig.state().join(name)).collect();
    let newest = snapshots.last().unwrap();
    let good = fs::read(newest).unwrap();

    // Another program writes its version into both; in one of them alone it is damage.
    let segment = rig.state().join(newest.file_name().unwrap().to_str().unwrap().replace("snapshot-", "journal-"));
    let good_segment = fs::read(&segment).unwrap();
    for path in [newest, &segment] {
        let mut other = fs::read(path).unwrap();
        other[8] = 9;
        fs::write(path, &other).unwrap();
    }
    one_line(&refused(&rig, 1), &["format version 9", "newer program", "new state.dir"]);

    fs::write(&segment, &good_segment).unwrap();
    for path in &snapshots {
        fs::write(path, b"1stSNAP\n").unwrap();
    }
    one_line(&refused(&rig, 1), &["no snapshot in the state directory can be used", "start with an empty one", "input.start"]);

    // Other numbers in [query] than the state was made with.
    fs::write(newest, &good).unwrap();
    let text = refused(&rig.set("query.lookback", "20d"), 1);
    one_line(&text, &["query.lookback was 14d", "20d", "move state.dir away"]);
}

#[test]
fn a_state_directory_that_is_none_is_refused() {
    let rig = Rig::shared("none");
    fs::write(rig.state(), b"a file").unwrap();
    one_line(&refused(&rig, 1), &["state.dir", "can't be used"]);
}

#[test]
fn a_second_instance_in_the_group_answers_nothing_and_says_why() {
    let rig = Rig::shared("second");
    rig.produce(broker(), &fleet()[..100]);
    let mut first = rig.start();
    first.caught_up(100);
    let mut other = Rig::new("second-other");
    other.bootstrap.clone_from(&rig.bootstrap);
    other.input.clone_from(&rig.input);
    other.group.clone_from(&rig.group);
    let mut second = other.start();
    for instance in [&mut first, &mut second] {
        instance.wait_for("the other to be noticed", |p| {
            let (status, reason) = p.get("/readyz")?;
            (status == 503 && reason.contains("another instance is in the consumer group") && reason.contains("of 4 partitions"))
                .then_some(())
        });
        assert_eq!(instance.get("/livez").unwrap().0, 200);
    }
    assert!(second.metrics().unwrap().sum("firstseen_messages_total") == 0.0, "it answers nothing from half the data");
    rig.produce(broker(), &fleet()[100..200]);
    second.drain();
    // Alone again: everything from where it was.
    let metrics = first.caught_up(200);
    assert_eq!(metrics.sum("firstseen_messages_total"), 200.0);
    first.drain();
}
