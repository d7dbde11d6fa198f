//! Positions in the consumer group, which are for other people's tools: one whose commit was lost on the way is there in the end.

use std::time::Duration;

use firstseen::host_clock::monotonic;
use firstseen::kafka::position::{NextOffset, PartitionId};
use firstseen::kafka::source::{self, SourceConfig, SourceEvent};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::support::kafka::{PATIENCE, broker, unique};

#[test]
fn a_position_whose_commit_was_lost_is_committed_again() {
    // No real broker can be made to lose one commit: librdkafka's mock can.
    let cluster = MockCluster::new(1).unwrap();
    let topic = unique("commits");
    cluster.create_topic(&topic, 1, 1).unwrap();
    let mut settings = broker().settings(&unique("group"));
    settings.bootstrap_servers = cluster.bootstrap_servers();
    let client = || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &settings.bootstrap_servers).set("group.id", &settings.group_id);
        config
    };
    let producer: BaseProducer = client().remove("group.id").create().unwrap();
    for _ in 0..3 {
        producer.send(BaseRecord::<(), str>::to(&topic).partition(0).payload("x")).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let committed = || {
        let consumer: BaseConsumer = client().create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        consumer.committed_offsets(list, PATIENCE).unwrap().elements()[0].offset().to_raw().unwrap_or(-1)
    };

    let mut config = SourceConfig::new(settings.clone(), vec![topic.clone()]);
    config.commit_interval = Duration::from_millis(50);
    let source = source::start(config, Box::new(|value: &[u8], _, _| value.to_vec())).unwrap();
    while source.events.recv_timeout(PATIENCE).unwrap() != SourceEvent::CaughtUp {}
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
    source.commit(&[(PartitionId(0), NextOffset(3))]);
    // It does not move any more, and no broker says so: once a minute everything is committed anew.
    let begun = monotonic();
    let mut looks = 0;
    while committed() != 3 {
        assert!(begun.elapsed() < 3 * PATIENCE, "{} after {:?}", committed(), begun.elapsed());
        std::thread::park_timeout(Duration::from_millis(500));
        looks += 1;
    }
    assert!(looks > 0, "the first commit was lost");
    source.stop();
}
