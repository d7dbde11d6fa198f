//! History into a state directory: blocks of files to the detector, now and then a snapshot with the files' positions.
//!
//! Invariant: a snapshot holds the detector and the positions after one and the same block, so that a run that was killed goes on as if
//! it had not been. Changes of findings are counted and dropped: what is still open at the end is published by `run`, which takes
//! over from the *history* frame (ADR 0008). Which files there are, and their order, is `files`' to say.

use crate::defender::{Batch, Body, Record};
use crate::detector::{Detector, Settings};
use crate::feed::{DeadLetter, Feed, Output};
use crate::files::blocks::Block;
use crate::finding::Change;
use crate::state::history::{History, Seen, Table};
use crate::state::snapshot::Positions;
use crate::state::{StateError, Store};
use crate::time::{Span, Ticks};
use std::io;

/// Why history can't be loaded into a directory.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// It can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// It can't be written.
    #[error("state.dir can't be written: {0}; make room, then start again: it goes on from the last snapshot")]
    Write(#[from] io::Error),
    /// The service has run on it.
    #[error(
        "the service has run on this state.dir already: history can't be put before what it has seen. Move it away and load history into a new one; the service then takes over from there"
    )]
    TakenOver,
    /// It was begun with other settings.
    #[error(
        "this state.dir was begun with other settings ({keys}): set them as they were, or load history into a new one. After the service has taken over they can be changed"
    )]
    OtherSettings {
        /// Configuration keys, separated by commas.
        keys: String,
    },
    /// It was begun with a later beginning.
    #[error(
        "this state.dir was begun with what arrived from {begun} on, and earlier history can't be put before it: use the same --from, or a new state.dir"
    )]
    Earlier {
        /// Its beginning.
        begun: Ticks,
    },
}

/// A state directory into which history is loaded.
pub struct Backfill {
    store: Store,
    /// Feeds the detector, and counts.
    pub feed: Feed,
    history: History,
    /// The number of the next snapshot.
    next: u64,
    /// Something was taken since the last snapshot.
    changed: bool,
    /// A start was killed on this directory, and what it sent may not have arrived: `run` has to hear of it.
    in_doubt: bool,
    names: Vec<String>,
}

/// Drops changes, hands dead letters on, and notes which hours of which table are there.
struct Quiet<'a, D: FnMut(u64, DeadLetter<'_>)> {
    source: u64,
    dead: &'a mut D,
    /// Tenant, table, hour (since 1970) and the greatest arrival in it. A block holds few of them, and records come in runs.
    hours: Vec<(String, Table, i64, Ticks)>,
}

impl<D: FnMut(u64, DeadLetter<'_>)> Output for Quiet<'_, D> {
    fn message(&mut self, source: u64) {
        self.source = source;
    }

    #[inline]
    fn record(&mut self, record: &Record<'_>) {
        let table = match record.body {
            Body::Network(_) => Table::Network,
            Body::Device(_) => Table::Device,
            Body::Skipped(_) => return,
        };
        let (at, hour) = (record.arrival, record.arrival.0.div_euclid(Span::hours(1).0));
        match self.hours.iter_mut().rev().find(|(tenant, of, h, _)| *h == hour && *of == table && *tenant == *record.tenant) {
            Some((.., last)) => *last = at.max(*last),
            None => self.hours.push((record.tenant.to_owned(), table, hour, at)),
        }
    }

    fn change(&mut self, _: Box<Change>) {}

    fn dead_letter(&mut self, letter: DeadLetter<'_>) {
        (self.dead)(self.source, letter);
    }
}

impl Backfill {
    /// Begins, or goes on where the last snapshot of an earlier run stands. `from` is the earliest arrival that is wanted.
    ///
    /// # Errors
    /// The directory can't be used, or is not one that only history was loaded into.
    pub fn open(store: Store, settings: &Settings, from: Ticks) -> Result<Backfill, BackfillError> {
        let recovered = store.recover(settings)?;
        for warning in &recovered.warnings {
            tracing::warn!("{warning}");
        }
        let history = match (recovered.snapshot, recovered.history) {
            (None, _) => History { from, ..History::default() },
            (Some(_), Some(history)) if recovered.entries.is_empty() => history,
            _ => return Err(BackfillError::TakenOver),
        };
        if from < history.from {
            return Err(BackfillError::Earlier { begun: history.from });
        }
        let stored = recovered.detector.settings();
        if (Settings { limits: settings.limits, ..stored.clone() }) != *settings {
            let (was, is) = (stored.described(), settings.described());
            let differ = was.iter().zip(&is).filter(|(a, b)| a != b).map(|(a, _)| a.0);
            let other: Vec<&str> = differ.filter(|key| !key.starts_with("limits.") || *key == "limits.urls_per_destination").collect();
            return Err(BackfillError::OtherSettings { keys: other.join(", ") });
        }
        let (mut feed, next) = (Feed::new(recovered.detector), recovered.next_segment);
        if feed.detector.settings() != settings {
            // What history says of findings is said at the hand-over.
            feed.detector.change_settings(settings.clone(), &mut Vec::new());
        }
        let in_doubt = recovered.snapshot.is_some_and(|n| next > n + 1);
        Ok(Backfill { store, feed, history, next, changed: false, in_doubt, names: Vec::new() })
    }

    /// The detector, to read.
    #[must_use]
    pub fn detector(&self) -> &Detector {
        &self.feed.detector
    }

    /// How far history has been read.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The names of the files that blocks call by numbers.
    pub fn name_files(&mut self, names: Vec<String>) {
        self.names = names;
    }

    /// Takes a block. `dead` hears of each dead letter, with the tag of its line.
    pub fn take(&mut self, block: &Block, batch: &Batch, mut dead: impl FnMut(u64, DeadLetter<'_>)) {
        let mut quiet = Quiet { source: 0, dead: &mut dead, hours: Vec::new() };
        self.feed.batch(batch, &mut quiet);
        for (tenant, table, _, at) in quiet.hours {
            self.history.tables.entry((tenant, table)).or_insert_with(|| Seen { last: Ticks::MIN, ..Seen::default() }).note(at);
        }
        for (file, at) in &block.positions {
            if let Some(name) = self.names.get(*file as usize)
                && self.history.files.insert(name.clone(), *at) != Some(*at)
            {
                self.changed = true;
            }
        }
        self.changed |= !block.lines.is_empty();
    }

    /// Stores all that was taken; returns once that survives a loss of power. With nothing taken since the last time, nothing is
    /// written.
    ///
    /// # Errors
    /// The disk refuses; what was stored before still counts.
    pub fn store(&mut self) -> Result<(), BackfillError> {
        if !self.changed {
            return Ok(());
        }
        // Recovery wants the segment that follows a snapshot; history has no entries in it.
        let mut segment = self.store.begin_segment(self.next)?;
        segment.append_end();
        segment.sync()?;
        let n = self.next;
        self.next += 1;
        if self.in_doubt {
            // A segment behind the snapshot's own is how a start tells that there was one before it that did not end in order.
            self.store.begin_segment(self.next)?;
            self.next += 1;
        }
        let mut writer = self.store.begin_snapshot(n)?;
        self.feed.detector.begin_snapshot();
        let (mut rows, mut whole) = (Vec::new(), false);
        while !whole {
            whole = self.feed.detector.snapshot_step(8 << 20, &mut rows);
            for (section, bytes) in rows.drain(..) {
                if let Err(error) = writer.section(section, &bytes) {
                    self.feed.detector.abandon_snapshot();
                    return Err(error.into());
                }
            }
        }
        writer.history(&self.history)?;
        writer.finish(&Positions::new(), &Positions::new())?;
        self.store.remove_old()?;
        self.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::position::NextOffset;
    use crate::kafka::readback::Record as Message;
    use crate::service::ServiceError;
    use crate::service::restore::{Outputs, restore};
    use crate::state::disk::Directory;
    use crate::state::history::FilePosition;
    use crate::task::Format;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// Topics that hold nothing.
    struct Nothing;

    impl Outputs for Nothing {
        fn ends(&mut self, _: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
            Ok(BTreeMap::new())
        }

        fn read(
            &mut self,
            _: &str,
            _: &BTreeMap<i32, NextOffset>,
            _: &mut dyn FnMut(&Message<'_>),
        ) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
            Ok(BTreeMap::new())
        }
    }

    fn store(dir: &tempfile::TempDir) -> Store {
        Store::new(Arc::new(Directory::open(dir.path()).unwrap()))
    }

    /// Loads a file up to this record, and stores it.
    fn backfill(dir: &tempfile::TempDir, records: u64) {
        let mut backfill = Backfill::open(store(dir), &Settings::default(), Ticks::MIN).unwrap();
        backfill.name_files(vec!["a file".to_owned()]);
        let mut block = Block::default();
        block.positions.push((0, FilePosition { records, ..FilePosition::default() }));
        backfill.take(&block, &Batch::new(), |_, _| {});
        backfill.store().unwrap();
    }

    /// A start, killed before its first snapshot counts; whether it waits for what one before it may have sent.
    fn killed_start(dir: &tempfile::TempDir) -> bool {
        let (store, settings) = (store(dir), Settings::default());
        let recovered = store.recover(&settings).unwrap();
        let format = Format {
            findings_topic: "findings".to_owned(),
            dead_letter_topic: "dead".to_owned(),
            settings,
            privileged: crate::finding::severity::Privileged::none(),
            suppression: Default::default(),
        };
        let restored = restore(recovered, format, &mut Nothing).unwrap();
        store.begin_segment(restored.next_segment).unwrap();
        restored.after_a_crash
    }

    #[test]
    fn history_that_is_loaded_behind_a_killed_start_does_not_hide_it() {
        let dir = tempfile::tempdir().unwrap();
        backfill(&dir, 1);
        backfill(&dir, 2);
        assert!(!killed_start(&dir), "nobody was there before");
        for records in 3..6 {
            backfill(&dir, records);
            assert!(killed_start(&dir), "its requests may arrive yet");
        }
    }
}
