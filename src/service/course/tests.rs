//! What a gap in the live input leads to: a whole snapshot, before anything else is taken.

use super::*;
use crate::detector::{Detector, Settings};
use crate::finding::severity::Privileged;
use crate::kafka::position::{NextOffset, PartitionId, TopicPartition};
use crate::kafka::source::Assigned;
use crate::task::{Format, Published};
use crossbeam_channel::unbounded;

fn course() -> (Course, Receiver<Work>, Receiver<Piece>) {
    let format = Format {
        findings_topic: "findings".to_owned(),
        dead_letter_topic: "dead".to_owned(),
        settings: Settings::default(),
        privileged: Privileged::none(),
    };
    let task = Task::new(Detector::new(Settings::default()), format, Positions::new(), Vec::new(), Published::default());
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
