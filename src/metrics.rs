//! The metrics of interface.md, one method for each thing that can happen. A registry of its own, nothing global. Label values that
//! come from the input are capped, so that no input can make series without end.

use crate::detector::Limit;
use crate::finding::ChangeKind;
use crate::kafka::context::ConnectionErrors;
use crate::time::Ticks;
use dashmap::DashSet;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// From a millisecond to two minutes: broker append to acknowledged finding.
const LATENCY: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// From a tenth of a millisecond: a sync of the journal.
const SYNC: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Up to minutes: snapshots and restores of large states.
const STATE: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied to the state.
    Accepted,
    /// Of a table that is not read; it only moved the clock.
    Skipped,
    /// Written to the dead-letter topic.
    DeadLettered,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Skipped => "skipped",
            Outcome::DeadLettered => "dead_lettered",
        }
    }
}

/// What the state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// Connections: device, address and port.
    Connection,
    /// Connections that are new.
    Candidate,
    /// Addresses.
    Destination,
    /// Companies.
    Vendor,
    /// Devices.
    Device,
}

impl Tracked {
    /// All of them, in the order of interface.md.
    pub const ALL: [Tracked; 5] = [Tracked::Connection, Tracked::Candidate, Tracked::Destination, Tracked::Vendor, Tracked::Device];

    const fn as_str(self) -> &'static str {
        match self {
            Tracked::Connection => "connection",
            Tracked::Candidate => "candidate",
            Tracked::Destination => "destination",
            Tracked::Vendor => "vendor",
            Tracked::Device => "device",
        }
    }
}

/// The first values of a label that the input chooses; later ones share the series `other`.
#[derive(Debug)]
struct Capped {
    limit: usize,
    known: DashSet<Box<str>>,
}

impl Capped {
    fn new(limit: usize) -> Capped {
        Capped { limit, known: DashSet::new() }
    }

    fn label<'a>(&self, value: &'a str) -> &'a str {
        if self.known.contains(value) {
            return value;
        }
        if self.known.len() >= self.limit {
            return "other";
        }
        self.known.insert(value.into());
        value
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    messages: IntCounterVec,
    records: IntCounterVec,
    categories: Capped,
    repeats: IntCounter,
    dead_letters: IntCounterVec,
    changes: IntCounterVec,
    open: IntGauge,
    lag: IntGaugeVec,
    clock: GaugeVec,
    tenants: Capped,
    latency: Histogram,
    tracked: IntGaugeVec,
    timers: IntGauge,
    held: IntGauge,
    disk: IntGauge,
    snapshot: Histogram,
    sync: Histogram,
    restore: Histogram,
    age: Gauge,
    last_snapshot: Mutex<Instant>,
    replayed: IntCounter,
    gap: IntCounter,
    clock_steps: IntCounter,
    state_failures: IntCounter,
    suppressed: IntCounterVec,
    rules: Capped,
    reloads: IntCounterVec,
    observed: GaugeVec,
    limit_usage: GaugeVec,
    evicted: IntCounterVec,
    connection_errors: IntCounterVec,
    clients: Mutex<Vec<(&'static str, Arc<ConnectionErrors>)>>,
    start_waits: IntCounter,
    looks: Looks,
}

/// What is looked at when the metrics are read, whatever the pipeline's threads wait for.
#[derive(Default)]
struct Looks(Mutex<Vec<Look>>);

/// Brings gauges up to date.
type Look = Box<dyn Fn(&Metrics) + Send>;

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

/// Registers a metric whose name and labels are written in this file.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: Result<C, prometheus::Error>) -> C {
    let metric = metric.expect("INV: the names in this file are valid metric names");
    registry.register(Box::new(metric.clone())).expect("INV: each name in this file is registered once");
    metric
}

impl Metrics {
    /// Everything at zero. `now` starts the age of the snapshot.
    #[must_use]
    pub fn new(now: Instant) -> Metrics {
        let registry = Registry::new();
        let r = &registry;
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("firstseen");
        let counters = |name, help, labels: &[&str]| registered(r, IntCounterVec::new(opts(name, help), labels));
        let gauges = |name, help, labels: &[&str]| registered(r, IntGaugeVec::new(opts(name, help), labels));
        let counter = |name, help| registered(r, IntCounter::with_opts(opts(name, help)));
        let gauge = |name, help| registered(r, IntGauge::with_opts(opts(name, help)));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            registered(r, Histogram::with_opts(HistogramOpts::new(name, help).namespace("firstseen").buckets(buckets.to_vec())))
        };
        let build = gauges("build_info", "The version that runs; always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Metrics {
            messages: counters("messages_total", "Messages read from the input.", &["topic"]),
            records: counters("records_total", "Records in them, by table and by what became of them.", &["category", "outcome"]),
            categories: Capped::new(64),
            repeats: counter("repeats_total", "Records accepted that had been seen before."),
            dead_letters: counters("dead_letters_total", "Records and whole messages written to the dead-letter topic.", &["reason"]),
            changes: counters("finding_changes_total", "Changes of findings.", &["change"]),
            open: gauge("open_findings", "Findings that are open now."),
            lag: gauges("consumer_lag", "Messages of the partition that are not consumed yet.", &["topic", "partition"]),
            clock: registered(
                r,
                GaugeVec::new(opts("arrival_clock_seconds", "The tenant's arrival clock, in seconds since the Unix epoch."), &["tenant"]),
            ),
            tenants: Capped::new(100),
            latency: histogram("pipeline_latency_seconds", "From the broker's append of a record to the acknowledged finding.", LATENCY),
            tracked: gauges("tracked", "Entries of the state.", &["kind"]),
            timers: gauge("timers", "Timers that wait."),
            held: gauge(
                "held_back_messages",
                "Messages that a killed process may have sent, held back until the output topics have settled.",
            ),
            disk: gauge("state_disk_bytes", "Size of the state directory."),
            snapshot: histogram("snapshot_seconds", "Time that a snapshot took.", STATE),
            sync: histogram("journal_sync_seconds", "Time that a sync of the order journal took.", SYNC),
            restore: histogram("restore_seconds", "Time that restoring the state took, replay included.", STATE),
            age: registered(r, Gauge::with_opts(opts("snapshot_age_seconds", "Time since the last snapshot, or since the start."))),
            last_snapshot: Mutex::new(now),
            gap: counter("input_gap_messages_total", "Messages that were gone from the input before they were read."),
            clock_steps: counter("host_clock_steps_total", "Times that the host's clock was stepped by more than a minute."),
            state_failures: counter("state_write_failures_total", "Attempts to write the state directory that the disk refused."),
            replayed: counter("replayed_messages_total", "Messages read again after a restart."),
            suppressed: counters("suppressed_total", "Changes of findings that a suppression rule marked.", &["rule"]),
            rules: Capped::new(200),
            reloads: counters("suppress_reloads_total", "Changed rules files that were read, by what became of them.", &["outcome"]),
            observed: registered(
                r,
                GaugeVec::new(
                    opts(
                        "observed_since_seconds",
                        "Since when the tenant is observed, in seconds since the Unix epoch: its baseline's age.",
                    ),
                    &["tenant"],
                ),
            ),
            limit_usage: registered(
                r,
                GaugeVec::new(
                    opts("limit_usage_ratio", "What is used of a limit; 1 is all. Of a device: of the one that has most."),
                    &["limit"],
                ),
            ),
            evicted: counters("evicted_connections_total", "Connections forgotten before their time to keep within a limit.", &["limit"]),
            connection_errors: counters(
                "connection_errors_total",
                "Failed connections to brokers and failed log-ins; each is tried again with back-off.",
                &["client", "kind"],
            ),
            clients: Mutex::default(),
            start_waits: counter("start_waits_total", "Times that a start found brokers away and waited for them."),
            looks: Looks::default(),
            registry,
        };
        for kind in [ChangeKind::Opened, ChangeKind::Updated, ChangeKind::Retracted, ChangeKind::Closed] {
            metrics.changes.with_label_values(&[kind.as_str()]);
        }
        for limit in Limit::ALL {
            metrics.connections_evicted(limit, 0);
        }
        for kind in Tracked::ALL {
            metrics.set_tracked(kind, 0);
        }
        for outcome in ["applied", "refused"] {
            metrics.reloads.with_label_values(&[outcome]);
        }
        metrics
    }

    /// Messages were read from a topic.
    pub fn messages_read(&self, topic: &str, n: u64) {
        self.messages.with_label_values(&[topic]).inc_by(n);
    }

    /// Records of a table came to this outcome. Looks a series up: count a batch and say it once.
    pub fn records_done(&self, category: &str, outcome: Outcome, n: u64) {
        self.records.with_label_values(&[self.categories.label(category), outcome.as_str()]).inc_by(n);
    }

    /// Accepted records had been seen before.
    pub fn repeats_seen(&self, n: u64) {
        self.repeats.inc_by(n);
    }

    /// A record or a whole message was dead-lettered. `reason` is one of the decoder's words, not text from the input.
    pub fn dead_lettered(&self, reason: &'static str) {
        self.dead_letters.with_label_values(&[reason]).inc();
    }

    /// A finding changed.
    pub fn finding_changed(&self, kind: ChangeKind) {
        self.changes.with_label_values(&[kind.as_str()]).inc();
    }

    /// So many findings are open.
    pub fn set_open_findings(&self, n: u64) {
        self.open.set(whole(n));
    }

    /// So many messages of the partition are not consumed yet.
    pub fn set_consumer_lag(&self, topic: &str, partition: i32, messages: u64) {
        self.lag.with_label_values(&[topic, &partition.to_string()]).set(whole(messages));
    }

    /// The partition is no longer ours; its lag is another's to report.
    pub fn partition_lost(&self, topic: &str, partition: i32) {
        // A partition that never reported has no series to remove.
        let _ = self.lag.remove_label_values(&[topic, &partition.to_string()]);
    }

    /// A tenant's arrival clock moved.
    pub fn set_arrival_clock(&self, tenant: &str, clock: Ticks) {
        self.clock.with_label_values(&[self.tenants.label(tenant)]).set(clock.as_secs_f64());
    }

    /// A finding was acknowledged this long after the broker had appended its record.
    pub fn finding_acknowledged(&self, after: Duration) {
        self.latency.observe(after.as_secs_f64());
    }

    /// The state holds so many entries of a kind.
    pub fn set_tracked(&self, kind: Tracked, n: u64) {
        self.tracked.with_label_values(&[kind.as_str()]).set(whole(n));
    }

    /// So many messages are held back after a crash.
    pub fn set_held_back(&self, n: u64) {
        self.held.set(whole(n));
    }

    /// So many timers wait.
    pub fn set_timers(&self, n: u64) {
        self.timers.set(whole(n));
    }

    /// The state directory takes so many bytes.
    pub fn set_state_disk_bytes(&self, bytes: u64) {
        self.disk.set(whole(bytes));
    }

    /// A snapshot was finished at `at` and took `took`.
    pub fn snapshot_written(&self, at: Instant, took: Duration) {
        self.snapshot.observe(took.as_secs_f64());
        *self.last_snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = at;
    }

    /// The order journal was synced.
    pub fn journal_synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    /// The state was restored.
    pub fn state_restored(&self, took: Duration) {
        self.restore.observe(took.as_secs_f64());
    }

    /// Messages were read again after a restart.
    pub fn messages_replayed(&self, n: u64) {
        self.replayed.inc_by(n);
    }

    /// Messages were gone from the input before they were read.
    pub fn messages_gone(&self, n: u64) {
        self.gap.inc_by(n);
    }

    /// The host's clock was stepped.
    pub fn host_clock_stepped(&self) {
        self.clock_steps.inc();
    }

    /// The disk refused to write a journal segment or a snapshot.
    pub fn state_write_failed(&self) {
        self.state_failures.inc();
    }

    /// A start found brokers away, and waits.
    pub fn start_waited(&self) {
        self.start_waits.inc();
    }

    /// From now on `look` brings gauges up to date whenever the metrics are read: it must wait for nothing.
    pub fn look(&self, look: impl Fn(&Metrics) + Send + 'static) {
        self.looks.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Box::new(look));
    }

    /// So much is used of a limit.
    pub fn set_limit_usage(&self, limit: Limit, ratio: f64) {
        self.limit_usage.with_label_values(&[limit.as_str()]).set(ratio);
    }

    /// So many connections were evicted to keep within a limit.
    pub fn connections_evicted(&self, limit: Limit, n: u64) {
        self.evicted.with_label_values(&[limit.as_str()]).inc_by(n);
    }

    /// A suppression rule of the configuration marked a change.
    pub fn change_suppressed(&self, rule: &str) {
        self.suppressed.with_label_values(&[self.rules.label(rule)]).inc();
    }

    /// A rules file had changed; its rules were put in force, or refused.
    pub fn rules_reloaded(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { "applied" } else { "refused" }]).inc();
    }

    /// Since when a tenant is observed.
    pub fn set_observed_since(&self, tenant: &str, since: Ticks) {
        self.observed.with_label_values(&[self.tenants.label(tenant)]).set(since.as_secs_f64());
    }

    /// From now on the failed connections of a client (`input` or `output`) are shown.
    pub fn watch_connections(&self, client: &'static str, errors: Arc<ConnectionErrors>) {
        self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((client, errors));
    }

    /// All metrics in Prometheus' text form, as they are at `now`.
    #[must_use]
    pub fn text(&self, now: Instant) -> String {
        let last = *self.last_snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.age.set(now.saturating_duration_since(last).as_secs_f64());
        for (client, errors) in self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            for (kind, n) in errors.counts() {
                let counter = self.connection_errors.with_label_values(&[client, kind]);
                counter.inc_by(n.saturating_sub(counter.get()));
            }
        }
        for look in self.looks.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            look(self);
        }
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("INV: every metric here has a name and writing to memory does not fail")
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
