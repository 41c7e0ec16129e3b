//! `GET /v1/agents`, `GET /v1/agents/{id}` and `POST /v1/agents/{id}/resume`.

use std::ops::Bound;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use kintsugi_types::AgentId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::problem::Problem;
use crate::documents::AgentDocument;
use crate::view::AgentView;

/// Agents of one answer where no other number is asked for.
const LIMIT_DEFAULT: usize = 100;

/// The most agents of one answer.
pub(super) const LIMIT_MAX: usize = 1_000;

/// How long the answer waits for the agent to come back.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);

/// Who is written into the journal as the one who brought the agent back.
const BY: &str = "http";

/// Which agents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    limit: Option<usize>,
    after: Option<String>,
}

/// Some agents, by id.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentPage")]
pub(super) struct AgentPage<'a> {
    /// Agents that ever had work.
    agents: Vec<AgentDocument<'a>>,
    /// The `after` of the next page, where there is one.
    next: Option<&'a AgentId>,
}

/// Reads a page's size.
pub(super) fn limit(given: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    match given {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(limit) => {
            Err(Problem::invalid("limit", format_args!("`limit` is {limit}, it must be 1 to {max}")))
        }
    }
}

/// Lists agents.
pub(super) async fn list(query: web::Query<PageQuery>, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let after = query.after.as_deref().filter(|after| !after.is_empty());
    let after = after.map(AgentId::new).transpose().map_err(|error| Problem::invalid("after", error))?;
    let view = api.live.view();
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut found = view.agents.range((from, Bound::Unbounded));
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let next = found.next().and_then(|_| page.last()).map(|(id, _)| *id);
    let residences = api.residences();
    let document = |(id, agent)| AgentDocument::of(id, agent, &view).in_node(&residences);
    let agents = page.into_iter().map(document).collect();
    Ok(HttpResponse::Ok().json(AgentPage { agents, next }))
}

/// Shows an agent. One that never had work is there too: it is idle.
pub(super) async fn show(id: web::Path<String>, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let id = read_id(&id)?;
    let view = api.live.view();
    if let Some(agent) = view.agents.get(&id) {
        return Ok(HttpResponse::Ok().json(AgentDocument::of(&id, agent, &view).in_node(&api.residences())));
    }
    let population = api.population.iter().find(|population| population.contains(&id));
    let kind = population.ok_or_else(|| no_agent(&id))?.kind.to_string();
    let unborn = AgentView { kind, ..AgentView::default() };
    Ok(HttpResponse::Ok().json(AgentDocument::of(&id, &unborn, &view).in_node(&api.residences())))
}

/// Brings an agent back that needed a person, and shows it.
pub(super) async fn resume(id: web::Path<String>, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let id = read_id(&id)?;
    let is_failed = |id: &AgentId| api.live.view().agents.get(id).map(|agent| agent.quarantined.is_some());
    match is_failed(&id) {
        Some(true) => {}
        Some(false) => {
            return Err(Problem::conflict(format_args!(
                "agent {id} needs nobody: only one that is quarantined can be resumed"
            )));
        }
        None if api.population.iter().any(|population| population.contains(&id)) => {
            return Err(Problem::conflict(format_args!("agent {id} never had work")));
        }
        None => return Err(no_agent(&id)),
    }
    let mut seen = api.live.subscribe();
    if !api.node()?.resume_agent(id.clone(), BY.to_owned()) {
        return Err(Problem::unavailable(format_args!(
            "agent {id} lives on another node now: ask the others, or again in a moment"
        )));
    }
    let resumed = seen.wait_for(|_| is_failed(&id) == Some(false));
    let is_back = matches!(tokio::time::timeout(RESUMED_WITHIN, resumed).await, Ok(Ok(_)));
    let view = api.live.view();
    let agent = view.agents.get(&id).ok_or_else(|| no_agent(&id))?;
    let document = AgentDocument::of(&id, agent, &view).in_node(&api.residences());
    Ok(if is_back { HttpResponse::Ok().json(document) } else { HttpResponse::Accepted().json(document) })
}

fn read_id(id: &str) -> Result<AgentId, Problem> {
    AgentId::new(id).map_err(|error| Problem::invalid("id", error))
}

fn no_agent(id: &AgentId) -> Problem {
    Problem::not_found(format_args!("there is no agent {id}"))
}
