//! The dashboard: one page, the stream that feeds it, what it may ask for, and what machines ask.
//!
//! Invariant: nothing is done without the token; nothing of what is shown can act on the page, which has neither markup
//! nor style from data, and runs no script but its own.

use super::guard::{Denied, Guard};
use super::patient::Peer;
use super::poll::{Hub, Viewer};
use super::source::{Deed, Refused};
use crate::model::JobId;
use crate::model::fleet::{Order, PoolKind};
use crate::node::export::cycle_of;
use crate::telemetry::export::{Labels, render};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// No request is longer, in bytes.
const MAX_BODY: usize = 4096;
/// A stream says something at least so often.
const PULSE: Duration = Duration::from_secs(10);
/// A retry that takes longer is not waited for.
const RETRY_TAKES: Duration = Duration::from_secs(20);
/// Actors that one press adds or takes, at most.
const MAX_BY: u16 = 64;

const HTML: &str = include_str!("page/dashboard.html");
const CSS: &str = include_str!("page/dashboard.css");
const JS: &str = include_str!("page/dashboard.js");
const ICON: &str = include_str!("page/icon.svg");

/// Goes with everything that is sent.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Tries again what failed in a job that is over; in words, what became of it. Blocks.
pub type Retry = Box<dyn Fn(JobId) -> Result<String, String> + Send + Sync>;

/// What pages are made of.
pub struct Dashboard {
    /// What is seen.
    pub hub: Arc<Hub>,
    /// Who may see it.
    pub guard: Guard,
    /// How failed entries are tried again, where that can be.
    pub retry: Option<Retry>,
    /// One retry at a time.
    pub retrying: Arc<Semaphore>,
}

/// The pages.
pub fn pages(dashboard: Arc<Dashboard>) -> Router {
    let asset =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    let hub = Arc::clone(&dashboard.hub);
    let ready = move || {
        let is_ready = hub.is_ready();
        async move { if is_ready { Ok(()) } else { Err("what is watched has not answered lately".to_owned()) } }
    };
    Router::new()
        .route("/", asset("text/html; charset=utf-8", HTML))
        .route("/dashboard.css", asset("text/css; charset=utf-8", CSS))
        .route("/dashboard.js", asset("text/javascript; charset=utf-8", JS))
        .route("/icon.svg", asset("image/svg+xml", ICON))
        .route("/metrics", get(metrics))
        .route("/events", get(events))
        .route("/api/state", get(state))
        .route("/api/action", post(action))
        .with_state(Arc::clone(&dashboard))
        .merge(super::health::pages(async || Ok(()), ready))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(dashboard, screen))
}

type Shared = State<Arc<Dashboard>>;

/// Lets nobody in who comes from elsewhere, and dresses what goes out.
async fn screen(State(dashboard): Shared, request: Request, next: Next) -> Response {
    let is_navigation = request.method() == Method::GET && request.uri().path() == "/";
    let mut response = match dashboard.guard.check_site(request.headers(), is_navigation) {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn state(
    State(dashboard): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Response, Denied> {
    dashboard.guard.check_reader(&headers, peer).await?;
    dashboard.hub.refresh().await;
    let state = dashboard.hub.state();
    Ok(([(header::CONTENT_TYPE, "application/json")], state.text.clone()).into_response())
}

async fn metrics(
    State(dashboard): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Response, Denied> {
    dashboard.guard.check_reader(&headers, peer).await?;
    let hub = &dashboard.hub;
    hub.refresh().await;
    let seen = hub.seen().filter(|_| hub.is_answering());
    let cycle = cycle_of(seen.as_deref().map(|seen| &seen.look));
    let text = render(&cycle, Labels { job: true, node: true }, false).text;
    Ok(([(header::CONTENT_TYPE, super::metrics::OPEN_METRICS)], text).into_response())
}

async fn events(
    State(dashboard): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Response, Denied> {
    dashboard.guard.check_reader(&headers, peer).await?;
    let full = (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
    let mut viewer = dashboard.hub.watch().ok_or(full)?;
    viewer.states.mark_changed();
    let history = Event::default().event("history").data(dashboard.hub.history());
    let first = stream::iter([Ok(history)]);
    // A source that hangs leaves the stream open.
    Ok(Sse::new(first.chain(states(viewer))).keep_alive(KeepAlive::new().interval(PULSE)).into_response())
}

/// Each state that is new when the viewer can take one; ends with the last one.
fn states(viewer: Viewer) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((viewer, false), |(mut viewer, is_over)| async move {
        if is_over {
            return None;
        }
        viewer.states.changed().await.ok()?;
        let told = Arc::clone(&viewer.states.borrow_and_update());
        Some((Ok(Event::default().event("state").data(&told.text)), (viewer, told.is_last)))
    })
}

/// What a page may ask for.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Wanted {
    action: Action,
    job: Option<String>,
    node: Option<String>,
    kind: Option<Kind>,
    by: Option<u16>,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Action {
    Pause,
    Resume,
    Cancel,
    Retry,
    Grow,
    Shrink,
    /// Nothing: is the token right?
    Check,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Dirs,
    Files,
}

/// What is done about it.
#[derive(Debug, PartialEq, Eq)]
enum Meant {
    Nothing,
    Deed(Deed),
    Retry(JobId),
}

impl Wanted {
    fn meaning(self) -> Option<Meant> {
        let Wanted { action, job, node, kind, by } = self;
        let job = job.map(|job| JobId::parse(job.as_bytes()));
        let kind = kind.map(|kind| if kind == Kind::Dirs { PoolKind::Dirs } else { PoolKind::Files });
        let number = by.unwrap_or(1);
        let resized = (1..=MAX_BY).contains(&number).then_some(number);
        let is_plain = kind.is_none() && by.is_none();
        let tell = |node, order| Some(Meant::Deed(Deed::Tell(node, order)));
        match (action, job, node) {
            (Action::Check, None, None) if is_plain => Some(Meant::Nothing),
            (Action::Pause, Some(Some(job)), None) if is_plain => Some(Meant::Deed(Deed::Pause(job))),
            (Action::Resume, Some(Some(job)), None) if is_plain => Some(Meant::Deed(Deed::Resume(job))),
            (Action::Cancel, Some(Some(job)), None) if is_plain => Some(Meant::Deed(Deed::Cancel(job))),
            (Action::Retry, Some(Some(job)), None) if is_plain => Some(Meant::Retry(job)),
            (Action::Pause, None, Some(node)) if is_plain => tell(node, Order::Pause),
            (Action::Resume, None, Some(node)) if is_plain => tell(node, Order::Resume),
            (Action::Grow, None, Some(node)) => tell(node, Order::Grow(kind, resized?)),
            (Action::Shrink, None, Some(node)) => tell(node, Order::Shrink(kind, resized?)),
            _ => None,
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn said(code: StatusCode, key: &str, words: &str) -> Response {
    let body: Value = json!({ key: words });
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn action(
    State(dashboard): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !is_json(&headers) {
        return said(StatusCode::UNSUPPORTED_MEDIA_TYPE, "refused", "JSON is expected");
    }
    if let Err((code, why)) = dashboard.guard.check_token(&headers, peer).await {
        return said(code, "refused", why);
    }
    let meant = serde_json::from_slice::<Wanted>(&body).ok().and_then(Wanted::meaning);
    let done = match meant {
        None => return said(StatusCode::BAD_REQUEST, "refused", "that is nothing that can be done"),
        Some(Meant::Nothing) => Ok("the token is right".to_owned()),
        Some(Meant::Retry(job)) => retry(&dashboard, job, peer).await,
        Some(Meant::Deed(deed)) => {
            let words = deed.words();
            // Before, too: whoever asked may not wait for the answer.
            tracing::info!(deed = words, %peer, "asked for on the dashboard");
            let done = dashboard.hub.act(deed).await;
            record(&words, peer, &done);
            done
        }
    };
    match done {
        Ok(words) => said(StatusCode::OK, "done", &words),
        Err(Refused::Unknown(why)) => said(StatusCode::NOT_FOUND, "refused", &why),
        Err(Refused::Not(why)) => said(StatusCode::CONFLICT, "refused", &why),
        Err(Refused::Away(why)) => said(StatusCode::SERVICE_UNAVAILABLE, "refused", &why),
    }
}

/// Who did what is found in the log, with what became of it.
fn record(deed: &str, peer: Peer, done: &Result<String, Refused>) {
    let outcome = match done {
        Ok(words) => words,
        Err(Refused::Unknown(why) | Refused::Not(why) | Refused::Away(why)) => why,
    };
    tracing::info!(deed, %peer, is_done = done.is_ok(), outcome, "what became of it");
}

/// On a thread of its own: it reads all of a job's reports, which may take a while.
async fn retry(dashboard: &Arc<Dashboard>, job: JobId, peer: Peer) -> Result<String, Refused> {
    if dashboard.retry.is_none() {
        return Err(Refused::Not("a job that runs alone is run again by the same command".to_owned()));
    }
    let Ok(permit) = Arc::clone(&dashboard.retrying).try_acquire_owned() else {
        return Err(Refused::Not("another retry is being prepared".to_owned()));
    };
    let words = format!("retry job {job}");
    tracing::info!(deed = words, %peer, "asked for on the dashboard");
    let shared = Arc::clone(dashboard);
    let task = tokio::task::spawn_blocking(move || {
        let done = shared.retry.as_ref().map(|retry| retry(job));
        let done = done.map(|done| done.map_err(|why| Refused::Not(crate::node::json::escaped_once(&why))));
        if let Some(done) = &done {
            record(&words, peer, done);
        }
        drop(permit);
        done
    });
    match tokio::time::timeout(RETRY_TAKES, task).await {
        Ok(Ok(Some(done))) => done,
        Ok(Ok(None) | Err(_)) => Err(Refused::Away("it came to nothing: see the log".to_owned())),
        Err(_) => Ok(format!("what failed in job {job} is being read: it takes a while")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Option<Meant> {
        serde_json::from_str::<Wanted>(text).ok().and_then(Wanted::meaning)
    }

    #[test]
    fn the_page_is_small_and_has_nothing_from_elsewhere() {
        assert!(HTML.len() + CSS.len() + JS.len() + ICON.len() < 60 << 10);
        for part in [HTML, CSS, JS] {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", " style="]
            {
                assert!(!part.contains(word), "{word}");
            }
        }
        assert!(!HTML.contains(" on"), "no inline handlers");
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let id = JobId::parse(b"0000000000001").unwrap();
        let job = |action: &str| format!(r#"{{"action":"{action}","job":"0000000000001"}}"#);
        assert_eq!(meant(&job("pause")), Some(Meant::Deed(Deed::Pause(id))));
        assert_eq!(meant(&job("cancel")), Some(Meant::Deed(Deed::Cancel(id))));
        assert_eq!(meant(&job("retry")), Some(Meant::Retry(id)));
        let grown = Meant::Deed(Deed::Tell("n".into(), Order::Grow(Some(PoolKind::Files), 4)));
        assert_eq!(meant(r#"{"action":"grow","node":"n","kind":"files","by":4}"#), Some(grown));
        for wrong in [
            "",
            "{}",
            r#"{"action":"stop","node":"n"}"#,
            r#"{"action":"grow","job":"0000000000001"}"#,
            r#"{"action":"grow","node":"n","by":0}"#,
            r#"{"action":"grow","node":"n","by":65}"#,
            r#"{"action":"cancel","node":"n"}"#,
            r#"{"action":"cancel","job":"*"}"#,
            r#"{"action":"cancel"}"#,
            r#"{"action":"pause","job":"0000000000001","node":"n"}"#,
            r#"{"action":"pause","node":"n","extra":1}"#,
        ] {
            assert_eq!(meant(wrong), None, "{wrong}");
        }
    }
}
