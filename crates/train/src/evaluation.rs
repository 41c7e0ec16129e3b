//! How good the exported model is at work: through the engine and the grammar that agents use.
//!
//! Every decision of every episode is asked for with the right history before it, and all of them are batched. An
//! episode is right when all its decisions are: then the agent would have gone exactly this way by itself.

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
use crate::tickets::Episode;

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
    /// Decisions.
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
}

/// One decision to ask for.
struct Question<'a> {
    episode: usize,
    expected: &'a Action,
    request: CompletionRequest,
    tools: &'a [ToolSpec],
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

/// Asks the engine for every decision of `episodes`; `kinds` is what agents are told.
pub fn run(
    engine: &mut dyn Backend,
    kinds: &[KindSheet],
    episodes: &[Episode],
) -> anyhow::Result<Evaluation> {
    let mut questions = Vec::new();
    for (index, episode) in episodes.iter().enumerate() {
        let kind =
            kinds.iter().find(|kind| kind.kind == episode.kind).context("an episode of an unknown kind")?;
        questions.extend(ask(index, episode, kind));
    }
    let completions = complete(engine, &questions)?;
    let mut evaluation = Evaluation::default();
    let mut all_right = vec![true; episodes.len()];
    for (question, completion) in questions.iter().zip(&completions) {
        let episode = episodes.get(question.episode).context("an episode")?;
        let right = is_right(episode, question, completion)?;
        if let Some(all_right) = all_right.get_mut(question.episode) {
            *all_right &= right;
        }
        let score = evaluation.by_intent.entry(episode.intent.clone()).or_default();
        score.decisions += 1;
        score.right_decisions += usize::from(right);
        let confidence = completion.confidence.get();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bin from 0 to BINS")]
        let bin = ((confidence * BINS as f64) as usize).min(BINS - 1);
        if let Some(bin) = evaluation.bins.get_mut(bin) {
            bin.decisions += 1;
            bin.right += usize::from(right);
            bin.confidence += confidence;
        }
    }
    for (episode, right) in episodes.iter().zip(all_right) {
        let score = evaluation.by_intent.entry(episode.intent.clone()).or_default();
        score.episodes += 1;
        score.right_episodes += usize::from(right);
    }
    Ok(evaluation)
}

/// The requests of an episode, each with the right history.
fn ask<'a>(index: usize, episode: &'a Episode, kind: &'a KindSheet) -> Vec<Question<'a>> {
    let grammar = decision_grammar(&kind.tools);
    let mut messages = vec![system_message(&kind.instructions, &kind.tools), goal_message(&episode.goal)];
    let mut questions = Vec::new();
    for step in &episode.steps {
        let decision = &step.decision;
        questions.push(Question {
            episode: index,
            expected: &decision.action,
            request: CompletionRequest {
                messages: messages.clone(),
                grammar: Grammar::clone(&grammar),
                sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
                tokens_max: ANSWER_TOKENS_MAX,
            },
            tools: &kind.tools,
        });
        messages.push(Message::new(Role::Assistant, decision_text(&decision.thought, &decision.action)));
        messages.extend(step.observation.as_ref().map(|text| Message::new(Role::Tool, text.as_str())));
    }
    questions
}

/// Runs all requests through the engine, as many at once as it takes.
fn complete(engine: &mut dyn Backend, questions: &[Question<'_>]) -> anyhow::Result<Vec<Completion>> {
    let mut completions: Vec<Option<Completion>> = vec![None; questions.len()];
    let mut waiting = (0u64..).zip(questions).peekable();
    while waiting.peek().is_some() || engine.active() > 0 {
        while let Some((id, question)) = waiting.peek() {
            match engine.admit(RequestId(*id), question.request.clone(), &Origin::default()) {
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

/// Whether the model decided what is right: the same call with the same arguments, or an end whose answer says what
/// the goal expects.
fn is_right(episode: &Episode, question: &Question<'_>, completion: &Completion) -> anyhow::Result<bool> {
    let Ok(decision) = read_decision(&completion.text, question.tools) else { return Ok(false) };
    match (&decision.action, question.expected) {
        (Action::Call(call), Action::Call(expected)) => Ok(call == expected),
        (Action::Finish { answer }, Action::Finish { .. }) => {
            let expect = episode.goal.expect.as_ref().context("an episode without its truth")?;
            let is_write =
                |name: &_| question.tools.iter().any(|tool| tool.name == *name && tool.safety.is_write());
            Ok(evaluate(expect, &result(episode, answer)?, &is_write)?)
        }
        _ => Ok(false),
    }
}

/// What the goal would have ended with, had all calls been the oracle's and the answer this one.
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
