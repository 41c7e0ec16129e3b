//! Kafka's own client in Java, as the reference for others.
//!
//! It shares no code with the client that the program has, which is written in C.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::BrokerError;
use crate::jars::printed;
use crate::{jars, shared};

/// Sends `messages`, a key and a value each, to `topic`: the client chooses each one's partition by its key.
pub fn send_with_java(brokers: &str, topic: &str, messages: &[(String, String)]) -> Result<(), BrokerError> {
    jars::check_java()?;
    let jars = shared::fetch_jars()?;
    let io = |source| BrokerError::Io { what: "run the Java client".to_owned(), source };
    let mut child = Command::new("java")
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .args(["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", brokers, "--topic", topic])
        .args(["--property", "parse.key=true", "--property", "key.separator=|"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    if let Some(mut input) = child.stdin.take() {
        for (key, value) in messages {
            writeln!(input, "{key}|{value}").map_err(io)?;
        }
    }
    let output = child.wait_with_output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    let what = format!("send to {topic} with the Java client: it ended with {}", output.status);
    Err(BrokerError::Failed { what, printed: printed(&output) })
}

/// A record as the Java client shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JavaRecord {
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl JavaRecord {
    /// The value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads a line that the console consumer prints.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(5, '\t');
        let partition = parts.next()?.strip_prefix("Partition:")?.parse().ok()?;
        let offset = parts.next()?.strip_prefix("Offset:")?.parse().ok()?;
        let headers = parts.next()?;
        let header =
            |pair: &str| pair.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = match headers {
            "NO_HEADERS" => Vec::new(),
            _ => headers.split(HEADER_END).map(header).collect::<Option<_>>()?,
        };
        let (key, value) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { partition, offset, headers, key, value })
    }
}

/// What separates headers, for commas stand in their values.
const HEADER_END: &str = "\u{1f}";

/// Deletes what the broker keeps of a consumer group that has no members, as it does by itself where nobody stored
/// anything for a week.
pub fn delete_group_with_java(brokers: &str, group: &str) -> Result<(), BrokerError> {
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    administer(brokers, class, &["--delete", "--group", group], "was successful")
}

/// Deletes the records of `topic/partition` below `offset`, as a topic's retention does.
pub fn delete_below_with_java(
    brokers: &str,
    topic: &str,
    partition: u32,
    offset: u64,
) -> Result<(), BrokerError> {
    let io = |source| BrokerError::Io { what: "write the offsets to delete below".to_owned(), source };
    let path = std::env::temp_dir().join(format!("{topic}-{partition}-{offset}.json"));
    let place = format!(r#"{{"topic":"{topic}","partition":{partition},"offset":{offset}}}"#);
    std::fs::write(&path, format!(r#"{{"version":1,"partitions":[{place}]}}"#)).map_err(io)?;
    let file = path.to_string_lossy();
    let class = "org.apache.kafka.tools.DeleteRecordsCommand";
    let outcome = administer(brokers, class, &["--offset-json-file", &file], "low_watermark");
    std::fs::remove_file(&path).map_err(io)?;
    outcome
}

/// Runs one of Kafka's commands, which says `words` where it did what it was asked for.
fn administer(brokers: &str, class: &str, arguments: &[&str], words: &str) -> Result<(), BrokerError> {
    jars::check_java()?;
    let jars = shared::fetch_jars()?;
    let output = Command::new("java")
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .args([class, "--bootstrap-server", brokers])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BrokerError::Io { what: "run the Java client".to_owned(), source })?;
    if output.status.success() && String::from_utf8_lossy(&output.stdout).contains(words) {
        return Ok(());
    }
    Err(BrokerError::Failed { what: format!("{class} {}", arguments.join(" ")), printed: printed(&output) })
}

/// So long nothing may come before that is taken for the end of the topic, in milliseconds. The client waits for it
/// once, after the last record.
const END_AFTER_MS: &str = "10000";

/// Everything that is committed on `topic`, as the Java client reads it: each partition in the order of its offsets.
///
/// Fails where a record is none of text in lines, as all events are.
pub fn read_with_java(brokers: &str, topic: &str) -> Result<Vec<JavaRecord>, BrokerError> {
    jars::check_java()?;
    let jars = shared::fetch_jars()?;
    let output = Command::new("java")
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .args(["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", brokers])
        .args(["--topic", topic, "--from-beginning", "--isolation-level", "read_committed"])
        .args(["--timeout-ms", END_AFTER_MS])
        .args(["--property", "print.partition=true", "--property", "print.offset=true"])
        .args(["--property", "print.headers=true", "--property", "print.key=true"])
        .args(["--property", &format!("headers.separator={HEADER_END}")])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BrokerError::Io { what: "run the Java client".to_owned(), source })?;
    let failed = |what: String| BrokerError::Failed { what, printed: printed(&output) };
    let told = String::from_utf8_lossy(&output.stderr);
    let counted =
        told.lines().find_map(|line| line.strip_prefix("Processed a total of ")?.strip_suffix(" messages"));
    let Some(count) = counted.and_then(|count| count.parse::<usize>().ok()) else {
        return Err(failed(format!("read {topic} with the Java client: it ended with {}", output.status)));
    };
    let text = String::from_utf8_lossy(&output.stdout);
    // That nothing more came is told among them.
    let lines = text.lines().filter(|line| line.starts_with("Partition:"));
    let records: Option<Vec<JavaRecord>> = lines.map(JavaRecord::parse).collect();
    records.filter(|records| records.len() == count).ok_or_else(|| {
        failed(format!("read {topic} with the Java client: not every line is a record of {count}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_java_client_is_a_record() {
        let line = "Partition:3\tOffset:17\tce_id:evt_1\u{1f}ce_time:2026-12-01T10:00:00Z\techo-0\t{\"a\":\"b\\tc\"}";
        let record = JavaRecord::parse(line).expect("a record");
        assert_eq!((record.partition, record.offset, record.key.as_str()), (3, 17, "echo-0"));
        assert_eq!(record.header("ce_time"), Some("2026-12-01T10:00:00Z"));
        assert_eq!((record.header("ce_no"), record.value.as_str()), (None, "{\"a\":\"b\\tc\"}"));
        let bare = JavaRecord::parse("Partition:0\tOffset:0\tNO_HEADERS\tnull\t{}").expect("a record");
        assert_eq!((bare.headers, bare.key.as_str()), (Vec::new(), "null"));
        assert_eq!(JavaRecord::parse("Exception in thread"), None);
    }
}
