//! The broker's topics: made, changed, deleted, filled, as an operator or other producers would.

use std::time::Duration;

use firstseen::kafka::admin::{Admin, TopicSettings};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Broker, PATIENCE, unique, wait_for};

impl Broker {
    /// A new topic with a fresh name.
    pub(crate) fn topic(&self, name: &str, partitions: u16) -> String {
        let topic = unique(name);
        let admin = Admin::new(&self.settings("harness"), PATIENCE).unwrap();
        admin.ensure_topic(&topic, TopicSettings { partitions, retention: None, create: true }).unwrap();
        topic
    }

    /// A new topic of one partition whose messages (batches, compressed) may have at most so many bytes.
    pub(crate) fn narrow_topic(&self, topic: &str, bytes: u32) {
        let limit = bytes.to_string();
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", &limit);
        let results = runtime().block_on(self.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// A new topic whose messages two brokers have to take.
    pub(crate) fn replicated_topic(&self, topic: &str, partitions: i32) {
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(2)).set("min.insync.replicas", "2");
        let results = runtime().block_on(self.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// Sets one of a topic's settings; all others get their defaults.
    pub(crate) fn configure_topic(&self, topic: &str, key: &str, value: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let results = runtime().block_on(self.admin().alter_configs([&config], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().unwrap()
    }

    /// Deletes the partition's messages before `before`, as retention would.
    pub(crate) fn delete_before(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        let admin = self.admin();
        runtime().block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// Deletes the topic and creates one of that name.
    pub(crate) fn recreate(&self, topic: &str, partitions: i32) {
        let admin = self.admin();
        let results = runtime().block_on(admin.delete_topics(&[topic], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        wait_for("the topic to be created again", || {
            let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            let results = runtime().block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
            results.iter().all(Result::is_ok).then_some(())
        });
    }

    /// Gives the topic more partitions.
    pub(crate) fn add_partitions(&self, topic: &str, to: usize) {
        let admin = self.admin();
        let results = runtime().block_on(admin.create_partitions([&NewPartitions::new(topic, to)], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// Writes messages: (partition, timestamp in milliseconds, payload). Returns once all are acknowledged.
    pub(crate) fn produce<'a>(&self, topic: &str, messages: impl IntoIterator<Item = (i32, i64, &'a [u8])>) {
        // Idempotent: a new partition's leader may refuse the first batch, and what is sent again must not come behind the next.
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap())
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .create()
            .unwrap();
        for (partition, timestamp, payload) in messages {
            assert!(timestamp > 0, "zero would mean the present");
            let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).timestamp(timestamp).payload(payload);
            while let Err((error, back)) = producer.send(record) {
                assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "{error}");
                producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        producer.flush(PATIENCE).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}
