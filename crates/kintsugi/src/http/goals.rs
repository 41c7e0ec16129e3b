//! `POST /v1/goals` and `GET /v1/goals/{id}`.

use std::time::Duration;

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use kintsugi_events::Goal;
use kintsugi_runtime::PublishError;
use kintsugi_runtime::publish::content_of;
use kintsugi_types::{GoalId, IdSource as _, SystemIds};
use schemars::JsonSchema;
use serde::Serialize;

use super::api::Api;
use super::intake::{self, taken};
use super::problem::Problem;
use crate::backbone::Standing;
use crate::client::in_path;
use crate::documents::{GoalDocument, goal_state};
use crate::goal_check::GOAL_BYTES_MAX;
use crate::view::RunView;

/// How long a client may take for a goal.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// How long the answer to a published goal waits for the view: whoever asks for the goal next shall find it.
const VIEW_WITHIN: Duration = Duration::from_secs(2);

/// The answer to a goal that was taken.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Accepted")]
pub(super) struct AcceptedDocument {
    /// The goal's id.
    id: String,
    /// What it is at: `published`, or how far it has come where it was known; `ended` where that is long ago.
    state: &'static str,
    /// Whether a goal with this id and content was taken before; it is not run again.
    is_known: bool,
}

/// Publishes a goal. The answer comes when it is durable: from then on it ends exactly once.
pub(super) async fn publish(
    request: HttpRequest,
    body: web::Payload,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    if !is_json(&request) {
        return Err(Problem::not_json());
    }
    let body = receive(body).await?;
    let node = api.node()?.clone();
    let mut goal = intake::read(&body, &api)?;
    let id = match &goal.id {
        Some(id) => id.clone(),
        None => {
            GoalId::new(format!("goal-{}", SystemIds.next_uuid().as_simple())).map_err(Problem::internal)?
        }
    };
    goal.id = Some(id.clone());
    let content = content_of(&goal);
    if let Some(known) = known(&api, &goal, content)? {
        return Ok(accepted(&id, known, true));
    }
    let on_its_way = api.intake.enter(&id, content, |waiting| {
        // Once more: the same id may have been taken while this request waited for its turn.
        known_in_view(&api, &goal, content)?;
        let open = api.live.view().open_goals() + waiting;
        if open < api.settings.open_goals_max {
            return Ok(());
        }
        Err(Problem::full(format_args!("{open} goals are open: publish again when some have ended")))
    })?;
    if let Standing::Kafka { away: Some(away) } = api.backbone.standing() {
        // Nobody knows for how long it would have to wait.
        return Err(Problem::unavailable(away));
    }
    let published = web::block(move || node.publish(&[goal])).await.map_err(Problem::internal)?;
    let committed = published.map_err(|failure| match failure {
        PublishError::Log(full) if full.is_retryable() => Problem::full(full),
        PublishError::Name(name) => Problem::invalid("id", name),
        PublishError::NoLane => Problem::unavailable(PublishError::NoLane),
        PublishError::Log(failure) => {
            Problem::unavailable(format_args!("the log takes no goals: {failure}; restart the node"))
        }
    })?;
    let mut seen = api.live.subscribe();
    // Durable it is, seen or not.
    let _ = tokio::time::timeout(VIEW_WITHIN, seen.wait_for(|seen| *seen > committed.first_lsn)).await;
    drop(on_its_way);
    Ok(accepted(&id, "published", false))
}

fn is_json(request: &HttpRequest) -> bool {
    let given = request.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    media_type == "application/json"
        || media_type.starts_with("application/") && media_type.ends_with("+json")
}

async fn receive(body: web::Payload) -> Result<web::Bytes, Problem> {
    let received = tokio::time::timeout(BODY_WITHIN, body.to_bytes_limited(GOAL_BYTES_MAX))
        .await
        .map_err(|_| Problem::too_slow(format_args!("the goal did not come within {BODY_WITHIN:?}")))?;
    received
        .map_err(|_| Problem::too_large(format_args!("a goal has at most {GOAL_BYTES_MAX} bytes")))?
        .map_err(|error| Problem::invalid("", format_args!("the body cannot be read: {error}")))
}

fn accepted(id: &GoalId, state: &'static str, is_known: bool) -> HttpResponse {
    let mut response = HttpResponse::Accepted();
    response.insert_header((LOCATION, format!("/v1/goals/{}", in_path(id.as_str()))));
    response.json(AcceptedDocument { id: id.to_string(), state, is_known })
}

/// The state of the goal that is known under this id, if it is the same; a conflict if it is another.
fn known(api: &Api, goal: &Goal, content: u64) -> Result<Option<&'static str>, Problem> {
    if let Some(state) = known_in_view(api, goal, content)? {
        return Ok(Some(state));
    }
    // One that ended long ago is known by its content alone.
    let Some(id) = &goal.id else { return Ok(None) };
    match api.node()?.known_goal(&goal.tenant, goal.agent.as_ref(), id).map_err(Problem::internal)? {
        Some(known) if known == content => Ok(Some("ended")),
        Some(_) => Err(taken(id)),
        None => Ok(None),
    }
}

fn known_in_view(api: &Api, goal: &Goal, content: u64) -> Result<Option<&'static str>, Problem> {
    let Some(id) = &goal.id else { return Ok(None) };
    let view = api.live.view();
    let Some(known) = view.goals.get(id) else { return Ok(None) };
    if content_of(&known.goal) == content { Ok(Some(goal_state(known))) } else { Err(taken(id)) }
}

/// Shows a goal.
pub(super) async fn show(id: web::Path<String>, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let id = GoalId::new(id.as_str()).map_err(|error| Problem::invalid("id", error))?;
    if let Some(goal) = api.live.view().goals.get(&id) {
        return Ok(HttpResponse::Ok().json(GoalDocument::of(id.as_str(), goal)));
    }
    let unknown = || Problem::not_found(format_args!("there is no goal {id}"));
    if !was_taken(&api, &id)? {
        return Err(unknown());
    }
    // It ended so long ago that the view has forgotten it. Reading the log takes long: one request at a time does.
    let _turn = api
        .look_up
        .try_acquire()
        .map_err(|_| Problem::full("another goal that ended long ago is being looked up: ask again"))?;
    let (log, wanted) = (api.log.clone(), id.clone());
    let view = web::block(move || RunView::read_goal(log.as_ref(), &wanted))
        .await
        .map_err(Problem::internal)?
        .map_err(|failure| Problem::internal(failure.message))?;
    let goal = view.goals.get(&id).ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(GoalDocument::of(id.as_str(), goal)))
}

/// Whether a goal with this id was ever taken, by what the node's cache says.
fn was_taken(api: &Api, id: &GoalId) -> Result<bool, Problem> {
    let Ok(node) = api.node() else { return Ok(false) };
    let known = node.known_goal(&api.tenant, None, id).map_err(Problem::internal)?;
    Ok(known.is_some())
}
