//! How a cluster is reached, and the settings of every client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use crate::error::LogError;
use crate::queue::locked;

/// How often a broker that does not answer is asked again while a connection is made.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// At the end of a partition the broker holds an answer back for so long, and only one is under way: who goes on to
/// another partition waits for it.
const FETCH_WAIT: Duration = Duration::from_millis(10);

/// The largest message that any client of ours sends or takes, in bytes. A topic may allow less.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Where a cluster is and how it is spoken to.
#[derive(Clone)]
pub struct Connection {
    /// The addresses of some of its brokers, `host:port` with commas between.
    pub brokers: Arc<str>,
    /// What the names of the topics begin with, without the dot.
    pub prefix: Arc<str>,
    /// Who connects, for the broker's own logs.
    pub client: Arc<str>,
    /// Further settings of the client library, for TLS and SASL.
    pub properties: BTreeMap<String, String>,
}

impl Connection {
    /// An unprotected connection to `brokers`, to topics named `kintsugi.…`.
    pub fn new(brokers: impl Into<Arc<str>>) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: "kintsugi".into(),
            client: "kintsugi".into(),
            properties: BTreeMap::new(),
        }
    }

    /// The name of `topic` on the cluster.
    pub fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.short_name())
    }

    /// The topic with this name on the cluster.
    pub(super) fn topic_of(&self, name: &str) -> Option<Topic> {
        name.strip_prefix(&*self.prefix)?.strip_prefix('.')?.parse().ok()
    }

    /// What every client has in common.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &*self.brokers)
            .set("client.id", &*self.client)
            // Ten seconds, as the library has it, are long after a broker came back.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            // Without it the library asks the `log` crate, and stays mute.
            .set_log_level(RDKafkaLogLevel::Warning);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// A consumer that is in no group and only reads what was committed, in `memory_kib` of memory.
    pub(super) fn reader(&self, memory_kib: u32) -> Result<BaseConsumer<Told>, LogError> {
        self.reader_that_waits(memory_kib, FETCH_WAIT)
    }

    /// The same, which asks again after `fetch_wait` where nothing comes. What comes ends the wait.
    pub(super) fn reader_that_waits(
        &self,
        memory_kib: u32,
        fetch_wait: Duration,
    ) -> Result<BaseConsumer<Told>, LogError> {
        let mut config = self.config();
        config
            // The library wants a name. Nobody joins this group, and nothing is stored for it.
            .set("group.id", format!("{}-reader", self.prefix))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", fetch_wait.as_millis().to_string())
            .set("fetch.error.backoff.ms", "20")
            .set("queued.max.messages.kbytes", memory_kib.to_string())
            .set("fetch.message.max.bytes", "1048576")
            .set("fetch.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("receive.message.max.bytes", (2 * MESSAGE_BYTES_MAX).to_string());
        self.create(&config)
    }

    /// A client of `config`.
    pub(super) fn create(&self, config: &ClientConfig) -> Result<BaseConsumer<Told>, LogError> {
        let told = Told::default();
        config.create_with_context(told.clone()).map_err(|error| self.failed("connect", &error, &told))
    }

    /// Waits until a broker answers, at most for `patience`, and returns what it says of all topics.
    pub(super) fn ask(
        &self,
        consumer: &BaseConsumer<Told>,
        patience: Duration,
    ) -> Result<Metadata, LogError> {
        let begun = Instant::now();
        loop {
            let asked = consumer.fetch_metadata(None, ASK_EVERY);
            // Hands over what the library's own threads met.
            drop(consumer.poll(Duration::ZERO));
            match asked {
                Ok(metadata) if !metadata.brokers().is_empty() => return Ok(metadata),
                Ok(_) if begun.elapsed() < patience => {}
                Err(_) if begun.elapsed() < patience && !consumer.context().is_refused() => {}
                Ok(_) => {
                    let reason = "no broker is part of the cluster".to_owned();
                    return Err(LogError::Unreachable { brokers: Arc::clone(&self.brokers), reason });
                }
                Err(error) => return Err(self.failed("connect", &error, consumer.context())),
            }
        }
    }

    /// What `error` means for the caller, with the reason that the library told by the way where it knew more.
    pub(super) fn failed(&self, what: &str, error: &KafkaError, told: &Told) -> LogError {
        let brokers = Arc::clone(&self.brokers);
        if let KafkaError::ClientConfig(_, problem, setting, _) = error {
            // The error itself holds the value too, which may be a secret.
            let reason =
                if problem.contains(setting) { problem.clone() } else { format!("{setting}: {problem}") };
            return LogError::Kafka { what: "set up the client".to_owned(), brokers, reason };
        }
        let code = error.rdkafka_error_code();
        let mut reason = told.reason().unwrap_or_else(|| error.to_string());
        if reason.contains("certificate verify failed") {
            // The library knows no more, and thinks of one cause alone.
            let first = self.brokers.split(',').next().unwrap_or_default();
            reason.push_str(
                "; the certificate may also have expired, or be another host's: `openssl s_client -connect ",
            );
            reason.push_str(first);
            reason.push_str("` shows it with its dates");
        }
        if told.is_refused() || code.is_some_and(is_refusal) {
            return LogError::Refused { brokers, reason };
        }
        match code {
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => LogError::Unreachable { brokers, reason },
            _ => LogError::Kafka { what: what.to_owned(), brokers, reason: error.to_string() },
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Connection")
            .field("brokers", &self.brokers)
            .field("prefix", &self.prefix)
            .field("client", &self.client)
            .field("properties", &properties)
            .finish()
    }
}

/// Whether the cluster knows who asks, or does not want to.
pub(super) const fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}

/// One of the things that the library tells beside its answers.
#[derive(Debug)]
struct Trouble {
    code: Option<RDKafkaErrorCode>,
    reason: String,
}

/// What the library told a client beside its answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    last: Arc<Mutex<Option<Trouble>>>,
}

impl Told {
    /// The last reason for trouble.
    pub(super) fn reason(&self) -> Option<String> {
        locked(&self.last).as_ref().map(|trouble| trouble.reason.clone())
    }

    /// Whether the trouble is that the cluster does not let this client in. Asking again does not help.
    pub(super) fn is_refused(&self) -> bool {
        locked(&self.last).as_ref().is_some_and(|trouble| trouble.code.is_some_and(is_refusal))
    }
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // Every broken connection is logged by the library; what it means is logged where it is handled.
        tracing::debug!(facility, message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            // The end of a partition is no trouble.
            return;
        }
        tracing::debug!(%error, reason, "kafka client");
        let mut last = locked(&self.last);
        // That all brokers are down follows from the reason that came before it.
        if last.is_none() || code != Some(RDKafkaErrorCode::AllBrokersDown) {
            *last = Some(Trouble { code, reason: reason.to_owned() });
        }
    }
}

impl ConsumerContext for Told {}
