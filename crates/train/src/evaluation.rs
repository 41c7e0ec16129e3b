//! How good the exported model is at work: through the engine and the grammar that agents use.
//!
//! Episodes are rolled out: before every decision stand the model's own thoughts and actions, as in an agent's history,
//! and what the tools answered. Those answers are the ones of the oracle's trace, since an episode ends, as wrong, with
//! its first wrong decision. All episodes go side by side, a decision at a time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use kintsugi_agent::prompt::{
    Action, decision_grammar, decision_text, goal_message, read_decision, system_message,
};
use kintsugi_events::{GoalResult, GoalStatus, ResultAction, evaluate};
use kintsugi_inference::{AdmitError, Backend, CandleEngine, EngineConfig, ModelSource, Origin, RequestId};
use kintsugi_types::{
    AgentId, ByteCount, Completion, CompletionRequest, EffectId, GoalId, Grammar, Message, Role, Sampling,
    SeededIds, TokenUsage, ToolSpec,
};

use crate::shop::KindSheet;
use crate::tickets::{Episode, EpisodeStep};

/// The answer's limit, that of the example's agents.
const ANSWER_TOKENS_MAX: u32 = 120;
/// Requests in the engine's batch.
const SLOTS: u32 = 12;
/// Intervals of confidence in the calibration.
pub const BINS: usize = 5;

/// Figures of one group of episodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Score {
    /// Episodes.
    pub episodes: usize,
    /// Episodes with every decision right.
    pub right_episodes: usize,
    /// Decisions that were asked for: none after a wrong one.
    pub decisions: usize,
    /// Right ones.
    pub right_decisions: usize,
}

/// Decisions whose confidence lies in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub decisions: usize,
    /// How many of them are right.
    pub right: usize,
    /// Sum of their confidences.
    pub confidence: f64,
}

/// What an evaluation found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Figures by intent.
    pub by_intent: BTreeMap<String, Score>,
    /// Confidence in equal intervals of [0, 1].
    pub bins: [Bin; BINS],
}

impl Evaluation {
    /// All intents together.
    pub fn total(&self) -> Score {
        self.by_intent.values().fold(Score::default(), |sum, score| Score {
            episodes: sum.episodes + score.episodes,
            right_episodes: sum.right_episodes + score.right_episodes,
            decisions: sum.decisions + score.decisions,
            right_decisions: sum.right_decisions + score.right_decisions,
        })
    }

    /// Expected calibration error (Naeini et al. 2015): the mean distance between confidence and accuracy.
    pub fn calibration_error(&self) -> f64 {
        let all: usize = self.bins.iter().map(|bin| bin.decisions).sum();
        let distance: f64 = self.bins.iter().map(|bin| (bin.confidence - bin.right as f64).abs()).sum();
        distance / all.max(1) as f64
    }

    /// Counts the decision that `rollout` just took in.
    fn count(&mut self, rollout: &Rollout<'_>, completion: &Completion) {
        let score = self.by_intent.entry(rollout.episode.intent.clone()).or_default();
        score.decisions += 1;
        score.right_decisions += usize::from(rollout.right);
        let confidence = completion.confidence.get();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bin from 0 to BINS")]
        let bin = ((confidence * BINS as f64) as usize).min(BINS - 1);
        if let Some(bin) = self.bins.get_mut(bin) {
            bin.decisions += 1;
            bin.right += usize::from(rollout.right);
            bin.confidence += confidence;
        }
    }
}

/// An episode on its way.
struct Rollout<'a> {
    episode: &'a Episode,
    tools: &'a [ToolSpec],
    grammar: Grammar,
    /// What the model is told: its own history.
    messages: Vec<Message>,
    /// Whether all decisions so far were right.
    right: bool,
}

/// Loads the model for evaluation.
pub fn load(model: &Path) -> anyhow::Result<CandleEngine> {
    Ok(CandleEngine::load(&EngineConfig {
        model: ModelSource::Path(model.to_owned()),
        slots: SLOTS,
        context_tokens: 1024,
        memory_budget: ByteCount::mib(512),
        host_memory: EngineConfig::HOST_MEMORY_DEFAULT,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
    })?)
}

/// Lets the model work `episodes`; `kinds` is what agents are told.
pub fn run(
    engine: &mut dyn Backend,
    kinds: &[KindSheet],
    episodes: &[Episode],
) -> anyhow::Result<Evaluation> {
    let mut rollouts: Vec<Rollout<'_>> =
        episodes.iter().map(|episode| begin(episode, kinds)).collect::<anyhow::Result<_>>()?;
    let mut evaluation = Evaluation::default();
    let longest = episodes.iter().map(|episode| episode.steps.len()).max().unwrap_or_default();
    for place in 0..longest {
        let mut asked: Vec<(&mut Rollout<'_>, &EpisodeStep)> = rollouts
            .iter_mut()
            .filter(|rollout| rollout.right)
            .filter_map(|rollout| rollout.episode.steps.get(place).map(|step| (rollout, step)))
            .collect();
        let requests: Vec<CompletionRequest> = asked.iter().map(|(rollout, _)| rollout.request()).collect();
        let completions = complete(engine, &requests)?;
        for ((rollout, step), completion) in asked.iter_mut().zip(&completions) {
            rollout.go_on(step, completion)?;
            evaluation.count(rollout, completion);
        }
    }
    for rollout in &rollouts {
        let score = evaluation.by_intent.entry(rollout.episode.intent.clone()).or_default();
        score.episodes += 1;
        score.right_episodes += usize::from(rollout.right);
    }
    Ok(evaluation)
}

fn begin<'a>(episode: &'a Episode, kinds: &'a [KindSheet]) -> anyhow::Result<Rollout<'a>> {
    let kind =
        kinds.iter().find(|kind| kind.kind == episode.kind).context("an episode of an unknown kind")?;
    Ok(Rollout {
        episode,
        tools: &kind.tools,
        grammar: decision_grammar(&kind.tools),
        messages: vec![system_message(&kind.instructions, &kind.tools), goal_message(&episode.goal)],
        right: true,
    })
}

impl Rollout<'_> {
    fn request(&self) -> CompletionRequest {
        CompletionRequest {
            messages: self.messages.clone(),
            grammar: Grammar::clone(&self.grammar),
            sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
            tokens_max: ANSWER_TOKENS_MAX,
        }
    }

    /// Takes the model's decision in: it is right if it makes the call of `step` with the same arguments, or ends
    /// with an answer that says what the goal expects.
    fn go_on(&mut self, step: &EpisodeStep, completion: &Completion) -> anyhow::Result<()> {
        self.right = false;
        let Ok(decision) = read_decision(&completion.text, self.tools) else { return Ok(()) };
        self.right = match (&decision.action, &step.decision.action) {
            (Action::Call(call), Action::Call(expected)) => call == expected,
            (Action::Finish { answer }, Action::Finish { .. }) => {
                let expect = self.episode.goal.expect.as_ref().context("an episode without its truth")?;
                let is_write =
                    |name: &_| self.tools.iter().any(|tool| tool.name == *name && tool.safety.is_write());
                evaluate(expect, &result(self.episode, answer)?, &is_write)?
            }
            _ => false,
        };
        let said = decision_text(&decision.thought, &decision.action);
        self.messages.push(Message::new(Role::Assistant, said));
        self.messages.extend(step.observation.as_ref().map(|text| Message::new(Role::Tool, text.as_str())));
        Ok(())
    }
}

/// Runs all requests through the engine, as many at once as it takes.
fn complete(engine: &mut dyn Backend, requests: &[CompletionRequest]) -> anyhow::Result<Vec<Completion>> {
    let mut completions: Vec<Option<Completion>> = vec![None; requests.len()];
    let mut waiting = (0u64..).zip(requests).peekable();
    while waiting.peek().is_some() || engine.active() > 0 {
        while let Some((id, request)) = waiting.peek() {
            match engine.admit(RequestId(*id), CompletionRequest::clone(request), &Origin::default()) {
                Ok(_) => {
                    waiting.next();
                }
                Err(AdmitError::NoRoom { .. } | AdmitError::NoSlot { .. }) if engine.active() > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        for finished in engine.step()? {
            let place = completions.get_mut(usize::try_from(finished.id.0)?).context("an unknown request")?;
            match finished.outcome {
                Ok(completion) => *place = Some(completion),
                Err(reason) => bail!("request {} failed: {reason}", finished.id.0),
            }
        }
    }
    completions.into_iter().collect::<Option<_>>().context("a request without an answer")
}

/// What the goal ends with after the oracle's calls, which are the model's if it came this far, and this answer.
fn result(episode: &Episode, answer: &str) -> anyhow::Result<GoalResult> {
    let mut ids = SeededIds::new(0);
    let calls = episode.steps.iter().filter_map(|step| match &step.decision.action {
        Action::Call(call) => Some(call),
        Action::Finish { .. } => None,
    });
    let actions = calls
        .map(|call| ResultAction {
            effect: EffectId::new(&mut ids),
            tool: call.tool.clone(),
            args: call.args.clone(),
            ok: true,
        })
        .collect();
    Ok(GoalResult {
        goal: GoalId::new("evaluated")?,
        agent: AgentId::new("evaluated")?,
        status: GoalStatus::Completed,
        answer: Some(answer.to_owned()),
        actions,
        reason: None,
        steps: u32::try_from(episode.steps.len())?,
        tokens: TokenUsage::default(),
        usd: 0.0,
        wall_ms: 0,
        seams: 0,
    })
}
