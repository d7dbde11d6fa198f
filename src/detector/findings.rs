//! Candidates that were touched are judged, and changes of findings written.
//!
//! Judging is [`super::judge`]'s pure function; here its verdict is carried out: the change with the row's values at that
//! instant, the finding's revision, the timer of an update that waits, the end of a candidate whose first day is over.

use super::candidate::{self, Finding};
use super::connections::{port_code, port_of};
use super::judge::{self, Verdict};
use super::timers::{Armed, Target};
use super::{Detector, Effect, Turn, message};
use crate::finding::{Change, ChangeKind, FindingId};
use crate::time::{Span, Ticks};
use compact_str::CompactString;
use sha2::{Digest, Sha256};

impl Detector {
    pub(super) fn judge_dirty(&mut self, tenant: u32, now: Ticks, effects: &mut Vec<Effect>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        dirty.retain(|id| self.candidates.get(*id).is_some());
        if dirty.len() > 1 {
            dirty.sort_by(|a, b| self.candidate_key(*a).cmp(&self.candidate_key(*b)));
        }
        for id in dirty.drain(..) {
            self.judge(tenant, id, now, effects);
        }
        self.dirty = dirty;
        // A candidate whose first day is over lets its destination go.
        self.deliver(tenant, now);
    }

    fn candidate_key(&self, id: u32) -> (&str, CompactString, Option<u16>) {
        let row = self.candidates.row(id);
        (&self.devices.rows.row(row.device).name, self.destinations.ip(row.destination), port_of(row.port))
    }

    pub(super) fn judge(&mut self, tenant: u32, id: u32, now: Ticks, effects: &mut Vec<Effect>) {
        if let Some(limit) = self.going(id) {
            if self.cells.is_some() {
                self.end_in_cells(id, (ChangeKind::Retracted, limit.cause()), now, effects);
            } else if self.candidates.row(id).finding.as_ref().is_some_and(|finding| finding.open) {
                self.write(tenant, id, ChangeKind::Retracted, limit.cause(), now, effects);
            }
            return self.end_candidate(id, now);
        }
        if self.cells.is_some() {
            self.judge_cells(id, now, effects);
        } else {
            self.judge_one(tenant, id, now, effects);
        }
        if now >= self.candidates.row(id).end {
            self.end_candidate(id, now);
        } else if self.candidates.row(id).timer == Armed::NEVER {
            self.arm_candidate(tenant, id, now);
        }
    }

    fn judge_one(&mut self, tenant: u32, id: u32, now: Ticks, effects: &mut Vec<Effect>) {
        let row = self.candidates.row(id);
        let device = self.devices.rows.row(row.device);
        let warm_from = self.warm_from(row.device);
        let obstacle = judge::obstacle(row, device.is_third_party(), device.is_server(), warm_from, now, &self.settings);
        match judge::judge(row, obstacle, now, &self.settings) {
            Verdict::Same => {}
            Verdict::Write(kind, cause) => self.write(tenant, id, kind, cause, now, effects),
            Verdict::Later(due) => {
                let turn = turn!(self, tenant, now);
                let row = self.candidates.row_mut(id);
                turn.timers.arm(&mut row.timer, due, Target::Candidate(id));
            }
        }
    }

    /// What a device's connections that began before this instant say is held back: its warm-up.
    pub(super) fn warm_from(&self, device: u32) -> Ticks {
        let since = self.devices.rows.row(device).since;
        if self.settings.warm_up == Span::ZERO { Ticks::MIN } else { since.plus(self.settings.warm_up) }
    }

    fn write(&mut self, tenant: u32, id: u32, kind: ChangeKind, cause: &'static str, now: Ticks, effects: &mut Vec<Effect>) {
        let row = self.candidates.row(id);
        let (finding_id, revision) = match &row.finding {
            Some(finding) => (finding.id, finding.revision + 1),
            None => {
                let tenant = self.tenants.get(tenant as usize).map_or("", |t| &t.name);
                let ip = self.destinations.ip(row.destination);
                (finding_id(tenant, &self.devices.rows.row(row.device).name, &ip, port_of(row.port), now), 1)
            }
        };
        effects.push(Effect::Change(Box::new(self.describe(id, finding_id, revision, kind, cause, now))));
        match kind {
            ChangeKind::Opened => self.open_findings += 1,
            ChangeKind::Updated => {}
            ChangeKind::Retracted | ChangeKind::Closed => self.open_findings -= 1,
        }
        let open = matches!(kind, ChangeKind::Opened | ChangeKind::Updated);
        let row = self.candidates.row_mut(id);
        let answer = row.answer.as_deref().copied().unwrap_or(message::Answer { prevalence: 0, urls: 0 });
        row.finding = Some(Box::new(Finding { id: finding_id, revision, open, written: now, count: row.count, answer }));
    }

    /// A change of a candidate's finding, with the row's values at `now`.
    pub(super) fn describe(
        &self,
        id: u32,
        finding_id: FindingId,
        revision: u32,
        kind: ChangeKind,
        cause: &'static str,
        now: Ticks,
    ) -> Change {
        let row = self.candidates.row(id);
        let device = self.devices.rows.row(row.device);
        let tenant = self.tenants.get(device.tenant as usize);
        let (url_ids, urls_truncated) = self.destinations.urls(row.destination, now, &self.settings);
        let mut urls: Vec<String> = url_ids.map(|url| self.strings.get(url).to_owned()).collect();
        urls.sort_unstable();
        let rare = self.devices.vendors(row.device).iter().filter(|seen| seen.joined() && self.vendors.is_rare(seen.vendor()));
        let vendor = |v: u32| (self.vendors.rows.row(v).company.to_string(), self.vendors.servers(v) as u64);
        let mut vendors: Vec<(String, u64)> = rare.map(|seen| vendor(seen.vendor())).collect();
        vendors.sort_unstable();
        Change {
            id: finding_id,
            revision,
            kind,
            at: now,
            tenant: tenant.map_or_else(String::new, |t| t.name.to_string()),
            device_name: device.name.to_string(),
            device_id: self.strings.get(row.device_id).to_owned(),
            os_platform: self.strings.get(device.os_platform).to_owned(),
            device_type: self.strings.get(device.device_type).to_owned(),
            remote_ip: self.destinations.ip(row.destination).to_string(),
            remote_port: port_of(row.port),
            urls,
            urls_truncated,
            first_seen: row.first,
            last_seen: row.last,
            count: u64::from(row.count),
            prevalence: self.destinations.prevalence(row.destination, now, &self.settings),
            vendors,
            previous_seen: (row.previous != Ticks::MIN).then_some(row.previous),
            observed_since: tenant.map_or(now, |t| t.observed_since),
            device_since: device.since,
            gap: self.gap_before(device.tenant, row.first, now),
            evicted: self.hidden_before(id, now),
            partial: self.partial_until(device.tenant, now),
            late: row.late,
            suppressed_by: None,
            cause,
            event: candidate::unpack_details(self.strings.get(row.details), row.report_id),
        }
    }

    /// The findings that are open, as their last change says, with the values of now; in no particular order.
    pub fn open_findings(&self) -> impl Iterator<Item = Change> {
        self.candidates.iter().filter_map(|(id, row)| {
            let finding = row.finding.as_ref().filter(|f| f.open)?;
            let now = self.tenants.get(self.devices.rows.row(row.device).tenant as usize)?.clock;
            let kind = if finding.revision == 1 { ChangeKind::Opened } else { ChangeKind::Updated };
            Some(Change { at: finding.written, ..self.describe(id, finding.id, finding.revision, kind, "", now) })
        })
    }
}

/// Names a finding for ever: the first 16 bytes of SHA-256 over its key and the instant of its first opening.
fn finding_id(tenant: &str, device: &str, ip: &str, port: Option<u16>, at: Ticks) -> FindingId {
    let mut hash = Sha256::new();
    for text in [tenant, device, ip] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.update(port_code(port).to_le_bytes());
    hash.update(at.0.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    FindingId(id)
}
