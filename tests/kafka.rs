//! The Kafka edge against a real broker: the input's order and ends, gaps, ownership, and what is written and read back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use firstseen::kafka::admin::{Admin, AdminError, Ensured, TopicSettings};
use firstseen::kafka::client::{ClientError, KafkaSettings};
use firstseen::kafka::cluster::Cluster;
use firstseen::kafka::merge::Run;
use firstseen::kafka::position::{NextOffset, PartitionId, PartitionTable, TopicPartition};
use firstseen::kafka::readback::{ReadbackError, read_to_end};
use firstseen::kafka::sink::{Outgoing, PublishError, Sink, SinkError, SinkLimits};
use firstseen::kafka::source::{self, InputMessage, SourceConfig, SourceError, SourceEvent, SourceHandle, Start};
use firstseen::time::Ticks;
use support::kafka::{Broker, PATIENCE, broker, unique, wait_for};
use support::numbers;

/// A source of these topics, in a group of its own.
fn config(topics: &[&str]) -> SourceConfig {
    SourceConfig::new(broker().settings(&unique("group")), topics.iter().map(|t| (*t).to_owned()).collect())
}

/// Starts a source that keeps the values as they are.
fn start(config: SourceConfig) -> Result<SourceHandle<Vec<u8>>, SourceError> {
    source::start(config, Box::new(|value, _, _| value.to_vec()))
}

fn next(source: &SourceHandle<Vec<u8>>) -> SourceEvent<Vec<u8>> {
    source.events.recv_timeout(PATIENCE).expect("the source says something")
}

/// Everything that is said until `last`, which is included.
fn until(source: &SourceHandle<Vec<u8>>, last: impl Fn(&SourceEvent<Vec<u8>>) -> bool) -> Vec<SourceEvent<Vec<u8>>> {
    let deadline = firstseen::host_clock::monotonic() + PATIENCE;
    let mut events = Vec::new();
    loop {
        let Ok(event) = source.events.recv_deadline(deadline) else { panic!("waited in vain, after {events:?}") };
        let done = last(&event);
        events.push(event);
        if done {
            return events;
        }
    }
}

fn caught_up(event: &SourceEvent<Vec<u8>>) -> bool {
    *event == SourceEvent::CaughtUp
}

fn messages(events: &[SourceEvent<Vec<u8>>]) -> Vec<&InputMessage<Vec<u8>>> {
    events.iter().flat_map(|e| if let SourceEvent::Messages(m) = e { m.as_slice() } else { &[] }).collect()
}

fn offsets(events: &[SourceEvent<Vec<u8>>]) -> Vec<(u32, i64)> {
    messages(events).iter().map(|m| (m.partition.0, m.offset)).collect()
}

/// 4 partitions with timestamps that repeat and run backwards.
fn spread(topic: &str, count: usize) -> Vec<Vec<i64>> {
    let mut random = numbers(7);
    let base = 1_760_000_000_000;
    let mut logs = vec![Vec::new(); 4];
    let mut out = Vec::new();
    for i in 0..count {
        let p = (random() % 4) as usize;
        let timestamp = base + (i as i64) / 3 - (random() % 5) as i64;
        logs[p].push(timestamp);
        out.push((p as i32, timestamp, format!("{p}:{}", logs[p].len() - 1)));
    }
    broker().produce(topic, out.iter().map(|(p, t, payload)| (*p, *t, payload.as_bytes())));
    logs
}

/// The merged order by its definition.
fn merged(logs: &[Vec<i64>]) -> Vec<(u32, i64)> {
    let mut at = vec![0; logs.len()];
    let mut order = Vec::new();
    while let Some((_, p)) = (0..logs.len()).filter_map(|p| logs[p].get(at[p]).map(|t| (*t, p))).min() {
        order.push((p as u32, at[p] as i64));
        at[p] += 1;
    }
    order
}

#[test]
fn the_order_over_four_partitions_is_the_models() {
    let topic = broker().topic("merge", 4);
    let logs = spread(&topic, 4_000);
    let source = start(config(&[&topic])).unwrap();
    let events = until(&source, caught_up);
    let SourceEvent::Assigned(assigned) = &events[0] else { panic!("{:?}", events[0]) };
    assert_eq!(
        assigned.iter().map(|a| (a.id.0, a.of.partition, a.position.0)).collect::<Vec<_>>(),
        [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 0)]
    );
    assert_eq!(events[1], SourceEvent::ReplayDone);
    assert_eq!(offsets(&events), merged(&logs));
    for m in messages(&events) {
        assert_eq!(m.content, format!("{}:{}", m.partition.0, m.offset).as_bytes());
        assert_eq!(m.timestamp, Some(Ticks::from_millis(logs[m.partition.0 as usize][m.offset as usize])));
    }
    assert!(events.iter().all(|e| !matches!(e, SourceEvent::Error(_) | SourceEvent::Gap { .. })));
    // Live: a message after the end is told, and the end again.
    broker().produce(&topic, [(2, 1_770_000_000_000, b"new".as_slice())]);
    let events = until(&source, caught_up);
    assert_eq!(messages(&events)[0].content, b"new");
    wait_for("the lag to be known and nothing", || {
        let lag = source.behind().lag();
        (lag.len() == 4 && lag.iter().all(|l| l.messages == 0)).then_some(())
    });
    source.stop();
}

#[test]
fn a_replay_consumes_the_journals_runs_before_anything_else() {
    let topic = broker().topic("replay", 4);
    let logs = spread(&topic, 400);
    let table = PartitionTable::from_entries([2, 0, 1, 3].map(|partition| TopicPartition { topic: topic.clone(), partition }));
    let run = |p: i32, upto| Run { partition: table.id(&topic, p).unwrap(), upto: NextOffset(upto) };
    let mut config = config(&[&topic]);
    config.table = table.clone();
    config.replay = vec![run(3, 5), run(1, 20), run(3, 7)];
    config.positions = [((topic.clone(), 3), NextOffset(2))].into();
    let source = start(config).unwrap();
    let events = until(&source, caught_up);
    let done = events.iter().position(|e| *e == SourceEvent::ReplayDone).unwrap();
    let as_partition = |e: &[SourceEvent<Vec<u8>>]| {
        messages(e).iter().map(|m| (table.get(m.partition).unwrap().partition as u32, m.offset)).collect::<Vec<_>>()
    };
    let replayed: Vec<(u32, i64)> = (2..5).map(|o| (3, o)).chain((0..20).map(|o| (1, o))).chain((5..7).map(|o| (3, o))).collect();
    assert_eq!(as_partition(&events[..done]), replayed);
    let rest: Vec<_> = [0, 20, 0, 7].into_iter().enumerate().map(|(p, from)| logs[p][from..].to_vec()).collect();
    let live: Vec<_> = merged(&rest).into_iter().map(|(p, o)| (p, o + [0, 20, 0, 7][p as usize])).collect();
    assert_eq!(as_partition(&events[done..]), live);
    source.stop();
}

#[test]
fn starts_at_stored_positions_and_new_partitions_at_their_start() {
    let topic = broker().topic("start", 2);
    broker().produce(&topic, (0..20).map(|i| (i % 2, 1_000 + i64::from(i), b"old".as_slice())));
    let mut latest = config(&[&topic]);
    latest.start = Start::Latest;
    let source = start(latest).unwrap();
    let events = until(&source, caught_up);
    assert_eq!(offsets(&events), []);
    // A partition that appears while running begins at its start, whatever `start` says, and the others go on where they were.
    broker().add_partitions(&topic, 3);
    wait_for("all brokers to know the new partition", || {
        let admin = Admin::new(&broker().settings("g"), PATIENCE).unwrap();
        (admin.partitions(&topic).unwrap().unwrap().len() == 3).then_some(())
    });
    broker().produce(&topic, [(2, 2_000, b"first".as_slice()), (0, 2_001, b"later".as_slice())]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let SourceEvent::Messages(m) = next(&source) {
            seen.extend(m.into_iter().map(|m| (m.partition.0, m.offset)));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 10), (2, 0)]);
    source.stop();

    let mut stored = config(&[&topic]);
    stored.start = Start::Latest;
    stored.positions = HashMap::from([((topic.clone(), 0), NextOffset(9)), ((topic.clone(), 1), NextOffset(10))]);
    let source = start(stored).unwrap();
    let events = until(&source, caught_up);
    assert_eq!(offsets(&events), [(0, 9), (2, 0), (0, 10)], "partition 2 is beside stored ones, so it is new");
    source.stop();
}

#[test]
fn positions_are_committed_to_the_group_and_the_group_is_left() {
    let topic = broker().topic("commit", 2);
    broker().produce(&topic, (0..10).map(|i| (i % 2, 1 + i64::from(i), b"x".as_slice())));
    let mut config = config(&[&topic]);
    config.commit_interval = Duration::from_millis(50);
    let settings = config.settings.clone();
    let committed = || {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &settings.bootstrap_servers)
            .set("group.id", &settings.group_id)
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(&topic, 0, 1);
        let found = consumer.committed_offsets(list, PATIENCE).unwrap();
        found.elements().iter().map(|e| e.offset().to_raw().unwrap_or(-1)).collect::<Vec<_>>()
    };
    let source = start(config.clone()).unwrap();
    until(&source, caught_up);
    source.commit(&[(PartitionId(0), NextOffset(3)), (PartitionId(1), NextOffset(5))]);
    wait_for("the positions to be in the group", || (committed() == [3, 5]).then_some(()));
    config.commit_interval = Duration::from_secs(3600);
    source.commit(&[(PartitionId(0), NextOffset(4))]);
    source.stop();
    wait_for("the last position to be in the group", || (committed() == [4, 5]).then_some(()));
    // The group was left: a new member gets everything at once, not after a session timeout.
    let before = firstseen::host_clock::monotonic();
    let source = start(config).unwrap();
    assert!(matches!(next(&source), SourceEvent::Assigned(_)));
    assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
    source.stop();
}

#[test]
fn a_gap_is_told_and_reading_goes_on_behind_it() {
    let topic = broker().topic("gap", 2);
    broker().produce(&topic, (0..40).map(|i| (i % 2, 1 + i64::from(i), b"x".as_slice())));
    broker().delete_before(&topic, 1, 8);
    let mut config = config(&[&topic]);
    config.positions = HashMap::from([((topic.clone(), 0), NextOffset(19)), ((topic.clone(), 1), NextOffset(3))]);
    config.table.register(&topic, 0);
    config.table.register(&topic, 1);
    config.replay = vec![Run { partition: PartitionId(1), upto: NextOffset(5) }, Run { partition: PartitionId(1), upto: NextOffset(10) }];
    let source = start(config).unwrap();
    let events = until(&source, caught_up);
    let gap = SourceEvent::Gap { partition: PartitionId(1), from: NextOffset(3), to: NextOffset(8) };
    assert_eq!(events.iter().filter(|e| matches!(e, SourceEvent::Gap { .. })).collect::<Vec<_>>(), [&gap]);
    let done = events.iter().position(|e| *e == SourceEvent::ReplayDone).unwrap();
    assert_eq!(offsets(&events[..done]), [(1, 8), (1, 9)]);
    // Message i went to partition i mod 2 with timestamp i + 1.
    let mut live: Vec<(u32, i64)> = [(0, 19)].into_iter().chain((10..20).map(|o| (1, o))).collect();
    live.sort_by_key(|(p, o)| o * 2 + i64::from(*p));
    assert_eq!(offsets(&events[done..]), live);
    source.stop();
}

#[test]
fn messages_that_vanish_while_reading_are_a_gap() {
    let topic = broker().topic("vanish", 1);
    let payload = vec![b'x'; 50_000];
    broker().produce(&topic, (0..400).map(|i| (0, 1 + i, payload.as_slice())));
    let mut config = config(&[&topic]);
    config.batch_messages = 1;
    config.channel_events = 1;
    // Little is fetched ahead, so that the log's start overtakes the reader.
    config.settings.properties.insert("queued.max.messages.kbytes".into(), "100".into());
    config.settings.properties.insert("fetch.max.bytes".into(), "100000".into());
    config.settings.properties.insert("fetch.message.max.bytes".into(), "60000".into());
    config.settings.properties.insert("message.max.bytes".into(), "100000".into());
    let source = start(config).unwrap();
    let mut events = until(&source, |e| matches!(e, SourceEvent::Messages(_)));
    broker().delete_before(&topic, 0, 350);
    events.extend(until(&source, caught_up));
    let gaps: Vec<_> =
        events.iter().filter_map(|e| if let SourceEvent::Gap { from, to, .. } = e { Some((from.0, to.0)) } else { None }).collect();
    let [(from, 350)] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(offsets(&events), (0..from).chain(350..400).map(|o| (0, o)).collect::<Vec<_>>());
    source.stop();
}

#[test]
fn with_a_second_member_in_the_group_nobody_answers_from_half_the_data() {
    let topic = broker().topic("shared", 4);
    broker().produce(&topic, (0..8).map(|i| (i % 4, 1 + i64::from(i), b"x".as_slice())));
    let config = config(&[&topic]);
    let first = start(config.clone()).unwrap();
    until(&first, caught_up);
    let second = start(config).unwrap();
    let partial = |e: &SourceEvent<_>| matches!(e, SourceEvent::PartialAssignment { total: 4, owned } if *owned < 4);
    let events = until(&second, partial);
    assert_eq!(offsets(&events), []);
    let events = until(&first, partial);
    assert_eq!(events[0], SourceEvent::Revoked);
    broker().produce(&topic, [(0, 100, b"meanwhile".as_slice())]);
    second.stop();
    // Alone again: everything from where it was.
    let events = until(&first, caught_up);
    assert!(events.iter().any(|e| matches!(e, SourceEvent::Assigned(a) if a.len() == 4)));
    assert_eq!(offsets(&events), [(0, 2)]);
    first.stop();
}

#[test]
fn a_slow_receiver_holds_fetching_back_and_loses_nothing() {
    let topic = broker().topic("slow", 2);
    let payload = vec![b'x'; 100_000];
    broker().produce(&topic, (0..300).map(|i| (i % 2, 1 + i64::from(i), payload.as_slice())));
    let mut config = config(&[&topic]);
    config.batch_messages = 4;
    config.channel_events = 1;
    for (key, value) in [("session.timeout.ms", "1500"), ("heartbeat.interval.ms", "300"), ("max.poll.interval.ms", "1500")] {
        config.settings.properties.insert(key.into(), value.into());
    }
    let source = start(config).unwrap();
    // Nothing is taken for longer than the session and the poll interval last: the membership must survive it.
    wait_for("the channel to be full", || source.events.is_full().then_some(()));
    let overdue = firstseen::host_clock::monotonic() + Duration::from_secs(3);
    wait_for("the membership's limits to pass", || (firstseen::host_clock::monotonic() > overdue).then_some(()));
    let events = until(&source, caught_up);
    assert_eq!(offsets(&events), (0..300).map(|i| (i % 2, i64::from(i) / 2)).collect::<Vec<_>>());
    assert!(!events.contains(&SourceEvent::Revoked));
    source.stop();
}

#[test]
fn a_missing_topic_and_an_absent_broker_are_told_by_name() {
    let error = start(config(&["no-such-topic"])).unwrap_err();
    assert_eq!(error, SourceError::MissingTopic { topic: "no-such-topic".into() });
    let mut absent = config(&["any"]);
    absent.settings.bootstrap_servers = "127.0.0.1:1".into();
    absent.connect_timeout = Duration::from_millis(500);
    let error = start(absent).unwrap_err();
    assert!(matches!(error, SourceError::Client(ClientError::Unreachable { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("kafka.bootstrap_servers = \"127.0.0.1:1\"") && text.contains("Connection refused"), "{text}");
    let mut config = config(&["no-such-topic"]);
    config.topics = vec![broker().topic("present", 1)];
    config.replay = vec![Run { partition: PartitionId(0), upto: NextOffset(1) }];
    assert!(matches!(start(config.clone()).unwrap_err(), SourceError::ReplayPartition { .. }));
    config.replay.clear();
    config.positions = [((config.topics[0].clone(), 0), NextOffset(5))].into();
    let source = start(config).unwrap();
    assert!(matches!(next(&source), SourceEvent::Fatal(SourceError::PositionBeyondEnd { .. })));
    source.stop();
}

fn outgoing(topic: &str, key: &str, token: u64) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        key: key.as_bytes().to_vec(),
        headers: vec![("change".to_owned(), b"opened".to_vec()), ("revision".to_owned(), token.to_string().into_bytes())],
        payload: format!("{key} {token}").into_bytes(),
        token,
    }
}

type Read = (i32, i64, String, String, String);

fn read(settings: &KafkaSettings, topic: &str, from: &BTreeMap<i32, NextOffset>) -> (Vec<Read>, BTreeMap<i32, NextOffset>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut out = Vec::new();
    let ends = read_to_end(settings, topic, from, PATIENCE, |r| {
        assert_eq!(r.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["change", "revision"]);
        assert_eq!(r.header("none"), None);
        out.push((r.partition, r.offset, text(r.key), text(r.header("revision").unwrap()), text(r.payload)));
    })
    .unwrap();
    (out, ends)
}

#[test]
fn what_is_written_is_acknowledged_ordered_by_key_and_read_back() {
    let topic = broker().topic("findings", 3);
    let settings = broker().settings(&unique("group"));
    assert_eq!(read(&settings, &topic, &BTreeMap::new()).1, [(0, NextOffset(0)), (1, NextOffset(0)), (2, NextOffset(0))].into(), "empty");
    let sink = Sink::new(&settings, SinkLimits { messages: 50, bytes: 1 << 20 }).unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut take = |sink: &Sink| {
        let taken: Vec<_> = sink.deliveries().try_iter().collect();
        for delivery in taken {
            assert_eq!(acknowledged.insert(delivery.token, delivery.result.unwrap()), None, "once each");
        }
        acknowledged.len()
    };
    let mut full = 0;
    for token in 0..1_000 {
        let mut message = outgoing(&topic, &format!("finding-{}", token % 7), token);
        let deadline = firstseen::host_clock::monotonic() + PATIENCE;
        while let Err(refused) = sink.publish(message) {
            let PublishError::Full(back) = refused else { panic!("{refused:?}") };
            full += 1;
            assert!(firstseen::host_clock::monotonic() < deadline && sink.outstanding() <= 50);
            wait_for("room", || (sink.outstanding() < 50).then_some(()));
            take(&sink);
            message = *back;
        }
    }
    assert!(full > 0, "the bound was never reached");
    sink.flush(PATIENCE).unwrap();
    assert_eq!((take(&sink), sink.outstanding(), sink.fatal()), (1_000, 0, None));
    let (records, ends) = read(&settings, &topic, &BTreeMap::new());
    assert_eq!(records.len(), 1_000);
    let mut last: HashMap<&str, u64> = HashMap::new();
    for (partition, offset, key, revision, payload) in &records {
        let token: u64 = revision.parse().unwrap();
        assert_eq!((*payload == format!("{key} {token}"), acknowledged[&token]), (true, (*partition, *offset)));
        assert!(last.insert(key, token).is_none_or(|before| before + 7 == token), "order of {key}");
    }
    // From positions on, which may be behind the log's start.
    let from: BTreeMap<i32, NextOffset> = ends.iter().map(|(p, end)| (*p, NextOffset((end.0 - 2).max(0)))).collect();
    let (tail, same) = read(&settings, &topic, &from);
    assert_eq!(same, ends);
    let expected: Vec<_> = records.iter().filter(|r| r.1 >= from[&r.0].0).cloned().collect();
    let sorted = |mut v: Vec<Read>| {
        v.sort();
        v
    };
    assert_eq!(sorted(tail), sorted(expected));
    let partition = records[0].0;
    broker().delete_before(&topic, partition, 3);
    let (rest, _) = read(&settings, &topic, &BTreeMap::new());
    assert_eq!(rest.len(), 997);
    let beyond = BTreeMap::from([(partition, NextOffset(ends[&partition].0 + 1))]);
    assert!(matches!(read_to_end(&settings, &topic, &beyond, PATIENCE, |_| {}), Err(ReadbackError::BeyondEnd { .. })));
    assert!(matches!(read_to_end(&settings, "no-such", &beyond, PATIENCE, |_| {}), Err(ReadbackError::MissingTopic { .. })));
}

#[test]
fn offsets_without_messages_at_the_end_do_not_hold_reading_back() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let topic = broker().topic("markers", 1);
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker().bootstrap()).set("transactional.id", unique("tx")).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..3 {
        producer.send(BaseRecord::<(), str>::to(&topic).payload("x").timestamp(1)).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    // Another's open transaction does not hide what is written.
    let mut seen = 0;
    let ends = read_to_end(&broker().settings("g"), &topic, &BTreeMap::new(), PATIENCE, |_| seen += 1).unwrap();
    assert_eq!((seen, ends), (3, [(0, NextOffset(3))].into()));
    producer.commit_transaction(PATIENCE).unwrap();
    let cluster = Cluster::new(&broker().settings("g"), PATIENCE).unwrap();
    wait_for("the marker to be written", || (cluster.ends(&topic, 0).unwrap().1 == NextOffset(4)).then_some(()));
    let mut seen = Vec::new();
    let ends = read_to_end(&broker().settings("g"), &topic, &BTreeMap::new(), PATIENCE, |r| seen.push(r.offset)).unwrap();
    assert_eq!((seen, ends), (vec![0, 1, 2], [(0, NextOffset(4))].into()));
    // The input's end, too, is beyond its last message; when idle it is committed up to there.
    let mut config = config(&[&topic]);
    config.commit_interval = Duration::from_millis(100);
    let settings = config.settings.clone();
    let source = start(config).unwrap();
    assert_eq!(offsets(&until(&source, caught_up)), [(0, 0), (0, 1), (0, 2)]);
    source.commit(&[(PartitionId(0), NextOffset(3))]);
    wait_for("the log's end to be committed", || {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &settings.bootstrap_servers)
            .set("group.id", &settings.group_id)
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition(&topic, 0);
        (consumer.committed_offsets(list, PATIENCE).unwrap().elements()[0].offset() == rdkafka::Offset::Offset(4)).then_some(())
    });
    source.stop();
}

#[test]
fn what_cannot_be_written_comes_back_with_a_reason() {
    let topic = broker().topic("refused", 1);
    let mut settings = broker().settings("g");
    settings.properties.insert("message.max.bytes".into(), "2000".into());
    settings.properties.insert("topic.metadata.propagation.max.ms".into(), "500".into());
    let sink = Sink::new(&settings, SinkLimits::default()).unwrap();
    let mut large = outgoing(&topic, "k", 1);
    large.payload = vec![0; 5_000];
    let Err(PublishError::Refused(back, error)) = sink.publish(large) else { panic!("taken") };
    assert_eq!((back.token, error), (1, SinkError::TooLarge { topic: topic.clone() }));
    sink.publish(outgoing("no-such-topic", "k", 2)).unwrap();
    let delivery = sink.deliveries().recv_timeout(PATIENCE).unwrap();
    assert_eq!((delivery.token, delivery.result), (2, Err(SinkError::MissingTopic { topic: "no-such-topic".into() })));
    settings.bootstrap_servers = "127.0.0.1:1".into();
    let away = Sink::new(&settings, SinkLimits::default()).unwrap();
    away.publish(outgoing(&topic, "k", 3)).unwrap();
    assert!(matches!(away.flush(Duration::from_millis(200)), Err(SinkError::NotFlushed { outstanding: 1, .. })));
}

#[test]
fn topics_are_created_only_when_that_is_allowed() {
    let settings = broker().settings("g");
    let admin = Admin::new(&settings, PATIENCE).unwrap();
    let topic = unique("created");
    let mut wanted = TopicSettings { partitions: 3, retention: Some(Duration::from_secs(86_400)), create: false };
    let error = admin.ensure_topic(&topic, wanted).unwrap_err();
    assert_eq!(error, AdminError::NotAllowed { topic: topic.clone() });
    assert!(error.to_string().contains(&topic) && error.to_string().contains("output.create_topics"));
    assert!(!admin.topic_exists(&topic).unwrap());
    wanted.create = true;
    assert_eq!(admin.ensure_topic(&topic, wanted).unwrap(), Ensured::Created);
    assert_eq!(admin.ensure_topic(&topic, wanted).unwrap(), Ensured::Existed { partitions: 3 });
    assert_eq!(admin.partitions(&topic).unwrap(), Some(vec![0, 1, 2]));
    assert!(matches!(admin.ensure_topic("not a name", wanted), Err(AdminError::Refused { .. } | AdminError::Client(_))));
}

#[test]
fn a_broker_that_stands_still_or_dies_costs_time_and_nothing_else() {
    let broker = Broker::start();
    let (input, output) = (broker.topic("input", 2), broker.topic("output", 2));
    let payload = vec![b'x'; 50_000];
    broker.produce(&input, (0..400).map(|i| (i % 2, 1 + i64::from(i), payload.as_slice())));
    let mut config = SourceConfig::new(broker.settings("group"), vec![input.clone()]);
    config.batch_messages = 1;
    config.channel_events = 1;
    config.waiting_after = Duration::from_millis(200);
    // Little is fetched ahead, so that there is something left to wait for.
    for (key, value) in [("queued.max.messages.kbytes", "100"), ("fetch.max.bytes", "1000000"), ("socket.timeout.ms", "3000")] {
        config.settings.properties.insert(key.into(), value.into());
    }
    let source = start(config).unwrap();
    let mut events = until(&source, |e| matches!(e, SourceEvent::Messages(_)));
    broker.pause();
    events.extend(until(&source, |e| matches!(e, SourceEvent::Waiting { .. })));
    assert!(offsets(&events).len() < 400, "waited for what was there");
    broker.resume();
    events.extend(until(&source, |e| matches!(e, SourceEvent::Messages(_))));

    let sink = Sink::new(&broker.settings("group"), SinkLimits::default()).unwrap();
    for token in 0..100 {
        sink.publish(outgoing(&output, &format!("finding-{}", token % 5), token)).unwrap();
    }
    broker.kill();
    for token in 100..200 {
        sink.publish(outgoing(&output, &format!("finding-{}", token % 5), token)).unwrap();
    }
    broker.resurrect();
    events.extend(until(&source, caught_up));
    assert_eq!(offsets(&events), (0..400).map(|i| (i % 2, i64::from(i) / 2)).collect::<Vec<_>>());
    assert!(!events.iter().any(|e| matches!(e, SourceEvent::Gap { .. } | SourceEvent::Fatal(_))));
    source.stop();

    sink.flush(PATIENCE).unwrap();
    assert!(sink.deliveries().try_iter().all(|d| d.result.is_ok()));
    let (records, _) = read(&broker.settings("group"), &output, &BTreeMap::new());
    assert_eq!(records.len(), 200, "each once");
    let mut last: HashMap<&str, u64> = HashMap::new();
    for (_, _, key, revision, _) in &records {
        let token: u64 = revision.parse().unwrap();
        assert!(last.insert(key, token).is_none_or(|before| before + 5 == token), "order of {key}");
    }
}

type Delivered = Result<(i32, i64), SinkError>;

/// A change that is refused for good and one of the same finding right behind it, both on their way at the same time.
fn refused_and_next(sink: &Sink, topic: &str) -> (Delivered, Delivered) {
    sink.publish(outgoing(topic, "finding", 1)).unwrap();
    sink.flush(PATIENCE).unwrap();
    let mut large = outgoing(topic, "finding", 2);
    // It does not compress: the broker, not the client, finds it too large.
    let mut random = numbers(5);
    large.payload = (0..1_000).flat_map(|_| random().to_le_bytes()).collect();
    sink.publish(large).unwrap();
    // Not in one batch with it.
    std::thread::park_timeout(Duration::from_millis(20));
    for token in 3..10 {
        if sink.publish(outgoing(topic, "finding", token)).is_err() {
            break;
        }
    }
    let _ = sink.flush(PATIENCE);
    let mut results: HashMap<u64, _> = sink.deliveries().try_iter().map(|d| (d.token, d.result)).collect();
    (results.remove(&2).unwrap(), results.remove(&3).unwrap_or(Err(SinkError::Fatal { reason: "not taken".to_owned() })))
}

#[test]
fn nothing_is_written_behind_a_change_that_is_refused_but_where_gaps_are_allowed() {
    let settings = broker().settings("g");
    let tokens = |topic: &str| -> Vec<String> { read(&settings, topic, &BTreeMap::new()).0.into_iter().map(|r| r.3).collect() };
    let (findings, dead) = (unique("gapless"), unique("lenient"));
    for topic in [&findings, &dead] {
        broker().narrow_topic(topic, 3_000);
    }
    let sink = Sink::lenient_for(&dead, &settings, SinkLimits::default()).unwrap();
    let (refused, next) = refused_and_next(&sink, &dead);
    assert_eq!(refused, Err(SinkError::TooLarge { topic: dead.clone() }));
    assert!(next.is_ok() && sink.fatal().is_none(), "{next:?}");
    assert_eq!(tokens(&dead), ["1", "3", "4", "5", "6", "7", "8", "9"]);
    let (refused, next) = refused_and_next(&sink, &findings);
    assert_eq!(refused, Err(SinkError::TooLarge { topic: findings.clone() }));
    assert!(next.is_err(), "{next:?}");
    assert_eq!(sink.fatal(), Some(SinkError::TooLarge { topic: findings.clone() }));
    assert_eq!(tokens(&findings), ["1"]);
}

#[test]
fn a_member_that_was_killed_gets_its_partitions_back_before_its_session_is_over() {
    let topic = broker().topic("returns", 2);
    let mut config = config(&[&topic]);
    config.settings.properties.insert("session.timeout.ms".into(), "45000".into());
    config.member = Some("the-same".to_owned());
    let first = start(config.clone()).unwrap();
    until(&first, caught_up);
    // The second comes while the first is there: for the group, as if that had been killed. It gets all at once, and the first ends.
    let second = start(config).unwrap();
    let events = until(&second, caught_up);
    assert!(matches!(&events[0], SourceEvent::Assigned(all) if all.len() == 2), "{events:?}");
    let events = until(&first, |e| matches!(e, SourceEvent::Fatal(_)));
    let Some(SourceEvent::Fatal(error @ SourceError::Replaced { .. })) = events.last() else { panic!("{events:?}") };
    assert!(error.to_string().contains("a copy of this state directory"), "{error}");
    broker().produce(&topic, [(0, 1, b"x".as_slice())]);
    until(&second, |e| matches!(e, SourceEvent::Messages(_)));
    first.stop();
    second.stop();
}

#[test]
fn a_member_under_a_name_of_its_own_leaves_the_group_when_it_is_stopped() {
    let topic = broker().topic("leaves", 2);
    let mut config = config(&[&topic]);
    // Longer than the test waits for anything.
    config.settings.properties.insert("session.timeout.ms".into(), "180000".into());
    config.member = Some("one".to_owned());
    let first = start(config.clone()).unwrap();
    until(&first, caught_up);
    first.stop();
    config.member = Some("another".to_owned());
    let second = start(config).unwrap();
    let events = until(&second, |e| matches!(e, SourceEvent::Assigned(_) | SourceEvent::PartialAssignment { .. }));
    assert!(matches!(&events[..], [SourceEvent::Assigned(all)] if all.len() == 2), "{events:?}");
    second.stop();
}

#[test]
fn a_member_that_comes_back_gets_the_partitions_that_were_added_meanwhile() {
    let topic = broker().topic("grown", 2);
    let mut config = config(&[&topic]);
    config.settings.properties.insert("session.timeout.ms".into(), "45000".into());
    config.member = Some("grown".to_owned());
    // Nothing of the new partition is noticed while it runs.
    config.settings.properties.insert("topic.metadata.refresh.interval.ms".into(), "600000".into());
    let first = start(config.clone()).unwrap();
    until(&first, caught_up);
    broker().add_partitions(&topic, 3);
    wait_for("all brokers to know the new partition", || {
        let admin = Admin::new(&broker().settings("g"), PATIENCE).unwrap();
        (admin.partitions(&topic).unwrap().unwrap().len() == 3).then_some(())
    });
    let second = start(config).unwrap();
    let events = until(&second, caught_up);
    assert!(events.iter().any(|e| matches!(e, SourceEvent::Assigned(all) if all.len() == 3)), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, SourceEvent::PartialAssignment { .. })), "{events:?}");
    drop(first);
    second.stop();
}
