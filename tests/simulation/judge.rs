//! What the output topics must hold in the end: where the promise is exact, the undisturbed run's messages; where messages are gone that had
//! been consumed, or settings changed on the way, what a consumer may rely on.

use std::collections::{BTreeMap, HashMap, HashSet};

use firstseen::kafka::sink::Outgoing;

use super::input::{DEAD_LETTERS, FINDINGS, SUPPRESSED, Step, of_partition, outputs, undisturbed};
use super::run::Outcome;
use super::world::{Sim, World};

/// What the last process holds open: key and revision.
pub(crate) type Open = BTreeMap<Vec<u8>, u32>;

/// Judges the output topics, read as a consumer reads them.
pub(crate) fn judge(sim: &Sim, order: &[Step], open: &Open, outcome: &mut Outcome) -> Result<(), String> {
    let world = sim.world();
    for (log, n) in world.broker.input.iter().zip(0..) {
        let consumed: HashSet<i64> = order.iter().filter(|step| matches!(step, Step::Message(of, _) if *of == n)).map(offset).collect();
        if let Some(lost) = log.messages.iter().find(|m| m.offset >= log.low && !consumed.contains(&m.offset)) {
            return Err(format!("offset {} of log {n} was not consumed", lost.offset));
        }
    }
    // Nothing that is written says otherwise than that it is a finding's change or a dead letter.
    let known = |at: &str| [FINDINGS, SUPPRESSED, DEAD_LETTERS].contains(&at);
    if let Some((other, _)) = world.broker.output.keys().find(|(topic, _)| !known(topic)) {
        return Err(format!("something was written to {other}"));
    }
    consistent(&world, open, outcome)?;
    if world.faults.promise_is_exact() { exact(&world, order) } else { Ok(()) }
}

fn offset(step: &Step) -> i64 {
    match step {
        Step::Message(_, offset) => *offset,
        Step::Advance(..) => -1,
    }
}

fn header<'a>(of: &'a Outgoing, name: &str) -> &'a str {
    let value = of.headers.iter().find(|(header, _)| header == name).map_or(&[][..], |(_, value)| value);
    std::str::from_utf8(value).unwrap_or_default()
}

fn text(of: &Outgoing) -> String {
    String::from_utf8_lossy(&of.payload).chars().take(260).collect()
}

/// Each change stands on a topic once, in order; what ends a finding stands on both, if there are two (where messages are gone, on each that
/// shows the finding as open); a finding's changes, over both, don't
/// contradict each other, and leave open what the state holds open. Each dead letter stands there once.
fn consistent(world: &World, open: &Open, outcome: &mut Outcome) -> Result<(), String> {
    // A finding that was retracted because its messages are gone may be found anew at the very same instant: under the same name, from 1 on.
    let is_of_the_unknown = |of: &&Outgoing| String::from_utf8_lossy(&of.payload).contains("so the state does not hold it.");
    let changes = || world.broker.output.iter().filter(|((topic, _), _)| topic != DEAD_LETTERS).flat_map(|(_, written)| written);
    let unknown: HashSet<&Vec<u8>> = changes().filter(is_of_the_unknown).map(|of| &of.key).collect();
    let anew: HashSet<&Vec<u8>> = changes()
        .filter(|of| world.faults.gaps && unknown.contains(&of.key) && header(of, "revision") == "1")
        .fold(HashMap::<_, usize>::new(), |mut n, of| {
            *n.entry(&of.key).or_default() += 1;
            n
        })
        .into_iter()
        .filter_map(|(key, n)| (n > 1).then_some(key))
        .collect();
    let mut all: BTreeMap<(&[u8], u32), Vec<&Outgoing>> = BTreeMap::new();
    let mut last_of_each: BTreeMap<(&String, &Vec<u8>), &Outgoing> = BTreeMap::new();
    let mut letters = HashSet::new();
    for ((topic, _), written) in &world.broker.output {
        let mut last: HashMap<&[u8], u32> = HashMap::new();
        for of in written {
            if topic == DEAD_LETTERS {
                outcome.dead_letters += 1;
                if !letters.insert((&of.key, header(of, "source-record"))) {
                    return Err(format!("a dead letter stands there twice: {}", String::from_utf8_lossy(&of.key)));
                }
                continue;
            }
            outcome.changes += 1;
            if anew.contains(&of.key) {
                continue;
            }
            let revision: u32 = header(of, "revision").parse().map_err(|_| format!("no revision: {}", text(of)))?;
            if last.insert(&of.key, revision).is_some_and(|last| last >= revision) {
                return Err(format!("{topic} has it twice, or out of order: {}", text(of)));
            }
            last_of_each.insert((topic, &of.key), of);
            all.entry((&of.key, revision)).or_default().push(of);
        }
    }
    let mut known: BTreeMap<&[u8], (u32, bool)> = BTreeMap::new();
    for ((key, revision), copies) in &all {
        let Some(of) = copies.first() else { continue };
        outcome.suppressed += u64::from(of.payload.windows(15).any(|bytes| bytes == br#""suppressed_by""#.as_slice()));
        let change = header(of, "change");
        let ends = matches!(change, "closed" | "retracted");
        let wanted = if ends && world.faults.two_topics() { 2 } else { 1 };
        if copies.len() != wanted && !(ends && world.faults.gaps) {
            return Err(format!("it stands on {} topics, not on {wanted}: {}", copies.len(), text(of)));
        }
        let (last, was_open) = known.get(key).copied().unwrap_or((0, false));
        // Where messages are gone, of two topics the one may have got a change and the other never one before it.
        if *revision > last + 1 && world.faults.gaps && world.faults.two_topics() {
            known.insert(key, (*revision, !ends));
            continue;
        }
        if *revision != last + 1 || (change == "opened") == was_open {
            return Err(format!("it follows revision {last}, which left it open: {was_open}; {}", text(of)));
        }
        known.insert(key, (*revision, !ends));
    }
    for ((topic, _), of) in last_of_each {
        let is_open = !matches!(header(of, "change"), "closed" | "retracted");
        if is_open && known.get(&*of.key).is_some_and(|(_, open)| !open) {
            return Err(format!("{topic}, by itself, leaves open what has ended: {}", text(of)));
        }
    }
    let told: Open = known.into_iter().filter(|(_, (_, open))| *open).map(|(key, (revision, _))| (key.to_vec(), revision)).collect();
    let open: &Open = &open.iter().filter(|(key, _)| !anew.contains(key)).map(|(key, n)| (key.clone(), *n)).collect();
    if told != *open {
        let name = |open: &Open| open.iter().map(|(key, n)| format!("{} {n}", String::from_utf8_lossy(key))).collect::<Vec<_>>().join(", ");
        return Err(format!("the topics leave open [{}], the state holds [{}]", name(&told), name(open)));
    }
    Ok(())
}

/// A change without its mark: what rules there were at which moment is not the undisturbed run's to know.
fn unmarked(of: &Outgoing) -> Vec<u8> {
    let text = String::from_utf8_lossy(&of.payload);
    text.replacen(r#""suppressed_by":"it","#, "", 1).into_bytes()
}

/// The output topics are those of the undisturbed run; with rules, in one topic or the other.
fn exact(world: &World, order: &[Step]) -> Result<(), String> {
    let consumed = order.iter().filter(|step| matches!(step, Step::Message(..))).count();
    let messages = world.broker.input.iter().map(|log| log.messages.len()).sum::<usize>();
    if consumed != messages {
        return Err(format!("{consumed} of {messages} messages were consumed"));
    }
    let wanted = undisturbed(&world.broker.input, order, world.faults.largest);
    for at in outputs().filter(|at| at.0 != SUPPRESSED) {
        let elsewhere = (SUPPRESSED.to_owned(), at.1);
        let more = world.broker.output.get(&elsewhere).into_iter().flatten().filter(|_| at.0 == FINDINGS);
        let mut found: Vec<(&Outgoing, Vec<u8>)> = world
            .broker
            .output
            .get(&at)
            .into_iter()
            .flatten()
            .chain(more)
            .map(|of| (of, if at.0 == DEAD_LETTERS { of.payload.clone() } else { unmarked(of) }))
            .collect();
        let mut wanted: Vec<&Outgoing> = of_partition(&wanted, &at).collect();
        if at.0 == DEAD_LETTERS {
            // One that is written without its value comes later: their order says nothing.
            found.sort_by(|(a, _), (b, _)| (&a.key, &a.headers).cmp(&(&b.key, &b.headers)));
            wanted.sort_by(|a, b| (&a.key, &a.headers).cmp(&(&b.key, &b.headers)));
        } else {
            // The order is promised within a finding: what is held back after a crash lets others pass.
            let name = |of: &Outgoing| (of.key.clone(), header(of, "revision").parse::<u32>().unwrap_or(0));
            found.sort_by_key(|(change, _)| name(change));
            // What ends a finding stands on both topics; it is the same.
            found.dedup_by(|(b, b_text), (a, a_text)| name(a) == name(b) && a_text == b_text);
            wanted.sort_by_key(|change| name(change));
        }
        let mut wanted = wanted.into_iter();
        for (n, (found, found_text)) in found.iter().enumerate() {
            let wanted = wanted.next();
            let stream = |w: &Outgoing| w.headers.iter().filter(|(name, _)| name != "finding-stream").cloned().collect::<Vec<_>>();
            let same = wanted.is_some_and(|w| (&w.key, stream(w), &w.payload) == (&found.key, stream(found), found_text));
            if !same {
                return Err(format!(
                    "message {n} of {}[{}] is not the undisturbed run's:\n  found  {}\n  wanted {}",
                    at.0,
                    at.1,
                    text(found),
                    wanted.map_or("none".to_owned(), text)
                ));
            }
        }
        let missing = wanted.count();
        if missing > 0 {
            return Err(format!("{missing} messages are missing at the end of {}[{}]", at.0, at.1));
        }
    }
    Ok(())
}
