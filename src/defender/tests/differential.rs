//! Good messages, mutated: the decoder and the reference must say the same of each, record by record.

use super::{Limits, NO_CLOCK, Said, agree, at, decode, decode_bare};
use crate::defender::Reason;
use crate::time::Span;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

const MIXED: &str = include_str!("../../../tests/golden/mixed_tables.json");
const LINE: &str = include_str!("../../../tests/golden/export_line.json");
const SMALL: &str = r#" { "records" : [ {"time":"2026-03-01T00:00:00.5Z","tenantId":"t","category":"AdvancedHunting-DeviceInfo","properties":{"Timestamp":"2026-03-01T00:00:00","DeviceName":"\u0061\\\"\ud83d\ude00","OSPlatform":null}} ,
 {"properties":{"RemotePort":53,"ReportId":1,"Timestamp":"2026-02-28T00:00:00.1234567Z","RemoteIP":"::1","AdditionalFields":{"a":[{},[],-0.5e-3]}},"category":"AdvancedHunting-DeviceNetworkEvents","time":"2026-03-01T00:00:01Z"} ] , "x" : [] } "#;

/// Values that stand where others stood.
const VALUES: [&str; 27] = [
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "443.0",
    "1e999",
    "65536",
    "99999999999999999999",
    "9223372036854775807",
    "01",
    "1.",
    "\"\"",
    "\"443\"",
    "{}",
    "[]",
    "[[{}]]",
    "\"\\ud800\"",
    "\"\\ude00\\ud83d\\ude00\"",
    "\"\\u0000\"",
    "\"\\q\"",
    "\"\t\"",
    "\"0001-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59Z\"",
    "\"2026-03-01T00:00:0\\u0030Z\"",
    "\"AdvancedHunting-DeviceInfo\"",
    "\"é漢😀\"",
];

/// Keys that a pair may be given.
const KEYS: [&str; 20] = [
    "records",
    "time",
    "tenantId",
    "category",
    "properties",
    "Timestamp",
    "DeviceId",
    "DeviceName",
    "ReportId",
    "ActionType",
    "RemoteIP",
    "RemoteIPType",
    "RemotePort",
    "RemoteUrl",
    "OSPlatform",
    "DeviceType",
    "rec\\u006frds",
    "ti\\u006de",
    "Remote\\u0050ort",
    "\\ud800",
];

#[derive(Clone, Debug)]
enum Mutation {
    /// A byte becomes another.
    Byte(prop::sample::Index, u8),
    /// One of JSON's own bytes, where another one stood.
    Mark(prop::sample::Index, prop::sample::Index),
    /// Everything behind goes.
    Cut(prop::sample::Index),
    /// Some bytes go.
    Drop(prop::sample::Index, usize),
    /// A part of a message is put into another.
    Splice(prop::sample::Index, prop::sample::Index, usize, usize),
    /// The value behind a colon becomes another one.
    Value(prop::sample::Index, prop::sample::Index),
    /// A pair is put at the start of an object.
    Pair(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    /// An element is put at the start of an array.
    Element(prop::sample::Index, prop::sample::Index),
    /// Brackets around a value, many.
    Nest(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use Mutation::{Byte, Cut, Drop, Element, Mark, Nest, Pair, Splice, Value};
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Byte(at, byte)),
        2 => (index(), index()).prop_map(|(at, mark)| Mark(at, mark)),
        1 => index().prop_map(Cut),
        1 => (index(), 1..40usize).prop_map(|(at, len)| Drop(at, len)),
        1 => (index(), index(), 1..200usize, 0..BASES.len()).prop_map(|(at, from, len, base)| Splice(at, from, len, base)),
        6 => (index(), index()).prop_map(|(at, value)| Value(at, value)),
        6 => (index(), index(), index()).prop_map(|(at, key, value)| Pair(at, key, value)),
        1 => (index(), index()).prop_map(|(at, value)| Element(at, value)),
        1 => (index(), 1..140usize).prop_map(|(at, levels)| Nest(at, levels)),
    ]
}

const BASES: [&str; 3] = [MIXED, LINE, SMALL];

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let places = |byte: u8, bytes: &[u8]| bytes.iter().enumerate().filter(|(_, c)| **c == byte).map(|(n, _)| n + 1).collect::<Vec<_>>();
    // From a colon to the end of a value that holds no comma, brace or bracket.
    let value = |at: &prop::sample::Index, bytes: &[u8]| {
        let colons = places(b':', bytes);
        let start = *colons.get(at.index(colons.len().max(1)))?;
        let len = bytes[start..].iter().position(|c| b",}]".contains(c))?;
        Some(start..start + len)
    };
    match mutation {
        Mutation::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Mark(at, mark) => {
            let marks: Vec<usize> = (0..bytes.len()).filter(|n| b"{}[]\",:\\".contains(&bytes[*n])).collect();
            if let Some(&place) = marks.get(at.index(marks.len().max(1))) {
                bytes[place] = *mark.get(b"{}[]\",:\\ \n0");
            }
        }
        Mutation::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Mutation::Drop(at, len) => {
            let start = at.index(bytes.len());
            bytes.drain(start..(start + len).min(bytes.len()));
        }
        Mutation::Splice(at, from, len, base) => {
            let other = BASES[*base].as_bytes();
            let start = from.index(other.len());
            let at = at.index(bytes.len());
            bytes.splice(at..at, other[start..(start + len).min(other.len())].iter().copied());
        }
        Mutation::Value(at, new) => {
            if let Some(range) = value(at, bytes) {
                bytes.splice(range, new.get(&VALUES).bytes());
            }
        }
        Mutation::Pair(at, key, new) => {
            let braces = places(b'{', bytes);
            if let Some(&place) = braces.get(at.index(braces.len().max(1))) {
                let pair = format!("\"{}\":{},", key.get(&KEYS), new.get(&VALUES));
                bytes.splice(place..place, pair.bytes());
            }
        }
        Mutation::Element(at, new) => {
            let brackets = places(b'[', bytes);
            if let Some(&place) = brackets.get(at.index(brackets.len().max(1))) {
                bytes.splice(place..place, format!("{},", new.get(&VALUES)).bytes());
            }
        }
        Mutation::Nest(at, levels) => {
            if let Some(range) = value(at, bytes) {
                bytes.splice(range.end..range.end, std::iter::repeat_n(b']', *levels));
                bytes.splice(range.start..range.start, std::iter::repeat_n(b'[', *levels));
            }
        }
    }
}

fn clock() -> Limits {
    Limits { independent_clock: Some(at("2026-03-01T00:00:00Z")), max_clock_skew: Span::days(1) }
}

#[test]
fn both_read_the_good_messages_alike() {
    for base in BASES {
        for limits in [NO_CLOCK, clock()] {
            agree(base.as_bytes(), &limits);
        }
    }
    assert!(decode(MIXED.as_bytes(), &NO_CLOCK).said.iter().all(|said| matches!(said, Said::Record { .. })));
}

/// Agreement says little unless the mutations lead everywhere.
#[test]
fn the_mutations_reach_every_reason_that_bytes_can_have() {
    let strategy = (0..BASES.len(), prop::collection::vec(mutation(), 1..5));
    let mut runner = TestRunner::deterministic();
    let (mut reasons, mut records, mut beside_dead) = (BTreeSet::new(), 0, 0);
    for _ in 0..4000 {
        let (base, mutations) = strategy.new_tree(&mut runner).unwrap().current();
        let mut bytes = BASES[base].as_bytes().to_vec();
        mutations.iter().for_each(|m| apply(&mut bytes, m));
        let said = [decode(&bytes, &clock()).said, decode_bare(&bytes, &clock()).said];
        for said in said {
            let alive = said.iter().filter(|s| matches!(s, Said::Record { .. })).count();
            records += alive;
            beside_dead += usize::from(alive > 0 && alive < said.len());
            reasons.extend(said.iter().filter_map(|s| match s {
                Said::Dead { reason, .. } => Some(*reason),
                Said::Record { .. } => None,
            }));
        }
    }
    reasons.insert(Reason::Empty); // of few bytes, which the test below makes
    let unreached: Vec<Reason> = Reason::ALL.into_iter().filter(|r| !reasons.contains(r)).collect();
    assert_eq!(unreached, [Reason::TooLarge, Reason::TooManyRecords, Reason::TimestampAhead]);
    assert!(records > 1000 && beside_dead > 100, "{records} {beside_dead}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn both_say_the_same_of_mutated_messages(
        base in 0..BASES.len(),
        mutations in prop::collection::vec(mutation(), 1..5),
        with_clock: bool,
    ) {
        let mut bytes = BASES[base].as_bytes().to_vec();
        mutations.iter().for_each(|m| apply(&mut bytes, m));
        let limits = if with_clock { clock() } else { NO_CLOCK };
        agree(&bytes, &limits);
    }

    #[test]
    fn both_say_the_same_of_any_bytes_and_none_panics(bytes in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\u0d8e-.+truefalsn \n\x00\xC3\xA9"[..]), 0..60)) {
        agree(&bytes, &NO_CLOCK);
        let wrapped = [b"{\"records\":[".as_slice(), &bytes, b"]}"].concat();
        agree(&wrapped, &NO_CLOCK);
    }
}
