//! Every metric under its name, as it is read.

use super::*;
use crate::host_clock::monotonic;

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
}

#[test]
fn everything_that_happens_is_counted_under_its_name() {
    let start = monotonic();
    let m = Metrics::new(start);
    m.messages_read("defender", 3);
    m.records_done("AdvancedHunting-DeviceInfo", Outcome::Accepted, 2);
    m.records_done("AdvancedHunting-DeviceEvents", Outcome::Skipped, 1);
    m.records_done("AdvancedHunting-DeviceInfo", Outcome::DeadLettered, 1);
    m.repeats_seen(4);
    m.dead_lettered("bad_time");
    m.finding_changed(ChangeKind::Opened);
    m.set_open_findings(5);
    m.set_consumer_lag("defender", 0, 7);
    m.set_consumer_lag("defender", 1, 8);
    m.partition_lost("defender", 1);
    m.partition_lost("defender", 2);
    m.set_arrival_clock("t", Ticks(15_000_000));
    m.finding_acknowledged(Duration::from_millis(30));
    m.set_tracked(Tracked::Vendor, 9);
    m.set_timers(10);
    m.set_held_back(14);
    m.set_state_disk_bytes(11);
    m.snapshot_written(start + Duration::from_secs(10), Duration::from_secs(2));
    m.journal_synced(Duration::from_millis(3));
    m.state_restored(Duration::from_secs(1));
    m.messages_replayed(12);
    m.messages_gone(13);
    m.host_clock_stepped();
    m.start_waited();
    m.look(|m| m.set_state_disk_bytes(1234));
    m.state_write_failed();
    m.change_suppressed("ours");
    m.rules_reloaded(false);
    m.set_observed_since("t", Ticks(5_000_000));
    m.watch_connections("input", Arc::default());
    let text = m.text(start + Duration::from_secs(25));
    for line in [
        "firstseen_messages_total{topic=\"defender\"} 3",
        "firstseen_records_total{category=\"AdvancedHunting-DeviceInfo\",outcome=\"accepted\"} 2",
        "firstseen_records_total{category=\"AdvancedHunting-DeviceEvents\",outcome=\"skipped\"} 1",
        "firstseen_records_total{category=\"AdvancedHunting-DeviceInfo\",outcome=\"dead_lettered\"} 1",
        "firstseen_repeats_total 4",
        "firstseen_dead_letters_total{reason=\"bad_time\"} 1",
        "firstseen_finding_changes_total{change=\"opened\"} 1",
        "firstseen_finding_changes_total{change=\"retracted\"} 0",
        "firstseen_open_findings 5",
        "firstseen_consumer_lag{partition=\"0\",topic=\"defender\"} 7",
        "firstseen_arrival_clock_seconds{tenant=\"t\"} 1.5",
        "firstseen_pipeline_latency_seconds_bucket{le=\"0.05\"} 1",
        "firstseen_pipeline_latency_seconds_bucket{le=\"0.025\"} 0",
        "firstseen_tracked{kind=\"vendor\"} 9",
        "firstseen_tracked{kind=\"connection\"} 0",
        "firstseen_timers 10",
        "firstseen_held_back_messages 14",
        "firstseen_snapshot_seconds_sum 2",
        "firstseen_journal_sync_seconds_count 1",
        "firstseen_restore_seconds_sum 1",
        "firstseen_snapshot_age_seconds 15",
        "firstseen_replayed_messages_total 12",
        "firstseen_input_gap_messages_total 13",
        "firstseen_host_clock_steps_total 1",
        "firstseen_start_waits_total 1",
        "firstseen_state_disk_bytes 1234",
        "firstseen_state_write_failures_total 1",
        "firstseen_suppressed_total{rule=\"ours\"} 1",
        "firstseen_suppress_reloads_total{outcome=\"applied\"} 0",
        "firstseen_suppress_reloads_total{outcome=\"refused\"} 1",
        "firstseen_observed_since_seconds{tenant=\"t\"} 0.5",
        "firstseen_connection_errors_total{client=\"input\",kind=\"tls\"} 0",
        concat!("firstseen_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        has(&text, line);
    }
    assert!(!text.contains("partition=\"1\""));
}

#[test]
fn no_input_makes_series_without_end() {
    let m = Metrics::new(monotonic());
    for n in 0..1000 {
        m.records_done(&format!("table-{n}"), Outcome::Skipped, 1);
        m.set_arrival_clock(&format!("tenant-{n}"), Ticks(0));
    }
    let text = m.text(monotonic());
    has(&text, "firstseen_records_total{category=\"other\",outcome=\"skipped\"} 936");
    assert_eq!(text.lines().filter(|l| l.starts_with("firstseen_records_total{")).count(), 65);
    assert_eq!(text.lines().filter(|l| l.starts_with("firstseen_arrival_clock_seconds{")).count(), 101);
}

#[test]
fn label_values_are_escaped() {
    let m = Metrics::new(monotonic());
    m.records_done("a\"b\n\\c", Outcome::Skipped, 1);
    has(&m.text(monotonic()), r#"firstseen_records_total{category="a\"b\n\\c",outcome="skipped"} 1"#);
}
