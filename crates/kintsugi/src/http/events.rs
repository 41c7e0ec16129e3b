//! `GET /v1/events`: server-sent events, from the log.
//!
//! A stream holds no queue: it reads the next stretch of the log when its client has taken the one before. A slow client
//! is simply further back, and one that comes back names the last event that it saw. The id of an event is its place in
//! the log.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream::unfold;
use kintsugi_eventlog::{LogError, Lsn};
use kintsugi_events::Topic;
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{error, warn};

use super::api::Api;
use super::problem::Problem;
use crate::documents::cloud_event;
use crate::partitions_read::PartitionsRead;

/// How often a stream without news says that it is there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// Records of the log that are looked at for one stretch, wanted or not.
const RECORDS_AT_ONCE: usize = 2_048;

/// About how many bytes one stretch has: it ends with the event that passes this.
const STRETCH_BYTES: usize = 64 * 1024;

/// How soon a client shall come back after its connection was lost, in milliseconds.
const COME_BACK_AFTER_MS: u32 = 1_000;

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    topics: Option<String>,
    from: Option<String>,
}

/// One client's stream.
struct Stream {
    api: web::Data<Api>,
    topics: Vec<Topic>,
    /// The next place in the log.
    next: Lsn,
    is_begun: bool,
    /// Events that were read and may not be told yet.
    text: Option<String>,
    /// What it has read, with the thread that reads while that is at it.
    read: PartitionsRead,
    /// Whether it has read nothing yet and is to begin with the oldest event, whichever that is by then.
    is_at_oldest: bool,
    news: watch::Receiver<Lsn>,
    closing: watch::Receiver<bool>,
    _place: Place,
}

/// One of the streams that may be open.
struct Place(web::Data<Api>);

impl Place {
    fn take(api: &web::Data<Api>) -> Result<Self, Problem> {
        let place = Self(api.clone());
        if api.streams.fetch_add(1, Ordering::Relaxed) < api.settings.streams_max {
            return Ok(place);
        }
        let max = api.settings.streams_max;
        Err(Problem::unavailable(format_args!("{max} event streams are open, which is all that may be")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a stream.
pub(super) async fn stream(
    request: HttpRequest,
    query: web::Query<EventsQuery>,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let topics = read_topics(query.topics.as_deref().unwrap_or(""))?;
    let next = begin(&request, query.from.as_deref(), &api)?;
    let is_at_oldest = query.from.as_deref() == Some("beginning") && last_event_id(&request).is_none();
    let place = Place::take(&api)?;
    let state = Stream {
        topics,
        next,
        is_begun: false,
        text: None,
        read: PartitionsRead::default(),
        is_at_oldest,
        news: api.live.subscribe(),
        closing: api.is_closing.subscribe(),
        api,
        _place: place,
    };
    let body = unfold(state, |mut state| async move {
        let stretch = state.stretch().await?;
        Some((Ok::<_, Infallible>(stretch), state))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        // Proxies would otherwise hold events back to fill their buffers.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(body))
}

/// Topics with or without prefix, with commas between; all where none is named.
fn read_topics(names: &str) -> Result<Vec<Topic>, Problem> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let topics: Result<Vec<Topic>, _> = names.map(str::parse).collect();
    let topics = topics.map_err(|error| Problem::invalid("topics", error))?;
    Ok(if topics.is_empty() { Topic::ALL.to_vec() } else { topics })
}

/// The last event that the client saw, where it comes back.
fn last_event_id(request: &HttpRequest) -> Option<&HeaderValue> {
    request.headers().get("last-event-id").filter(|id| !id.is_empty())
}

/// Where the stream begins: after the last event that the client saw, else with the oldest, else now.
fn begin(request: &HttpRequest, from: Option<&str>, api: &Api) -> Result<Lsn, Problem> {
    let (oldest, end) = (api.log.start_lsn(), api.log.end_lsn());
    let Some(seen) = last_event_id(request) else {
        return match from {
            None | Some("now") => Ok(end),
            Some("beginning") => Ok(oldest),
            Some(other) => {
                let detail = format!("`from` is {other:?}, it must be `now` or `beginning`");
                Err(Problem::invalid("from", detail))
            }
        };
    };
    let seen: Option<u64> = seen.to_str().ok().and_then(|id| id.parse().ok());
    let next =
        seen.and_then(|seen| seen.checked_add(1)).map(Lsn).filter(|next| *next <= end).ok_or_else(|| {
            Problem::invalid("Last-Event-ID", "this is the id of no event of this node: leave the header out")
        })?;
    if next < oldest {
        return Err(Problem::gone(format_args!(
            "events before {oldest} are deleted: ask again with `?from=beginning` and without Last-Event-ID"
        )));
    }
    Ok(next)
}

impl Stream {
    /// The next events, or a sign of life; nothing when the stream is over.
    async fn stretch(&mut self) -> Option<web::Bytes> {
        if !self.is_begun {
            // At once, so that the client knows that it is connected and from where it would resume.
            self.is_begun = true;
            return Some(format!("retry: {COME_BACK_AFTER_MS}\n{}\n", self.place()).into());
        }
        let heartbeat = tokio::time::sleep(HEARTBEAT_EVERY);
        tokio::pin!(heartbeat);
        loop {
            if *self.closing.borrow_and_update() {
                return None;
            }
            let news = *self.news.borrow_and_update();
            // Whoever hears of an event and asks about it is told no less: the view has it first.
            if let Some(text) = self.text.take_if(|_| self.next <= news) {
                return Some(text.into());
            }
            if self.text.is_none() && self.next < news {
                let text = self.read().await?;
                self.text = Some(text).filter(|text| !text.is_empty());
                continue;
            }
            tokio::select! {
                () = &mut heartbeat => {
                    // What waits comes after the place that is told.
                    let place = if self.text.is_none() { self.place() } else { String::new() };
                    return Some(format!(": heartbeat\n{place}\n").into());
                }
                changed = self.news.changed() => changed.ok()?,
                changed = self.closing.changed() => changed.ok()?,
            }
        }
    }

    /// Tells the client how far it is, without an event: a quiet topic need not be searched again from far back.
    fn place(&self) -> String {
        self.next.0.checked_sub(1).map_or_else(String::new, |seen| format!("id: {seen}\n"))
    }

    async fn read(&mut self) -> Option<String> {
        let (api, topics, from) = (self.api.clone(), self.topics.clone(), self.next);
        let mut read = std::mem::take(&mut self.read);
        let stretch = web::block(move || read_stretch(&api, &topics, from, &mut read).map(|it| (it, read)));
        match stretch.await {
            Ok(Ok(((text, next), read))) => {
                (self.next, self.read) = (next, read);
                self.is_at_oldest = false;
                Some(text)
            }
            Ok(Err(LogError::Trimmed { .. })) if self.is_at_oldest => {
                self.next = self.api.log.start_lsn();
                Some(String::new())
            }
            // It was slower than the node deletes. The client comes back and is told so.
            Ok(Err(LogError::Trimmed { .. })) => None,
            Ok(Err(failure)) => {
                error!(%failure, at = from.0, "read events");
                None
            }
            Err(failure) => {
                error!(%failure, "read events");
                None
            }
        }
    }
}

/// The wanted events of the next stretch of the log, and where it ends.
fn read_stretch(
    api: &Api,
    topics: &[Topic],
    from: Lsn,
    read: &mut PartitionsRead,
) -> Result<(String, Lsn), LogError> {
    let mut text = String::new();
    let mut records = 0;
    let next = api.log.replay(from, &mut |record| {
        if !read.note(&record) {
            return ControlFlow::Continue(());
        }
        records += 1;
        if topics.contains(&record.topic) {
            match cloud_event(&record) {
                // A JSON document on one line holds no line break. Writing to a text does not fail.
                Ok(event) => _ = write!(text, "id: {}\ndata: {event}\n\n", record.lsn),
                Err(failure) => warn!(topic = %record.topic, offset = record.offset, %failure, "passed over"),
            }
        }
        if records < RECORDS_AT_ONCE && text.len() < STRETCH_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok((text, next))
}
