//! Making and checking topics, and what is said where something is missing.

use std::time::Duration;

use kintsugi_broker::shared;
use kintsugi_eventlog::kafka::topics::{Made, TopicPlan, check, create};
use kintsugi_eventlog::kafka::{Connection, Options};
use kintsugi_eventlog::{KafkaLog, LogError, TopicPartition};
use kintsugi_events::Topic;
use kintsugi_types::ByteCount;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::support::{LONG, Topics, connection};

fn broker() -> String {
    shared::up().unwrap_or_else(|error| panic!("{error}"))
}

/// Deletes what lies below `offset`, as retention does.
pub(crate) fn delete_below(connection: &Connection, at: TopicPartition, offset: u64) {
    let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &*connection.brokers).create().expect("a client");
    let mut list = rdkafka::TopicPartitionList::new();
    let offset = rdkafka::Offset::Offset(offset.cast_signed());
    list.add_partition_offset(&connection.topic(at.topic), at.partition.cast_signed(), offset)
        .expect("a place");
    let options = rdkafka::admin::AdminOptions::new().operation_timeout(Some(LONG));
    let deleted = futures_executor::block_on(admin.delete_records(&list, &options)).expect("deleted");
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()));
}

#[test]
fn topics_are_made_once_and_left_alone_after() {
    let topics = Topics::new(3);
    let plan = TopicPlan { partitions: 3, ..TopicPlan::default() };
    let again = create(&topics.connection, &plan, LONG).expect("nothing to do");
    assert_eq!(again.len(), Topic::ALL.len());
    assert!(again.iter().all(|made| matches!(made, Made::Present(_))), "{again:?}");
    assert_eq!(check(&topics.connection, ByteCount::mib(8), LONG).expect("all there"), 3);
}

#[test]
fn another_number_of_partitions_is_refused_with_the_reason() {
    let topics = Topics::new(3);
    let refused = create(&topics.connection, &TopicPlan { partitions: 4, ..TopicPlan::default() }, LONG);
    let told = refused.expect_err("refused").to_string();
    assert!(told.contains("has 3 partitions, and 4 are wanted"), "{told}");
    assert!(told.contains("keep 3, or take another prefix"), "{told}");
}

#[test]
fn snapshots_are_compacted_and_the_rest_is_deleted_by_age() {
    let topics = Topics::new(1);
    let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &*topics.connection.brokers).create().expect("a client");
    for topic in Topic::ALL {
        let name = topics.connection.topic(*topic);
        let asked = [rdkafka::admin::ResourceSpecifier::Topic(&name)];
        let options = rdkafka::admin::AdminOptions::new();
        let found = futures_executor::block_on(admin.describe_configs(&asked, &options)).expect("settings");
        let settings = found.into_iter().next().expect("one topic").expect("its settings");
        let policy = settings.get("cleanup.policy").and_then(|entry| entry.value.clone());
        let expected = if *topic == Topic::Snapshots { "compact" } else { "delete" };
        assert_eq!(policy.as_deref(), Some(expected), "{topic}");
    }
}

#[test]
fn a_missing_topic_is_named_with_the_command_that_makes_it() {
    let brokers = broker();
    let refused = KafkaLog::open(Options::new(connection(&brokers), [0])).expect_err("refused");
    let told = refused.to_string();
    assert!(matches!(refused, LogError::Topic { .. }), "{told}");
    assert!(told.contains(".goals") && told.contains("does not exist"), "{told}");
    assert!(told.contains(&format!("kintsugi topics create --log kafka://{brokers}")), "{told}");
}

#[test]
fn a_topic_that_takes_too_little_is_refused_before_anything_is_written() {
    let topics = Topics::new(1);
    let mut options = topics.options([0]);
    options.append_bytes_max = ByteCount::mib(32);
    let refused = KafkaLog::open(options).expect_err("refused").to_string();
    assert!(refused.contains("takes messages of 8454144 bytes at most"), "{refused}");
    assert!(refused.contains("`max.message.bytes`"), "{refused}");
}

#[test]
fn a_lane_of_a_partition_that_is_not_there_is_refused() {
    let topics = Topics::new(2);
    let refused = KafkaLog::open(topics.options([2])).expect_err("refused");
    assert!(matches!(refused, LogError::OtherLane { .. }), "{refused}");
}

#[test]
fn a_wrong_address_is_told_with_the_address() {
    // A port that nobody listens on.
    let address = "127.0.0.1:1";
    let mut options = Options::new(connection(address), [0]);
    options.patience = Duration::from_secs(2);
    let refused = KafkaLog::open(options).expect_err("refused");
    let told = refused.to_string();
    assert!(matches!(refused, LogError::Unreachable { .. }), "{refused:?}");
    assert!(told.contains(&format!("no Kafka broker answers at {address}")), "{told}");
    assert!(told.contains("refused"), "the reason is there: {told}");
}

#[test]
fn a_setting_that_the_client_does_not_know_is_named() {
    let mut connection = connection("127.0.0.1:1");
    connection.properties.insert("sasl.pasword".to_owned(), "secret".to_owned());
    let refused = KafkaLog::open(Options::new(connection.clone(), [0])).expect_err("refused").to_string();
    assert!(refused.contains("sasl.pasword") && !refused.contains("secret"), "{refused}");
    assert!(!format!("{connection:?}").contains("secret"));
}

#[test]
fn nobody_joins_the_reading_group() {
    let topics = Topics::new(1);
    let _log = topics.open([0]);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &*topics.connection.brokers).create().expect("a client");
    let groups = consumer.fetch_group_list(None, LONG).expect("groups");
    let prefix = format!("{}-reader", topics.connection.prefix);
    assert!(groups.groups().iter().all(|group| group.name() != prefix || group.members().is_empty()));
}
