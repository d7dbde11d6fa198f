//! Other settings for a state that stands. What follows from the rows is derived anew, as after a load, and every candidate judged at once,
//! at its tenant's clock. Only for settings by which the same rows would have been kept: [`Settings::lacks`] says which.

use super::{Detector, Effect, Settings};

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
        self.begin_snapshot();
        let mut sections = Vec::new();
        while !self.snapshot_step(usize::MAX, &mut sections) {}
        *self = Detector::new(new);
        for (section, bytes) in sections.into_iter().filter(|(section, _)| *section != super::snapshot::Section::Settings) {
            self.restore_section(section, &bytes).expect("INV-copy: what was copied can be read");
        }
        self.finish_restore().expect("INV-copy: what was copied fits together");
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
        pairs.filter_map(|((key, stored), (_, configured))| Some(Lack { key, stored, configured, missing: missing(key)? })).collect()
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
