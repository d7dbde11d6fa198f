//! Other settings for a state that stands. What follows from the rows is derived anew, as after a load, and every candidate judged at once,
//! at its tenant's clock. Exact for settings by which the same rows would have been kept: [`Settings::lacks`] says which others are not.
//! With those, findings say until when they may be wrong: until the windows hold nothing that was not kept.

use super::{Detector, Effect, Settings, Turn, window};
use crate::time::{Span, Ticks};

impl Detector {
    /// Judges by `new` from now on, and says at once what follows from it: tenants in the order in which they came, rows in key order. Takes
    /// the memory of a second state for a moment. A snapshot under way is given up.
    pub fn change_settings(&mut self, new: Settings, effects: &mut Vec<Effect>) {
        self.abandon_snapshot();
        if (Settings { limits: new.limits, ..self.settings.clone() }) == new {
            self.settings = new;
            self.recount();
            self.evictions.grown = true;
            return self.keep_within_limits(effects);
        }
        let old = self.settings.clone();
        self.begin_snapshot();
        let mut sections = Vec::new();
        while !self.snapshot_step(usize::MAX, &mut sections) {}
        *self = Detector::new(new);
        for (section, bytes) in sections.into_iter().filter(|(section, _)| *section != super::snapshot::Section::Settings) {
            self.restore_section(section, &bytes).expect("INV-copy: what was copied can be read");
        }
        self.finish_restore().expect("INV-copy: what was copied fits together");
        self.windows_changed(&old);
        let mut of_tenant = vec![Vec::new(); self.tenants.len()];
        for (id, row) in self.candidates.iter() {
            if let Some(ids) = of_tenant.get_mut(self.devices.rows.row(row.device).tenant as usize) {
                ids.push(id);
            }
        }
        for (tenant, ids) in (0u32..).zip(of_tenant) {
            self.dirty = ids;
            self.settle(tenant, self.clock_of(tenant), effects);
        }
        self.evictions.grown = true;
        self.keep_within_limits(effects);
    }

    /// What rows remember of the old windows is brought to the new ones.
    fn windows_changed(&mut self, old: &Settings) {
        let (new, partial) = (self.settings.clone(), old.partial_for(&self.settings));
        if partial > Span::ZERO {
            self.tenants.iter_mut().for_each(|tenant| tenant.partial = tenant.partial.max(tenant.clock.plus(partial)));
        }
        if old.prevalence_window != new.prevalence_window {
            for id in 0..self.destinations.rows.id_end() {
                let Some(tenant) = self.destinations.rows.get(id).map(|row| row.tenant) else { continue };
                let now = self.clock_of(tenant);
                let mut turn = turn!(self, tenant, now);
                self.destinations.window_changed(id, &mut turn);
                self.deliver(tenant, now);
            }
            self.recount_sighted();
        }
        if old.new_within != new.new_within {
            for id in 0..self.candidates.id_end() {
                let Some((device, late, first, end)) = self.candidates.get(id).map(|c| (c.device, c.late, c.first, c.end)) else {
                    continue;
                };
                let end = if late { end.minus(old.new_within).plus(new.new_within) } else { window::ends(first, new.new_within) };
                self.candidates.row_mut(id).end = end;
                let tenant = self.devices.rows.row(device).tenant;
                let now = self.clock_of(tenant);
                if end > now {
                    self.arm_candidate(tenant, id, now);
                }
            }
        }
    }

    /// Until when a tenant's findings may be wrong for changed settings, if they may be at `now`.
    pub(super) fn partial_until(&self, tenant: u32, now: Ticks) -> Option<Ticks> {
        self.tenants.get(tenant as usize).map(|tenant| tenant.partial).filter(|until| now < *until)
    }
}

/// A change of settings that needs what was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Configuration key.
    pub key: &'static str,
    /// Its value when the state was written.
    pub stored: String,
    /// Its value now.
    pub configured: String,
    /// What is missing.
    pub missing: &'static str,
    /// Whether findings can say so (`baseline.partial_until`); other changes are no matter of time.
    pub passes: bool,
}

impl Settings {
    /// What a state lacks that was kept by these settings and is to be judged by `new`; empty when every answer is exact at once.
    #[must_use]
    pub fn lacks(&self, new: &Settings) -> Vec<Lack> {
        let missing = |key: &str| match key {
            "query.lookback" | "query.new_within" => Some("what is older, and the first events of connections, were not kept for it"),
            "query.prevalence_window" => Some("destinations were kept for the other window"),
            "query.prevalence_below" if self.device_cap() != new.device_cap() => Some("another number of devices a destination was kept"),
            "limits.urls_per_destination" if new.urls_per_destination < self.urls_per_destination => Some("more URLs are kept already"),
            "detection.track_workstations" if new.track_workstations => Some("connections of workstations were not kept"),
            _ => None,
        };
        let pairs = self.described().into_iter().zip(new.described()).filter(|(stored, configured)| stored != configured);
        let passes = |key: &str| match key {
            "query.prevalence_below" => new.prevalence_below > self.prevalence_below,
            _ => key != "limits.urls_per_destination",
        };
        let lack = |(key, stored), configured| Some(Lack { key, stored, configured, missing: missing(key)?, passes: passes(key) });
        pairs.filter_map(|(stored, (_, configured))| lack(stored, configured)).collect()
    }

    /// For how long findings may be wrong after a change to `new`: until the windows hold nothing that these settings did not keep.
    #[must_use]
    pub fn partial_for(&self, new: &Settings) -> Span {
        let longer = |old: Span, new: Span| Span((new.0 - old.0).max(0));
        let when = |changed: bool, span: Span| if changed { span } else { Span::ZERO };
        [
            longer(self.lookback, new.lookback),
            // Connections that count as new by these numbers, and did not when they were first seen.
            when(new.lookback < self.lookback || new.new_within != self.new_within, new.new_within),
            longer(self.prevalence_window, new.prevalence_window),
            // Estimates begin anew.
            when(new.prevalence_window != self.prevalence_window, new.prevalence_window),
            when(new.device_cap() > self.device_cap(), new.prevalence_window),
            when(new.track_workstations && !self.track_workstations, new.lookback),
        ]
        .into_iter()
        .fold(Span::ZERO, Span::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn what_was_kept_is_enough_for_some_changes_only() {
        let kept = Settings::default();
        let lacks = |change: &dyn Fn(&mut Settings)| {
            let mut new = kept.clone();
            change(&mut new);
            kept.lacks(&new).into_iter().map(|lack| lack.key).collect::<Vec<_>>()
        };
        assert_eq!(lacks(&|_| {}), [""; 0]);
        assert_eq!(lacks(&|s| (s.prevalence_below, s.vendor_servers_below) = (64, 99)), [""; 0]);
        assert_eq!(lacks(&|s| (s.update_interval, s.urls_per_destination) = (Span::ZERO, 5000)), [""; 0]);
        assert_eq!(lacks(&|s| (s.max_clock_skew, s.warm_up, s.report_late) = (Span::ZERO, Span::days(3), false)), [""; 0]);
        assert_eq!(lacks(&|s| s.track_workstations = false), [""; 0]);
        assert_eq!(lacks(&|s| s.prevalence_below = 65), ["query.prevalence_below"]);
        assert_eq!(
            lacks(&|s| (s.lookback, s.urls_per_destination) = (Span::days(20), 5)),
            ["query.lookback", "limits.urls_per_destination"]
        );
        assert_eq!(
            lacks(&|s| (s.new_within, s.prevalence_window) = (Span::hours(9), Span::days(1))),
            ["query.new_within", "query.prevalence_window"]
        );
        let small = Settings { track_workstations: false, ..Settings::default() };
        assert_eq!(small.lacks(&kept).len(), 1);
    }
}
