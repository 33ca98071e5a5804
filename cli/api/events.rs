//! Events as a stream (server-sent events): of one run from any entry on, or of all runs as they happen.
//! Nothing is buffered for a client but a few events; one that does not keep up is told so and dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use sealflow_engine::event::Entry;
use sealflow_engine::id::RunId;
use sealflow_storage::journal::{Following, Place};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::ToSchema;

use super::extract::{Path, Query};
use super::server::{Api, ApiError, Shared, no_run, run_id};
use crate::archived::holder;
use crate::view;

/// Clients that may follow at a time.
pub(super) const FOLLOWERS: usize = 64;
/// Events that wait for a client.
const WAITING: usize = 64;
/// A client that takes nothing for so long is dropped.
const SLOW: Duration = Duration::from_secs(30);
/// Entries that are read together, and how soon after each other.
const PIECE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// An entry of a run's journal, as it is streamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StreamedEntry {
    /// The run.
    pub(crate) run: String,
    /// Its number in the run's journal.
    pub(crate) seq: u64,
    /// When (RFC 3339).
    pub(crate) at: String,
    /// What happened.
    pub(crate) events: Vec<serde_json::Value>,
}

/// An entry of a run.
pub(crate) fn streamed(run: &RunId, entry: &Entry) -> StreamedEntry {
    let view::EntryView { seq, at, events } = view::entry(entry);
    StreamedEntry {
        run: run.to_string(),
        seq,
        at,
        events,
    }
}

#[derive(Debug, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// What was seen last: for one run the number of an entry, for all runs the `id` of an event. The header
    /// `Last-Event-ID` says the same, and goes before.
    since: Option<String>,
}

/// Why a stream ended.
enum End {
    /// The run has ended, and so has its journal.
    RunEnded,
    /// The daemon stops.
    DaemonStops,
    /// The client did not keep up.
    TooSlow,
    /// The client has gone.
    Gone,
    /// The journal failed.
    Failed(String),
}

impl End {
    fn text(&self) -> String {
        match self {
            Self::RunEnded => "run_ended".to_owned(),
            Self::DaemonStops => "daemon_stops".to_owned(),
            Self::TooSlow => "too_slow".to_owned(),
            Self::Gone => "gone".to_owned(),
            Self::Failed(why) => format!("failed: {why}"),
        }
    }
}

type Sent = Result<Event, Infallible>;

/// Sends to one client.
struct Client {
    to: mpsc::Sender<Sent>,
    /// Room for the last event, whatever else waits.
    last: Option<mpsc::OwnedPermit<Sent>>,
    _one_of: OwnedSemaphorePermit,
}

impl Client {
    async fn send(&self, event: Event) -> Result<(), End> {
        match self.to.send_timeout(Ok(event), SLOW).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(End::TooSlow),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Gone),
        }
    }

    async fn entry(&self, id: String, run: &RunId, entry: &Entry) -> Result<(), End> {
        let event = Event::default()
            .event("entry")
            .id(id)
            .json_data(streamed(run, entry));
        self.send(event.map_err(|error| End::Failed(error.to_string()))?)
            .await
    }

    fn end(mut self, why: &End) {
        let data = serde_json::json!({ "reason": why.text() }).to_string();
        if let Some(last) = self.last.take() {
            last.send(Ok(Event::default().event("end").data(data)));
        }
    }
}

/// Begins a stream: what `follow` sends until it says why it ends.
fn stream<F>(api: &Arc<Api>, follow: impl FnOnce(Arc<Api>, Arc<Client>) -> F) -> Result<Response, ApiError>
where
    F: Future<Output = End> + Send + 'static,
{
    let too_many = || {
        let text = format!("{FOLLOWERS} clients follow events already; end one of them, or ask again later");
        ApiError(StatusCode::SERVICE_UNAVAILABLE, "refused", text)
    };
    let one_of = api
        .followers
        .clone()
        .try_acquire_owned()
        .map_err(|_| too_many())?;
    let (to, from) = mpsc::channel(WAITING);
    let last = to.clone().try_reserve_owned().ok();
    let client = Arc::new(Client {
        to,
        last,
        _one_of: one_of,
    });
    let (following, stop) = (follow(api.clone(), client.clone()), api.stop.clone());
    tokio::spawn(async move {
        let why = stop
            .run_until_cancelled(following)
            .await
            .unwrap_or(End::DaemonStops);
        if let Some(client) = Arc::into_inner(client) {
            client.end(&why);
        }
    });
    let events = futures::stream::unfold(from, |mut from| async { Some((from.recv().await?, from)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn since(headers: &HeaderMap, query: EventsQuery) -> Option<String> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    header.map(str::to_owned).or(query.since)
}

fn bad(what: String) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, "bad_request", what)
}

/// The journal of one run as server-sent events: an event `entry` for each entry, with its number as `id`,
/// from the one after `since` on and as they come; then an event `end` with the `reason`.
#[utoipa::path(get, path = "/api/v1/runs/{run}/events", params(EventsQuery), responses((status = 200, content_type = "text/event-stream", body = StreamedEntry), (status = 404, body = super::Problem)))]
pub(super) async fn run_events(
    State(api): Shared,
    Path(run): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = run_id(&run)?;
    let seen: u64 = match since(&headers, query) {
        Some(text) => text
            .parse()
            .map_err(|_| bad(format!("`{text}` is not the number of an entry")))?,
        None => 0,
    };
    if holder(&api.journal, &id).await?.is_none() {
        return Err(no_run(&run));
    }
    stream(&api, move |api, client| async move {
        follow_run(&api, &client, &id, seen)
            .await
            .err()
            .unwrap_or(End::RunEnded)
    })
}

async fn follow_run(api: &Arc<Api>, client: &Client, run: &RunId, mut seen: u64) -> Result<(), End> {
    let failed = |error: sealflow_engine::journal::JournalError| End::Failed(error.to_string());
    let mut changes = api.journal.feed().changes();
    loop {
        changes.borrow_and_update();
        // Archived meanwhile, it is read where it is now.
        let Some((journal, _)) = holder(&api.journal, run).await.map_err(failed)? else {
            return Ok(());
        };
        let row = journal.run(run).await.map_err(failed)?;
        loop {
            let from = seen.saturating_add(1);
            let entries = journal.entries(run, from, PIECE).await.map_err(failed)?;
            for entry in &entries {
                client.entry(entry.seq.to_string(), run, entry).await?;
                seen = entry.seq;
            }
            if entries.len() < PIECE as usize {
                break;
            }
        }
        if row.is_some_and(|row| row.status.is_final() && row.discarding.is_empty() && seen >= row.seq) {
            return Ok(());
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| End::DaemonStops)?,
            () = client.to.closed() => return Err(End::Gone),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// All events of all runs from now on, or from the event on that was seen last, as server-sent events. An
/// event `gap` says that some are missing: too many came meanwhile, or the daemon was started anew. Each
/// run's own stream then has all of them.
#[utoipa::path(get, path = "/api/v1/events", params(EventsQuery), responses((status = 200, content_type = "text/event-stream", body = StreamedEntry)))]
pub(super) async fn all_events(
    State(api): Shared,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let seen: Option<Place> = match since(&headers, query) {
        Some(text) => Some(text.parse().map_err(bad)?),
        None => None,
    };
    stream(&api, move |api, client| async move {
        follow_all(&api, &client, seen)
            .await
            .err()
            .unwrap_or(End::DaemonStops)
    })
}

async fn follow_all(api: &Arc<Api>, client: &Client, seen: Option<Place>) -> Result<(), End> {
    let feed = api.journal.feed();
    let mut changes = feed.changes();
    let mut seen = seen.unwrap_or_else(|| feed.now());
    let begin = Event::default().event("begin").id(seen.to_string()).data("{}");
    client.send(begin).await?;
    loop {
        changes.borrow_and_update();
        loop {
            match feed.after(seen, PIECE as usize) {
                Following::Entries(entries) if entries.is_empty() => break,
                Following::Entries(entries) => {
                    for (place, run, entry) in entries {
                        client.entry(place.to_string(), &run, &entry).await?;
                        seen = place;
                    }
                }
                Following::Gap(place) => {
                    let gap = Event::default().event("gap").id(place.to_string()).data("{}");
                    client.send(gap).await?;
                    seen = place;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| End::DaemonStops)?,
            () = client.to.closed() => return Err(End::Gone),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
