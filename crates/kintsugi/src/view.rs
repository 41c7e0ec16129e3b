//! A run as its log tells it: read from the log alone, while it runs or after.

mod own;
mod places;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use kintsugi_agent::{AgentState, STATE_VERSION};
use kintsugi_eventlog::{LogError, LogReader, Lsn, Record};
use kintsugi_events::{
    AgentEvent, Anomaly, Diagnosis, Event, Goal, GoalResult, HealthState, Metric, Payload, Recovery, Subject,
    Topic,
};
use kintsugi_runtime::publish::content_of;
use kintsugi_types::{AgentId, AnomalyId, DiagnosisId, GoalId, RecoveryId, Timestamp};

use self::own::Own;
pub(crate) use self::places::Origin;
use self::places::{PLACES_MAX, Place, Places};
use crate::failure::Failure;
use crate::outsiders::event_of;

/// A goal and what became of it.
#[derive(Debug)]
pub(crate) struct GoalView {
    pub(crate) goal: Goal,
    pub(crate) agent: Option<AgentId>,
    pub(crate) is_started: bool,
    pub(crate) results: Vec<GoalResult>,
    /// Why it could not be taken, where it is a dead letter.
    pub(crate) refused: Option<String>,
    /// Where it lies in the topic, and the copies of it that were sent on.
    places: Vec<Place>,
}

impl GoalView {
    /// A goal of which nothing is known but itself.
    fn new(goal: Goal, places: Vec<Place>) -> Self {
        Self { goal, agent: None, is_started: false, results: Vec::new(), refused: None, places }
    }

    /// Whether something is still to come of it.
    pub(crate) const fn is_open(&self) -> bool {
        self.results.is_empty() && self.refused.is_none()
    }
}

/// An agent's newest state.
#[derive(Debug, Default)]
pub(crate) struct AgentView {
    pub(crate) kind: String,
    pub(crate) sequence: u64,
    pub(crate) health: HealthState,
    pub(crate) current: Option<GoalId>,
    pub(crate) queued: usize,
    pub(crate) goals_ended: u64,
    pub(crate) last_metric: Option<Metric>,
    pub(crate) quarantined: Option<String>,
}

impl AgentView {
    /// Whether it has a goal, at work or waiting: such an agent is in memory while its node runs.
    pub(crate) const fn has_load(&self) -> bool {
        self.current.is_some() || self.queued > 0
    }

    /// The one word that is shown.
    pub(crate) const fn shown(&self) -> &'static str {
        match self.health {
            HealthState::Failed => "failed",
            HealthState::Recovering => "recovering",
            HealthState::Degraded => "degraded",
            HealthState::Healthy if self.current.is_some() => "running",
            HealthState::Healthy => "idle",
        }
    }
}

/// One recovery with all its phases.
#[derive(Debug)]
pub(crate) struct SeamView {
    pub(crate) phases: Vec<(Timestamp, Recovery)>,
}

impl SeamView {
    /// The newest phase.
    pub(crate) fn last(&self) -> Option<&Recovery> {
        self.phases.last().map(|(_, recovery)| recovery)
    }
}

/// How much is kept of what is over. What is open is always kept: its amount is bounded where it is taken in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Goals that ended.
    pub(crate) goals_ended: usize,
    /// Anomalies, diagnoses and recoveries, each.
    pub(crate) healing: usize,
    /// Metrics.
    pub(crate) metrics: usize,
    /// Contradictions.
    pub(crate) contradictions: usize,
}

/// Which came first, so that it can go first.
#[derive(Debug, Default)]
struct Ages {
    goals_ended: VecDeque<GoalId>,
    anomalies: VecDeque<AnomalyId>,
    diagnoses: VecDeque<DiagnosisId>,
    recoveries: VecDeque<RecoveryId>,
}

/// All of it, or, where [`Keep`] says so, all that is open and the newest of the rest.
#[derive(Debug, Default)]
pub(crate) struct RunView {
    pub(crate) goals: BTreeMap<GoalId, GoalView>,
    pub(crate) agents: BTreeMap<AgentId, AgentView>,
    pub(crate) anomalies: BTreeMap<AnomalyId, (Timestamp, Anomaly)>,
    pub(crate) diagnoses: BTreeMap<DiagnosisId, (Timestamp, Diagnosis)>,
    pub(crate) recoveries: BTreeMap<RecoveryId, SeamView>,
    pub(crate) metrics: VecDeque<Metric>,
    /// Faults that were injected, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) dead_letters: u64,
    pub(crate) events: u64,
    /// The keys and values of these events.
    pub(crate) bytes: u64,
    /// What contradicts the promises, in words.
    pub(crate) contradictions: Vec<String>,
    places: Places,
    /// Whose goals these are, where the log has those of others too.
    own: Option<Own>,
    open_goals: usize,
    /// Whether the oldest of the log is deleted: then goals end that were published before, and journals go on.
    is_trimmed: bool,
    keep: Option<Keep>,
    ages: Ages,
}

impl RunView {
    /// A view to which the events of `log` from its oldest on are added. Where older ones are deleted, it begins with
    /// what the snapshots say of the agents. With `keep` it forgets the oldest of what is over.
    pub(crate) fn beginning(log: &dyn LogReader, keep: Option<Keep>) -> Result<Self, LogError> {
        let mut view = Self { keep, is_trimmed: log.start_lsn() > Lsn(0), ..Self::default() };
        if view.is_trimmed {
            log.replay_topics(&[Topic::Snapshots], log.start_lsn(), &mut |record| {
                if let Some(state) = snapshot_in(&record) {
                    view.take_state(&state);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(view)
    }

    /// A view of a log whose oldest is deleted, which knows this agent as it was.
    pub(crate) fn beginning_with(state: &AgentState) -> Self {
        let mut view = Self { is_trimmed: true, ..Self::default() };
        if state.sequence > 0 {
            view.take_state(state);
        }
        view
    }

    /// Reads the whole log.
    pub(crate) fn read(log: &dyn LogReader) -> Result<Self, Failure> {
        let mut view = Self::beginning(log, None)?;
        for_each_event(log, &mut |event, origin| view.take(event, origin))?;
        Ok(view)
    }

    /// Shows an agent as a snapshot has it, if that is the newest so far.
    fn take_state(&mut self, state: &AgentState) {
        let known = self.agents.entry(state.agent.clone()).or_default();
        if known.sequence <= state.sequence {
            *known = AgentView {
                kind: state.kind.to_string(),
                sequence: state.sequence,
                health: state.health_state,
                current: state.run.as_ref().map(|run| run.goal_id.clone()),
                queued: state.queue.len(),
                goals_ended: state.goals_ended,
                last_metric: None,
                quarantined: state.quarantined.clone(),
            };
        }
    }

    /// Reads what the log says of one goal.
    pub(crate) fn read_goal(log: &dyn LogReader, id: &GoalId) -> Result<Self, Failure> {
        let mut view = Self { is_trimmed: log.start_lsn() > Lsn(0), ..Self::default() };
        log.replay(log.start_lsn(), &mut |record| {
            let is_about =
                record.envelope.as_ref().is_some_and(|envelope| envelope.goal.as_ref() == Some(id));
            let is_telling = matches!(record.topic, Topic::Goals | Topic::Results | Topic::Agents);
            // What cannot be read is told when the log is read as a whole.
            if is_about
                && is_telling
                && let Ok(Some(event)) = event_of(&record)
            {
                view.take(event, Origin::of(&record));
            }
            ControlFlow::Continue(())
        })?;
        Ok(view)
    }

    /// Goals that could not be taken.
    pub(crate) fn refused_goals(&self) -> impl Iterator<Item = (&GoalId, &str)> {
        self.goals.iter().filter_map(|(id, goal)| Some((id, goal.refused.as_deref()?)))
    }

    /// Goals that have no result yet.
    pub(crate) const fn open_goals(&self) -> usize {
        self.open_goals
    }

    /// Takes in the next event of the log.
    pub(crate) fn take(&mut self, event: Event, origin: Origin) {
        if self.is_of_others(&event) {
            self.take_of_others(event);
            return;
        }
        self.events += 1;
        self.bytes += origin.bytes;
        let Event { envelope, payload } = event;
        match payload {
            Payload::Goal(goal) => {
                if let Some(id) = goal.id.clone().or(envelope.goal) {
                    self.take_goal(id, *goal, origin.place);
                }
            }
            Payload::Result(result) => self.take_result(*result),
            Payload::Agent(agent_event) => {
                if let Subject::Agent(agent) = envelope.subject {
                    self.take_journal(agent, envelope.sequence.unwrap_or(0), &agent_event);
                }
            }
            Payload::Metric(metric) => {
                if let Some(agent) = self.agents.get_mut(&metric.agent) {
                    agent.last_metric = Some((*metric).clone());
                }
                self.metrics.push_back(*metric);
                if self.keep.is_some_and(|keep| self.metrics.len() > keep.metrics) {
                    self.metrics.pop_front();
                }
            }
            Payload::Anomaly(anomaly) => {
                let id = anomaly.anomaly;
                self.anomalies.insert(id, (envelope.time, *anomaly));
                if let Some(oldest) = aged(self.keep.map(|keep| keep.healing), &mut self.ages.anomalies, id) {
                    self.anomalies.remove(&oldest);
                }
            }
            Payload::Diagnosis(diagnosis) => {
                let id = diagnosis.diagnosis;
                self.diagnoses.insert(id, (envelope.time, *diagnosis));
                if let Some(oldest) = aged(self.keep.map(|keep| keep.healing), &mut self.ages.diagnoses, id) {
                    self.diagnoses.remove(&oldest);
                }
            }
            Payload::Recovery(recovery) => self.take_recovery(envelope.time, *recovery),
            Payload::Fault(fault) => *self.faults.entry(fault.kind.name()).or_default() += 1,
            Payload::DeadLetter(letter) => {
                self.dead_letters += 1;
                if let Some((goal, reason)) = self.places.refuse(*letter) {
                    self.refuse(goal, reason);
                }
            }
            Payload::Approval(_) | Payload::Snapshot(_) => {}
        }
    }

    /// Takes in what is about nobody's goal that the view is of.
    fn take_of_others(&mut self, event: Event) {
        match (event.payload, event.envelope.subject) {
            // Agents work for all: what they do for others tells how they are.
            (Payload::Agent(journal), Subject::Agent(agent)) => {
                self.take_journal(agent, event.envelope.sequence.unwrap_or(0), &journal);
            }
            // It may be about a goal that is to come, and is kept until then.
            (Payload::DeadLetter(letter), _) => drop(self.places.refuse(*letter)),
            _ => {}
        }
    }

    fn take_goal(&mut self, id: GoalId, goal: Goal, place: Place) {
        match self.goals.entry(id.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(GoalView::new(goal, vec![place]));
                self.open_goals += 1;
            }
            Entry::Occupied(known) => {
                // A second one with this id is not run, whatever it holds: what is shown is the first. The same once
                // more may be the first, sent on to another partition.
                let known = known.into_mut();
                if known.places.len() >= PLACES_MAX || content_of(&known.goal) != content_of(&goal) {
                    return;
                }
                known.places.push(place);
            }
        }
        if let Some(reason) = self.places.note(place, id.clone()) {
            self.refuse(id, reason);
        }
    }

    fn take_result(&mut self, result: GoalResult) {
        let id = result.goal.clone();
        let Some(goal) = self.goals.get_mut(&id) else {
            if !self.is_trimmed {
                self.contradict(format!("goal {id} ended and was never published"));
            }
            return;
        };
        let was_open = goal.is_open();
        let has_ended = !goal.results.is_empty();
        goal.results.push(result);
        if has_ended {
            self.contradict(format!("goal {id} ended more than once"));
        } else if was_open {
            self.close(id);
        }
    }

    fn refuse(&mut self, id: GoalId, reason: String) {
        let Some(goal) = self.goals.get_mut(&id) else { return };
        let was_open = goal.is_open();
        goal.refused = Some(reason);
        if was_open {
            self.close(id);
        }
    }

    /// A goal is over.
    fn close(&mut self, id: GoalId) {
        self.open_goals -= 1;
        let kept = self.keep.map(|keep| keep.goals_ended);
        if let Some(oldest) = aged(kept, &mut self.ages.goals_ended, id)
            && let Some(goal) = self.goals.remove(&oldest)
        {
            self.places.forget(&goal.places);
        }
    }

    fn contradict(&mut self, contradiction: String) {
        if self.keep.is_none_or(|keep| self.contradictions.len() < keep.contradictions) {
            self.contradictions.push(contradiction);
        }
    }

    fn take_recovery(&mut self, time: Timestamp, recovery: Recovery) {
        let id = recovery.recovery;
        if !self.recoveries.contains_key(&id)
            && let Some(oldest) = aged(self.keep.map(|keep| keep.healing), &mut self.ages.recoveries, id)
        {
            self.recoveries.remove(&oldest);
        }
        let seam = self.recoveries.entry(id).or_insert_with(|| SeamView { phases: Vec::new() });
        // The recoverer may have closed it at its deadline before the agent told its own end: the first end counts.
        if seam.last().is_none_or(|last| !last.phase.is_terminal()) {
            seam.phases.push((time, recovery));
        }
    }

    /// Tells a goal what its agent's journal says of it.
    fn tell_goal(&mut self, agent: AgentId, event: &AgentEvent) {
        let id = match event {
            AgentEvent::GoalAccepted { goal } => goal.id.as_ref(),
            AgentEvent::GoalStarted { goal, .. } | AgentEvent::GoalReassigned { goal, .. } => Some(goal),
            _ => None,
        };
        let Some(known) = id.and_then(|id| self.goals.get_mut(id)) else { return };
        match event {
            AgentEvent::GoalAccepted { .. } => known.agent = Some(agent),
            AgentEvent::GoalStarted { .. } => known.is_started = true,
            _ => known.agent = None,
        }
    }

    fn take_journal(&mut self, agent: AgentId, sequence: u64, event: &AgentEvent) {
        let last = self.agents.get(&agent).map_or(0, |view| view.sequence);
        if self.is_trimmed && sequence <= last {
            // The snapshot that the view began with holds it; only the goal does not know of it yet.
            self.tell_goal(agent, event);
            return;
        }
        let is_beginning = self.is_trimmed && last == 0;
        if sequence != last + 1 && !is_beginning {
            self.contradict(format!("journal of {agent}: {sequence} follows {last}"));
        }
        self.tell_goal(agent.clone(), event);
        let view = self.agents.entry(agent).or_default();
        view.sequence = sequence;
        match event {
            AgentEvent::Created { kind, .. } => view.kind = kind.to_string(),
            AgentEvent::GoalAccepted { .. } => view.queued += 1,
            AgentEvent::GoalStarted { goal, .. } => {
                view.queued = view.queued.saturating_sub(1);
                view.current = Some(goal.clone());
            }
            AgentEvent::GoalEnded(end) => {
                if view.current.take_if(|current| *current == end.goal).is_none() {
                    view.queued = view.queued.saturating_sub(1);
                }
                view.goals_ended += 1;
            }
            AgentEvent::GoalReassigned { goal, .. } => {
                let was_at_work = view.current.take_if(|current| current == goal).is_some();
                view.queued = view.queued.saturating_sub(usize::from(!was_at_work));
            }
            AgentEvent::RecoveryEnded { .. } if view.health == HealthState::Recovering => {
                view.health = HealthState::Degraded;
            }
            AgentEvent::CheckpointTaken(checkpoint) => view.health = checkpoint.health_state,
            AgentEvent::RecoveryStarted { .. } => view.health = HealthState::Recovering,
            AgentEvent::Quarantined { reason } => {
                view.health = HealthState::Failed;
                view.quarantined = Some(reason.clone());
            }
            AgentEvent::Resumed { .. } => {
                view.health = HealthState::Healthy;
                view.quarantined = None;
            }
            _ => {}
        }
    }
}

/// The agent's state that a record of the topic `snapshots` holds, where this program can read it.
pub(crate) fn snapshot_in(record: &Record) -> Option<AgentState> {
    let Payload::Snapshot(snapshot) = record.to_event().ok()?.payload else { return None };
    if snapshot.version != STATE_VERSION {
        return None;
    }
    serde_json::from_str(snapshot.state.get()).ok()
}

/// Hands every event of the log to `take`, in order, with where it comes from.
pub(crate) fn for_each_event(
    log: &dyn LogReader,
    take: &mut dyn FnMut(Event, Origin),
) -> Result<(), Failure> {
    let mut refused = None;
    let from: Lsn = log.start_lsn();
    log.replay(from, &mut |record| match event_of(&record) {
        Ok(event) => {
            if let Some(event) = event {
                take(event, Origin::of(&record));
            }
            ControlFlow::Continue(())
        }
        Err(failure) => {
            refused =
                Some(Failure::outside(format_args!("{} offset {}: {failure}", record.topic, record.offset)));
            ControlFlow::Break(())
        }
    })?;
    refused.map_or(Ok(()), Err)
}

/// Notes the newest, where something has to go to keep `kept` of them; returns what goes.
fn aged<T>(kept: Option<usize>, ages: &mut VecDeque<T>, newest: T) -> Option<T> {
    let kept = kept?;
    ages.push_back(newest);
    if ages.len() > kept { ages.pop_front() } else { None }
}
