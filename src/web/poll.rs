//! Looks again and again, once for all viewers.
//!
//! Invariant: the number of looks does not depend on the number of viewers; where nobody watches or asks, they are few. A
//! viewer that is slow misses states, and holds up nobody; who asks waits for a new look, but not for long.

use super::source::{Deed, Refused, Seen, Source};
use super::state::{History, unix_ms};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Between two looks while somebody watches.
const WATCHED: Duration = Duration::from_millis(1000);
/// Between two looks while nobody does.
const UNWATCHED: Duration = Duration::from_secs(10);
/// Somebody who left may be back soon.
const STILL_WATCHED: Duration = Duration::from_secs(15);
/// Somebody who asked once may ask again.
const ASKED_AGAIN: Duration = Duration::from_secs(30);
/// A look that is older is not shown to somebody who asks ...
const NEW: Duration = Duration::from_secs(2);
/// ... unless the next one takes so long.
const ASKER_WAITS: Duration = Duration::from_secs(3);
/// A source that did not answer for so long is not ready.
const READY: Duration = Duration::from_secs(30);
/// What waits for its turn.
const WAITING: usize = 16;
/// Pages that are open at a time.
const MAX_VIEWERS: usize = 64;
/// How long the end waits for pages to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the looker is asked for.
enum Request {
    /// Somebody watches.
    Wake,
    /// Something is to be done.
    Act(Deed, oneshot::Sender<Result<String, Refused>>),
    /// One last look.
    End(std::sync::mpsc::Sender<()>),
}

/// What all viewers see.
pub struct Hub {
    /// What does not change: the mode, the title ...
    about: Value,
    state: watch::Sender<Arc<Told>>,
    known: Mutex<Known>,
    viewers: AtomicUsize,
    /// A viewer went.
    gone: Condvar,
    requests: SyncSender<Request>,
}

#[derive(Default)]
struct Known {
    history: History,
    seen: Option<Arc<Seen>>,
    looked: Option<(Instant, u64)>,
    is_answering: bool,
    /// The last look ended, whatever came of it.
    tried: Option<Instant>,
    left: Option<Instant>,
    asked: Option<Instant>,
}

/// A state, as it is told.
#[derive(Default)]
pub struct Told {
    /// As JSON.
    pub text: String,
    /// Nothing comes after it.
    pub is_last: bool,
}

/// Somebody who watches, until it is dropped.
pub struct Viewer {
    hub: Arc<Hub>,
    /// The newest state.
    pub states: watch::Receiver<Arc<Told>>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.viewers.fetch_sub(1, Ordering::Relaxed);
        self.hub.known().left = Some(Instant::now());
        self.hub.gone.notify_all();
    }
}

impl Hub {
    /// Begins to look, on a thread of its own. What is in `about` is in every state.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(source: Box<dyn Source>, about: Value) -> std::io::Result<Arc<Self>> {
        let (requests, asked) = sync_channel(WAITING);
        let hub = Arc::new(Hub {
            state: watch::Sender::default(),
            about,
            known: Mutex::default(),
            viewers: AtomicUsize::new(0),
            gone: Condvar::new(),
            requests,
        });
        hub.publish(Err("looking for the first time".to_owned()), false);
        let looker = Looker { hub: Arc::clone(&hub), source };
        std::thread::Builder::new().name("look".into()).spawn(move || looker.run(&asked))?;
        Ok(hub)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody watches from now on; none, if too many do already.
    pub fn watch(self: &Arc<Self>) -> Option<Viewer> {
        let before = self.viewers.fetch_add(1, Ordering::Relaxed);
        let viewer = Viewer { hub: Arc::clone(self), states: self.state.subscribe() };
        (before < MAX_VIEWERS).then(|| {
            let _ = self.requests.try_send(Request::Wake); // full: it is awake
            viewer
        })
    }

    /// The newest state, as JSON.
    pub fn state(&self) -> Arc<Told> {
        Arc::clone(&self.state.borrow())
    }

    /// What plots show, as JSON.
    pub fn history(&self) -> String {
        self.known().history.json().to_string()
    }

    /// What was seen last.
    pub fn seen(&self) -> Option<Arc<Seen>> {
        self.known().seen.clone()
    }

    /// Did the source answer the last look?
    pub fn is_answering(&self) -> bool {
        self.known().is_answering
    }

    /// Did the source answer the last look, and lately?
    pub fn is_ready(&self) -> bool {
        let known = self.known();
        known.is_answering && known.looked.is_some_and(|(at, _)| at.elapsed() < READY)
    }

    /// Somebody asks for what is known, and may do so again: waits for a look that is new.
    pub async fn refresh(&self) {
        let mut states = self.state.subscribe();
        {
            let mut known = self.known();
            known.asked = Some(Instant::now());
            if known.tried.is_some_and(|tried| tried.elapsed() < NEW) {
                return;
            }
        }
        if !matches!(self.requests.try_send(Request::Wake), Err(TrySendError::Disconnected(_))) {
            let _ = tokio::time::timeout(ASKER_WAITS, states.changed()).await; // what is known is shown then
        }
    }

    /// Has something done.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn act(&self, deed: Deed) -> Result<String, Refused> {
        let away = || Refused::Away("too much is asked at once, or it is ending".to_owned());
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request::Act(deed, reply)).map_err(|_| away())?;
        answer.await.unwrap_or_else(|_| Err(away()))
    }

    /// Looks once more, for those who watch, and ends. Does not wait long for it.
    pub fn finish(&self) {
        let (done, ended) = std::sync::mpsc::channel();
        if self.requests.try_send(Request::End(done)).is_ok() {
            let _ = ended.recv_timeout(FAREWELL); // a source that hangs is left
        }
        let is_watched = |_: &mut Known| self.viewers.load(Ordering::Relaxed) > 0;
        let _ = self.gone.wait_timeout_while(self.known(), FAREWELL, is_watched);
    }

    fn is_watched(&self) -> bool {
        let known = self.known();
        let is_within = |at: Option<Instant>, time| at.is_some_and(|at| at.elapsed() < time);
        self.viewers.load(Ordering::Relaxed) > 0
            || is_within(known.left, STILL_WATCHED)
            || is_within(known.asked, ASKED_AGAIN)
    }

    /// Tells viewers what was seen, or why nothing was; then they are shown what was known before.
    fn publish(&self, looked: Result<Seen, String>, over: bool) {
        let mut known = self.known();
        let trouble = looked.as_ref().err().map(|why| crate::node::json::escaped_once(why));
        known.is_answering = looked.is_ok();
        if let Ok(seen) = looked {
            known.history.take_in(&seen.look);
            (known.seen, known.looked) = (Some(Arc::new(seen)), Some((Instant::now(), unix_ms())));
        }
        let nothing = || json!({"jobs": [], "nodes": [], "lost": [], "active": [], "calls": [], "sample": null});
        let mut state = known.seen.as_ref().map_or_else(nothing, |seen| known.history.state(seen));
        if let (Some(state), Some(about)) = (state.as_object_mut(), self.about.as_object()) {
            state.extend(about.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        state["unix_ms"] = unix_ms().into();
        state["looked_unix_ms"] = known.looked.map(|(_, unix_ms)| unix_ms).into();
        state["trouble"] = trouble.into();
        state["over"] = over.into();
        drop(known);
        self.state.send_replace(Arc::new(Told { text: state.to_string(), is_last: over }));
    }
}

struct Looker {
    hub: Arc<Hub>,
    source: Box<dyn Source>,
}

impl Looker {
    fn run(mut self, asked: &Receiver<Request>) {
        let mut looked = Instant::now();
        self.look(false);
        loop {
            let pause = if self.hub.is_watched() { WATCHED } else { UNWATCHED };
            match asked.recv_timeout((looked + pause).saturating_duration_since(Instant::now())) {
                Ok(Request::Wake) => continue,
                Ok(Request::Act(deed, reply)) => {
                    let _ = reply.send(self.source.act(&deed)); // whoever asked may have gone
                }
                Ok(Request::End(done)) => {
                    self.look(true);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            looked = Instant::now();
            self.look(false);
        }
    }

    fn look(&mut self, over: bool) {
        let looked = self.source.look();
        if let Err(why) = &looked {
            tracing::debug!(why, "nothing can be seen");
        }
        self.hub.known().tried = Some(Instant::now());
        self.hub.publish(looked, over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Look;

    /// Answers unless it is told not to; how many looks it gave.
    struct Counted(Arc<AtomicUsize>, Arc<std::sync::atomic::AtomicBool>);

    impl Source for Counted {
        fn look(&mut self) -> Result<Seen, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            if self.1.load(Ordering::SeqCst) {
                return Err("away".to_owned());
            }
            let (jobs, nodes) = (Vec::new(), Vec::new());
            let look = Look { at: Instant::now(), jobs, gone: Vec::new(), nodes, answers: Default::default() };
            Ok(Seen { look, active: Vec::new(), latencies: Vec::new() })
        }

        fn act(&mut self, _: &Deed) -> Result<String, Refused> {
            Ok(String::new())
        }
    }

    #[tokio::test]
    async fn who_asks_is_shown_what_is_new() {
        let (looks, is_away) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let hub = Hub::start(Box::new(Counted(Arc::clone(&looks), Arc::clone(&is_away))), json!({})).unwrap();
        hub.refresh().await;
        assert!(looks.load(Ordering::SeqCst) >= 1 && hub.is_ready());
        let told = |hub: &Hub| serde_json::from_str::<Value>(&hub.state().text).unwrap();
        assert_eq!(told(&hub)["trouble"], Value::Null);
        is_away.store(true, Ordering::SeqCst);
        let began = Instant::now();
        while hub.is_ready() {
            assert!(began.elapsed() < NEW + ASKER_WAITS, "whoever asks is shown it soon");
            tokio::time::sleep(Duration::from_millis(20)).await;
            hub.refresh().await;
        }
        assert_eq!(told(&hub)["trouble"], "away");
    }
}
