//! Every endpoint, once: from this table requests are routed and `/openapi.json` is made.

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, Route, web};
use schemars::generate::SchemaGenerator;
use serde_json::Value;

use super::problem::Problem;
use super::{agents, events, goals, health, openapi, scrape, seams};
use crate::documents::{AgentDocument, GoalDocument};

/// One endpoint.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What it does, in one line.
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Option<Content>,
    pub(super) answers: &'static [Answer],
    /// Whether it is answered without a token.
    pub(super) is_public: bool,
    route: fn() -> Route,
}

/// A parameter of a request.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `path`, `query` or `header`.
    pub(super) place: &'static str,
    pub(super) description: &'static str,
}

/// What may be answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) description: &'static str,
    /// A problem document where it is missing.
    pub(super) content: Option<Content>,
}

/// What a body holds.
#[derive(Clone, Copy)]
pub(super) struct Content {
    pub(super) media_type: &'static str,
    /// Its schema, where it has one.
    pub(super) schema: Option<fn(&mut SchemaGenerator) -> Value>,
}

/// A JSON document of type `T`.
macro_rules! json {
    ($type:ty) => {
        Content {
            media_type: "application/json",
            schema: Some(|generator| generator.subschema_for::<$type>().to_value()),
        }
    };
}

const fn answer(status: u16, description: &'static str, content: Content) -> Answer {
    Answer { status, description, content: Some(content) }
}

const fn problem(status: u16, description: &'static str) -> Answer {
    Answer { status, description, content: None }
}

const fn parameter(name: &'static str, place: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place, description }
}

const NO_TOKEN: Answer = problem(401, "the token is missing or wrong");
const NOT_NOW: Answer =
    problem(503, "the node is starting or stopping; `Retry-After` says when to ask again");
const GOAL_ID: Parameter = parameter("id", "path", "the goal's id");
const AGENT_ID: Parameter = parameter("id", "path", "the agent's id");

/// All endpoints.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::POST,
        path: "/v1/goals",
        summary: "Publish a goal; answered when it is durable",
        parameters: &[],
        body: Some(json!(kintsugi_events::Goal)),
        answers: &[
            answer(
                202,
                "the goal was taken, now or before, and ends exactly once",
                json!(goals::AcceptedDocument),
            ),
            problem(400, "`field` names what is wrong with the goal"),
            NO_TOKEN,
            problem(408, "the body came too slowly"),
            problem(409, "the id is taken by a goal with other content"),
            problem(413, "the goal is longer than 256 KiB"),
            problem(415, "the body is not declared as JSON"),
            problem(429, "too many goals are open; `Retry-After` says when to ask again"),
            NOT_NOW,
        ],
        is_public: false,
        route: || web::post().to(goals::publish),
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/goals/{id}",
        summary: "A goal with its state and result",
        parameters: &[GOAL_ID],
        body: None,
        answers: &[
            answer(200, "the goal", json!(GoalDocument<'static>)),
            NO_TOKEN,
            problem(404, "there is no such goal"),
            problem(429, "another goal that ended long ago is being looked up"),
        ],
        is_public: false,
        route: || web::get().to(goals::show),
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/agents",
        summary: "Agents that ever had work, by id",
        parameters: &[
            parameter("limit", "query", "how many, 1 to 1000; 100 unless given"),
            parameter("after", "query", "begin after this id: the `next` of the page before"),
        ],
        body: None,
        answers: &[
            answer(200, "a page of agents", json!(agents::AgentPage<'static>)),
            problem(400, "`field` names the parameter that is wrong"),
            NO_TOKEN,
        ],
        is_public: false,
        route: || web::get().to(agents::list),
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/agents/{id}",
        summary: "An agent: state, health and its five parts, goal, last seams",
        parameters: &[AGENT_ID],
        body: None,
        answers: &[
            answer(200, "the agent", json!(AgentDocument<'static>)),
            NO_TOKEN,
            problem(404, "there is no such agent"),
        ],
        is_public: false,
        route: || web::get().to(agents::show),
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/agents/{id}/resume",
        summary: "Bring an agent back that is quarantined",
        parameters: &[AGENT_ID],
        body: None,
        answers: &[
            answer(200, "the agent is back", json!(AgentDocument<'static>)),
            answer(202, "it was told to come back", json!(AgentDocument<'static>)),
            NO_TOKEN,
            problem(404, "there is no such agent"),
            problem(409, "the agent is not quarantined"),
            NOT_NOW,
        ],
        is_public: false,
        route: || web::post().to(agents::resume),
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/seams",
        summary: "Recoveries with all that led to them, newest first",
        parameters: &[
            parameter("agent", "query", "only those of this agent, or of a shared part such as `tool:NAME`"),
            parameter("limit", "query", "how many, 1 to 500; 50 unless given"),
            parameter("before", "query", "begin before this recovery: the `next` of the page before"),
        ],
        body: None,
        answers: &[
            answer(200, "a page of seams", json!(seams::SeamPage<'static>)),
            problem(400, "`field` names the parameter that is wrong"),
            NO_TOKEN,
        ],
        is_public: false,
        route: || web::get().to(seams::list),
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/events",
        summary: "Events as they become durable, as server-sent events in the CloudEvents JSON format",
        parameters: &[
            parameter("topics", "query", "topics with commas between; all unless given"),
            parameter("from", "query", "`now`, which is the default, or `beginning`"),
            parameter("Last-Event-ID", "header", "go on after this event"),
        ],
        body: None,
        answers: &[
            answer(200, "the stream", Content { media_type: "text/event-stream", schema: None }),
            problem(400, "`field` names the parameter that is wrong"),
            NO_TOKEN,
            problem(410, "the events after this one are no longer kept"),
            problem(503, "as many streams are open as may be"),
        ],
        is_public: false,
        route: || web::get().to(events::stream),
    },
    Endpoint {
        method: Method::GET,
        path: "/healthz",
        summary: "Whether the process lives",
        parameters: &[],
        body: None,
        answers: &[answer(200, "it lives", json!(health::HealthDocument))],
        is_public: true,
        route: || web::get().to(health::live),
    },
    Endpoint {
        method: Method::GET,
        path: "/readyz",
        summary: "Whether the node takes goals and works them",
        parameters: &[],
        body: None,
        answers: &[answer(200, "it does", json!(health::HealthDocument)), NOT_NOW],
        is_public: true,
        route: || web::get().to(health::ready),
    },
    Endpoint {
        method: Method::GET,
        path: "/metrics",
        summary: "Counters and gauges for Prometheus",
        parameters: &[],
        body: None,
        answers: &[
            answer(200, "the metrics", Content { media_type: scrape::OPEN_METRICS, schema: None }),
            NO_TOKEN,
        ],
        is_public: false,
        route: || web::get().to(scrape::metrics),
    },
    Endpoint {
        method: Method::GET,
        path: "/openapi.json",
        summary: "This description",
        parameters: &[],
        body: None,
        answers: &[
            answer(200, "the description", Content { media_type: "application/json", schema: None }),
            NO_TOKEN,
        ],
        is_public: false,
        route: || web::get().to(openapi::show),
    },
];

/// Whether anybody may ask for this path.
pub(super) fn is_public(path: &str) -> bool {
    ENDPOINTS.iter().any(|endpoint| endpoint.is_public && endpoint.path == path)
}

/// Routes requests.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let query = web::QueryConfig::default();
    config.app_data(query.error_handler(|error, _| Problem::invalid("query", error).into()));
    for endpoint in ENDPOINTS {
        // Each path stands in the table once.
        let resource = web::resource(endpoint.path).route((endpoint.route)());
        config.service(resource.default_service(web::to(refuse_method)));
    }
    config.default_service(web::to(|| async {
        Err::<HttpResponse, _>(Problem::not_found("there is nothing at this path: see /openapi.json"))
    }));
}

async fn refuse_method(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let pattern = request.match_pattern();
    let allowed = ENDPOINTS.iter().find(|endpoint| Some(endpoint.path) == pattern.as_deref());
    Err(Problem::method_not_allowed(allowed.map_or("", |endpoint| endpoint.method.as_str())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_path_stands_in_the_table_once() {
        let paths: BTreeSet<_> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
        assert_eq!(paths.len(), ENDPOINTS.len());
    }

    #[test]
    fn nothing_that_tells_of_goals_is_public() {
        let public: Vec<_> = ENDPOINTS.iter().filter(|endpoint| endpoint.is_public).map(|e| e.path).collect();
        assert_eq!(public, ["/healthz", "/readyz"]);
    }
}
