//! What readers (HTTP, metrics) may know: the open findings, the clocks, whether the process is well. The pipeline writes it from the
//! core's effects; readers never touch the core's state, and what they read may be a moment old.

use crate::finding::{Change, ChangeKind, FindingId};
use crate::suppress::Rules;
use crate::time::Ticks;
use dashmap::DashMap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The open findings and the tenants' clocks.
#[derive(Debug, Default)]
pub struct View {
    open: DashMap<FindingId, Arc<Change>>,
    clocks: DashMap<String, Ticks>,
    rules: RwLock<Vec<RuleHits>>,
}

/// A suppression rule in force, and what it matched since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleHits {
    /// Its name.
    pub rule: String,
    /// Why it is there.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// From this instant on it matches nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Ticks>,
    /// Changes that it marked.
    pub changes: u64,
    /// The instant of the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_hit: Option<Ticks>,
}

/// Which open findings to list; `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Tenant, exactly.
    pub tenant: Option<String>,
    /// Device name, case ignored.
    pub device: Option<String>,
    /// Remote address, exactly.
    pub ip: Option<String>,
}

impl Selection {
    fn matches(&self, change: &Change) -> bool {
        self.tenant.as_ref().is_none_or(|t| *t == change.tenant)
            && self.device.as_ref().is_none_or(|d| d.eq_ignore_ascii_case(&change.device_name))
            && self.ip.as_ref().is_none_or(|i| *i == change.remote_ip)
    }
}

impl View {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> View {
        View::default()
    }

    /// Takes a change in: an opened or updated finding is open with these values, a retracted or closed one is gone.
    /// A change that repeats or precedes what is known (replay) changes nothing.
    pub fn apply(&self, change: &Change) {
        match change.kind {
            ChangeKind::Opened | ChangeKind::Updated => {
                let known = self.open.get(&change.id).is_some_and(|known| known.revision >= change.revision);
                if !known {
                    self.open.insert(change.id, Arc::new(change.clone()));
                }
            }
            ChangeKind::Retracted | ChangeKind::Closed => {
                self.open.remove_if(&change.id, |_, known| known.revision < change.revision);
            }
        }
    }

    /// These suppression rules are in force now; what a rule of the same name matched so far is kept.
    pub fn set_rules(&self, rules: &Rules) {
        let mut known = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let hits = |name: &str| known.iter().find(|k| k.rule == *name).map_or((0, None), |k| (k.changes, k.last_hit));
        *known = rules
            .iter()
            .map(|rule| {
                let (changes, last_hit) = hits(&rule.name);
                let (rule, reason, owner, expires) = (rule.name.to_string(), rule.reason.clone(), rule.owner.clone(), rule.expires);
                RuleHits { rule, reason, owner, expires, changes, last_hit }
            })
            .collect();
    }

    /// A rule marked a change of this instant.
    pub fn rule_hit(&self, name: &str, at: Ticks) {
        let mut known = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(hits) = known.iter_mut().find(|k| k.rule == *name) {
            hits.changes += 1;
            hits.last_hit = hits.last_hit.max(Some(at));
        }
    }

    /// The suppression rules in force.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleHits> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Marks every open finding anew.
    pub fn mark_all(&self, mark: impl Fn(&mut Change)) {
        for mut entry in self.open.iter_mut() {
            let mut change = (**entry.value()).clone();
            mark(&mut change);
            *entry.value_mut() = Arc::new(change);
        }
    }

    /// Notes a tenant's arrival clock.
    pub fn set_arrival_clock(&self, tenant: &str, clock: Ticks) {
        if let Some(mut known) = self.clocks.get_mut(tenant) {
            *known = clock;
            return;
        }
        self.clocks.insert(tenant.to_owned(), clock);
    }

    /// How many findings are open.
    #[must_use]
    pub fn open_findings(&self) -> usize {
        self.open.len()
    }

    /// The tenants' arrival clocks.
    #[must_use]
    pub fn arrival_clocks(&self) -> BTreeMap<String, Ticks> {
        self.clocks.iter().map(|e| (e.key().clone(), *e.value())).collect()
    }

    /// The last change of each open finding that is selected, the newest first; findings of one instant in the order of their ids.
    #[must_use]
    pub fn select(&self, selection: &Selection) -> Vec<Arc<Change>> {
        let mut found: Vec<Arc<Change>> =
            self.open.iter().filter(|e| selection.matches(e.value())).map(|e| Arc::clone(e.value())).collect();
        found.sort_by(|a, b| b.at.cmp(&a.at).then(a.id.cmp(&b.id)));
        found
    }

    /// The last change of one open finding.
    #[must_use]
    pub fn finding(&self, id: FindingId) -> Option<Arc<Change>> {
        self.open.get(&id).map(|e| Arc::clone(e.value()))
    }
}

/// Whether the process lives and is ready, and if not, why not.
#[derive(Debug)]
pub struct Health(RwLock<Reasons>);

#[derive(Debug)]
struct Reasons {
    not_live: Option<String>,
    not_ready: Option<String>,
    /// What keeps it from answering whatever else is the case.
    held_up: Option<String>,
}

impl Health {
    /// Live, and not ready because it starts.
    #[must_use]
    pub fn new() -> Health {
        Health(RwLock::new(Reasons { held_up: None, not_live: None, not_ready: Some("starting: the state is not restored yet".into()) }))
    }

    /// All partitions are assigned and the state is restored.
    pub fn set_ready(&self) {
        self.write(|r| r.not_ready = None);
    }

    /// It does not answer for all data now, and why.
    pub fn set_unready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.write(|r| r.not_ready = Some(reason));
    }

    /// Something holds all answers up, and why; readiness waits for [`Health::go_on`], whatever else is said.
    pub fn hold_up(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.write(|r| r.held_up = Some(reason));
    }

    /// What held everything up is over.
    pub fn go_on(&self) {
        self.write(|r| r.held_up = None);
    }

    /// The pipeline has stopped for good: only a restart helps.
    pub fn set_dead(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.write(|r| r.not_live = Some(reason));
    }

    /// Why the process is not live; `None` if it is.
    #[must_use]
    pub fn not_live(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).not_live.clone()
    }

    /// Why the process is not ready; `None` if it is. One that is not live is not ready.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let reasons = self.0.read().unwrap_or_else(PoisonError::into_inner);
        reasons.not_live.clone().or_else(|| reasons.held_up.clone()).or_else(|| reasons.not_ready.clone())
    }

    fn write(&self, change: impl FnOnce(&mut Reasons)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::json::tests::example;
    use crate::time::Span;

    #[test]
    fn findings_come_and_go_with_their_changes() {
        let view = View::new();
        let opened = example();
        let updated = Change { kind: ChangeKind::Updated, revision: 2, count: 5, ..example() };
        let closed = Change { kind: ChangeKind::Closed, revision: 3, ..example() };
        view.apply(&opened);
        view.apply(&updated);
        view.apply(&opened);
        assert_eq!(view.finding(opened.id).unwrap().count, 5, "a repeat of revision 1 must not undo revision 2");
        view.apply(&closed);
        assert_eq!(view.open_findings(), 0);
        view.apply(&Change { revision: 4, ..example() });
        view.apply(&Change { kind: ChangeKind::Retracted, revision: 3, ..example() });
        assert_eq!(view.open_findings(), 1, "a repeated retraction must not close what opened again");
    }

    #[test]
    fn selection_and_order() {
        let view = View::new();
        let change = |n: u8, device: &str, later: i64| Change {
            id: FindingId([n; 16]),
            device_name: device.into(),
            at: example().at.plus(Span::seconds(later)),
            ..example()
        };
        for c in [change(1, "a", 0), change(3, "b", 5), change(2, "b", 5)] {
            view.apply(&c);
        }
        let ids = |s: Selection| view.select(&s).iter().map(|c| c.id.0[0]).collect::<Vec<_>>();
        assert_eq!(ids(Selection::default()), [2, 3, 1]);
        assert_eq!(ids(Selection { device: Some("A".into()), ..Selection::default() }), [1]);
        assert_eq!(ids(Selection { ip: Some("192.0.2.1".into()), ..Selection::default() }), [0u8; 0]);
    }

    #[test]
    fn rules_keep_what_they_matched_and_open_findings_get_new_marks() {
        let rules = |names: &[&str]| {
            let rule = |name: &&str| format!("[[suppress]]\nname = \"{name}\"\nport = 443\nreason = \"r\"\nowner = \"o\"\n");
            Rules::default().and_file(&names.iter().map(rule).collect::<String>()).unwrap()
        };
        let view = View::new();
        view.set_rules(&rules(&["a", "b"]));
        let (early, late) = (example().at, example().at.plus(Span::seconds(1)));
        view.rule_hit("a", late);
        view.rule_hit("a", early);
        view.rule_hit("gone", late);
        view.set_rules(&rules(&["a", "c"]));
        let hits: Vec<_> = view.rules().into_iter().map(|r| (r.rule, r.changes, r.last_hit)).collect();
        assert_eq!(hits, [("a".to_owned(), 2, Some(late)), ("c".to_owned(), 0, None)]);
        view.apply(&example());
        view.mark_all(|change| change.suppressed_by = Some("c".into()));
        assert_eq!(view.finding(example().id).unwrap().suppressed_by.as_deref(), Some("c"));
    }

    #[test]
    fn health_says_why() {
        let health = Health::new();
        assert!(health.not_ready().unwrap().starts_with("starting"));
        health.set_ready();
        assert_eq!((health.not_live(), health.not_ready()), (None, None));
        health.set_unready("another instance is in the group");
        assert_eq!(health.not_ready().as_deref(), Some("another instance is in the group"));
        health.set_ready();
        health.hold_up("the disk is full");
        health.set_ready();
        assert_eq!(health.not_ready().as_deref(), Some("the disk is full"));
        health.go_on();
        assert_eq!(health.not_ready(), None);
        health.set_dead("the state directory is gone");
        assert_eq!(health.not_ready().as_deref(), Some("the state directory is gone"));
    }
}
