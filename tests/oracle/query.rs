//! The query itself as judge: its rows, run by an independent KQL engine, against the open findings.
//!
//! Owns: which instants are asked (probes), the worker that answers them (`run_query.py`), and the comparison. A probe names how
//! many records had arrived and what time it was. The open set at a probe is told by the changes alone, as a consumer of the
//! findings topic would know it. The model is asked, too, so that it is believed for a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use firstseen::detector::{Detector, Effect, Settings};
use firstseen::finding::{Change, ChangeKind};
use firstseen::time::{Span, Ticks};
use serde_json::json;

use super::compare::Open;
use super::fleet::{Owned, Rng, Row, start};
use crate::model::{Key, Model};

const MICROSECOND: Span = Span(10);

/// A question: the answer at `now`, when the first `upto` records had arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    upto: usize,
    now: Ticks,
}

/// A change and the step that said it: time alone before record `record`, or the record itself.
struct Said {
    record: usize,
    by_time: bool,
    change: Change,
}

/// A fleet, where the clock stands after each record, what the detector said, and what will be asked.
struct Run<'a> {
    records: &'a [Owned],
    clocks: Vec<Ticks>,
    accepted: Vec<bool>,
    said: Vec<Said>,
}

/// What a fleet's comparison has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) instants: usize,
    pub(crate) rows: usize,
    /// Sampled changes of each kind, both sides of which were asked.
    pub(crate) sampled: BTreeMap<String, usize>,
    pub(crate) differences: Vec<String>,
}

/// A row as both sides tell it: count, prevalence, URLs.
type Values = (u64, u64, BTreeSet<String>);

/// Asks the query engine about one fleet of one tenant.
pub(crate) fn judge(python: &Path, records: &[Owned], seed: u64) -> Verdict {
    let settings = Settings { update_interval: Span::ZERO, ..Settings::default() };
    let run = Run::new(records, &settings);
    let mut verdict = Verdict::default();
    let probes: Vec<Probe> = run.probes(seed, &mut verdict).into_iter().collect();
    let answers = ask(python, &run, &probes);
    assert_eq!(answers.len(), probes.len(), "the engine answered each question");
    let (mut model, mut inserted) = (Model::new(settings), 0);
    for (probe, answer) in probes.iter().zip(answers) {
        for (record, _) in records.iter().zip(&run.accepted).take(probe.upto).skip(inserted).filter(|(_, accepted)| **accepted) {
            model.insert(&record.record());
        }
        inserted = probe.upto;
        let by_definition: BTreeMap<Key, Values> =
            model.answer(probe.now).into_iter().map(|(key, row)| (key, (row.count, row.prevalence, row.urls))).collect();
        let open = run.open_at(*probe);
        verdict.instants += 1;
        verdict.rows += answer.len();
        for (who, said) in [("model", &by_definition), ("detector", &open)] {
            let keys: BTreeSet<&Key> = answer.keys().chain(said.keys()).collect();
            for key in keys.into_iter().filter(|key| answer.get(*key) != said.get(*key)) {
                verdict.differences.push(format!(
                    "seed {seed}, {probe:?}, {key:?}: the query says {:?}, the {who} {:?}",
                    answer.get(key),
                    said.get(key)
                ));
            }
        }
    }
    verdict
}

impl<'a> Run<'a> {
    fn new(records: &'a [Owned], settings: &Settings) -> Run<'a> {
        let mut run = Run { records, clocks: Vec::new(), accepted: Vec::new(), said: Vec::new() };
        let mut detector = Detector::new(settings.clone());
        let mut clock = Ticks::MIN;
        let mut effects = Vec::new();
        for (n, owned) in records.iter().enumerate() {
            let (record, now) = (owned.record(), clock.max(owned.arrival));
            let accepted = Model::event_time(&record).is_none_or(|t| t <= now.plus(settings.max_clock_skew));
            if accepted {
                clock = now;
                detector.advance(record.tenant, clock, &mut effects);
                run.note(n, true, &mut effects);
            }
            detector.record(&record, &mut effects);
            run.note(n, false, &mut effects);
            run.clocks.push(clock);
            run.accepted.push(accepted);
        }
        detector.advance(records[0].tenant, clock.plus(Span::days(16)), &mut effects);
        run.note(records.len(), true, &mut effects);
        run
    }

    fn note(&mut self, record: usize, by_time: bool, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            if let Effect::Change(change) = effect
                && !change.late
            {
                self.said.push(Said { record, by_time, change: *change });
            }
        }
    }

    /// The open findings at the probe, told by the changes up to it.
    fn open_at(&self, probe: Probe) -> BTreeMap<Key, Values> {
        let mut open = Open::default();
        let until = |said: &&Said| said.record < probe.upto || (said.by_time && said.record == probe.upto && said.change.at <= probe.now);
        for said in self.said.iter().filter(until) {
            open.apply(&said.change).unwrap();
        }
        open.rows.into_iter().map(|(key, (_, row))| (key, (row.count, row.prevalence, row.urls))).collect()
    }

    /// How many records have arrived when time is `now`.
    fn arrived(&self, now: Ticks) -> usize {
        self.clocks.partition_point(|clock| *clock <= now)
    }

    fn probes(&self, seed: u64, verdict: &mut Verdict) -> BTreeSet<Probe> {
        let mut rng = Rng::new(seed ^ 0xA5C);
        let mut probes = BTreeSet::new();
        let (from, to) = (start(), self.clocks[self.clocks.len() - 1].plus(Span::days(2)));
        // Between records, and just after one.
        while probes.len() < 50 {
            let now = Ticks(rng.ticks(from, to).0 / 10 * 10);
            probes.insert(Probe { upto: self.arrived(now), now });
            let n = rng.below(self.clocks.len());
            probes.insert(Probe { upto: n + 1, now: self.clocks[n] });
        }
        // Exact ends of windows, and a microsecond beside them.
        while probes.len() < 100 {
            let Row::Network(row) = &self.records[rng.below(self.records.len())].row else { continue };
            let end = row.timestamp.plus(rng.pick(&[Span::days(1), Span::days(5), Span::days(14)]));
            for now in [end.minus(MICROSECOND), end, end.plus(MICROSECOND)] {
                probes.insert(Probe { upto: self.arrived(now), now });
            }
        }
        self.probe_changes(&mut rng, &mut probes, verdict);
        probes
    }

    /// Both sides of changes of each kind: the instant before, the instant itself without and with its cause, the instant after.
    fn probe_changes(&self, rng: &mut Rng, probes: &mut BTreeSet<Probe>, verdict: &mut Verdict) {
        for kind in [ChangeKind::Opened, ChangeKind::Updated, ChangeKind::Retracted, ChangeKind::Closed] {
            for by_time in [true, false] {
                let all: Vec<&Said> = self.said.iter().filter(|said| said.change.kind == kind && said.by_time == by_time).collect();
                for _ in 0..all.len().min(12) {
                    let said = all[rng.below(all.len())];
                    let (n, at) = (said.record, said.change.at);
                    let before = at.minus(MICROSECOND);
                    let after = if by_time { n } else { n + 1 };
                    probes.insert(Probe { upto: self.arrived(before), now: before });
                    probes.insert(Probe { upto: n, now: if by_time { before } else { at } });
                    probes.insert(Probe { upto: after, now: at });
                    if self.clocks.get(after).is_none_or(|next| *next > at) {
                        probes.insert(Probe { upto: after, now: at.plus(MICROSECOND) });
                    }
                    let cause = if by_time { "time" } else { "a record" };
                    *verdict.sampled.entry(format!("{} by {cause}", kind.as_str())).or_default() += 1;
                }
            }
        }
    }
}

/// Writes the rows and the questions, runs the worker, reads its answers.
fn ask(python: &Path, run: &Run<'_>, probes: &[Probe]) -> Vec<BTreeMap<Key, Values>> {
    let directory = tempfile::tempdir().unwrap();
    let create = |name: &str| BufWriter::new(File::create(directory.path().join(name)).unwrap());
    let (mut network, mut device) = (create("network.ndjson"), create("device.ndjson"));
    for (seq, (owned, _)) in run.records.iter().zip(&run.accepted).enumerate().filter(|(_, (_, accepted))| **accepted) {
        match &owned.row {
            Row::Network(n) => writeln!(
                network,
                "{}",
                json!({"seq": seq, "Timestamp": n.timestamp, "DeviceId": n.device_id, "DeviceName": n.device_name, "ReportId": n.report_id,
                    "ActionType": n.action, "RemoteIP": n.ip, "RemoteIPType": n.ip_type, "RemotePort": n.port, "RemoteUrl": n.url,
                    "InitiatingProcessVersionInfoCompanyName": n.company})
            )
            .unwrap(),
            Row::Device(d) => writeln!(
                device,
                "{}",
                json!({"seq": seq, "Timestamp": d.timestamp, "DeviceId": d.device_id, "DeviceName": d.device_name, "OSPlatform": d.os,
                    "DeviceType": d.kind})
            )
            .unwrap(),
            Row::Skipped => {}
        }
    }
    let mut asks = create("asks.ndjson");
    for probe in probes {
        writeln!(asks, "{}", json!({"now": probe.now, "upto": probe.upto})).unwrap();
    }
    for mut file in [network, device, asks] {
        file.flush().unwrap();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let output = Command::new(python)
        .arg(here.join("run_query.py"))
        .arg(here.join("hunting-query.kql"))
        .arg(directory.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the KQL engine failed ({}); its message stands above", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(answer_of).collect()
}

/// A row as the worker prints it: device, address, port, count, prevalence, URLs.
type Printed = (String, String, Option<u16>, u64, u64, BTreeSet<String>);

fn answer_of(line: &str) -> BTreeMap<Key, Values> {
    let rows: Vec<Printed> = serde_json::from_str(line).unwrap();
    rows.into_iter().map(|(device, ip, port, count, prevalence, urls)| ((device, ip, port), (count, prevalence, urls))).collect()
}

/// The interpreter of the tests' Python environment, which is made when it is not there.
pub(crate) fn python() -> std::path::PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python-tools.sh");
    let output = Command::new("sh").arg(&script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no Python environment with the KQL engine: {} failed; its message stands above", script.display());
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}
