//! From history to live: the findings topic is made to say what the state says, once, before anything live is consumed.
//!
//! What history said of findings was not published. Here each finding is compared with its last change in the topic: open here and not
//! there, it is opened there; open there and not here, it is retracted there; open in both, an update says what differs, if anything. Which
//! differs is told by comparing bytes, so a start that was killed on the way finds what it published, and goes on behind it.

use super::{Task, Turnout, publication, publications_of};
use crate::detector::FindingRow;
use crate::finding::{Change, ChangeKind, FindingId};
use std::collections::{BTreeSet, HashMap};

impl Task {
    /// The state comes from history: at the end of the (empty) replay the topic is brought to it. `published` must hold the topic's
    /// last changes.
    #[must_use]
    pub fn handing_over(mut self) -> Task {
        self.handing_over = true;
        self
    }

    /// Compares every finding once, in the order of their ids, and publishes what the topic lacks.
    pub(super) fn hand_over(&mut self, out: &mut Turnout) {
        self.write_missing_endings(true, out);
        let last = std::mem::take(&mut self.published.last);
        let rows: HashMap<FindingId, FindingRow> = self.feed.detector.findings().map(|row| (row.id, row)).collect();
        let ids: BTreeSet<[u8; 16]> = last.keys().chain(rows.keys()).map(|id| id.0).collect();
        for id in ids.into_iter().map(FindingId) {
            let (row, read) = (rows.get(&id), last.get(&id));
            let (revision, open) = read.map_or((0, false), |last| (last.revision, last.open));
            let Some(row) = row else {
                if let Some(last) = read.filter(|last| last.open) {
                    self.retract(id, last, out);
                }
                continue;
            };
            match (open, row.open) {
                (false, false) => drop(self.feed.detector.revise(row.candidate, revision, None)),
                (false, true) => self.say(row.candidate, revision + 1, ChangeKind::Opened, out),
                (true, true) => {
                    let is_said = |kind: ChangeKind| {
                        let said = self
                            .revised(row.candidate, revision, kind)
                            .map(|change| publication(&self.format, &change, None).outgoing.payload);
                        said.as_ref() == read.map(|last| &last.value)
                    };
                    if ![ChangeKind::Opened, ChangeKind::Updated].into_iter().any(is_said) {
                        self.say(row.candidate, revision + 1, ChangeKind::Updated, out);
                    }
                }
                (true, false) => {
                    self.feed.detector.revise(row.candidate, revision + 1, None);
                    if let Some(last) = read {
                        self.retract(id, last, out);
                    }
                }
            }
        }
    }

    fn say(&mut self, candidate: u32, revision: u32, kind: ChangeKind, out: &mut Turnout) {
        if let Some(change) = self.revised(candidate, revision, kind) {
            let publications = publications_of(&self.format, &self.published, &change, None);
            out.publications.extend(publications.into_iter().map(|(_, publication)| publication));
            out.changes.push(change);
        }
    }

    /// Says this of a finding, marked by the rules in force.
    fn revised(&mut self, candidate: u32, revision: u32, kind: ChangeKind) -> Option<Change> {
        let mut change = self.feed.detector.revise(candidate, revision, Some(kind))?;
        self.format.mark(&mut change);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Published};
    use super::*;
    use crate::defender::{Body, DeviceInfo, NetworkEvent, Record};
    use crate::detector::{Detector, Settings};
    use crate::finding::severity::Privileged;
    use crate::state::snapshot::Positions;
    use crate::time::{Span, Ticks};

    const NOW: Ticks = Ticks(1_790_000_000 * crate::time::TICKS_PER_SECOND);

    /// A state in which these addresses are findings of one server; those closed again by becoming common are `common`.
    fn state(ips: &[&str], common: &[&str]) -> Detector {
        let mut detector = Detector::new(Settings { update_interval: Span::ZERO, ..Settings::default() });
        let mut feed = |body| detector.record(&Record { arrival: NOW, tenant: "t", body }, &mut Vec::new());
        let info = DeviceInfo { timestamp: NOW, device_id: "d", device_name: "srv", os_platform: "Linux", device_type: "Server" };
        feed(Body::Device(info));
        for ip in ips {
            let of = |device: &'static str, report_id| NetworkEvent {
                timestamp: NOW,
                device_id: device.into(),
                device_name: device,
                report_id,
                action_type: "ConnectionSuccess".into(),
                remote_ip: ip,
                remote_ip_type: "Public".into(),
                remote_port: Some(443),
                company: "Acme",
                ..NetworkEvent::default()
            };
            feed(Body::Network(of("srv", 1)));
            if common.contains(ip) {
                ["a", "b", "c", "d", "e", "f"].into_iter().for_each(|device| feed(Body::Network(of(device, 2))));
            }
        }
        detector
    }

    fn task(detector: Detector, published: Published) -> Task {
        let format = Format {
            findings_topic: "findings".to_owned(),
            dead_letter_topic: "dead".to_owned(),
            settings: detector.settings().clone(),
            privileged: Privileged::none(),
            suppression: Default::default(),
        };
        Task::new(detector, format, Positions::new(), Vec::new(), published).handing_over()
    }

    /// What is published, as (change, revision), sorted.
    fn said(out: &Turnout) -> Vec<(String, String)> {
        let header = |of: &crate::kafka::sink::Outgoing, name: &str| {
            let value = of.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            String::from_utf8(value.unwrap()).unwrap()
        };
        let mut all: Vec<_> = out.publications.iter().map(|p| (header(&p.outgoing, "change"), header(&p.outgoing, "revision"))).collect();
        all.sort();
        all
    }

    /// What these publications of an outcome leave in the topic.
    fn topic(out: &Turnout, which: std::ops::Range<usize>) -> Published {
        let mut published = Published::default();
        for publication in &out.publications[which] {
            let value: serde_json::Value = serde_json::from_slice(&publication.outgoing.payload).unwrap();
            let change = out.changes.iter().find(|change| change.id.to_string() == value["finding_id"].as_str().unwrap()).unwrap();
            let open = value["change"] == "opened" || value["change"] == "updated";
            published.note(change.id, value["revision"].as_u64().unwrap() as u32, open, change.at, &publication.outgoing.payload);
        }
        published
    }

    fn hand_over(detector: Detector, published: Published) -> Turnout {
        let mut out = Turnout::default();
        assert!(task(detector, published).replay_done(&mut out), "a snapshot must hold it before more is consumed");
        out
    }

    #[test]
    fn what_is_open_is_opened_once_however_much_of_it_stands_in_the_topic() {
        let history = || state(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &["192.0.2.3"]);
        let first = hand_over(history(), Published::default());
        let opened = |n: &str| ("opened".to_owned(), n.to_owned());
        assert_eq!(said(&first), [opened("1"), opened("1")]);
        for n in 0..=2 {
            let again = hand_over(history(), topic(&first, 0..n));
            assert_eq!(said(&again).len(), 2 - n, "{n} of 2 were published");
        }
    }

    #[test]
    fn what_an_earlier_state_said_is_closed_continued_or_brought_up_to_date() {
        let earlier = hand_over(state(&["192.0.2.1", "192.0.2.2", "192.0.2.4"], &[]), Published::default());
        let mut published = topic(&earlier, 0..3);
        // Of one the topic has other values.
        let of = |ip: &str| earlier.changes.iter().find(|change| change.remote_ip == ip).unwrap().id;
        let last = published.last.get_mut(&of("192.0.2.2")).unwrap();
        last.value = String::from_utf8(last.value.clone()).unwrap().replace("\"count\":1", "\"count\":7").into_bytes();
        let out = hand_over(state(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &[]), published);
        let expected = [("opened", "1"), ("retracted", "2"), ("updated", "2")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(said(&out), expected);
    }

    #[test]
    fn what_a_killed_start_got_written_late_stands_in_the_topic_too() {
        let history = || state(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &[]);
        let first = hand_over(history(), Published::default());
        for (shown, arrived) in [(0, 0), (0, 1), (0, 3), (1, 2), (1, 3)] {
            let mut second = task(history(), topic(&first, 0..shown));
            second.hold();
            assert!(second.must_store(), "the comparison waits until the topics have settled");
            let mut out = Turnout::default();
            second.settled(topic(&first, shown..arrived), &mut out);
            assert!(out.publications.is_empty() && second.replay_done(&mut out) && !second.is_holding());
            assert_eq!(out.publications, first.publications[arrived..], "{shown} shown at once, {arrived} in the end");
        }
    }

    #[test]
    fn a_device_whose_findings_are_retracted_gets_its_record() {
        let earlier = hand_over(state(&["192.0.2.1"], &[]), Published::default());
        let mut out = Turnout::default();
        let task = task(state(&[], &[]), topic(&earlier, 0..1));
        task.with_grouped_topic(Some("devices".to_owned())).replay_done(&mut out);
        let written: Vec<_> = out.publications.iter().map(|p| (p.outgoing.topic.as_str(), p.outgoing.key.as_slice())).collect();
        assert_eq!(written, [("findings", earlier.publications[0].outgoing.key.as_slice()), ("devices", b"t/srv")]);
        assert!(String::from_utf8_lossy(&out.publications[1].outgoing.payload).contains(r#""details":[]"#));
    }

    #[test]
    fn suppressed_findings_of_history_go_to_their_topic() {
        let mut task = task(state(&["192.0.2.1", "192.0.2.2"], &[]), Published::default());
        task.format.suppression.fate = crate::suppress::Fate::Topic("suppressed".to_owned());
        let rule = "[[suppress]]\nname = \"it\"\nreason = \"r\"\nowner = \"o\"\ncidr = \"192.0.2.2/32\"";
        task.set_rules(crate::suppress::Rules::default().and_file(rule).unwrap());
        let mut out = Turnout::default();
        task.replay_done(&mut out);
        let mut topics: Vec<_> = out.publications.iter().map(|p| p.outgoing.topic.as_str()).collect();
        topics.sort_unstable();
        assert_eq!(topics, ["findings", "suppressed"]);
    }

    #[test]
    fn killed_between_the_two_copies_of_a_retraction_the_other_one_is_written_and_its_devices_record() {
        let fate = crate::suppress::Fate::Topic("suppressed".to_owned());
        let earlier = hand_over(state(&["192.0.2.1"], &[]), Published::default());
        let published = || {
            let mut published = Published::new(true);
            let (id, value) = (earlier.changes[0].id, &earlier.publications[0].outgoing.payload);
            published.note(id, 1, true, NOW, value);
            (published, id)
        };
        let hand_over = |published: Published| {
            let mut task = task(state(&[], &[]), published);
            task.format.suppression.fate = fate.clone();
            let mut out = Turnout::default();
            task.with_grouped_topic(Some("devices".to_owned())).replay_done(&mut out);
            out.publications
        };
        let whole = hand_over(published().0);
        let topics: Vec<&str> = whole.iter().map(|p| p.outgoing.topic.as_str()).collect();
        assert_eq!(topics, ["suppressed", "findings", "devices"]);
        for (there, missing) in [(0, vec![1, 2]), (1, vec![0, 2])] {
            let (mut published, id) = published();
            let value = &whole[there].outgoing.payload;
            if there == 0 {
                published.note_suppressed(id, 2, false, NOW, value)
            } else {
                published.note(id, 2, false, NOW, value)
            };
            let wanted: Vec<_> = missing.iter().map(|n| whole[*n].clone()).collect();
            assert_eq!(hand_over(published), wanted, "{} was written", whole[there].outgoing.topic);
        }
        let (mut published, id) = published();
        published.note(id, 2, false, NOW, &whole[1].outgoing.payload);
        published.note_suppressed(id, 2, false, NOW, &whole[0].outgoing.payload);
        assert_eq!(hand_over(published), whole[2..]);
    }
}
