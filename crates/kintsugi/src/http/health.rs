//! `GET /healthz` and `GET /readyz`.

use actix_web::{HttpResponse, web};
use schemars::JsonSchema;
use serde::Serialize;

use super::api::Api;
use super::problem::Problem;
use crate::backbone::Standing;

/// Whether the process lives.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub(super) struct HealthDocument {
    /// `ok`.
    status: &'static str,
    /// The program's version.
    version: &'static str,
}

fn ok() -> HttpResponse {
    HttpResponse::Ok().json(HealthDocument { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// The process lives and answers.
pub(super) async fn live() -> HttpResponse {
    ok()
}

/// The node takes goals and works them.
pub(super) async fn ready(api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let node = api.node()?;
    if node.has_ended() {
        return Err(Problem::unavailable("the node ended: restart it"));
    }
    if let Standing::Kafka { away: Some(away) } = api.backbone.standing() {
        return Err(Problem::unavailable(away));
    }
    if !node.has_lanes_open() {
        return Err(Problem::unavailable(
            "no partition of the cluster is this node's, or one is still being restored",
        ));
    }
    Ok(ok())
}
