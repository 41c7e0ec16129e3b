//! Asking the model about an anomaly of which the rules are not sure: in the way of an agent, behind all agents, and
//! not for long.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use kintsugi_diagnose::{Opinion, Question, Unreadable};
use kintsugi_gpu_scheduler::{LeaseRequest, SchedulerHandle, ThinkError};
use kintsugi_types::{AgentId, Clock, NameError, Score, TenantId, Timestamp};

use crate::lane_context::LaneContext;
use crate::status::Status;

/// When the model is asked for a diagnosis, and how much of it that may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AskSettings {
    /// Asked is where the rules are less sure than this.
    pub below: Score,
    /// So long after an anomaly was found its diagnosis waits for the model, at most.
    pub deadline: Duration,
    /// The most tokens of each of the model's two answers.
    pub tokens_max: u32,
}

/// The way of a lane's diagnoser to the model.
#[derive(Debug, Clone)]
pub struct Asker {
    settings: AskSettings,
    scheduler: SchedulerHandle,
    /// Under this name the lane asks. No agent is called so: theirs end in a dash and a number.
    name: AgentId,
    tenant: TenantId,
    clock: Arc<dyn Clock>,
    status: Arc<Status>,
}

/// Why the model has no opinion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum NoOpinion {
    /// There was no time left for it.
    #[error("was not asked: the anomaly had waited for {} ms", deadline.as_millis())]
    Late { deadline: Duration },
    /// It took too long.
    #[error("was asked and did not answer within {} ms", left.as_millis())]
    Slow { left: Duration },
    /// The scheduler or the engine failed.
    #[error("was asked and did not answer: {0}")]
    Think(#[from] ThinkError),
    /// What it answered is no answer.
    #[error("was asked, and {0}")]
    Unreadable(#[from] Unreadable),
}

impl NoOpinion {
    /// The stable name of its sort, for counters.
    const fn name(&self) -> &'static str {
        match self {
            Self::Late { .. } => "late",
            Self::Slow { .. } => "deadline",
            Self::Think(ThinkError::Full { .. }) => "queue_full",
            Self::Think(ThinkError::EngineFault { .. } | ThinkError::StaleLease { .. }) => "engine_fault",
            Self::Think(ThinkError::Stopped | ThinkError::Cancelled | ThinkError::LeaseExpired) => {
                "lease_lost"
            }
            Self::Think(
                ThinkError::TooLong { .. }
                | ThinkError::NeverFits { .. }
                | ThinkError::Malformed { .. }
                | ThinkError::Failed { .. },
            ) => "refused",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl Asker {
    /// The way of the lane's diagnoser, with these settings.
    pub(crate) fn new(lane: &LaneContext, settings: AskSettings) -> Result<Self, NameError> {
        Ok(Self {
            settings,
            scheduler: lane.node.scheduler.clone(),
            name: AgentId::new(format!("diagnose:{}", lane.core.place.number))?,
            tenant: lane.node.config.tenant.clone(),
            clock: lane.core.clock.clone(),
            status: lane.node.status.clone(),
        })
    }

    /// Whether the model is to be asked where the rules are as sure as this.
    pub(crate) fn is_for(&self, confidence: Score) -> bool {
        confidence < self.settings.below
    }

    /// How long the diagnosis of an anomaly that was found at `found` may still wait. A clock that is behind that of
    /// whoever found it makes the wait no longer.
    pub(crate) fn left(&self, found: Timestamp, now: Timestamp) -> Result<Duration, NoOpinion> {
        let Self { settings: AskSettings { deadline, .. }, .. } = *self;
        let waited = (now - found).to_std().unwrap_or(Duration::ZERO);
        let left = deadline.saturating_sub(waited);
        if left.is_zero() { Err(NoOpinion::Late { deadline }) } else { Ok(left) }
    }

    /// Asks, and ends within `left` whatever happens. Why is asked only where the choice is surer than `rules`.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        rules: Score,
        left: Duration,
    ) -> Result<Opinion, NoOpinion> {
        let _forget = ForgetOnDrop(self);
        tokio::time::timeout(left, self.converse(question, rules, left))
            .await
            .unwrap_or(Err(NoOpinion::Slow { left }))
    }

    async fn converse(
        &self,
        question: &Question,
        rules: Score,
        left: Duration,
    ) -> Result<Opinion, NoOpinion> {
        let tokens_max = self.settings.tokens_max;
        let request = question.choice(tokens_max);
        let bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
        let deadline =
            TimeDelta::from_std(left).ok().and_then(|left| self.clock.now().checked_add_signed(left));
        let lease = LeaseRequest {
            agent: self.name.clone(),
            tenant: self.tenant.clone(),
            // It is the first to make room on the device. Its place in the queue comes of its deadline: it is due
            // within half of that, for a lane waits behind it.
            urgency: Score::ZERO,
            prompt_tokens_estimate: u32::try_from(bytes / 4).unwrap_or(u32::MAX),
            tokens_max,
            goal_started: true,
            deadline,
        };
        let mut lease = self.scheduler.acquire(lease).await.map_err(ThinkError::from)?;
        let answer = lease.complete(request).await?;
        let choice = question.read_choice(&answer.text)?;
        let confidence = answer.confidence_min;
        let cause = if confidence > rules {
            let why = lease.complete(question.cause(&answer.text, tokens_max)).await?;
            Some(question.read_cause(&why.text)?)
        } else {
            None
        };
        Ok(Opinion { choice, confidence, cause })
    }

    /// Counts what came of asking.
    pub(crate) fn count(&self, heard: &Result<Opinion, NoOpinion>) {
        self.status.count_ask(match heard {
            Ok(Opinion { cause: Some(_), .. }) => "taken",
            Ok(Opinion { cause: None, .. }) => "not_surer",
            Err(failure) => failure.name(),
        });
    }
}

/// Each symptom is a conversation of its own: what is kept of it would only take room from agents.
struct ForgetOnDrop<'a>(&'a Asker);

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.scheduler.release_agent(&self.0.name);
    }
}
