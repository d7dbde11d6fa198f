//! What recovery rests on: a task that replays the journal says the same again, and publishes only what is missing.

use super::*;
use crate::defender::decode::{Decoder, Limits};
use crate::defender::{DeviceInfo, NetworkEvent};
use crate::finding::json::key;
use crate::fleet::render;
use crate::state::codec::{FileKind, write_header};
use crate::state::journal;
use crate::time::Span;
use proptest::prelude::*;

const START: Ticks = Ticks(1_790_000_000 * crate::time::TICKS_PER_SECOND);

/// What the input does: a message on one of two partitions, or nothing for a while.
#[derive(Clone, Debug)]
enum Step {
    Message { partition: i32, device: u8, ip: u8, server: bool, bad: bool },
    Idle { hours: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let message = (0..2i32, 0..5u8, 0..6u8, prop::bool::weighted(0.3), prop::bool::weighted(0.1))
        .prop_map(|(partition, device, ip, server, bad)| Step::Message { partition, device, ip, server, bad });
    prop::collection::vec(prop_oneof![5 => message, 1 => (1..40i64).prop_map(|hours| Step::Idle { hours })], 1..60)
}

fn payload(clock: Ticks, device: u8, ip: u8, server: bool, bad: bool) -> Vec<u8> {
    let (name, ip) = (format!("srv-{device}"), format!("203.0.113.{ip}"));
    let mut record = Vec::new();
    if bad {
        return b"{\"records\":[{\"time\":\"never\"},7]}".to_vec();
    }
    if server {
        let info = DeviceInfo { timestamp: clock, device_id: &name, device_name: &name, os_platform: "Linux", device_type: "Server" };
        render::render_device(&mut record, clock, "t", &info, false);
    } else {
        let event = NetworkEvent {
            timestamp: clock,
            device_id: (&name).into(),
            device_name: &name,
            action_type: "ConnectionSuccess".into(),
            remote_ip: &ip,
            remote_ip_type: "Public".into(),
            remote_port: Some(443),
            company: "Acme",
            ..NetworkEvent::default()
        };
        render::render_network(&mut record, clock, "t", &event, false);
    }
    render::message(&[record])
}

fn format() -> Format {
    Format {
        findings_topic: "findings".to_owned(),
        dead_letter_topic: "dead".to_owned(),
        settings: Settings { update_interval: Span::ZERO, ..Settings::default() },
        privileged: Privileged::none(),
        suppression: Default::default(),
    }
}

fn task(entries: Vec<Entry>, published: Published) -> Task {
    let mut task = Task::new(Detector::new(format().settings), format(), Positions::new(), entries, published);
    for partition in 0..2 {
        task.assigned("in", partition, NextOffset(0));
    }
    task
}

type Consumed = Vec<(Origin, Vec<u8>)>;

/// One batch of messages.
fn push(task: &mut Task, messages: &[(Origin, Vec<u8>)], out: &mut Turnout) {
    let mut decoder = Decoder::new();
    let limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };
    let decoded: Vec<(Origin, Batch)> = messages
        .iter()
        .map(|(origin, payload)| {
            let mut batch = Batch::new();
            batch.push_message(&mut decoder, 0, payload, &limits);
            (*origin, batch)
        })
        .collect();
    task.messages(decoded.iter().map(|(origin, batch)| (*origin, batch)), out);
}

/// Lives through the steps; what was consumed, and what came of it.
fn live(task: &mut Task, steps: &[Step], clock: &mut Ticks, offsets: &mut [i64; 2]) -> (Consumed, Turnout) {
    let (mut consumed, mut out) = (Consumed::new(), Turnout::default());
    for step in steps {
        match step {
            Step::Message { partition, device, ip, server, bad } => {
                *clock = clock.plus(Span::minutes(7));
                let id = task.partitions().id("in", *partition).unwrap();
                let offset = &mut offsets[*partition as usize];
                let origin = Origin { partition: id, offset: *offset, timestamp: Some(*clock) };
                // Offsets need not be dense.
                *offset += 1 + i64::from(*device % 2);
                consumed.push((origin, payload(*clock, *device, *ip, *server, *bad)));
                push(task, &consumed[consumed.len() - 1..], &mut out);
            }
            Step::Idle { hours } => {
                *clock = clock.plus(Span::hours(*hours));
                task.idle(*clock, &mut out);
            }
        }
    }
    (consumed, out)
}

fn entries(frames: &[u8]) -> Vec<Entry> {
    let mut file = Vec::new();
    write_header(&mut file, FileKind::Journal).unwrap();
    file.extend_from_slice(frames);
    journal::read(&file[..]).unwrap().entries
}

/// The id that a key is.
fn id_of(key: &[u8]) -> FindingId {
    let text = std::str::from_utf8(key).unwrap();
    FindingId(std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()))
}

/// What stands in the topics, as a start reads it.
fn standing(topic: &[Outgoing]) -> Published {
    let mut published = Published::new(true);
    for written in topic {
        let header = |name: &str| written.headers.iter().find(|(h, _)| h == name).map(|(_, v)| std::str::from_utf8(v).unwrap());
        let number = |name: &str| header(name).map(|v| v.parse::<i64>().unwrap());
        if written.topic == "dead" {
            let source = (number("source-partition").unwrap() as i32, number("source-offset").unwrap());
            published.dead_letters.insert(("in".to_owned(), source.0, source.1, number("source-record").map(|n| n as u32)));
        } else {
            let revision = number("revision").unwrap() as u32;
            let id = id_of(&written.key);
            let value: serde_json::Value = serde_json::from_slice(&written.payload).unwrap();
            let (open, at) =
                (["opened", "updated"].contains(&header("change").unwrap()), Ticks::parse(value["at"].as_str().unwrap()).unwrap());
            match header(STREAM) {
                Some(_) => published.note_suppressed(id, revision, open, at, &written.payload),
                None => published.note(id, revision, open, at, &written.payload),
            }
        }
    }
    published
}

/// Each message by topic, key and what it is called by, and in which order those of a key are.
fn by_key(publications: &[Outgoing]) -> std::collections::BTreeMap<(String, Vec<u8>), Vec<Outgoing>> {
    let mut sorted = std::collections::BTreeMap::<_, Vec<Outgoing>>::new();
    for outgoing in publications {
        sorted.entry((outgoing.topic.clone(), outgoing.key.clone())).or_default().push(outgoing.clone());
    }
    sorted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A crash; of what was on its way, some shows when the next process looks, some when the topics have settled, some never. Meanwhile
    /// that process goes on.
    #[test]
    fn what_is_in_doubt_is_published_once_and_in_order_and_holds_nothing_else_back(
        before in steps(), during in steps(), after in steps(), shown in any::<prop::sample::Index>(), arrived in any::<prop::sample::Index>()
    ) {
        let (mut clock, mut offsets) = (START, [0, 0]);
        let mut first = task(Vec::new(), Published::default());
        first.replay_done(&mut Turnout::default());
        let (consumed, said) = live(&mut first, &before, &mut clock, &mut offsets);
        let (mut clock_again, mut offsets_again) = (clock, offsets);
        let all: Vec<Outgoing> = said.publications.iter().map(|p| p.outgoing.clone()).collect();
        let arrived = arrived.index(all.len() + 1);
        let shown = shown.index(arrived + 1);

        let mut second = task(entries(&said.journal), standing(&all[..shown]));
        second.hold();
        let mut out = Turnout::default();
        // The ids of partitions are each task's own.
        let renamed = |origin: &Origin| {
            let of = first.partitions().get(origin.partition).unwrap();
            Origin { partition: second.partitions().id(&of.topic, of.partition).unwrap(), ..*origin }
        };
        let consumed: Consumed = consumed.iter().map(|(origin, payload)| (renamed(origin), payload.clone())).collect();
        push(&mut second, &consumed, &mut out);
        second.replay_done(&mut out);
        prop_assert!(out.publications.is_empty(), "all of it is in doubt");
        prop_assert_eq!((second.held().1, second.is_holding()), (all.len() - shown, all.len() > shown));
        let in_doubt: HashSet<Vec<u8>> = all[shown..].iter().filter(|o| o.topic == "findings").map(|o| o.key.clone()).collect();
        let (_, meanwhile) = live(&mut second, &during, &mut clock_again, &mut offsets_again);
        prop_assert!(meanwhile.publications.iter().all(|p| !in_doubt.contains(&p.outgoing.key)));
        second.settled(standing(&all[shown..arrived]), &mut out);
        prop_assert!(!second.is_holding());
        let (_, last) = live(&mut second, &after, &mut clock_again, &mut offsets_again);
        let written = meanwhile.publications.into_iter().chain(out.publications).chain(last.publications);
        let topic: Vec<Outgoing> = all[..arrived].iter().cloned().chain(written.map(|p| p.outgoing)).collect();

        let (_, undisturbed) = live(&mut first, &during, &mut clock, &mut offsets);
        let (_, more) = live(&mut first, &after, &mut clock, &mut offsets);
        let wanted = undisturbed.publications.into_iter().chain(more.publications).map(|p| p.outgoing);
        let wanted: Vec<Outgoing> = all.iter().cloned().chain(wanted).collect();
        prop_assert_eq!(by_key(&topic), by_key(&wanted));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replay_says_the_same_and_publishes_what_is_missing(before in steps(), after in steps(), every in 1usize..4, group in 1usize..9) {
        let (mut clock, mut offsets) = (START, [0, 0]);
        let mut first = task(Vec::new(), Published::default());
        first.replay_done(&mut Turnout::default());
        let (consumed, said) = live(&mut first, &before, &mut clock, &mut offsets);

        // A crash: of what was said, some stands in the topics.
        let mut published = Published::default();
        let mut missing = Vec::new();
        for (n, publication) in said.publications.iter().enumerate() {
            let of = &publication.outgoing;
            let header = |name: &str| of.headers.iter().find(|(h, _)| h == name).map(|(_, v)| String::from_utf8(v.clone()).unwrap());
            if n % every != 0 {
                missing.push(of.clone());
            } else if of.topic == "dead" {
                let number = |name: &str| header(name).and_then(|v| v.parse::<i64>().ok());
                published.dead_letters.insert(("in".to_owned(), number("source-partition").unwrap() as i32, number("source-offset").unwrap(), number("source-record").map(|n| n as u32)));
            } else {
                let change = said.changes.iter().find(|c| key(c).as_bytes() == of.key && Some(c.revision.to_string()) == header("revision")).unwrap();
                published.changes.insert((change.id, change.revision));
            }
        }
        let journal = entries(&said.journal);
        let mut second = task(journal, published);
        let second_ids = second.partitions().clone();
        let mut again = Turnout::default();
        // The ids of partitions are each task's own.
        let renamed = |origin: &Origin| {
            let of = first.partitions().get(origin.partition).unwrap();
            Origin { partition: second_ids.id(&of.topic, of.partition).unwrap(), ..*origin }
        };
        let consumed: Consumed = consumed.iter().map(|(origin, payload)| (renamed(origin), payload.clone())).collect();
        for messages in consumed.chunks(group) {
            push(&mut second, messages, &mut again);
        }
        prop_assert!(again.journal.is_empty(), "what is replayed is journaled already");
        second.replay_done(&mut again);
        prop_assert_eq!(&again.changes, &said.changes);
        prop_assert_eq!(again.publications.iter().map(|p| p.outgoing.clone()).collect::<Vec<_>>(), missing);
        prop_assert_eq!(second.positions(), first.positions());

        // And both go on alike.
        let (mut clock_again, mut offsets_again) = (clock, offsets);
        let (_, one) = live(&mut first, &after, &mut clock, &mut offsets);
        let (_, other) = live(&mut second, &after, &mut clock_again, &mut offsets_again);
        prop_assert_eq!(one.changes, other.changes);
        prop_assert_eq!(one.publications, other.publications);
    }
}

/// What a consumer of the findings topic knows of a finding: its last revision, and whether it is open. Panics at a change that contradicts
/// the one before it.
fn consumer(topic: &[Outgoing]) -> HashMap<Vec<u8>, (u32, bool)> {
    let mut known: HashMap<Vec<u8>, (u32, bool)> = HashMap::new();
    for written in topic.iter().filter(|written| written.topic == "findings") {
        let header = |name: &str| written.headers.iter().find(|(h, _)| h == name).map(|(_, v)| std::str::from_utf8(v).unwrap()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&written.payload).unwrap();
        assert_eq!(value["finding_id"].as_str().unwrap().as_bytes(), written.key);
        assert_eq!((value["change"].as_str().unwrap(), value["revision"].to_string().as_str()), (header("change"), header("revision")));
        let (last, open) = known.get(&written.key).copied().unwrap_or((0, false));
        assert_eq!(header("revision").parse::<u32>().unwrap(), last + 1, "{}", String::from_utf8_lossy(&written.payload));
        let opens = header("change") == "opened";
        assert_eq!(opens, !open, "{} of one that is open: {open}", header("change"));
        known.insert(written.key.clone(), (last + 1, opens || header("change") == "updated"));
    }
    known
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A crash, and retention took what was consumed before it from some partition.
    #[test]
    fn answer_retention_shorter_than_downtime(before in steps(), after in steps(), kept in any::<prop::sample::Index>(), gone in any::<prop::sample::Index>(), which in 0..2i32, late in any::<bool>(), shown in any::<prop::sample::Index>()) {
        let (mut clock, mut offsets) = (START, [0, 0]);
        let mut first = task(Vec::new(), Published::default());
        first.replay_done(&mut Turnout::default());
        let (consumed, said) = live(&mut first, &before, &mut clock, &mut offsets);
        // Of what was said, the topic has the beginning.
        let mut topic: Vec<Outgoing> = said.publications.iter().map(|p| p.outgoing.clone()).collect();
        topic.truncate(kept.index(topic.len() + 1));
        // Some of it shows only when the topics have settled.
        let (at_once, settled) = topic.split_at(shown.index(topic.len() + 1));
        let mut second = task(entries(&said.journal), standing(at_once));
        second.hold();
        let settled = standing(settled);
        let of = second.partitions().id("in", which).unwrap();
        let start = gone.index(offsets[which as usize] as usize + 1) as i64;
        let mut out = Turnout::default();
        let renamed = |origin: &Origin| Origin { partition: second.partitions().id("in", first.partitions().get(origin.partition).unwrap().partition).unwrap(), ..*origin };
        let there: Consumed = consumed.iter().map(|(origin, payload)| (renamed(origin), payload.clone())).collect();
        // Told at the beginning, or while it is read.
        let told = if late { there.iter().position(|(o, _)| o.partition == of && o.offset < start).unwrap_or(0) } else { 0 };
        for (n, message) in there.iter().enumerate() {
            if n == told && start > 0 {
                second.skipped_to(of, NextOffset(start));
            }
            if message.0.partition != of || message.0.offset >= start {
                push(&mut second, std::slice::from_ref(message), &mut out);
            }
        }
        second.settled(settled, &mut out);
        let reconciled = out.publications.len();
        let is_lossy = second.lossy.is_some();
        second.replay_done(&mut out);
        for publication in out.publications.iter().skip(reconciled).filter(|_| is_lossy) {
            let text = String::from_utf8_lossy(&publication.outgoing.payload);
            let value: serde_json::Value = serde_json::from_slice(&publication.outgoing.payload).unwrap();
            prop_assert!(value["baseline"]["gap"].as_str().and_then(Ticks::parse).is_some(), "it rests on what is gone, and does not say so: {text}");
        }
        topic.extend(out.publications.iter().map(|p| p.outgoing.clone()));
        let agrees = |task: &Task, topic: &[Outgoing]| {
            let open: HashMap<Vec<u8>, u32> = consumer(topic).into_iter().filter(|(_, (_, open))| *open).map(|(id, (revision, _))| (id, revision)).collect();
            let known: HashMap<Vec<u8>, u32> = task.detector().open_findings().map(|c| (key(&c).into_bytes(), c.revision)).collect();
            assert_eq!(open, known);
        };
        agrees(&second, &topic);

        // It goes on, and what is said from then on names the gap until the lookback is over.
        let lost = start > 0 && !there.is_empty();
        let (_, more) = live(&mut second, &after, &mut clock, &mut offsets);
        topic.extend(more.publications.iter().map(|p| p.outgoing.clone()));
        agrees(&second, &topic);
        for change in &more.changes {
            let is_over = change.first_seen >= START.plus(format().settings.lookback);
            prop_assert!(!lost || change.gap.is_some() || is_over, "{change:?}");
        }
        // Nothing stays open for ever.
        let mut end = Turnout::default();
        second.idle(clock.plus(Span::days(40)), &mut end);
        topic.extend(end.publications.iter().map(|p| p.outgoing.clone()));
        prop_assert!(consumer(&topic).values().all(|(_, open)| !open));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// As above, with a topic of suppressed findings, and a second crash: of what brings topics and state together, some is written in each
    /// of the two topics.
    #[test]
    fn what_ends_a_finding_stands_in_both_topics_wherever_it_was_killed(before in steps(), kept in any::<prop::sample::Index>(), gone in any::<prop::sample::Index>(), which in 0..2i32, written in any::<[prop::sample::Index; 2]>()) {
        let some = Suppression { rules: rules("cidr = \"203.0.113.0/31\""), fate: crate::suppress::Fate::Topic("suppressed".to_owned()) };
        let (mut clock, mut offsets) = (START, [0, 0]);
        let mut first = task_with(Vec::new(), Published::default(), &some);
        first.replay_done(&mut Turnout::default());
        let (consumed, said) = live(&mut first, &before, &mut clock, &mut offsets);
        let mut topic: Vec<Outgoing> = said.publications.iter().map(|p| p.outgoing.clone()).collect();
        topic.truncate(kept.index(topic.len() + 1));
        let start = gone.index(offsets[which as usize] as usize + 1) as i64;
        let restart = |topic: &[Outgoing]| {
            let mut task = task_with(entries(&said.journal), standing(topic), &some);
            let of = task.partitions().id("in", which).unwrap();
            let mut out = Turnout::default();
            if start > 0 {
                task.skipped_to(of, NextOffset(start));
            }
            for (origin, payload) in &consumed {
                let was = first.partitions().get(origin.partition).unwrap();
                let origin = Origin { partition: task.partitions().id("in", was.partition).unwrap(), ..*origin };
                if origin.partition != of || origin.offset >= start {
                    push(&mut task, &[(origin, payload.clone())], &mut out);
                }
            }
            task.replay_done(&mut out);
            (task, out.publications.into_iter().map(|p| p.outgoing).collect::<Vec<_>>())
        };
        let (_, second) = restart(&topic);
        for (name, written) in ["findings", "suppressed"].into_iter().zip(written) {
            let there: Vec<Outgoing> = second.iter().filter(|o| o.topic == name).cloned().collect();
            topic.extend_from_slice(&there[..written.index(there.len() + 1)]);
        }
        topic.extend(second.iter().filter(|o| o.topic == "dead").cloned());
        let (task, third) = restart(&topic);
        topic.extend(third);

        let header = |of: &Outgoing, name: &str| of.headers.iter().find(|(h, _)| h == name).map(|(_, v)| String::from_utf8(v.clone()).unwrap());
        let of = |topic_name: &str| topic.iter().filter(|o| o.topic == topic_name).map(|o| (o.key.clone(), header(o, "revision").unwrap().parse::<u32>().unwrap(), header(o, "change").unwrap(), o.payload.clone())).collect::<Vec<_>>();
        let (shown, suppressed) = (of("findings"), of("suppressed"));
        let mut merged = std::collections::BTreeMap::new();
        for stream in [&shown, &suppressed] {
            let mut last = HashMap::new();
            for (id, revision, ..) in stream {
                prop_assert!(last.insert(id.clone(), *revision).is_none_or(|last| last < *revision), "twice, or out of order");
            }
        }
        for (id, revision, change, payload) in shown.iter().chain(&suppressed) {
            let same = merged.insert((id.clone(), *revision), (change.clone(), payload.clone())).is_none_or(|(_, was)| was == *payload);
            prop_assert!(same, "two copies differ");
            let ends = ["closed", "retracted"].contains(&change.as_str());
            let copies = [&shown, &suppressed].iter().filter(|stream| stream.iter().any(|of| of.0 == *id && of.1 == *revision)).count();
            prop_assert_eq!(copies, if ends { 2 } else { 1 }, "{}", String::from_utf8_lossy(payload));
        }
        // What a consumer of both knows does not contradict itself, and is the state.
        let merged: Vec<Outgoing> = merged.into_iter().map(|((key, revision), (change, payload))| Outgoing {
            topic: "findings".to_owned(), key, payload, token: 0,
            headers: vec![("change".to_owned(), change.into_bytes()), ("revision".to_owned(), revision.to_string().into_bytes())],
        }).collect();
        let open: HashMap<Vec<u8>, u32> = consumer(&merged).into_iter().filter(|(_, (_, open))| *open).map(|(id, (revision, _))| (id, revision)).collect();
        let known: HashMap<Vec<u8>, u32> = task.detector().open_findings().map(|c| (key(&c).into_bytes(), c.revision)).collect();
        prop_assert_eq!(open, known);
    }
}

fn rules(text: &str) -> Rules {
    Rules::default().and_file(&format!("[[suppress]]\nname = \"it\"\nreason = \"r\"\nowner = \"o\"\n{text}")).unwrap()
}

fn task_with(entries: Vec<Entry>, published: Published, suppression: &Suppression) -> Task {
    let format = Format { suppression: suppression.clone(), ..format() };
    let mut task = Task::new(Detector::new(format.settings.clone()), format, Positions::new(), entries, published);
    for partition in 0..2 {
        task.assigned("in", partition, NextOffset(0));
    }
    task
}

/// A change of a finding by name: its key, its revision; `None` for a dead letter.
fn name(written: &Outgoing) -> Option<(Vec<u8>, Vec<u8>)> {
    let revision = written.headers.iter().find(|(h, _)| h == "revision").map(|(_, v)| v.clone())?;
    Some((written.key.clone(), revision))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Rules mark, drop what does not end a finding, or send it elsewhere, and nothing else depends on them; after a crash, with other
    /// rules or another fate, nothing stands on a topic twice, and unless something is dropped everything stands somewhere.
    #[test]
    fn rules_mark_and_drop_and_never_double(before in steps(), every in 1usize..4, fates in (0..3, 0..3), swap in any::<bool>()) {
        use crate::suppress::Fate;
        let fate = |n: i32| [Fate::Mark, Fate::Drop, Fate::Topic("suppressed".to_owned())][n as usize].clone();
        let some = Suppression { rules: rules("cidr = \"203.0.113.0/30\""), fate: fate(fates.0) };
        let others = if swap { rules("port = 443") } else { rules("device = \"srv-1\"") };
        let others = Suppression { rules: others, fate: fate(fates.1) };
        let run = |suppression: &Suppression| {
            let mut task = task_with(Vec::new(), Published::default(), suppression);
            task.replay_done(&mut Turnout::default());
            live(&mut task, &before, &mut START.clone(), &mut [0, 0])
        };
        let (consumed, plain) = run(&Suppression::default());
        let (_, said) = run(&some);
        let unmarked: Vec<Change> = said.changes.iter().map(|c| Change { suppressed_by: None, ..c.clone() }).collect();
        prop_assert_eq!(&unmarked, &plain.changes);
        prop_assert_eq!(&said.journal, &plain.journal);
        let on = |topic: &str| said.publications.iter().filter(|p| p.outgoing.topic == topic).filter_map(|p| name(&p.outgoing)).collect::<Vec<_>>();
        let expected = |wanted: &dyn Fn(&&Change) -> bool| said.changes.iter().filter(wanted).map(|c| (key(c).into_bytes(), c.revision.to_string().into_bytes())).collect::<Vec<_>>();
        prop_assert_eq!(on("findings"), expected(&|c| some.lets_out(c)));
        prop_assert_eq!(on("suppressed"), expected(&|c| some.elsewhere(c).is_some()));
        for change in &said.changes {
            let inside = matches!(change.remote_ip.as_str(), "203.0.113.0" | "203.0.113.1" | "203.0.113.2" | "203.0.113.3");
            prop_assert_eq!(change.suppressed_by.as_deref(), inside.then_some("it"));
        }
        // Each topic by itself says what is open: nothing that it holds stays open once it is over.
        let is_open = |kind: ChangeKind| matches!(kind, ChangeKind::Opened | ChangeKind::Updated);
        let last: HashMap<FindingId, bool> = said.changes.iter().map(|c| (c.id, is_open(c.kind))).collect();
        let of_topic: [&dyn Fn(&Change) -> bool; 2] = [&|c| some.lets_out(c), &|c| some.elsewhere(c).is_some()];
        for is_there in of_topic {
            let known: HashMap<FindingId, bool> = said.changes.iter().filter(|c| is_there(c)).map(|c| (c.id, is_open(c.kind))).collect();
            prop_assert!(known.iter().all(|(id, open)| !open || last[id]));
        }

        // A crash: of what was written, some stands in the topics. The next start has other rules.
        let mut published = Published::default();
        let mut topics = Vec::new();
        for publication in said.publications.iter().filter(|p| p.outgoing.topic != "dead").step_by(every) {
            let of = name(&publication.outgoing).unwrap();
            let change = said.changes.iter().find(|c| key(c).as_bytes() == of.0 && c.revision.to_string().as_bytes() == of.1).unwrap();
            let stream = publication.outgoing.headers.iter().any(|(h, v)| h == STREAM && v == SUPPRESSED.as_bytes());
            prop_assert_eq!(stream, publication.outgoing.topic == "suppressed");
            let set = if stream { &mut published.suppressed } else { &mut published.changes };
            set.insert((change.id, change.revision));
            topics.push((publication.outgoing.topic.clone(), of));
        }
        let mut second = task_with(entries(&said.journal), published, &others);
        let first_ids = task_with(Vec::new(), Published::default(), &some).partitions().clone();
        let mut again = Turnout::default();
        let consumed: Consumed = consumed
            .iter()
            .map(|(origin, payload)| {
                let of = first_ids.get(origin.partition).unwrap();
                (Origin { partition: second.partitions().id(&of.topic, of.partition).unwrap(), ..*origin }, payload.clone())
            })
            .collect();
        push(&mut second, &consumed, &mut again);
        second.replay_done(&mut again);
        let written = again.publications.iter().filter(|p| p.outgoing.topic != "dead");
        topics.extend(written.map(|p| (p.outgoing.topic.clone(), name(&p.outgoing).unwrap())));
        let once: HashSet<_> = topics.iter().cloned().collect();
        prop_assert_eq!(once.len(), topics.len(), "a change stands on a topic twice");
        if others.fate != Fate::Drop {
            let somewhere: HashSet<_> = topics.into_iter().map(|(_, of)| of).collect();
            let all: HashSet<_> = plain.publications.iter().filter_map(|p| name(&p.outgoing)).collect();
            prop_assert_eq!(somewhere, all);
        }
    }
}

/// The last record of each device that has findings in it.
fn groups(topic: &[Outgoing]) -> HashMap<Vec<u8>, Vec<String>> {
    let mut last = HashMap::new();
    for written in topic.iter().filter(|written| written.topic == "devices") {
        let value: serde_json::Value = serde_json::from_slice(&written.payload).unwrap();
        let ids = value["details"].as_array().unwrap().iter().map(|d| format!("{} {}", d["finding_id"].as_str().unwrap(), d["count"]));
        last.insert(written.key.clone(), ids.collect::<Vec<_>>());
    }
    last.retain(|_, ids| !ids.is_empty());
    last
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The last record of each device is its open findings, at every moment; also when a crash kept any of the last records back.
    #[test]
    fn the_last_record_of_a_device_is_its_open_findings(before in steps(), after in steps(), kept in any::<prop::sample::Index>()) {
        let grouped = |task: Task| task.with_grouped_topic(Some("devices".to_owned()));
        let truth = |task: &Task| {
            let mut open: HashMap<Vec<u8>, Vec<(String, String)>> = HashMap::new();
            for change in task.detector().open_findings() {
                let key = crate::finding::grouped::key(&change.tenant, &change.device_name).into_bytes();
                open.entry(key).or_default().push((change.remote_ip.clone(), format!("{} {}", change.id, change.count)));
            }
            open.into_iter().map(|(key, mut rows)| { rows.sort(); (key, rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>()) }).collect::<HashMap<_, _>>()
        };
        let (mut clock, mut offsets) = (START, [0, 0]);
        let mut first = grouped(task(Vec::new(), Published::default()));
        first.replay_done(&mut Turnout::default());
        let (consumed, said) = live(&mut first, &before, &mut clock, &mut offsets);
        let mut topic: Vec<Outgoing> = said.publications.iter().map(|p| p.outgoing.clone()).collect();
        prop_assert_eq!(groups(&topic), truth(&first));

        topic.truncate(kept.index(topic.len() + 1));
        let mut published = Published::default();
        for of in topic.iter().filter(|w| w.topic == "findings").filter_map(name) {
            let change = said.changes.iter().find(|c| key(c).as_bytes() == of.0 && c.revision.to_string().as_bytes() == of.1).unwrap();
            published.changes.insert((change.id, change.revision));
        }
        let mut second = grouped(task(entries(&said.journal), published));
        let ids = second.partitions().clone();
        let consumed: Consumed = consumed
            .iter()
            .map(|(origin, payload)| {
                let of = first.partitions().get(origin.partition).unwrap();
                (Origin { partition: ids.id(&of.topic, of.partition).unwrap(), ..*origin }, payload.clone())
            })
            .collect();
        let mut again = Turnout::default();
        push(&mut second, &consumed, &mut again);
        prop_assert!(again.publications.iter().all(|p| p.outgoing.topic != "devices"), "nothing of the past is said again while it is replayed");
        second.replay_done(&mut again);
        topic.extend(again.publications.iter().map(|p| p.outgoing.clone()));
        prop_assert_eq!(groups(&topic), truth(&second));
        let (_, more) = live(&mut second, &after, &mut clock, &mut offsets);
        topic.extend(more.publications.iter().map(|p| p.outgoing.clone()));
        prop_assert_eq!(groups(&topic), truth(&second));
    }
}
