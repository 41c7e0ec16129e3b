//! The settings of a node, and which values no node can run with.

mod hashed;
mod smaller;

use std::fmt;
use std::path::PathBuf;

use kintsugi_agent::Prices;
use kintsugi_eventlog::embedded::Options;
use kintsugi_events::Mode;
use kintsugi_events::health::HealthThresholds;
use kintsugi_monitor::MonitorSettings;
use kintsugi_runtime::Stages;
use kintsugi_types::ByteCount;
use serde::{Deserialize, Serialize};

pub(crate) use self::smaller::SmallerSettings;
use crate::diagnose_settings::{ByModel, DiagnoseSettings};

/// The name of the model that is shipped in the binary.
pub(crate) const SHIPPED_MODEL: &str = "kintsugi-nano";

/// All settings of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) node: NodeSettings,
    pub(crate) model: ModelSettings,
    pub(crate) healing: HealingSettings,
    pub(crate) stages: StageSettings,
    pub(crate) prices: Prices,
    pub(crate) http: HttpSettings,
    pub(crate) log: LogSettings,
    pub(crate) kafka: KafkaSettings,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeSettings {
    /// Agents on the model at the same time.
    pub(crate) slots: usize,
    /// Seed of all draws.
    pub(crate) seed: u64,
    /// Threads that tools may block at the same time.
    pub(crate) tool_threads: usize,
    /// The longest wait for one tool call, in milliseconds, whatever the tool itself promises.
    pub(crate) tool_ms_max: u64,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { slots: 12, seed: 7, tool_threads: 4, tool_ms_max: 30_000 }
    }
}

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// A GGUF file, or the name of a shipped model.
    pub(crate) name: String,
    /// Memory that it may take, keys and values included.
    pub(crate) memory_budget: ByteCount,
    /// Host memory that the keys and values of waiting agents may take, beside the budget.
    pub(crate) host_memory: ByteCount,
    /// The longest context, in tokens; at most what the model takes.
    pub(crate) context_tokens: u32,
    /// Temperature of sampling; 0 takes the likeliest token.
    pub(crate) temperature: f32,
    /// Nucleus of sampling.
    pub(crate) top_p: f32,
    /// The longest that one lease lasts, in milliseconds.
    pub(crate) lease_ms_max: u64,
    /// Compute threads; 0 takes all cores but one, at least one.
    pub(crate) threads: usize,
    /// A second, smaller model.
    #[serde(skip_serializing_if = "SmallerSettings::is_none")]
    pub(crate) smaller: SmallerSettings,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            name: SHIPPED_MODEL.to_owned(),
            memory_budget: ByteCount::mib(512),
            host_memory: ByteCount::mib(1024),
            context_tokens: 1024,
            temperature: 0.0,
            top_p: 1.0,
            lease_ms_max: 60_000,
            threads: 0,
            smaller: SmallerSettings::default(),
        }
    }
}

/// Healing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HealingSettings {
    /// How much the system may do by itself.
    pub(crate) mode: Mode,
    /// From which health an agent counts as degraded, recovering, failed.
    pub(crate) thresholds: HealthThresholds,
    /// What the monitor takes for a deviation.
    pub(crate) monitor: MonitorSettings,
    /// How anomalies are diagnosed.
    pub(crate) diagnose: DiagnoseSettings,
}

impl HealingSettings {
    /// What the monitor goes by.
    pub(crate) fn monitor_settings(&self) -> MonitorSettings {
        MonitorSettings { health: self.thresholds, ..self.monitor }
    }
}

/// Where a healing stage runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StagePlace {
    /// In the node.
    #[default]
    Internal,
    /// Elsewhere, or nowhere: the node leaves it alone.
    External,
}

/// Where the healing stages run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StageSettings {
    pub(crate) monitor: StagePlace,
    pub(crate) diagnose: StagePlace,
    pub(crate) recover: StagePlace,
}

impl StageSettings {
    /// Those that run in the node.
    pub(crate) fn inside(self) -> Stages {
        Stages {
            monitor: self.monitor == StagePlace::Internal,
            diagnose: self.diagnose == StagePlace::Internal,
            recover: self.recover == StagePlace::Internal,
        }
    }
}

/// The HTTP API of `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpSettings {
    /// Where it listens.
    pub(crate) listen: String,
    /// A file that holds the token which every request has to bring; relative to the folder of `kintsugi.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Goals that may be open at the same time; further ones are answered with 429.
    pub(crate) open_goals_max: usize,
    /// Event streams that may be open at the same time; further ones are answered with 503.
    pub(crate) streams_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7878".to_owned(),
            token_file: None,
            open_goals_max: 10_000,
            streams_max: 64,
        }
    }
}

/// The embedded log of `up`. What is deleted is older than one and beyond the other, and needed by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// What is younger is kept, in hours.
    pub(crate) retention_hours: u64,
    /// So many of the newest bytes are kept.
    pub(crate) retention_bytes: ByteCount,
    /// About how large a file becomes before the next is begun; only whole files are deleted.
    pub(crate) segment_bytes: ByteCount,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            retention_hours: 7 * 24,
            retention_bytes: ByteCount::mib(1024),
            segment_bytes: Options::default().segment_bytes,
        }
    }
}

/// How a cluster is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Security {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// With a user, not encrypted.
    SaslPlaintext,
    /// With a user, over TLS.
    SaslSsl,
}

impl Security {
    /// Whether a user is named.
    pub(crate) const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    /// Whether it is encrypted.
    pub(crate) const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Its name in settings, which is Kafka's own.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
}

/// How a user proves who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SaslMechanism {
    /// The password itself: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 5802 with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 5802 with SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// Its name in settings, which is Kafka's own.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A Kafka cluster, where `--log` names one. Files are relative to the folder of `kintsugi.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KafkaSettings {
    /// What the topics' names begin with, before the dot.
    pub(crate) prefix: String,
    /// The node's name among the nodes: one that comes back under its name soon enough finds its lanes where it left
    /// them. Without one it is the data folder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// After so long without a sign of life a node's lanes go to others.
    pub(crate) session_timeout_ms: u64,
    /// How the cluster is spoken to.
    pub(crate) security: Security,
    /// How the user proves who it is.
    pub(crate) sasl_mechanism: SaslMechanism,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    /// A file that holds the user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    /// Certificates of those who vouch for the brokers, PEM; those of the system where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_file: Option<PathBuf>,
    /// The key of the client's certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// A file that holds the password of that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_password_file: Option<PathBuf>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            prefix: "kintsugi".to_owned(),
            node: None,
            session_timeout_ms: 30_000,
            security: Security::default(),
            sasl_mechanism: SaslMechanism::default(),
            username: None,
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            key_password_file: None,
        }
    }
}

impl KafkaSettings {
    /// Whether Kafka takes the prefix as the beginning of a topic's name.
    fn has_fit_prefix(&self) -> bool {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !self.prefix.is_empty() && self.prefix.len() <= 200 && self.prefix.bytes().all(is_fit)
    }
}

/// A value that no node can run with.
pub(crate) struct Unfit<'a> {
    /// Its key, `section.key`.
    pub(crate) key: &'static str,
    /// The value.
    pub(crate) value: &'a dyn fmt::Display,
    /// What it must be.
    pub(crate) must: &'static str,
    /// The key of the setting that it is compared with, else its own.
    pub(crate) beside: &'static str,
}

/// A number's key, the number, whether it can be run with, and what it must be.
type Fact = (&'static str, f64, bool, &'static str);

/// What has to hold of the monitor's settings.
fn monitor_facts(monitor: &MonitorSettings) -> impl Iterator<Item = Fact> {
    let ratios = &monitor.ratios;
    let share = |key, value: f64| (key, value, value > 0.0 && value < 1.0, "above 0 and below 1");
    let multiple = |key, value: f64| (key, value, value.is_finite() && value > 1.0, "a number above 1");
    let score = |key, value: f64| (key, value, (0.0..=1.0).contains(&value), "between 0 and 1");
    let numbers = [
        share("healing.monitor.ratios.confidence_min", ratios.confidence_min),
        share("healing.monitor.ratios.coherence_min", ratios.coherence_min),
        share("healing.monitor.ratios.tool_success_min", ratios.tool_success_min),
        multiple("healing.monitor.ratios.latency_max", ratios.latency_max),
        multiple("healing.monitor.ratios.tokens_max", ratios.tokens_max),
        multiple("healing.monitor.ratios.step_max", ratios.step_max),
        multiple("healing.monitor.ratios.call_max", ratios.call_max),
        score("healing.monitor.similarity_max", monitor.similarity_max),
        score("healing.monitor.confidence_floor", monitor.confidence_floor),
        score("healing.monitor.context_ratio_max", monitor.context_ratio_max),
        {
            let slow = monitor.slow_ms_min;
            ("healing.monitor.slow_ms_min", slow, slow.is_finite() && slow >= 0.0, "a number not below 0")
        },
    ];
    let streaks = [
        ("healing.monitor.tool_streak", monitor.tool_streak),
        ("healing.monitor.refusal_streak", monitor.refusal_streak),
        ("healing.monitor.same_call_streak", monitor.same_call_streak),
        ("healing.monitor.failing_action_streak", monitor.failing_action_streak),
        ("healing.monitor.similar_thought_streak", monitor.similar_thought_streak),
    ]
    .map(|(key, value)| (key, f64::from(value), value > 0, "at least 1"));
    numbers.into_iter().chain(streaks)
}

impl Settings {
    /// Finds a value that no node can run with, before it costs a run, and hands it to `refuse`.
    pub(crate) fn check<E>(&self, refuse: impl FnOnce(&Unfit<'_>) -> E) -> Result<(), E> {
        let Self { node, model, healing, stages, prices, http, log, kafka } = self;
        let thresholds = healing.thresholds;
        let is_price = |price: f64| price.is_finite() && price >= 0.0;
        let share = model.smaller.memory_share;
        let facts: [(bool, &'static str, &dyn fmt::Display, &'static str); 17] = [
            (node.slots > 0, "node.slots", &node.slots, "at least 1"),
            (node.tool_threads > 0, "node.tool_threads", &node.tool_threads, "at least 1"),
            (node.tool_ms_max > 0, "node.tool_ms_max", &node.tool_ms_max, "at least 1"),
            (model.lease_ms_max > 0, "model.lease_ms_max", &model.lease_ms_max, "at least 1"),
            (
                model.temperature.is_finite() && model.temperature >= 0.0,
                "model.temperature",
                &model.temperature,
                "a number not below 0",
            ),
            (model.top_p > 0.0 && model.top_p <= 1.0, "model.top_p", &model.top_p, "above 0 and at most 1"),
            (
                share > 0.0 && share < 1.0,
                "model.smaller.memory_share",
                &model.smaller.memory_share,
                "above 0 and below 1",
            ),
            (
                model.smaller.name.is_some() || model.smaller.is_none(),
                "model.smaller.memory_share",
                &model.smaller.memory_share,
                "left out where model.smaller.name names no model",
            ),
            (
                thresholds.recovering <= thresholds.degraded,
                "healing.thresholds.recovering",
                &thresholds.recovering.get(),
                "at most healing.thresholds.degraded",
            ),
            (
                thresholds.failed <= thresholds.recovering,
                "healing.thresholds.failed",
                &thresholds.failed.get(),
                "at most healing.thresholds.recovering",
            ),
            (
                is_price(prices.prompt_usd_per_million),
                "prices.prompt_usd_per_million",
                &prices.prompt_usd_per_million,
                "a number not below 0",
            ),
            (
                is_price(prices.completion_usd_per_million),
                "prices.completion_usd_per_million",
                &prices.completion_usd_per_million,
                "a number not below 0",
            ),
            (http.open_goals_max > 0, "http.open_goals_max", &http.open_goals_max, "at least 1"),
            (http.streams_max > 0, "http.streams_max", &http.streams_max, "at least 1"),
            (
                (4 << 10..=1 << 30).contains(&log.segment_bytes.bytes()),
                "log.segment_bytes",
                &log.segment_bytes,
                "between 4 KiB and 1 GiB",
            ),
            (
                kafka.has_fit_prefix(),
                "kafka.prefix",
                &kafka.prefix,
                "1 to 200 letters, digits, dots, dashes and underscores",
            ),
            (
                // What a broker takes unless it is told otherwise.
                (6_000..=1_800_000).contains(&kafka.session_timeout_ms),
                "kafka.session_timeout_ms",
                &kafka.session_timeout_ms,
                "between 6000 and 1800000",
            ),
        ];
        if healing.diagnose.by_model != ByModel::Off && stages.diagnose == StagePlace::External {
            let (key, value) = ("healing.diagnose.by_model", &healing.diagnose.by_model.name());
            let must = "off where stages.diagnose is external, for a stage outside of the node has no model";
            return Err(refuse(&Unfit { key, value, must, beside: "stages.diagnose" }));
        }
        let mut numbers = monitor_facts(&healing.monitor).chain(healing.diagnose.facts());
        if let Some((key, value, _, must)) = numbers.find(|(_, _, holds, _)| !holds) {
            return Err(refuse(&Unfit { key, value: &value, must, beside: key }));
        }
        let Some((_, key, value, must)) = facts.into_iter().find(|(holds, ..)| !holds) else { return Ok(()) };
        let beside = must.strip_prefix("at most ").filter(|other| other.contains('.')).unwrap_or(key);
        Err(refuse(&Unfit { key, value, must, beside }))
    }
}
