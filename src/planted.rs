//! Bugs that a debug build can be told to have, so that the simulation shows that it would notice them.
//!
//! One at a time, for the calling thread alone. A release build knows none of them: [`is`] is `false` there, at no cost.

/// A bug on purpose: each breaks one promise of ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Changes are published before the journal is synced.
    PublishBeforeSync,
    /// What a torn tail of the journal seems to say is believed.
    TornTailAccepted,
    /// The journal's runs are replayed in another order.
    ReplayInAnotherOrder,
    /// A snapshot is written without its input positions.
    SnapshotWithoutPositions,
    /// A snapshot's input positions are those of the moment when it was wholly copied, not of that when it began.
    SnapshotPositionsLate,
    /// The output topics are read from their ends on.
    OutputReadFromItsEnd,
    /// Dead letters that stand in their topic are not recognised.
    DeadLettersForgotten,
    /// What a timer says is said twice.
    TimerFiredTwice,
    /// A clock advance without a record is not journaled.
    AdvanceNotJournaled,
    /// Checksums of state files are not looked at.
    ChecksumIgnored,
    /// A snapshot is renamed before it is synced.
    RenamedBeforeSync,
    /// A snapshot's new name is not synced before what it replaces is removed.
    SnapshotNameNotSynced,
    /// A journal segment's name is not synced.
    SegmentNameNotSynced,
    /// A journal segment has its name before its header is synced.
    SegmentHeaderNotSynced,
    /// A journal that a killed process left is built on without being synced.
    RecoveredJournalNotSynced,
    /// A sync that failed is tried again without writing again.
    FailedSyncBelieved,
    /// A damaged snapshot passes for one of those that are kept.
    DamagedSnapshotKept,
    /// Idle advances follow the host's clock wherever it jumps.
    HostClockBelieved,
    /// A snapshot counts before what was published before it is acknowledged.
    FenceNotAwaited,
    /// Work begins before the first snapshot counts.
    FirstSnapshotNotAwaited,
    /// Only the newest snapshot is kept.
    OneSnapshotKept,
    /// A new journal segment names its partitions by numbers that only the one before defined.
    SegmentNumbersKept,
    /// A revoked partition's position is forgotten.
    RevokedPositionForgotten,
    /// What a dead process still had on its way to the brokers is not looked for when the topics have settled.
    LateWritesNotLookedFor,
    /// What a dead process may have sent is published again without waiting.
    DoubtfulNotHeld,
    /// A change does not wait for one before it, of the same finding, that is held.
    HeldChangesOvertaken,
    /// A snapshot begins while something is held.
    SnapshotWhileHeld,
    /// A replay that lacks messages publishes what it says, as if it lacked none.
    GapNotReconciled,
    /// A gap leaves no mark in the state.
    GapNotMarked,
    /// Work goes on after a change of settings before a snapshot holds it.
    SettingsNotStored,
    /// After a change that no journal holds, the snapshot before it stays the second newest.
    OneSnapshotOfWhatNoJournalHolds,
    /// That a start before this one has said what no replay repeats is not noticed.
    TopicAheadNotSeen,
    /// What stands in the topic of suppressed changes is not recognised.
    SuppressedForgotten,
    /// The second copy of what ends a finding is not made up for.
    EndingNotCompleted,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Bug] = &[
        Bug::PublishBeforeSync,
        Bug::TornTailAccepted,
        Bug::ReplayInAnotherOrder,
        Bug::SnapshotWithoutPositions,
        Bug::SnapshotPositionsLate,
        Bug::OutputReadFromItsEnd,
        Bug::DeadLettersForgotten,
        Bug::TimerFiredTwice,
        Bug::AdvanceNotJournaled,
        Bug::ChecksumIgnored,
        Bug::RenamedBeforeSync,
        Bug::SnapshotNameNotSynced,
        Bug::SegmentNameNotSynced,
        Bug::SegmentHeaderNotSynced,
        Bug::RecoveredJournalNotSynced,
        Bug::FailedSyncBelieved,
        Bug::DamagedSnapshotKept,
        Bug::HostClockBelieved,
        Bug::FenceNotAwaited,
        Bug::FirstSnapshotNotAwaited,
        Bug::OneSnapshotKept,
        Bug::SegmentNumbersKept,
        Bug::RevokedPositionForgotten,
        Bug::LateWritesNotLookedFor,
        Bug::DoubtfulNotHeld,
        Bug::HeldChangesOvertaken,
        Bug::SnapshotWhileHeld,
        Bug::GapNotReconciled,
        Bug::GapNotMarked,
        Bug::SettingsNotStored,
        Bug::OneSnapshotOfWhatNoJournalHolds,
        Bug::TopicAheadNotSeen,
        Bug::SuppressedForgotten,
        Bug::EndingNotCompleted,
    ];
}

#[cfg(debug_assertions)]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread has `bug`, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this thread has `bug`.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(debug_assertions)]
pub use switch::{is, plant};

/// Whether this thread has `bug`: never.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}
