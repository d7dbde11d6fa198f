//! Suppression rules: which findings somebody has looked at and need not be shown again.
//!
//! Owns the rules and whether one matches a change of a finding. They act on changes on their way out and never in the detector: ids,
//! revisions and instants don't depend on them, so what was published is recognised whatever the rules were then. A rule expires by the
//! instant of the change, not by a clock. Every matcher errs on the side of showing: what can't be read, or is only partly trusted, does
//! not match. Reading rules is [`read`]'s, matching addresses, domains, paths and expressions each a file's.

mod address;
mod domain;
mod expression;
mod pattern;
pub mod read;
#[cfg(test)]
mod tests;
pub mod watch;

use crate::detector::Settings;
use crate::finding::json::to_json;
use crate::finding::severity::Privileged;
use crate::finding::{Change, ChangeKind};
use crate::time::Ticks;
use address::Networks;
use domain::Domains;
use expression::Expression;
use pattern::{Names, Processes};
use std::cell::OnceCell;
use std::sync::Arc;

/// A finding as rules see it: what is not given is not known, and matches nothing.
pub struct Facts<'a> {
    at: Ticks,
    device: &'a str,
    ip: &'a str,
    port: Option<u16>,
    urls: &'a [String],
    urls_truncated: bool,
    company: &'a str,
    path: &'a str,
    sha256: &'a str,
    /// The finding as it is written, for expressions; made when the first asks.
    json: OnceCell<serde_json::Value>,
    make_json: &'a dyn Fn() -> serde_json::Value,
}

impl<'a> Facts<'a> {
    /// Of a change of this instant; `make_json` gives it as it is written.
    #[must_use]
    pub fn new(at: Ticks, make_json: &'a dyn Fn() -> serde_json::Value) -> Facts<'a> {
        let (device, ip, company, path, sha256) = ("", "", "", "", "");
        Facts { at, device, ip, port: None, urls: &[], urls_truncated: false, company, path, sha256, json: OnceCell::new(), make_json }
    }

    /// The device's name.
    #[must_use]
    pub fn device(self, device: &'a str) -> Facts<'a> {
        Facts { device, ..self }
    }

    /// The address, its port, its names, and whether it has more names than these.
    #[must_use]
    pub fn remote(self, ip: &'a str, port: Option<u16>, urls: &'a [String], urls_truncated: bool) -> Facts<'a> {
        Facts { ip, port, urls, urls_truncated, ..self }
    }

    /// The process of the opening event: its company, its path with the file's name, its SHA-256 in hex.
    #[must_use]
    pub fn process(self, company: &'a str, path: &'a str, sha256: &'a str) -> Facts<'a> {
        Facts { company, path, sha256, ..self }
    }

    fn json(&self) -> &serde_json::Value {
        self.json.get_or_init(self.make_json)
    }
}

/// A rule. All its matchers must match.
#[derive(Debug)]
pub struct Rule {
    /// Its name, in `suppressed_by` and in the metric.
    pub name: Arc<str>,
    /// Why what it matches needs no attention.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Changes of this instant and later are not matched.
    pub expires: Option<Ticks>,
    /// As it was written: equal texts are equal rules.
    source: toml::Table,
    domains: Option<Domains>,
    networks: Option<Networks>,
    vendors: Option<Vec<String>>,
    devices: Option<Names>,
    ports: Option<Vec<u16>>,
    processes: Option<Processes>,
    expression: Option<Expression>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.name == other.name && self.source == other.source
    }
}

impl Rule {
    /// Whether the rule matches; the cheapest matchers are asked first.
    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.expires.is_none_or(|expires| facts.at < expires)
            && self.ports.as_ref().is_none_or(|ports| facts.port.is_some_and(|port| ports.contains(&port)))
            && self.vendors.as_ref().is_none_or(|vendors| vendors.iter().any(|v| v.eq_ignore_ascii_case(facts.company)))
            && self.networks.as_ref().is_none_or(|networks| networks.contain(facts.ip))
            && self.devices.as_ref().is_none_or(|devices| devices.match_name(facts.device))
            && self.processes.as_ref().is_none_or(|processes| processes.match_process(facts.path, facts.sha256))
            && self.domains.as_ref().is_none_or(|domains| !facts.urls_truncated && domains.cover_all(facts.urls))
            && self.expression.as_ref().is_none_or(|expression| expression.is_true(facts.json()))
    }
}

/// All rules in force, in the order in which they are asked. Swapped as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(Arc<Vec<Arc<Rule>>>);

impl Rules {
    /// The rules.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().map(|rule| &**rule)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule that matches.
    #[must_use]
    pub fn first(&self, facts: &Facts<'_>) -> Option<&Rule> {
        self.iter().find(|rule| rule.matches(facts))
    }

    /// Marks a change with the first rule that matches it, or with none.
    pub fn mark(&self, change: &mut Change, settings: &Settings, privileged: &Privileged) {
        change.suppressed_by = None;
        if self.is_empty() {
            return;
        }
        let name = {
            let make_json = || serde_json::from_str(&to_json(change, settings, privileged)).unwrap_or_default();
            let facts = Facts::new(change.at, &make_json)
                .device(&change.device_name)
                .remote(&change.remote_ip, change.remote_port, &change.urls, change.urls_truncated)
                .process(&change.event.company, &change.event.folder_path, &change.event.sha256);
            self.first(&facts).map(|rule| Arc::clone(&rule.name))
        };
        change.suppressed_by = name;
    }

    /// Names of the rules that match nothing from `now` on.
    pub fn expired(&self, now: Ticks) -> impl Iterator<Item = &Rule> {
        self.iter().filter(move |rule| rule.expires.is_some_and(|expires| expires <= now))
    }
}

/// What becomes of a suppressed change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is written with `suppressed_by`.
    #[default]
    Mark,
    /// It is not written, unless it ends a finding.
    Drop,
    /// It is written to this topic instead; one that ends a finding, to both.
    Topic(String),
}

/// The rules, and what becomes of what they match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suppression {
    /// In force.
    pub rules: Rules,
    /// Of what they match.
    pub fate: Fate,
}

impl Suppression {
    /// Whether a change that is marked already is written to the findings topic. One that ends a finding always is: whoever saw the
    /// finding open, before the rule was there or before it matched, must see it end.
    #[must_use]
    pub fn lets_out(&self, change: &Change) -> bool {
        self.fate == Fate::Mark || change.suppressed_by.is_none() || ends(change)
    }

    /// The topic of suppressed changes, if there is one and the change belongs there. One that ends a finding does, for the same reason.
    #[must_use]
    pub fn elsewhere(&self, change: &Change) -> Option<&str> {
        self.topic().filter(|_| change.suppressed_by.is_some() || ends(change))
    }

    /// The topic of suppressed changes, if there is one.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        if let Fate::Topic(topic) = &self.fate { Some(topic) } else { None }
    }
}

/// Whether it ends a finding.
#[must_use]
pub fn ends(change: &Change) -> bool {
    !matches!(change.kind, ChangeKind::Opened | ChangeKind::Updated)
}
