//! Limits on what is kept: the open findings are the rows of the query over what the limits left of the baseline.
//!
//! Owns: the documented rule of eviction, said a second time over plain lists, and with it a model that forgets rows at the instants at
//! which the rule evicts their connections. Findings say by `baseline.evicted` when they may be wrong for it: exactly then, and the others
//! are rows of the query over everything that arrived.

use std::collections::{BTreeMap, BTreeSet};

use firstseen::defender::Body;
use firstseen::detector::{Detector, Effect, Limits, Settings};
use firstseen::finding::{Change, ChangeKind};
use firstseen::time::{Span, Ticks};

use super::compare::{Open, key_of};
use super::determinism::export;
use super::fleet::{Owned, Shape, generate};
use crate::model::{Key, Model};
use crate::say;

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    last: Ticks,
    /// While it is new: its first event, the last before it, and what may be hidden.
    new: Option<(Ticks, Option<Ticks>)>,
}

/// The rule for one tenant.
#[derive(Debug, Default)]
struct Rule {
    connections: BTreeMap<Key, Remembered>,
    /// By device: how many are kept at most, and the horizon.
    devices: BTreeMap<String, (usize, Option<Ticks>)>,
    /// By device: its last qualifying event.
    heard: BTreeMap<String, Ticks>,
    horizon: Option<Ticks>,
    /// Class of each connection that counts for all devices.
    classes: Vec<i64>,
    /// The last event's connection was not known.
    grown: bool,
}

struct Tenant {
    rule: Rule,
    /// Over what is left, and over everything.
    left: Model,
    all: Model,
    open: Open,
    clock: Ticks,
    /// What is remembered when changes are said: before limits of all devices take from it.
    judged: BTreeMap<Key, Remembered>,
}

#[derive(Debug, Default)]
struct Tally {
    fleets: u64,
    opened: u64,
    marked: u64,
    untrue: u64,
    evicted: u64,
    retracted: u64,
}

fn class(settings: &Settings, t: Ticks) -> i64 {
    t.0 >> (settings.lookback.0 / 2048).ilog2()
}

fn class_end(settings: &Settings, class: i64) -> Ticks {
    Ticks(((class + 1) << (settings.lookback.0 / 2048).ilog2()) - 1)
}

impl Rule {
    fn horizon_of(&self, device: &str) -> Option<Ticks> {
        self.devices.get(device).and_then(|(_, horizon)| *horizon).max(self.horizon)
    }

    /// First days that are over at `now`; the keys that a horizon hides from then on.
    fn pass(&mut self, now: Ticks, settings: &Settings) -> Vec<Key> {
        let mut gone = Vec::new();
        let over: Vec<Key> = self
            .connections
            .iter()
            .filter(|(_, known)| known.new.is_some_and(|(first, _)| first.plus(settings.new_within) <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            let last = self.connections[&key].last;
            self.connections.get_mut(&key).unwrap().new = None;
            if Some(last) <= self.horizon_of(&key.0) {
                if Some(last) > self.horizon {
                    self.uncount(class(settings, last));
                }
                self.connections.remove(&key);
                gone.push(key);
            }
        }
        gone
    }

    fn uncount(&mut self, class: i64) {
        if let Some(at) = self.classes.iter().position(|c| *c == class) {
            self.classes.swap_remove(at);
        }
    }

    fn tidy_classes(&mut self, now: Ticks, settings: &Settings) {
        let floor = class(settings, Ticks(now.minus(settings.lookback).0 + 1));
        self.classes.retain(|class| *class >= floor);
    }

    fn live(&self, key: &Key, now: Ticks, settings: &Settings) -> Option<Remembered> {
        let horizon = self.horizon_of(&key.0);
        let is_live = |known: &Remembered| known.new.is_some() || (known.last > now.minus(settings.lookback) && Some(known.last) > horizon);
        self.connections.get(key).copied().filter(is_live)
    }

    /// A qualifying event at `t`; the keys that are evicted for it, and whether its row is remembered.
    fn event(&mut self, key: &Key, t: Ticks, now: Ticks, settings: &Settings) -> (Vec<Key>, bool) {
        let quiet = settings.lookback.minus(settings.new_within);
        self.grown = false;
        let heard = self.heard.entry(key.0.clone()).or_insert(t);
        if *heard <= now.minus(settings.lookback)
            && let Some((kept, _)) = self.devices.get_mut(&key.0)
        {
            // All of it is out of the lookback.
            *kept = 0;
        }
        *heard = t.max(*heard);
        let (live, before) = (self.live(key, now, settings), self.horizon_of(&key.0));
        let in_time = t > now.minus(settings.new_within);
        if let Some(Remembered { last, new: Some((first, hidden)) }) = live {
            let first = if in_time { first.min(t) } else { first };
            self.recount(Some(last), last.max(t), settings);
            self.connections.insert(key.clone(), Remembered { last: last.max(t), new: Some((first, hidden)) });
            return (Vec::new(), true);
        }
        let last = live.map(|known| known.last);
        let is_new = in_time && last.is_none_or(|last| t > last.plus(quiet));
        if !is_new && Some(t) <= last.max(before) {
            return (Vec::new(), Some(t) > before);
        }
        self.grown = last.is_none();
        let gone = if last.is_none() { self.make_way(&key.0, now, settings) } else { Vec::new() };
        let horizon = self.horizon_of(&key.0);
        if !is_new && Some(t) <= horizon {
            return (gone, false);
        }
        self.tidy_classes(now, settings);
        self.recount(last, t, settings);
        let new = is_new.then_some((t, horizon.filter(|h| last.is_none() && *h > now.minus(settings.lookback))));
        self.connections.insert(key.clone(), Remembered { last: t, new });
        (gone, true)
    }

    /// What was below the floor counts no more, whatever comes.
    fn recount(&mut self, from: Option<Ticks>, to: Ticks, settings: &Settings) {
        let counts = |t: Ticks| Some(t) > self.horizon;
        let (from, to) =
            (from.filter(|t| counts(*t)).map(|t| class(settings, t)), Some(to).filter(|t| counts(*t)).map(|t| class(settings, t)));
        if from != to {
            from.into_iter().for_each(|class| self.uncount(class));
            self.classes.extend(to);
        }
    }

    fn make_way(&mut self, device: &str, now: Ticks, settings: &Settings) -> Vec<Key> {
        let share = settings.limits.connections_per_device as usize;
        let stride = (share / 32).max(1);
        let mut gone = Vec::new();
        if self.devices.get(device).is_some_and(|(kept, _)| *kept >= share) {
            let mut lasts: Vec<(Ticks, Key)> = self
                .connections
                .keys()
                .filter(|key| key.0 == device)
                .filter_map(|key| Some((self.live(key, now, settings)?.last, key.clone())))
                .collect();
            lasts.sort();
            let n = lasts.len();
            let kept = if n <= share - stride {
                n
            } else {
                let horizon = lasts[n - (share - 2 * stride) - 1].0;
                self.tidy_classes(now, settings);
                let (out, left): (Vec<_>, Vec<_>) = lasts.into_iter().partition(|(last, _)| *last <= horizon);
                for (last, key) in out {
                    if Some(last) > self.horizon {
                        self.uncount(class(settings, last));
                    }
                    self.connections.remove(&key);
                    gone.push(key);
                }
                self.devices.get_mut(device).unwrap().1 = self.devices[device].1.max(Some(horizon));
                left.len()
            };
            self.devices.get_mut(device).unwrap().0 = kept;
        }
        self.devices.entry(device.to_owned()).or_default().0 += 1;
        gone
    }

    /// The class that was silent longest goes; its keys.
    fn evict_class(&mut self, clock: Ticks, settings: &Settings) -> Option<Vec<Key>> {
        let oldest = *self.classes.iter().min()?;
        let horizon = class_end(settings, oldest);
        if horizon >= clock {
            return None;
        }
        self.classes.retain(|class| *class != oldest);
        self.horizon = self.horizon.max(Some(horizon));
        let reaches_new = horizon > clock.minus(settings.new_within);
        let goes = |known: &Remembered| known.last <= horizon && (known.new.is_none() || reaches_new);
        let gone: Vec<Key> = self.connections.iter().filter(|(_, known)| goes(known)).map(|(key, _)| key.clone()).collect();
        self.connections.retain(|key, _| !gone.contains(key));
        Some(gone)
    }
}

impl Tenant {
    fn pass(&mut self, now: Ticks, settings: &Settings) {
        self.judged.clone_from(&self.rule.connections);
        self.rule.pass(now, settings).iter().for_each(|key| self.left.forget(key));
    }

    /// Takes changes in; each is marked exactly when it may be wrong, and true when it is not marked.
    fn apply(&mut self, effects: &[Effect], settings: &Settings, place: &str, tally: &mut Tally) {
        for effect in effects {
            let Effect::Change(change) = effect else { continue };
            self.open.apply(change).unwrap_or_else(|e| panic!("{place}: {e}"));
            tally.retracted += u64::from(change.cause.contains("evicted"));
            if change.kind == ChangeKind::Opened || change.kind == ChangeKind::Updated {
                self.judge_mark(change, settings, place, tally);
            }
        }
    }

    fn judge_mark(&self, change: &Change, settings: &Settings, place: &str, tally: &mut Tally) {
        let known = self.judged.get(&key_of(change));
        let hidden = known.and_then(|known| known.new).and_then(|(_, hidden)| hidden);
        let hidden = hidden.filter(|horizon| *horizon > change.at.minus(settings.lookback));
        assert_eq!(change.evicted, hidden, "{place}: the mark of {change:?}");
        let is_true =
            self.all.answer(change.at).get(&key_of(change)).is_some_and(|row| (row.count, row.first) == (change.count, change.first_seen));
        assert!(is_true || hidden.is_some(), "{place}: not marked, and not true: {change:?}");
        tally.opened += 1;
        tally.marked += u64::from(hidden.is_some());
        tally.untrue += u64::from(!is_true);
    }

    fn check(&self, place: &str) {
        let answer = self.left.answer(self.clock);
        let rows = answer.iter().map(|(key, row)| (key, (row.count, row.prevalence, &row.urls, row.first, row.last)));
        let open = self.open.rows.iter().map(|(key, (_, row))| (key, (row.count, row.prevalence, &row.urls, row.first, row.last)));
        assert!(rows.eq(open), "{place}, at {}: the answer is {answer:#?}\nbut open is {:#?}", self.clock, self.open.rows);
    }
}

fn run(records: &[Owned], settings: &Settings, seed: u64, tally: &mut Tally) {
    let (mut detector, mut tenants) = (Detector::new(settings.clone()), BTreeMap::<&str, Tenant>::new());
    for (n, owned) in records.iter().enumerate() {
        let (record, place) = (owned.record(), format!("seed {seed}, record {n} ({owned:?})"));
        let event_time = Model::event_time(&record);
        let clock = tenants.get(owned.tenant).map_or(record.arrival, |tenant| tenant.clock.max(record.arrival));
        if event_time.is_some_and(|t| t > clock.plus(settings.max_clock_skew)) {
            continue;
        }
        let tenant = tenants.entry(owned.tenant).or_insert_with(|| Tenant {
            rule: Rule::default(),
            left: Model::new(settings.clone()),
            all: Model::new(settings.clone()),
            open: Open::default(),
            clock,
            judged: BTreeMap::new(),
        });
        // Time alone: each change is judged at its own instant.
        let mut effects = Vec::new();
        detector.advance(owned.tenant, clock, &mut effects);
        for effect in &effects {
            if let Effect::Change(change) = effect {
                tenant.pass(change.at, settings);
                tenant.apply(std::slice::from_ref(effect), settings, &place, tally);
            }
        }
        tenant.clock = clock;
        tenant.pass(clock, settings);
        tenant.check(&place);
        // The record.
        tenant.rule.grown = false;
        if let Body::Network(event) = &record.body
            && event.qualifies()
            && event.timestamp > clock.minus(settings.lookback)
        {
            let key = (event.device_name.to_owned(), event.remote_ip.to_owned(), event.remote_port);
            let (gone, remembered) = tenant.rule.event(&key, event.timestamp, clock, settings);
            tally.evicted += gone.len() as u64;
            gone.iter().for_each(|key| tenant.left.forget(key));
            if tenant.left.insert(&record) && !remembered {
                tenant.left.forget_last();
            }
        } else {
            tenant.left.insert(&record);
        }
        tenant.all.insert(&record);
        tenant.judged.clone_from(&tenant.rule.connections);
        let grown = tenant.rule.grown;
        for tenant in tenants.values_mut().filter(|_| grown) {
            tenant.rule.tidy_classes(tenant.clock, settings);
        }
        let counted: usize = tenants.values().map(|tenant| tenant.rule.classes.len()).sum();
        let mut over = settings.limits.tracked_connections.filter(|_| grown).map_or(0, |most| counted.saturating_sub(most as usize));
        let exceeded = over > 0;
        while over > 0 {
            let most = tenants.iter().max_by_key(|(name, tenant)| (tenant.rule.classes.len(), std::cmp::Reverse(order(&detector, name))));
            let most = *most.unwrap().0;
            let tenant = tenants.get_mut(most).unwrap();
            let before = tenant.rule.classes.len();
            let Some(gone) = tenant.rule.evict_class(tenant.clock, settings) else { break };
            over = over.saturating_sub(before - tenant.rule.classes.len());
            tally.evicted += gone.len() as u64;
            gone.iter().for_each(|key| tenant.left.forget(key));
        }
        let mut effects = Vec::new();
        detector.record(&record, &mut effects);
        if exceeded {
            let counted: Vec<(&str, usize)> = tenants.iter().map(|(name, tenant)| (*name, tenant.rule.classes.len())).collect();
            let found = detector.take_usage().connections.0;
            assert_eq!(found, counted.iter().map(|(_, n)| *n as u64).sum::<u64>(), "{place}: {counted:?} are counted");
        }
        for (name, tenant) in &mut tenants {
            let mine: Vec<Effect> = effects.iter().filter(|e| matches!(e, Effect::Change(c) if c.tenant == *name)).cloned().collect();
            tenant.apply(&mine, settings, &place, tally);
            if *name == owned.tenant || !mine.is_empty() {
                tenant.check(&place);
            }
        }
        if n % 5 == 0 || exceeded {
            same_memory(&detector, &tenants, settings, &place);
        }
        if n % 150 == 149 {
            let mut sections = Vec::new();
            detector.begin_snapshot();
            while !detector.snapshot_step(1 << 20, &mut sections) {}
            let before = export(&detector);
            detector = Detector::with_hash_seed(Settings::default(), seed ^ n as u64);
            for (section, bytes) in sections {
                detector.restore_section(section, &bytes).unwrap();
            }
            detector.finish_restore().unwrap();
            assert_eq!(export(&detector), before, "{place}");
        }
    }
    tally.fleets += 1;
}

/// What is remembered of connections is what the rule remembers.
fn same_memory(detector: &Detector, tenants: &BTreeMap<&str, Tenant>, settings: &Settings, place: &str) {
    let mut kept = BTreeSet::new();
    for line in export(detector).lines().filter(|line| line.starts_with(r#"{"row":"connection""#)) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let port = line["port"].as_u64().map(|port| port as u16);
        kept.insert((text("tenant"), (text("device"), text("ip"), port), text("last"), line.get("candidate").is_some()));
    }
    let mut remembered = BTreeSet::new();
    for (name, tenant) in tenants {
        for key in tenant.rule.connections.keys() {
            if let Some(known) = tenant.rule.live(key, tenant.clock, settings) {
                remembered.insert(((*name).to_owned(), key.clone(), known.last.to_string(), known.new.is_some()));
            }
        }
    }
    let (more, less): (Vec<_>, Vec<_>) = (kept.difference(&remembered).collect(), remembered.difference(&kept).collect());
    assert!(more.is_empty() && less.is_empty(), "{place}: kept beyond the rule {more:?}, not kept {less:?}");
}

/// The place of a tenant among those that the detector knows; one that it will know with this record comes last.
fn order(detector: &Detector, name: &str) -> usize {
    detector.clocks().position(|(known, _)| known == name).unwrap_or(usize::MAX)
}

#[test]
fn evicted_connections_are_forgotten_at_the_documented_instants_and_findings_say_so() {
    let settings = |share: u32, tracked: Option<u64>| Settings {
        update_interval: Span::ZERO,
        report_late: false,
        limits: Limits { tracked_connections: tracked, state_memory: None, connections_per_device: share },
        ..Settings::default()
    };
    let kinds = [settings(8, None), settings(1000, Some(60)), settings(20, Some(90)), settings(5, Some(200)), settings(1000, Some(20))];
    let mut tally = Tally::default();
    for seed in 0..30 {
        run(&generate(Shape::SMALL, 3000 + seed), &kinds[seed as usize % kinds.len()], seed, &mut tally);
    }
    say(&format!("oracle, limits: {tally:?}, 0 differences, every finding without the mark is true"));
    assert!(
        tally.evicted > 1000 && tally.marked > 100 && tally.untrue > 20 && tally.retracted > 20 && tally.marked < tally.opened,
        "{tally:?}"
    );
    // Limits that are not reached change nothing.
    let records = generate(Shape::SMALL, 1);
    let said = |settings: &Settings| {
        let (mut detector, mut effects) = (Detector::new(settings.clone()), Vec::new());
        records.iter().for_each(|owned| detector.record(&owned.record(), &mut effects));
        (effects, export(&detector))
    };
    assert_eq!(said(&settings(250_000, None)), said(&settings(1000, Some(1_000_000))));
    let devices: BTreeSet<&str> = records.iter().map(|r| r.tenant).collect();
    assert_eq!(devices.len(), 2);
}
