//! The judge is judged: what says the right changes passes, and with one small fault it must not.
//!
//! Owns: a subject that is right by construction (it says what the model says), and the faults, each of which spoils every tenth
//! change that it fits. Where a fault goes unseen, the oracle proves less than it says.

use std::collections::{BTreeMap, HashMap};

use firstseen::defender::Record;
use firstseen::detector::{Effect, Settings};
use firstseen::finding::{Change, ChangeKind, FindingId, OpeningEvent};
use firstseen::time::{Span, Ticks};

use super::compare::{Subject, judge};
use super::fleet::{Shape, generate};
use crate::model::Key;
use crate::model::changes::{ChangeModel, Expected, Outcome};

/// Says what the model says.
struct Right {
    settings: Settings,
    tenants: BTreeMap<String, ChangeModel>,
    ids: HashMap<(String, Key, u32), FindingId>,
}

impl Right {
    fn new(settings: &Settings) -> Right {
        Right { settings: settings.clone(), tenants: BTreeMap::new(), ids: HashMap::new() }
    }

    fn tenant(&mut self, tenant: &str) -> &mut ChangeModel {
        let settings = &self.settings;
        self.tenants.entry(tenant.to_owned()).or_insert_with(|| ChangeModel::new(settings.clone()))
    }

    fn say(&mut self, tenant: &str, said: Vec<Expected>, effects: &mut Vec<Effect>) {
        for expected in said {
            let next = FindingId((self.ids.len() as u128).to_be_bytes());
            let id = *self.ids.entry((tenant.to_owned(), expected.key.clone(), expected.life)).or_insert(next);
            effects.push(Effect::Change(Box::new(change(tenant, id, expected))));
        }
    }
}

fn change(tenant: &str, id: FindingId, expected: Expected) -> Change {
    let Expected { kind, at, key: (device_name, remote_ip, remote_port), revision, row, .. } = expected;
    Change {
        id,
        revision,
        kind,
        at,
        tenant: tenant.to_owned(),
        device_name,
        device_id: String::new(),
        os_platform: String::new(),
        device_type: String::new(),
        remote_ip,
        remote_port,
        urls: row.urls.into_iter().collect(),
        urls_truncated: false,
        first_seen: row.first,
        last_seen: row.last,
        count: row.count,
        prevalence: row.prevalence,
        vendors: row.vendors.into_iter().collect(),
        previous_seen: None,
        observed_since: Ticks::MIN,
        device_since: Ticks::MIN,
        gap: None,
        evicted: None,
        partial: None,
        late: false,
        suppressed_by: None,
        cause: if kind == ChangeKind::Retracted { "it left the answer" } else { "" },
        event: OpeningEvent::default(),
    }
}

impl Subject for Right {
    fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>) {
        let model = self.tenant(record.tenant);
        let Some(clock) = model.clock_for(record) else {
            effects.push(Effect::TimestampAhead);
            return;
        };
        let mut said = model.advance(clock);
        let (outcome, by_record) = model.record(record);
        said.extend(by_record);
        self.say(record.tenant, said, effects);
        effects.extend((outcome == Outcome::Repeat).then_some(Effect::Repeat));
    }

    fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>) {
        let said = self.tenant(tenant).advance(to);
        self.say(tenant, said, effects);
    }
}

/// Whether a change is one to spoil.
type Fits = fn(&Change) -> bool;
/// Spoils a change; `None` drops it.
type Fault = fn(Change) -> Option<Change>;

struct Faulty {
    right: Right,
    fits: Fits,
    fault: Fault,
    seen: u32,
}

impl Faulty {
    fn spoil(&mut self, from: usize, effects: &mut Vec<Effect>) {
        for effect in effects.split_off(from) {
            match effect {
                Effect::Change(change) if (self.fits)(&change) => {
                    self.seen += 1;
                    let kept = if self.seen % 10 == 5 { (self.fault)(*change) } else { Some(*change) };
                    effects.extend(kept.map(|change| Effect::Change(Box::new(change))));
                }
                other => effects.push(other),
            }
        }
    }
}

impl Subject for Faulty {
    fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>) {
        let from = effects.len();
        self.right.record(record, effects);
        self.spoil(from, effects);
    }

    fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>) {
        let from = effects.len();
        self.right.advance(tenant, to, effects);
        self.spoil(from, effects);
    }
}

#[test]
fn a_fault_is_seen() {
    let any: Fits = |change| !change.late;
    let faults: [(&str, Fits, Fault); 9] = [
        ("a change is lost", any, |_| None),
        ("a retraction is lost", |change| change.kind == ChangeKind::Retracted && !change.late, |_| None),
        ("a tick too late", any, |change| Some(Change { at: change.at.plus(Span(1)), ..change })),
        ("a tick too early", any, |change| Some(Change { at: change.at.minus(Span(1)), ..change })),
        ("one counted twice", any, |change| Some(Change { count: change.count + 1, ..change })),
        ("one device too many", any, |change| Some(Change { prevalence: change.prevalence + 1, ..change })),
        ("a URL that is none", any, |mut change| {
            change.urls.insert(0, String::new());
            Some(change)
        }),
        ("a revision left out", any, |change| Some(Change { revision: change.revision + 1, ..change })),
        (
            "closed for retracted",
            |change| change.kind == ChangeKind::Closed && !change.late,
            |change| Some(Change { kind: ChangeKind::Retracted, cause: "a fault", ..change }),
        ),
    ];
    let settings = Settings { update_interval: Span::ZERO, ..Settings::default() };
    let records = generate(Shape::SMALL, 7);
    judge(&mut Right::new(&settings), &records, &settings, 7).unwrap();
    for (name, fits, fault) in faults {
        let mut faulty = Faulty { right: Right::new(&settings), fits, fault, seen: 0 };
        let verdict = judge(&mut faulty, &records, &settings, 7);
        assert!(verdict.is_err() && faulty.seen >= 5, "{name}: unseen ({} changes fitted)", faulty.seen);
    }
}
