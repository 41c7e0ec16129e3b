//! Kafka's own client in Java, as the reference for others.

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
