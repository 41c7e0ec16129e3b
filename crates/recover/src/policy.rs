//! Policies: which action is taken for which diagnosis, as data.

use kintsugi_events::{Diagnosis, FaultType, RecoveryAction, Severity, Subject};
use kintsugi_types::{ErrorTier, RetryPolicy};
use serde::{Deserialize, Serialize};

use crate::parse::PolicyError;

/// The longest time that a policy may name, in milliseconds: a week. Whoever wants longer wants a person.
pub const TIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// What kind of subject a diagnosis is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say all there is")]
pub enum SubjectKind {
    Agent,
    Tool,
    Model,
    Engine,
}

impl SubjectKind {
    /// The kind of `subject`.
    pub const fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Agent(_) => Self::Agent,
            Subject::Tool(_) => Self::Tool,
            Subject::Model(_) => Self::Model,
            Subject::Engine => Self::Engine,
        }
    }
}

/// When a policy applies: all that is given must hold; an empty one always does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// The fault is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_type: Option<FaultType>,
    /// It is at least so bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Whether anything automatic can help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recoverable: Option<bool>,
    /// The tool's error is of this tier; one of unknown tier counts as transient, and no tool fits none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_tier: Option<ErrorTier>,
    /// The call failed at least so many times in a row: this agent's tries, or over all agents where the subject is
    /// the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_streak: Option<u32>,
    /// This would be at most the so-manieth try for the fault, by whichever policy, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_at_most: Option<u32>,
    /// The diagnosis recommends this action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended: Option<RecoveryAction>,
    /// A score fell by more than this below what it usually is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallen_by_more_than: Option<f64>,
    /// More than this share of the context is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_above: Option<f64>,
    /// What kind of subject is ill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectKind>,
}

impl Conditions {
    /// Whether they hold for `diagnosis` when its next try would be number `attempt`, from 1.
    pub fn hold(&self, diagnosis: &Diagnosis, attempt: u32) -> bool {
        let tier = diagnosis.tool.as_ref().map(|tool| tool.error_tier.unwrap_or(ErrorTier::Transient));
        let streak = diagnosis.tool.as_ref().map_or(0, |tool| tool.attempt);
        self.fault_type.is_none_or(|wanted| wanted == diagnosis.fault_type)
            && self.severity.is_none_or(|least| diagnosis.severity >= least)
            && self.recoverable.is_none_or(|wanted| wanted == diagnosis.recoverable)
            && self.error_tier.is_none_or(|wanted| tier == Some(wanted))
            && self.tool_streak.is_none_or(|least| streak >= least)
            && self.attempt_at_most.is_none_or(|most| attempt <= most)
            && self.recommended.is_none_or(|wanted| wanted == diagnosis.recommended_action)
            && self.fallen_by_more_than.is_none_or(|least| diagnosis.fallen_by.is_some_and(|by| by > least))
            && self.context_above.is_none_or(|least| diagnosis.context_ratio.is_some_and(|used| used > least))
            && self.subject.is_none_or(|wanted| wanted == SubjectKind::of(&diagnosis.agent))
    }
}

/// How an action is carried out. Each action reads what concerns it; the defaults are the design's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// How many times the policy is used for one fault before the next best one is. 3 unless set.
    pub attempts: u32,
    /// The pause before the first retry, in milliseconds. 5 000 unless set.
    pub first_delay_ms: u64,
    /// By what the pause grows from one retry to the next. 2 unless set.
    pub factor: f64,
    /// The longest pause before a retry, in milliseconds. 60 000 unless set.
    pub delay_max_ms: u64,
    /// The share of a pause that is drawn at random, in [0, 1], so that agents do not come back as one. 0.2 unless
    /// set.
    pub jitter: f64,
    /// A breaker's longest pause between two probes, in milliseconds. 300 000 unless set.
    pub open_ms: u64,
    /// A breaker's pause from opening to the first probe, in milliseconds. 60 000 unless set.
    pub half_open_ms: u64,
    /// How long after its pause a recovery may take until it counts as failed, in milliseconds. 120 000 unless set.
    pub deadline_ms: u64,
    /// How many of the newest turns stay when a context is pruned; the agent's own rule where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns_kept: Option<u32>,
    /// How many steps before the faulty one a reset goes back, at least; none where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_back: Option<u32>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_delay_ms: 5_000,
            factor: 2.0,
            delay_max_ms: 60_000,
            jitter: 0.2,
            open_ms: 300_000,
            half_open_ms: 60_000,
            deadline_ms: 120_000,
            turns_kept: None,
            steps_back: None,
        }
    }
}

impl Parameters {
    /// The pauses between retries.
    pub fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            // The try that failed is the first one.
            attempts_max: self.attempts.saturating_add(1),
            first_delay_ms: self.first_delay_ms,
            factor: self.factor,
            delay_max_ms: self.delay_max_ms,
            jitter: self.jitter,
        }
    }

    /// The pauses of an agent that waits for an open breaker: from one probe to the next.
    pub fn wait_for_breaker(&self) -> RetryPolicy {
        RetryPolicy { first_delay_ms: self.half_open_ms, delay_max_ms: self.open_ms, ..self.retry() }
    }
}

/// One rule: when it applies, and what is done then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Unique within its set; stands in every recovery that it chose.
    pub name: String,
    /// The highest that applies is taken.
    pub priority: i32,
    /// When it applies.
    #[serde(default)]
    pub when: Conditions,
    /// What is done.
    pub action: RecoveryAction,
    /// How.
    #[serde(default)]
    pub parameters: Parameters,
}

/// Policies in the order in which they are tried: highest priority first, equals as they were written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySet {
    policies: Vec<Policy>,
    /// How the rungs of the cascade are carried out.
    pub cascade: Parameters,
}

impl PolicySet {
    /// Reads a policies file; `file_name` is for errors only, which tell line, column and the likely remedy.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, PolicyError> {
        crate::parse::parse(text, file_name)
    }

    /// The policies that are shipped.
    pub fn builtin() -> Self {
        // A test reads the file, so that this default is never taken; without policies the recommendation is.
        Self::parse(include_str!("../policies/default.yaml"), "default.yaml").unwrap_or_default()
    }

    pub(crate) fn new(mut policies: Vec<Policy>, cascade: Parameters) -> Self {
        policies.sort_by_key(|policy| std::cmp::Reverse(policy.priority));
        Self { policies, cascade }
    }

    /// The policies, first tried first.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The first policy that applies to `diagnosis` when its next try would be number `attempt`, and that
    /// `is_left` says is not spent yet.
    pub fn choose(
        &self,
        diagnosis: &Diagnosis,
        attempt: u32,
        is_left: impl Fn(&Policy) -> bool,
    ) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.when.hold(diagnosis, attempt) && is_left(policy))
    }
}
