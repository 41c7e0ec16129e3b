//! `GET /v1/seams`.

use std::ops::Bound;

use actix_web::{HttpResponse, web};
use kintsugi_types::RecoveryId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agents::limit;
use super::api::Api;
use super::problem::Problem;
use crate::documents::{SeamDocument, metrics_by_place};

/// Seams of one answer where no other number is asked for.
const LIMIT_DEFAULT: usize = 50;

/// The most seams of one answer.
pub(super) const LIMIT_MAX: usize = 500;

/// Which seams.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeamQuery {
    agent: Option<String>,
    limit: Option<usize>,
    before: Option<String>,
}

/// Some seams, newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SeamPage")]
pub(super) struct SeamPage<'a> {
    /// Recoveries with all that led to them.
    seams: Vec<SeamDocument<'a>>,
    /// The `before` of the next page, where there is one.
    next: Option<&'a RecoveryId>,
}

/// Lists seams.
pub(super) async fn list(query: web::Query<SeamQuery>, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let before = query.before.as_deref().filter(|before| !before.is_empty());
    let before = before
        .map(str::parse::<RecoveryId>)
        .transpose()
        .map_err(|error| Problem::invalid("before", error))?
        .map_or(Bound::Unbounded, Bound::Excluded);
    let view = api.live.view();
    let metrics = metrics_by_place(&view);
    let mut found = view.recoveries.range((Bound::Unbounded, before)).rev().filter(|(_, seam)| {
        let last = seam.last();
        query.agent.as_ref().is_none_or(|wanted| last.is_some_and(|last| *wanted == last.agent.to_string()))
    });
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let next = found.next().and_then(|_| page.last()).map(|(id, _)| *id);
    let seams = page.into_iter().map(|(_, seam)| SeamDocument::of(seam, &view, &metrics)).collect();
    Ok(HttpResponse::Ok().json(SeamPage { seams, next }))
}
