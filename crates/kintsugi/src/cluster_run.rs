//! `run DIR --log kafka://…`: the main job on a cluster, beside whoever else works there.
//!
//! The goals are the run's own, by their ids, and everything else on the topics is somebody else's. Who works them does
//! not matter: this process takes part as a node while it runs, and others may do all of it.

use std::sync::Arc;
use std::time::Instant;

use kintsugi_events::Goal;
use kintsugi_runtime::Node;
use kintsugi_types::{GoalId, RunId, TenantId};

use crate::backbone;
use crate::cluster::Cluster;
use crate::failure::{Explain as _, Failure, when_full};
use crate::goal_feed::{Fed, GoalFeed};
use crate::goals_file::GoalsFile;
use crate::live::Live;
use crate::node_parts::node_parts;
use crate::policies::PolicyFolder;
use crate::progress::Progress;
use crate::residency::{Point, Timeline};
use crate::run::{Begun, LOOK_EVERY, Outcome, Prepared, finish};
use crate::run_folder::OnCluster;
use crate::signals::Signals;
use crate::view::RunView;

pub(crate) fn run(brokers: &Arc<str>, mut prepared: Prepared<'_>) -> Result<(), Failure> {
    let (arguments, settings) = (prepared.arguments, prepared.resolved.settings.clone());
    let signals = Signals::listen()?;
    // Before the run is begun: what is refused here leaves no folder behind.
    let goals = own_goals(&prepared.goals, prepared.folder.manifest.run)?;
    // Without a name: it comes and goes, and its lanes are others' as soon as it has left.
    let cluster = Cluster::open(brokers, &settings, &arguments.dir, None)?;
    // Keeps every other process out of the folder from here on.
    let _lock = backbone::lock(&prepared.folder.path)?;
    let reader = cluster.reader().clone();
    match &mut prepared.folder.manifest.cluster {
        Some(begun) if prepared.folder.is_resumed => begun.check_kept(reader.as_ref())?,
        cluster => {
            let (prefix, partitions) = (settings.kafka.prefix.clone(), reader.partition_count());
            *cluster = Some(OnCluster::begin(prefix, reader.as_ref(), partitions));
        }
    }
    let Begun { mut example, backends, folder, .. } = prepared.begin()?;
    let from = folder.manifest.cluster.as_ref().map(|cluster| cluster.from).unwrap_or_default();
    let begun = Instant::now();
    let (live, follower) = Live::follow_with(reader.clone(), RunView::of_run(&goals), from)?;
    // Agents are the cluster's, which has one tenant.
    let place = (folder.store(), TenantId::default());
    let parts = node_parts(&settings, &example, place, cluster.lanes(), backends, arguments.node.chaos);
    let node = Node::start(parts).outside(|| format!("start the node in {}", folder.path.display()))?;
    let node = Arc::new(node);
    let membership = cluster.join(&node)?;
    let are_new = !folder.is_resumed;
    let feed = GoalFeed::start(&goals, are_new, cluster.connection().clone(), reader, live.clone())?;
    let agents = example.agents_total();
    let mut work = Work {
        node: &node,
        cluster: &cluster,
        live: &live,
        feed,
        signals: &signals,
        agents,
        progress: Progress::new(goals.len(), agents, arguments.node.quiet),
        timeline: Timeline::default(),
    };
    let worked = work.until_done(&mut example.policies);
    let Work { progress, timeline, feed, .. } = work;
    progress.finish();
    drop(feed);
    let (stats, smaller) = (node.scheduler_stats(), node.smaller_stats());
    let violations = node.invariants().total();
    // Its lanes go to others at once, with whatever they hold of other people's goals.
    membership.leave();
    if let Some(node) = Arc::into_inner(node) {
        node.stop();
    }
    drop(follower);
    worked?;
    let outcome = Outcome { stats, smaller, violations, timeline, progress };
    let view = live.view();
    finish(arguments, folder, &example, &view, &outcome, ("kafka", view.bytes, begun))
}

/// The goals under ids of this run: others may run the same example on the same topics, and so may this one again.
fn own_goals(goals: &GoalsFile, run: RunId) -> Result<Vec<Goal>, Failure> {
    let own = goals.goals().zip(0..).map(|(goal, index)| {
        let id = goal.id.as_ref().map_or("", GoalId::as_str);
        let id = GoalId::new(format!("{run}.{id}")).map_err(|error| {
            Failure::usage(format_args!("goal id {id} with the run's id before it: {error}; shorten it"))
        })?;
        Ok(Goal { id: Some(id), tenant: TenantId::default(), index: Some(index), ..goal.clone() })
    });
    own.collect()
}

/// A run on its way.
struct Work<'a> {
    node: &'a Node,
    cluster: &'a Cluster,
    live: &'a Live,
    feed: GoalFeed,
    signals: &'a Signals,
    agents: u32,
    progress: Progress,
    timeline: Timeline,
}

impl Work<'_> {
    /// Returns when every goal of the run has a result that the view has seen, or could not be taken.
    fn until_done(&mut self, policies: &mut PolicyFolder) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut is_away = false;
        // Where the log ended when the last goal was seen to have ended.
        let mut end = None;
        loop {
            let status = self.node.status();
            let scheduled = self.node.scheduler_stats();
            self.timeline.take(Point::of(begun.elapsed(), self.agents, &status, &scheduled));
            let (goals, open) = {
                let view = self.live.view();
                (view.goals.len(), view.open_goals())
            };
            let done = goals - open;
            self.progress.show(done, &status);
            if let Some(reason) = &status.log_failure {
                return Err(Failure::outside(format_args!(
                    "the node stopped: {reason}; what was acknowledged is safe{}; the same command resumes the run",
                    when_full(reason)
                )));
            }
            if self.node.has_ended() {
                return Err(Failure::job("the node ended by itself; the same command resumes the run"));
            }
            if let Some(said) = policies.follow(Instant::now()) {
                self.progress.note(&said);
            }
            let away = self.away()?;
            if away.is_some() != is_away {
                is_away = away.is_some();
                self.progress.note(away.as_deref().unwrap_or("Kafka answers again"));
            }
            if open == 0 {
                match end {
                    Some(end) if self.live.seen() >= end => return Ok(()),
                    Some(_) => {}
                    // What was committed with the last result may lie on topics that were looked at before it.
                    None => end = self.cluster.reader().refresh().ok(),
                }
            }
            if self.signals.heard().is_some() {
                return Err(Failure::interrupted(format_args!(
                    "interrupted after {done} of {goals} goals; the same command resumes the run"
                )));
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// That the cluster does not answer, where that is so. Fails where goals cannot be published at all.
    fn away(&self) -> Result<Option<String>, Failure> {
        let waits = match self.feed.fed() {
            Fed::Feeding | Fed::All => None,
            Fed::Waiting(reason) => Some(format!("Kafka does not answer, goals wait: {reason}")),
            Fed::Failed(reason) => {
                return Err(Failure::outside(format_args!(
                    "publish goals: {reason}; the same command resumes the run"
                )));
            }
        };
        Ok(self.cluster.away().map(|away| away.to_string()).or(waits))
    }
}
