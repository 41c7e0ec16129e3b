//! `seams`: each recovery with the metric, the anomaly and the diagnosis that led to it, and what came of it.

use std::collections::BTreeSet;

use kintsugi_events::Subject;

use super::view_with_roster;
use crate::cli::{Format, SeamsArguments};
use crate::documents::{SeamDocument, metrics_by_place};
use crate::failure::Failure;
use crate::hint::did_you_mean;
use crate::roster::Roster;
use crate::terminal::{json_line, line, say};
use crate::view::{RunView, SeamView};

pub(crate) fn list(arguments: &SeamsArguments) -> Result<(), Failure> {
    if let Some(id) = &arguments.explain {
        return super::explain::explain(id, &arguments.place);
    }
    let (run, roster) = view_with_roster(&arguments.place)?;
    if let Some(wanted) = &arguments.agent {
        check(wanted, &run, roster.as_ref())?;
    }
    let is_wanted = |seam: &&SeamView| {
        seam.last().is_some_and(|last| {
            arguments.agent.as_ref().is_none_or(|wanted| *wanted == last.agent.to_string())
        })
    };
    let mut seams: Vec<&SeamView> = run.recoveries.values().filter(is_wanted).collect();
    // By the time that is shown, the newest phase's.
    seams.sort_by_key(|seam| seam.phases.last().map(|(time, _)| *time));
    let metrics = metrics_by_place(&run);
    if arguments.place.format == Format::Json {
        return seams.into_iter().try_for_each(|seam| json_line(&SeamDocument::of(seam, &run, &metrics)));
    }
    if seams.is_empty() {
        let of = arguments.agent.as_ref().map_or_else(String::new, |wanted| format!(" of {wanted}"));
        say(&format!("no seams{of}: nothing had to be mended"));
        return Ok(());
    }
    line("TIME         AGENT: CAUSE -> RECOVERY, HEALTH BEFORE AND AFTER")?;
    seams.into_iter().try_for_each(|seam| line(&worded(seam, &run)))
}

/// Refuses the name of nobody.
fn check(wanted: &str, run: &RunView, roster: Option<&Roster>) -> Result<(), Failure> {
    let healed = run.recoveries.values().filter_map(|seam| Some(seam.last()?.agent.to_string()));
    let mut known: BTreeSet<String> = run.agents.keys().map(ToString::to_string).chain(healed).collect();
    let subject: Option<Subject> = wanted.parse().ok();
    let is_member = subject.is_some_and(|subject| roster.is_some_and(|roster| roster.has(&subject)));
    if is_member || known.contains(wanted) {
        return Ok(());
    }
    known.extend(roster.into_iter().flat_map(Roster::names));
    Err(Failure::usage(format_args!(
        "there is no agent or shared part {wanted:?}{}; `kintsugi agents list` names the agents that had work, shared \
         parts are `tool:NAME`, `model:NAME` and `engine`",
        did_you_mean(wanted, known.iter().map(String::as_str))
    )))
}

fn worded(seam: &SeamView, run: &RunView) -> String {
    let Some((time, last)) = seam.phases.last() else { return String::new() };
    let cause = run.diagnoses.get(&last.diagnosis).map_or("", |(_, diagnosis)| diagnosis.root_cause.as_str());
    let health = |score: Option<kintsugi_types::Score>| {
        score.map_or_else(|| "?".to_owned(), |score| format!("{:.2}", score.get()))
    };
    format!(
        "{} {}: {cause} -> {} {} in {} ms, health {} to {}",
        time.format("%H:%M:%S%.3f"),
        last.agent,
        last.action.name(),
        last.phase.name(),
        last.duration_ms.unwrap_or(0),
        health(last.health_before),
        health(last.health_after)
    )
}
