//! A cluster that asks who is there.

use std::time::Duration;

use kintsugi_broker::{Secured, shared};
use kintsugi_eventlog::kafka::topics::{TopicPlan, create, delete};
use kintsugi_eventlog::kafka::{Connection, Options};
use kintsugi_eventlog::{EventLog as _, KafkaLog, LogError, LogReader as _, TopicPartition};
use kintsugi_events::Topic;

use super::support::{LONG, connection, one};

const AGENTS: TopicPartition = TopicPartition::new(Topic::Agents, 0);

fn listener() -> Secured {
    shared::secured().unwrap_or_else(|error| panic!("{error}"))
}

fn secured(listener: &Secured, mechanism: &str, password: &str) -> Connection {
    let mut connection = connection(&listener.bootstrap);
    let authority = listener.authority.display().to_string();
    connection.properties = [
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", authority.as_str()),
        ("sasl.mechanism", mechanism),
        ("sasl.username", listener.user),
        ("sasl.password", password),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    connection
}

#[test]
fn a_lane_works_over_tls_with_a_password() {
    let listener = listener();
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let connection = secured(&listener, mechanism, listener.password);
        create(&connection, &TopicPlan { partitions: 1, ..TopicPlan::default() }, LONG).expect("topics");
        let log = KafkaLog::open(Options::new(connection.clone(), [0])).expect("the lane opens");
        log.append_wait(&one(AGENTS, "protected")).expect("durable");
        assert_eq!(log.read(AGENTS, 0, 10, usize::MAX).expect("records").len(), 1);
        log.close().expect("closed");
        delete(&connection).expect("deleted");
    }
}

#[test]
fn a_wrong_password_is_told_at_once_and_nowhere_shown() {
    let listener = listener();
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let mut options = Options::new(secured(&listener, mechanism, "not-the-password"), [0]);
        // Longer than the test may take: a refusal is not waited out.
        options.patience = Duration::from_mins(10);
        let refused = KafkaLog::open(options).expect_err("refused");
        let told = refused.to_string();
        assert!(matches!(refused, LogError::Refused { .. }), "{told}");
        assert!(told.contains(&listener.bootstrap) && told.contains("check user, password"), "{told}");
        assert!(!told.contains("not-the-password"), "{told}");
    }
}

#[test]
fn a_broker_whose_certificate_is_not_trusted_is_refused() {
    let listener = listener();
    let mut connection = secured(&listener, "PLAIN", listener.password);
    connection.properties.remove("ssl.ca.location");
    let mut options = Options::new(connection, [0]);
    options.patience = Duration::from_mins(10);
    let refused = KafkaLog::open(options).expect_err("refused");
    let told = refused.to_string();
    assert!(matches!(refused, LogError::Refused { .. }), "{refused:?}");
    assert!(told.contains("certificate"), "{told}");
}
