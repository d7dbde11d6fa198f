//! `query.group_by_device`: beside the changes, one record a device with its open findings, for a compacted topic.
//!
//! The last record of a device is what holds, so writing one again is harmless, and a missing one is not. Hence a record follows every
//! step that changed a device's findings, in the same piece of work as the changes; and at the end of a replay each device that the replay
//! touched, or that has an open finding, gets one, whatever was written before. Nothing of it needs to be read back.

use super::{Publication, Task, Turnout};
use crate::finding::Change;
use crate::finding::grouped::{key, to_json};
use crate::kafka::sink::Outgoing;
use crate::suppress::Fate;
use std::collections::BTreeSet;

/// The topic, and the devices whose record is not written yet.
#[derive(Debug)]
pub(super) struct Grouped {
    topic: String,
    touched: BTreeSet<(String, String)>,
}

impl Task {
    /// Writes a record a device to this topic as well.
    #[must_use]
    pub fn with_grouped_topic(self, topic: Option<String>) -> Task {
        Task { grouped: topic.map(|topic| Grouped { topic, touched: BTreeSet::new() }), ..self }
    }

    /// Notes the devices of changes; once nothing is replayed any more, writes their records.
    pub(super) fn group(&mut self, changes_from: usize, out: &mut Turnout) {
        let Some(grouped) = &mut self.grouped else { return };
        let changes = out.changes.get(changes_from..).unwrap_or_default();
        grouped.touched.extend(changes.iter().map(|change| (change.tenant.clone(), change.device_name.clone())));
        if self.replay.is_none() {
            self.write_groups(out);
        }
    }

    /// Notes the device that a change's value tells of: the state may not know it.
    pub(super) fn touch(&mut self, value: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Value {
            #[serde(default)]
            tenant_id: String,
            #[serde(default)]
            device: Device,
        }
        #[derive(Default, serde::Deserialize)]
        struct Device {
            #[serde(default)]
            name: String,
        }
        if let (Some(grouped), Ok(value)) = (&mut self.grouped, serde_json::from_slice::<Value>(value)) {
            grouped.touched.insert((value.tenant_id, value.device.name));
        }
    }

    /// The replay is over: every device with an open finding gets its record, and those that the replay touched.
    pub(super) fn group_all(&mut self, out: &mut Turnout) {
        if let Some(grouped) = &mut self.grouped {
            let open = self.feed.detector.open_findings();
            grouped.touched.extend(open.map(|change| (change.tenant, change.device_name)));
            self.write_groups(out);
        }
    }

    fn write_groups(&mut self, out: &mut Turnout) {
        let Some(grouped) = &mut self.grouped else { return };
        let detector = &self.feed.detector;
        for (tenant, device) in std::mem::take(&mut grouped.touched) {
            let Some((_, at)) = detector.clocks().find(|(name, _)| *name == tenant) else { continue };
            let mut findings: Vec<Change> = detector.open_findings_of(&tenant, &device);
            findings.iter_mut().for_each(|change| self.format.mark(change));
            findings.retain(|change| self.format.suppression.fate == Fate::Mark || change.suppressed_by.is_none());
            let outgoing = Outgoing {
                topic: grouped.topic.clone(),
                key: key(&tenant, &device).into_bytes(),
                headers: vec![("finding-format".to_owned(), b"firstseen-device".to_vec())],
                payload: to_json(&tenant, &device, at, &findings).into_bytes(),
                token: 0,
            };
            out.publications.push(Publication { outgoing, appended: None });
        }
    }
}
