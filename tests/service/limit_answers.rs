//! What docs/operations.md promises of limits, on the real binary; one line of outcome each.

use crate::rig::{Rig, consumer, fleet, known_open, same, say};
use crate::support::kafka::broker;

#[test]
fn answer_limit_reached() {
    let rig = Rig::shared("limits").set("limits.tracked_connections", "300").set("limits.connections_per_device", "100");
    rig.produce(broker(), fleet());
    // Killed on the way: the replay evicts the same, at the same instants.
    rig.start_to_crash("acknowledged:100").crashed();
    let mut service = rig.start();
    service.caught_up(0);
    let metrics = service.reached(fleet().last().unwrap().arrival);
    let expected: Vec<String> = rig.backtest(fleet(), &[]).lines().map(str::to_owned).collect();
    service.wait_for("every change to be on the topic", |_| (consumer(&rig).1.len() == expected.len()).then_some(()));
    service.drain();
    same(&rig.changes(), &expected);
    assert_eq!(consumer(&rig).0, known_open(&rig));
    let evicted = metrics.sum_of("firstseen_evicted_connections_total", "\"tracked_connections\"");
    let usage = metrics.sum_of("firstseen_limit_usage_ratio", "\"tracked_connections\"");
    assert!(evicted > 100.0 && usage > 0.8 && usage <= 1.0, "{evicted} evicted, {usage} of the limit used");
    let log = service.log();
    let warnings = |words: &str| log.lines().filter(|line| line.contains(words) && line.contains("WARN")).count();
    assert!(warnings("limits.tracked_connections is reached") >= 1, "{log}");
    let marked = expected.iter().filter(|change| change.contains("\"evicted\":")).count();
    let sentence = expected.iter().filter(|change| change.contains("was forgotten to keep within limits")).count();
    assert!(marked > 0 && marked < expected.len() && sentence > 0, "{marked} of {}", expected.len());

    // Raised: a changed setting, and nothing more is evicted.
    let rig = rig.set("limits.tracked_connections", "1000000");
    let mut raised = rig.start();
    raised.caught_up(0);
    let metrics = raised.metrics().unwrap();
    assert_eq!(metrics.sum("firstseen_evicted_connections_total") as u64, 0);
    raised.drain();
    let log = raised.log();
    assert!(log.contains("settings changed") && log.contains("limits.tracked_connections"), "{log}");
    assert_eq!(rig.changes().len(), expected.len(), "and nothing is said for it");
    say(&format!(
        "answer, limit reached: {evicted} connections evicted, WARN and metrics, usage {usage:.2}; {marked} of {} changes carry baseline.evicted; through a kill the same, change for change, as backtest; raised at a restart",
        expected.len()
    ));
}
