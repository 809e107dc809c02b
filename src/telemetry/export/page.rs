//! What is served: the last cycle's text, until the next one's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So long after zeros were first seen they are still served, for a second Prometheus that scrapes the same.
const ZEROS_SHOWN: Duration = Duration::from_secs(10);
/// A cycle may take so much longer than there is between two.
const GRACE: Duration = Duration::from_secs(30);

/// Text to be served, and how fresh it is.
#[derive(Debug)]
pub struct Page {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    text: Arc<String>,
    /// The same with counters at 0: they began anew, and have to be seen to.
    zeros: Option<Zeros>,
    /// When the last cycle ended; at first, when all this began.
    last: Instant,
    /// What the last cycle lacked.
    missing: Vec<&'static str>,
}

#[derive(Debug)]
struct Zeros {
    text: Arc<String>,
    seen: Option<Instant>,
}

impl Page {
    /// Of a cycle every so often.
    pub fn new(every: Duration) -> Arc<Self> {
        let state = State {
            text: Arc::new("# EOF\n".to_owned()),
            zeros: None,
            last: Instant::now(),
            missing: vec!["the first look is under way"],
        };
        Arc::new(Page { every, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a cycle's text.
    pub fn publish(&self, text: String) {
        let mut state = self.lock();
        state.text = Arc::new(text);
    }

    /// Counters began anew: the next scrape gets this text, with zeros.
    pub fn reset(&self, zeros: String) {
        let seen = self.lock().zeros.take().and_then(|old| old.seen);
        self.lock().zeros = Some(Zeros { text: Arc::new(zeros), seen });
    }

    /// Are zeros still to be shown?
    pub fn is_resetting(&self) -> bool {
        let mut state = self.lock();
        state.zeros.take_if(|zeros| zeros.is_over());
        state.zeros.is_some()
    }

    /// A cycle has ended, which lacked this.
    pub fn cycled(&self, missing: Vec<&'static str>) {
        let mut state = self.lock();
        (state.last, state.missing) = (Instant::now(), missing);
    }

    /// For whoever scrapes.
    pub fn scrape(&self) -> Arc<String> {
        let mut state = self.lock();
        state.zeros.take_if(|zeros| zeros.is_over());
        match &mut state.zeros {
            Some(zeros) => {
                zeros.seen.get_or_insert_with(Instant::now);
                Arc::clone(&zeros.text)
            }
            None => Arc::clone(&state.text),
        }
    }

    /// Cycles go on.
    pub fn is_healthy(&self) -> bool {
        self.lock().last.elapsed() < 3 * self.every + GRACE
    }

    /// And the last one saw all that it should.
    ///
    /// # Errors
    /// What it lacked.
    pub fn ready(&self) -> Result<(), String> {
        if !self.is_healthy() {
            return Err("no cycle for long".into());
        }
        let state = self.lock();
        if state.missing.is_empty() { Ok(()) } else { Err(state.missing.join("; ")) }
    }
}

impl Zeros {
    fn is_over(&self) -> bool {
        self.seen.is_some_and(|seen| seen.elapsed() >= ZEROS_SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_stay_until_they_were_seen_for_a_while() {
        let page = Page::new(Duration::from_secs(10));
        page.publish("old".into());
        assert_eq!(page.scrape().as_str(), "old");
        page.reset("zeros".into());
        page.publish("new".into());
        assert!(page.is_resetting());
        assert_eq!((page.scrape().as_str(), page.scrape().as_str()), ("zeros", "zeros"));
        page.reset("zeros and more".into());
        assert_eq!(page.scrape().as_str(), "zeros and more");
        page.lock().zeros.as_mut().unwrap().seen = Instant::now().checked_sub(ZEROS_SHOWN);
        assert_eq!(page.scrape().as_str(), "new");
        assert!(!page.is_resetting());
    }

    #[test]
    fn it_is_ready_after_a_cycle_that_saw_everything() {
        let page = Page::new(Duration::from_secs(10));
        assert!(page.is_healthy() && page.ready().is_err());
        page.cycled(vec![]);
        assert_eq!(page.ready(), Ok(()));
        page.cycled(vec!["a", "b"]);
        assert_eq!((page.is_healthy(), page.ready()), (true, Err("a; b".into())));
        page.lock().last = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        assert!(!page.is_healthy());
    }
}
