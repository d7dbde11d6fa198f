//! What a gap in the live input leads to: a whole snapshot, before anything else is taken; and what waits until the output topics have
//! settled.

use super::*;
use crate::detector::{Detector, Settings};
use crate::finding::severity::Privileged;
use crate::kafka::position::{NextOffset, PartitionId, TopicPartition};
use crate::kafka::readback::{ReadbackError, Record};
use crate::kafka::source::Assigned;
use crate::state::journal::Entry;
use crate::task::{Format, Published};
use crossbeam_channel::unbounded;
use std::collections::BTreeMap;

fn course() -> (Course, Receiver<Work>, Receiver<Piece>) {
    course_with(Vec::new())
}

fn course_with(entries: Vec<Entry>) -> (Course, Receiver<Work>, Receiver<Piece>) {
    let format = Format {
        findings_topic: "findings".to_owned(),
        dead_letter_topic: "dead".to_owned(),
        settings: Settings::default(),
        privileged: Privileged::none(),
        suppression: Default::default(),
    };
    let task = Task::new(Detector::new(Settings::default()), format, Positions::new(), entries, Published::default());
    let timing = Timing { snapshot_interval: Duration::from_secs(3600), idle_delay: None, copy: 1 << 20 };
    let ((work, work_out), (pieces, pieces_out)) = (bounded(16), unbounded());
    (Course::new(task, Shared::default(), timing, work, pieces, 7, false), work_out, pieces_out)
}

fn begin(course: &mut Course) {
    let of = TopicPartition { topic: "in".to_owned(), partition: 0 };
    let assigned = vec![Assigned { id: PartitionId(0), of, position: NextOffset(3) }];
    let now = crate::host_clock::monotonic();
    assert!(course.event(SourceEvent::Assigned(assigned), now).unwrap().is_none());
    assert!(course.event(SourceEvent::ReplayDone, now).unwrap().is_none(), "nothing was lost, no settings changed");
}

const GAP: SourceEvent<Batch> = SourceEvent::Gap { partition: PartitionId(0), from: NextOffset(3), to: NextOffset(8) };

#[test]
fn a_gap_is_in_a_snapshot_before_more_is_taken() {
    let (mut course, work, pieces) = course();
    begin(&mut course);
    let Some(Wait::Snapshot(counts)) = course.event(GAP, crate::host_clock::monotonic()).unwrap() else {
        panic!("no snapshot to wait for")
    };
    assert!(matches!(work.try_recv(), Ok(Work::Rotate { segment: 8, .. })));
    let pieces: Vec<Piece> = pieces.try_iter().collect();
    assert!(matches!(pieces.first(), Some(Piece::Begin { n: 8 })));
    let Some(Piece::End { input, done, .. }) = pieces.last() else { panic!("{pieces:?}") };
    assert_eq!(*input, Positions::from([(("in".to_owned(), 0), 8)]));
    assert!(course.task().detector().in_gap());
    done.send(false).unwrap();
    assert!(!counts.recv().unwrap());
    course.whole_snapshot(crate::host_clock::monotonic()).unwrap();
    assert!(matches!(work.try_recv(), Ok(Work::Rotate { segment: 9, .. })), "tried again");
}

#[test]
fn a_gap_stops_it_when_that_is_asked_for() {
    let (course, ..) = course();
    let mut course = course.stopping_on_gaps(true);
    begin(&mut course);
    let error = course.event(GAP, crate::host_clock::monotonic()).unwrap_err().to_string();
    assert!(error.contains("in[0]") && error.contains("from offset 3 to 8") && error.contains("input.on_gap"), "{error}");
}

/// Topics that no broker shows at first, and that hold nothing then.
struct Topics {
    away: usize,
}

impl Outputs for Topics {
    fn ends(&mut self, _: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        Ok(BTreeMap::new())
    }

    fn read(
        &mut self,
        topic: &str,
        _: &BTreeMap<i32, NextOffset>,
        _: &mut dyn FnMut(&Record<'_>),
    ) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        if self.away > 0 {
            self.away -= 1;
            let (waited, reason) = (Duration::from_secs(10), "no broker answers".to_owned());
            return Err(ReadbackError::Stalled { topic: topic.to_owned(), waited, reason }.into());
        }
        Ok(BTreeMap::new())
    }
}

/// A course whose replay has a message that becomes a dead letter, which is held back until `due`.
fn holding(due: Instant) -> (Course, Receiver<Work>, Receiver<Piece>) {
    let (course, work, pieces) = course_with(vec![Entry::Run { topic: "in".to_owned(), partition: 0, upto: 4 }]);
    let ends = Positions::from([(("dead".to_owned(), 0), 7)]);
    let mut course = course.settling(Box::new(Topics { away: 1 }), ends, due);
    let of = TopicPartition { topic: "in".to_owned(), partition: 0 };
    let assigned = vec![Assigned { id: PartitionId(0), of, position: NextOffset(3) }];
    assert!(course.event(SourceEvent::Assigned(assigned), due).unwrap().is_none());
    let content = reader(Span::hours(1), Span::hours(1))(b"not JSON", None, true);
    let bytes = content.bytes();
    course.messages(&[InputMessage { partition: PartitionId(0), offset: 3, timestamp: None, content, bytes }], due).unwrap();
    assert!(course.event(SourceEvent::ReplayDone, due).unwrap().is_none());
    assert!(work.try_iter().all(|work| !matches!(work, Work::Step { publications, .. } if !publications.is_empty())));
    (course, work, pieces)
}

#[test]
fn what_is_held_is_published_once_the_topics_can_be_read_and_no_snapshot_begins_before() {
    let now = crate::host_clock::monotonic();
    let due = now + Duration::from_secs(30);
    let (mut course, work, pieces) = holding(due);
    let much_later = due + Duration::from_secs(7200);
    course.continue_snapshot(now).unwrap();
    course.continue_snapshot(much_later).unwrap();
    assert!(course.last_snapshot(now).unwrap().is_none() && pieces.try_recv().is_err(), "it would say that it was published");
    course.settle(now).unwrap();
    assert_eq!(course.settles(), Some(due), "not yet");
    course.settle(due).unwrap();
    let again = course.settles().expect("no broker answered");
    assert!(again > due && work.try_recv().is_err());
    course.settle(again).unwrap();
    assert_eq!(course.settles(), None);
    let Ok(Work::Step { publications, .. }) = work.try_recv() else { panic!("nothing was published") };
    assert_eq!(publications.len(), 1);
    course.continue_snapshot(much_later).unwrap();
    assert!(matches!(pieces.try_recv(), Ok(Piece::Begin { .. })));
}

#[test]
fn a_gap_waits_for_the_topics_to_settle_since_a_snapshot_must_follow_it() {
    let due = crate::host_clock::monotonic();
    let (mut course, _work, _pieces) = holding(due);
    let Some(Wait::Settled(event)) = course.event(GAP, due).unwrap() else { panic!("it must wait") };
    assert!(matches!(event, SourceEvent::Gap { .. }));
    assert!(!course.task().detector().in_gap(), "nothing was done with it yet");
    course.settle(due).unwrap();
    course.settle(course.settles().unwrap()).unwrap();
    assert!(matches!(course.event(event, due).unwrap(), Some(Wait::Snapshot(_))));
}
