//! What is found on Kafka is what `backtest` finds in files, whatever stops in between.

use crate::rig::{Rig, ends, expected, fleet};
use crate::support::kafka::broker;

#[test]
fn the_service_finds_what_backtest_finds() {
    let rig = Rig::shared("whole");
    rig.produce(broker(), fleet());
    let mut service = rig.start();
    let metrics = service.caught_up(fleet().len() as u64);
    for change in ["opened", "updated", "retracted", "closed"] {
        let lines = expected().iter().filter(|l| l.contains(&format!(r#""change":"{change}""#))).count();
        assert!(lines > 0, "the fleet shows no {change}");
        assert_eq!(metrics.sum_of("firstseen_finding_changes_total", &format!(r#"change="{change}""#)), lines as f64);
    }
    assert_eq!(metrics.sum("firstseen_messages_total"), fleet().len() as f64);
    assert_eq!(service.get("/livez").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(service.get("/readyz").unwrap(), (200, "ok\n".to_owned()));
    // Each change that an event caused is measured; those that time brings are not.
    let measured = service.wait_for("the last acknowledgement", |p| {
        let measured = p.metrics()?.sum("firstseen_pipeline_latency_seconds_count");
        (measured >= metrics.sum_of("firstseen_finding_changes_total", r#"change="opened""#)).then_some(measured)
    });
    assert!(measured <= expected().len() as f64);
    service.drain();
    rig.holds_what_is_expected();
    assert_eq!(rig.committed(), ends(fleet()));
    assert!(rig.read(&rig.dead_letters).is_empty());
}

#[test]
fn threads_change_nothing() {
    let rig = Rig::new("threads");
    let one = rig.backtest(fleet(), &["--threads", "1"]);
    assert!(one.lines().eq(expected()));
    for threads in ["2", "3", "4"] {
        assert!(rig.backtest(fleet(), &["--threads", threads]) == one, "{threads} threads");
    }
}

#[test]
fn a_restart_goes_on_where_it_was_and_replays_nothing() {
    let rig = Rig::shared("restart");
    let (before, after) = fleet().split_at(fleet().len() * 9 / 10);
    rig.produce(broker(), before);
    let mut first = rig.start();
    first.caught_up(before.len() as u64);
    first.drain();
    assert_eq!(rig.committed(), ends(before));
    let found = rig.changes();
    assert!(!found.is_empty() && found.len() < expected().len());

    rig.produce(broker(), after);
    let mut second = rig.start();
    let metrics = second.caught_up(after.len() as u64);
    assert_eq!(metrics.sum("firstseen_messages_total"), after.len() as f64);
    assert!(metrics.0.lines().any(|l| l == "firstseen_replayed_messages_total 0"));
    assert!(second.log().contains(r#""to_replay":0"#));
    second.drain();
    rig.holds_what_is_expected();
    assert_eq!(rig.committed(), ends(fleet()));

    // And with nothing new at all.
    let mut third = rig.start();
    third.caught_up(0);
    third.drain();
    rig.holds_what_is_expected();
    assert_eq!(rig.committed(), ends(fleet()));
}

#[test]
fn a_drain_in_the_middle_of_the_input_loses_nothing() {
    let rig = Rig::shared("drained");
    rig.produce(broker(), fleet());
    let mut first = rig.start();
    first.wait_for("some findings", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= 50.0));
    first.drain();
    let consumed: i64 = rig.committed().values().sum();
    let mut second = rig.start();
    let metrics = second.caught_up(fleet().len() as u64 - consumed as u64);
    assert_eq!(metrics.sum("firstseen_messages_total") as i64, fleet().len() as i64 - consumed);
    assert_eq!(metrics.sum("firstseen_replayed_messages_total"), 0.0);
    second.drain();
    rig.holds_what_is_expected();
    assert_eq!(rig.committed(), ends(fleet()));
}
