//! What can be asked of an agent.

use std::sync::Arc;

use kintsugi_events::{Goal, Recovery};
use kintsugi_types::{Completion, EffectId, ErrorTier, ModelName, Timestamp};

/// How an inference went.
#[derive(Debug, Clone, PartialEq)]
pub enum ThinkOutcome {
    /// The context holds more than the model takes.
    TooLong {
        /// How much, in words.
        error: String,
    },
    /// The model answered.
    Answered {
        /// The answer.
        completion: Completion,
        /// Waiting for a lease, in milliseconds.
        queue_ms: f64,
        /// How many messages of the prompt were not those of the agent's state.
        contradictions: u32,
        /// The smaller model, where that answered.
        model: Option<ModelName>,
    },
    /// It did not.
    Failed {
        /// How bad it is.
        tier: ErrorTier,
        /// Why.
        error: String,
    },
}

/// How a tool call went.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionOutcome {
    /// The tool answered.
    Answered {
        /// The answer as it goes into the context.
        output: Arc<str>,
    },
    /// It did not, or refused.
    Failed {
        /// How bad it is.
        tier: ErrorTier,
        /// Why, in words that a model can use.
        error: String,
    },
}

/// One command. An agent gets at most one at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Put a goal, whose id is set, into the queue. A goal that the agent already has is left alone.
    AcceptGoal {
        /// The goal.
        goal: Arc<Goal>,
    },
    /// Begin the first goal of the queue, if none is being worked.
    StartGoal {
        /// From this seed all of the goal's random draws follow.
        seed: u64,
    },
    /// An inference ended.
    ThinkDone {
        /// Which one.
        effect: EffectId,
        /// Which try, from 1.
        attempt: u32,
        /// How.
        outcome: ThinkOutcome,
    },
    /// A tool call ended.
    ActionDone {
        /// Which one.
        effect: EffectId,
        /// Which try, from 1.
        attempt: u32,
        /// How.
        outcome: ActionOutcome,
        /// How long it took, in milliseconds.
        tool_ms: f64,
    },
    /// A call that may not be repeated came to no known end.
    CallLost {
        /// Which one.
        effect: EffectId,
        /// What the tool's post-condition says: it happened, it did not, or nobody can tell.
        happened: Option<bool>,
        /// Why its end is not known, for the person who has to check.
        cause: Arc<str>,
    },
    /// The time that the agent waited for has come.
    TimerDue {
        /// The time that the timer was set to.
        at: Timestamp,
    },
    /// A recovery was planned for this agent.
    Recover {
        /// The plan.
        plan: Box<Recovery>,
        /// When it was planned.
        planned_at: Timestamp,
    },
    /// Take no more work until resumed: something about this agent breaks the node.
    Quarantine {
        /// What.
        reason: String,
        /// Whether it broke when the first goal of its queue was to be begun: that one would break others too.
        at_start: bool,
    },
    /// A person brings the agent back.
    Resume {
        /// Who.
        by: String,
    },
}

impl Command {
    /// A stable name, for logs and tests.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AcceptGoal { .. } => "accept_goal",
            Self::StartGoal { .. } => "start_goal",
            Self::ThinkDone { .. } => "think_done",
            Self::ActionDone { .. } => "action_done",
            Self::CallLost { .. } => "call_lost",
            Self::TimerDue { .. } => "timer_due",
            Self::Recover { .. } => "recover",
            Self::Quarantine { .. } => "quarantine",
            Self::Resume { .. } => "resume",
        }
    }

    /// Whether it goes before ordinary work.
    pub const fn is_control(&self) -> bool {
        matches!(self, Self::Recover { .. } | Self::Quarantine { .. } | Self::Resume { .. })
    }
}
