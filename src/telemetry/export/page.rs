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
    text: Arc<str>,
    /// The same with counters at 0: they began anew, and have to be seen to.
    zeros: Option<Zeros>,
    /// When the last cycle ended; at first, when all this began.
    last: Instant,
    is_ready: bool,
}

#[derive(Debug)]
struct Zeros {
    text: Arc<str>,
    seen: Option<Instant>,
}

impl Page {
    /// Of a cycle every so often.
    pub fn new(every: Duration) -> Arc<Self> {
        let state = State { text: "# EOF\n".into(), zeros: None, last: Instant::now(), is_ready: false };
        Arc::new(Page { every, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a cycle's text.
    pub fn publish(&self, text: String) {
        let mut state = self.lock();
        state.text = text.into();
    }

    /// Counters began anew: the next scrape gets this text, with zeros.
    pub fn reset(&self, zeros: String) {
        let seen = self.lock().zeros.take().and_then(|old| old.seen);
        self.lock().zeros = Some(Zeros { text: zeros.into(), seen });
    }

    /// Are zeros still to be shown?
    pub fn is_resetting(&self) -> bool {
        let mut state = self.lock();
        state.zeros.take_if(|zeros| zeros.is_over());
        state.zeros.is_some()
    }

    /// A cycle has ended; all that it reads answered, or did not.
    pub fn cycled(&self, is_ready: bool) {
        let mut state = self.lock();
        (state.last, state.is_ready) = (Instant::now(), is_ready);
    }

    /// For whoever scrapes.
    pub fn scrape(&self) -> Arc<str> {
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
    pub fn is_ready(&self) -> bool {
        self.is_healthy() && self.lock().is_ready
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
        assert_eq!(&*page.scrape(), "old");
        page.reset("zeros".into());
        page.publish("new".into());
        assert!(page.is_resetting());
        assert_eq!((&*page.scrape(), &*page.scrape()), ("zeros", "zeros"));
        page.reset("zeros and more".into());
        assert_eq!(&*page.scrape(), "zeros and more");
        page.lock().zeros.as_mut().unwrap().seen = Instant::now().checked_sub(ZEROS_SHOWN);
        assert_eq!(&*page.scrape(), "new");
        assert!(!page.is_resetting());
    }

    #[test]
    fn it_is_ready_after_a_cycle_that_saw_everything() {
        let page = Page::new(Duration::from_secs(10));
        assert!(page.is_healthy() && !page.is_ready());
        page.cycled(true);
        assert!(page.is_ready());
        page.cycled(false);
        assert!(page.is_healthy() && !page.is_ready());
        page.lock().last = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        assert!(!page.is_healthy());
    }
}
