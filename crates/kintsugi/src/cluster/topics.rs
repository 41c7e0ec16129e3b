//! `topics create`: the topics on a cluster.

use std::time::Duration;

use kintsugi_eventlog::kafka::Options;
use kintsugi_eventlog::kafka::topics::{self, Made, TopicPlan};
use serde_json::json;

use super::security;
use crate::cli::{Format, TopicsArguments};
use crate::failure::Failure;
use crate::log_choice::LogChoice;
use crate::resolved;
use crate::terminal::{json_line, line};

/// How long the cluster may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn create(arguments: &TopicsArguments) -> Result<(), Failure> {
    let LogChoice::Kafka(brokers) = &arguments.log else {
        return Err(Failure::usage(
            "the embedded log makes its topics by itself: name a cluster with --log kafka://…",
        ));
    };
    let settings = resolved::of_cluster(&arguments.dir)?;
    let connection = security::connection(brokers, &settings.kafka, &arguments.dir)?;
    let plan = TopicPlan {
        partitions: arguments.partitions,
        replication: arguments.replication,
        retention: arguments.retention_hours.map(Duration::from_hours),
        append_bytes_max: Options::new(connection.clone(), [0]).append_bytes_max,
    };
    for made in topics::create(&connection, &plan, PATIENCE)? {
        let (topic, is_new) = match made {
            Made::Created(topic) => (topic, true),
            Made::Present(topic) => (topic, false),
        };
        match arguments.format {
            Format::Json => json_line(&json!({"topic": topic, "is_new": is_new}))?,
            Format::Text if is_new => line(&format!("{topic}: made, {} partitions", plan.partitions))?,
            Format::Text => line(&format!("{topic}: is there"))?,
        }
    }
    Ok(())
}
