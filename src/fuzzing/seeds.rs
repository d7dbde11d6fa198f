//! Whole snapshots and journals as beginnings for the fuzzer's target `state`: what it would hardly come upon by itself. In the framed
//! form, so that checksums are no wall.
//!
//! A change of the state's format makes the committed ones useless, and a test says so; `FUZZ_SEEDS=fuzz/corpus/state cargo test --lib
//! seeds` writes them anew.

use super::{FileKind, framed, journal, sections, snapshot, state};
use crate::defender::Decoder;
use crate::defender::batch::Batch;
use crate::defender::decode::Limits;
use crate::detector::{Detector, Settings};
use crate::feed::{DeadLetter, Feed, Output};
use crate::finding::Change;
use crate::fleet::{Attack, Fleet, FleetOptions};
use crate::state::codec::{FRAME_HEAD, HEADER, INPUT_POSITIONS, INPUT_STAMPS, JOURNAL_ENTRIES, OUTPUT_POSITIONS};
use crate::state::journal::Encoder;
use crate::state::snapshot::{Positions, encode_positions};
use crate::time::{Span, Ticks};
use std::io::Cursor;
use std::path::Path;

/// Changes are not what is wanted here.
struct Nothing;

impl Output for Nothing {
    fn change(&mut self, _: Box<Change>) {}
    fn dead_letter(&mut self, _: DeadLetter<'_>) {}
}

fn frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len()).expect("a seed's sections are small");
    out.push(kind);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
}

/// A snapshot of this detector, framed.
fn snapshot_seed(detector: &mut Detector) -> Vec<u8> {
    let mut out = vec![3];
    for (section, bytes) in sections(detector) {
        frame(&mut out, section as u8, &bytes);
    }
    let input = Positions::from([(("defender".to_owned(), 0), 17), (("defender".to_owned(), 1), 0)]);
    let stamps = Positions::from([(("defender".to_owned(), 0), 17_000_000)]);
    let output = Positions::from([(("firstseen.findings".to_owned(), 0), 3), (("firstseen.dead-letter".to_owned(), 0), 0)]);
    for (kind, positions) in [(INPUT_STAMPS, &stamps), (INPUT_POSITIONS, &input), (OUTPUT_POSITIONS, &output)] {
        frame(&mut out, kind, &encode_positions(positions));
    }
    out
}

/// A journal of so many groups, framed.
fn journal_seed(groups: i64, partitions: i32) -> Vec<u8> {
    let (mut out, mut encoder) = (vec![2], Encoder::default());
    for group in 0..groups {
        for partition in 0..partitions {
            encoder.message(if partition % 2 == 0 { "defender" } else { "defender-2" }, partition, group * 300 + i64::from(partition) + 1);
        }
        if group % 2 == 1 {
            encoder.advance("tenant", Ticks(20_454 * Span::days(1).0 + group));
        }
        let bytes = encoder.take_frame();
        frame(&mut out, JOURNAL_ENTRIES, bytes.get(FRAME_HEAD as usize..).unwrap());
    }
    out
}

/// A detector that saw a small fleet.
fn detector(settings: Settings, options: &FleetOptions) -> Detector {
    let limits = Limits { independent_clock: None, max_clock_skew: settings.max_clock_skew };
    let mut feed = Feed::new(Detector::new(settings));
    let mut decoder = Decoder::new();
    for (n, message) in Fleet::new(options).enumerate() {
        let mut batch = Batch::new();
        batch.push_message(&mut decoder, n as u64, &message.bytes, &limits);
        feed.batch(&batch, &mut Nothing);
    }
    feed.detector
}

/// All of them, by name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let fleet = |seed, devices, days| FleetOptions {
        seed,
        devices,
        servers: 0.5,
        span: Span::days(days),
        records_per_device_day: 6.0,
        new_per_server_day: 0.5,
        late: 0.1,
        padding: false,
        ..FleetOptions::default()
    };
    let mut all = Vec::new();
    let mut snapshot = |name: &str, mut detector: Detector| all.push((format!("snapshot-{name}"), snapshot_seed(&mut detector)));
    let usual = Settings::default;
    snapshot("empty", Detector::new(usual()));
    for (seed, devices, days) in [(1, 2, 2), (2, 3, 1), (3, 4, 3), (4, 2, 20)] {
        snapshot(&format!("fleet-{seed}"), detector(usual(), &fleet(seed, devices, days)));
    }
    snapshot("two-tenants", detector(usual(), &FleetOptions { tenants: 2, ..fleet(5, 2, 2) }));
    let options = fleet(6, 4, 3);
    let attack = Some(Attack { at: options.start.plus(Span::days(2)) });
    snapshot("attack", detector(usual(), &FleetOptions { attack, ..options }));
    snapshot("reports-late", detector(Settings { report_late: true, ..usual() }, &fleet(7, 3, 4)));
    snapshot("servers-only", detector(Settings { track_workstations: false, ..usual() }, &fleet(8, 4, 2)));
    snapshot("few-urls", detector(Settings { urls_per_destination: 1, ..usual() }, &fleet(9, 3, 3)));
    let mut in_gap = detector(usual(), &fleet(10, 3, 2));
    in_gap.gap_begins("defender/0");
    snapshot("in-a-gap", in_gap);
    let mut behind_gap = detector(usual(), &fleet(11, 3, 2));
    behind_gap.gap_begins("defender/0");
    behind_gap.gap_ends("defender/0");
    snapshot("behind-a-gap", behind_gap);
    let mut advanced = detector(usual(), &fleet(12, 3, 2));
    let clocks: Vec<(String, Ticks)> = advanced.clocks().map(|(tenant, clock)| (tenant.to_owned(), clock)).collect();
    for (tenant, clock) in clocks {
        advanced.advance(&tenant, clock.plus(Span::days(10)), &mut Vec::new());
    }
    snapshot("ten-days-later", advanced);
    for (groups, partitions) in [(1, 1), (2, 3), (40, 1), (12, 9)] {
        all.push((format!("journal-{groups}-{partitions}"), journal_seed(groups, partitions)));
    }
    all
}

/// Whether a seed is a file that is read to its end; and what it holds, in rows or entries.
fn read_whole(seed: &[u8]) -> Option<usize> {
    match seed {
        [3, rest @ ..] => {
            let loaded = snapshot::read(Box::new(Cursor::new(framed(FileKind::Snapshot, rest)))).ok()?;
            Some(loaded.detector.tracked().devices)
        }
        [2, rest @ ..] => {
            let file = framed(FileKind::Journal, rest);
            let segment = journal::read(&file[..]).ok()?;
            (segment.torn.is_none() && file.len() as u64 > HEADER).then_some(segment.entries.len())
        }
        _ => None,
    }
}

#[test]
fn seeds_of_state_are_whole_files_and_the_corpus_has_as_many() {
    let seeds = seeds();
    for (name, seed) in &seeds {
        let rows = read_whole(seed);
        assert!(rows.is_some_and(|rows| rows > 0 || name.ends_with("empty")), "{name}: {rows:?}");
        state(seed);
    }
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        for (name, seed) in &seeds {
            std::fs::write(Path::new(&folder).join(name), seed).unwrap();
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/state");
    let committed =
        std::fs::read_dir(folder).unwrap().filter(|entry| read_whole(&std::fs::read(entry.as_ref().unwrap().path()).unwrap()).is_some());
    let whole = committed.count();
    assert!(
        whole >= seeds.len(),
        "{whole} of the corpus are whole files of this format, not {}: FUZZ_SEEDS=fuzz/corpus/state cargo test --lib seeds",
        seeds.len()
    );
}
