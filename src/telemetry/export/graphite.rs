//! A Graphite, in its plaintext over TCP.
//!
//! Invariant: whoever hands over a cycle never waits. Every line is sent whole, with the time of its cycle; what may not
//! have arrived is sent again, which says the same once more.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection, or one write, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// What waits for a Graphite that is away, at most: cycles, and bytes. The oldest go.
const MAX_WAITING: (usize, usize) = (1000, 12 << 20);

/// A connection of its own thread.
#[derive(Debug)]
pub struct Graphite {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<String>>,
    /// Bytes of these.
    bytes: usize,
    dropped: u64,
    /// Nothing more will come.
    is_over: bool,
    /// How it ended.
    ended: Option<Result<(), String>>,
}

impl Queue {
    fn push(&mut self, text: Arc<String>) {
        self.bytes += text.len();
        self.waiting.push_back(text);
        while self.waiting.len() > 1 && (self.waiting.len() > MAX_WAITING.0 || self.bytes > MAX_WAITING.1) {
            self.bytes -= self.waiting.pop_front().map_or(0, |old| old.len());
            self.dropped += 1;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, most: Duration) -> MutexGuard<'a, Queue> {
        self.changed.wait_timeout(queue, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Graphite {
    /// Sends to HOST:PORT from now on.
    ///
    /// # Errors
    /// The machine gives no thread.
    pub fn start(address: &str) -> io::Result<Self> {
        Self::sending(address, true)
    }

    /// The same for a single cycle, for which there is one try.
    ///
    /// # Errors
    /// The machine gives no thread.
    pub fn once(address: &str) -> io::Result<Self> {
        Self::sending(address, false)
    }

    fn sending(address: &str, is_patient: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() });
        let address = address.to_owned();
        let sender = Sender { address, is_patient, shared: Arc::clone(&shared), stream: None, doubtful: None };
        std::thread::Builder::new().name("graphite".into()).spawn(move || sender.run())?;
        Ok(Graphite { shared })
    }

    /// Hands over a cycle's lines.
    pub fn push(&self, text: String) {
        self.shared.lock().push(Arc::new(text));
        self.shared.changed.notify_all();
    }

    /// Sends what is left, in one try.
    ///
    /// # Errors
    /// Why it did not arrive.
    ///
    /// # Blocking
    /// Until the other side has taken everything, or a few seconds passed without anything happening.
    pub fn finish(&self) -> Result<(), String> {
        let mut queue = self.close();
        loop {
            if let Some(ended) = queue.ended.take() {
                return ended;
            }
            queue = self.shared.wait(queue, PATIENCE);
        }
    }

    /// Sends what is left, in one try, and waits no longer than this for it to go out.
    ///
    /// # Errors
    /// Why it did not.
    pub fn last_words(&self, most: Duration) -> Result<(), String> {
        let end = Instant::now() + most;
        let mut queue = self.close();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match queue.ended.take() {
                Some(ended) => return ended,
                None if queue.waiting.is_empty() => return Ok(()),
                None if left.is_zero() => return Err("it takes too long".into()),
                None => queue = self.shared.wait(queue, left),
            }
        }
    }

    fn close(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.shared.lock();
        queue.is_over = true;
        self.shared.changed.notify_all();
        queue
    }
}

impl Drop for Graphite {
    fn drop(&mut self) {
        drop(self.close());
    }
}

struct Sender {
    address: String,
    /// It tries again.
    is_patient: bool,
    shared: Arc<Shared>,
    stream: Option<TcpStream>,
    /// Sent last, and perhaps into a connection that was dead already.
    doubtful: Option<Arc<String>>,
}

impl Sender {
    fn run(mut self) {
        let mut pause = PAUSES.0;
        let mut is_told = false;
        while let Some(text) = self.next() {
            match self.send(&text) {
                Ok(()) => {
                    self.sent(&text);
                    if std::mem::take(&mut is_told) {
                        tracing::info!(address = self.shown(), "Graphite takes lines again");
                    }
                    pause = PAUSES.0;
                }
                Err(e) => {
                    self.stream = None;
                    if !self.is_patient || self.shared.lock().is_over {
                        return self.end(Err(e.to_string()));
                    }
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(address = self.shown(), error = %e, "Graphite takes nothing; cycles are kept for later");
                    }
                    self.rest(pause);
                    pause = PAUSES.1.min(2 * pause);
                }
            }
        }
        let ended = self.confirm().map_err(|e| e.to_string());
        self.end(ended);
    }

    fn shown(&self) -> String {
        crate::model::escaped(self.address.as_bytes())
    }

    /// The oldest that waits; none if nothing more will come.
    fn next(&self) -> Option<Arc<String>> {
        let mut queue = self.shared.lock();
        loop {
            if let Some(text) = queue.waiting.front() {
                return Some(Arc::clone(text));
            }
            if queue.is_over {
                return None;
            }
            queue = self.shared.wait(queue, PAUSES.1);
        }
    }

    /// It went out; unless it was dropped meanwhile, it waits no longer.
    fn sent(&mut self, text: &Arc<String>) {
        let mut queue = self.shared.lock();
        if queue.waiting.front().is_some_and(|front| Arc::ptr_eq(front, text)) {
            queue.waiting.pop_front();
            queue.bytes -= text.len();
        }
        if std::mem::take(&mut queue.dropped) > 0 {
            tracing::warn!(address = self.shown(), "Graphite was away for too long: the oldest cycles are lost");
        }
        self.doubtful = Some(Arc::clone(text));
        self.shared.changed.notify_all();
    }

    fn rest(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut queue = self.shared.lock();
        while !queue.is_over {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.shared.wait(queue, left);
        }
    }

    fn end(&self, ended: Result<(), String>) {
        self.shared.lock().ended = Some(ended);
        self.shared.changed.notify_all();
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        if self.stream.as_ref().is_some_and(is_gone) {
            self.stream = None;
        }
        if self.stream.is_none() {
            let mut stream = connect(&self.address)?;
            if let Some(doubtful) = &self.doubtful {
                stream.write_all(doubtful.as_bytes())?;
            }
            self.stream = Some(stream);
        }
        match &mut self.stream {
            Some(stream) => stream.write_all(text.as_bytes()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until the other side has read to the end.
    fn confirm(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match stream.read(&mut [0; 64]) {
            // One that keeps the connection open has the lines all the same.
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(e),
            _ => Ok(()),
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Has the other side closed? It never says anything else.
fn is_gone(stream: &TcpStream) -> bool {
    let waits = stream.set_nonblocking(true).and_then(|()| match stream.peek(&mut [0; 1]) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.set_nonblocking(false),
        Ok(n) if n > 0 => stream.set_nonblocking(false),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(e) => Err(e),
    });
    waits.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn read_all(listener: &TcpListener) -> String {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn all_that_was_handed_over_arrives_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let graphite = Graphite::start(&listener.local_addr().unwrap().to_string()).unwrap();
        (0..100).for_each(|n| graphite.push(format!("a {n} 0\n")));
        let reading = std::thread::spawn(move || read_all(&listener));
        assert_eq!(graphite.finish(), Ok(()));
        let expected: String = (0..100).map(|n| format!("a {n} 0\n")).collect();
        assert_eq!(reading.join().unwrap(), expected);
    }

    #[test]
    fn what_went_into_a_dead_connection_is_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let graphite = Graphite::start(&listener.local_addr().unwrap().to_string()).unwrap();
        graphite.push("first\n".into());
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        drop(stream);
        graphite.push("second\n".into());
        let reading = std::thread::spawn(move || read_all(&listener));
        assert_eq!(graphite.finish(), Ok(()));
        assert_eq!(reading.join().unwrap(), "first\nsecond\n");
    }

    #[test]
    fn nobody_there_is_an_error_at_the_end() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let graphite = Graphite::start(&format!("127.0.0.1:{port}")).unwrap();
        graphite.push("lost\n".into());
        assert!(graphite.finish().is_err());
        let graphite = Graphite::once(&format!("127.0.0.1:{port}")).unwrap();
        graphite.push("lost\n".into());
        assert!(graphite.last_words(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn last_words_go_out_also_to_one_that_never_hangs_up_and_wait_for_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let graphite = Graphite::start(&address).unwrap();
        graphite.push("last\n".into());
        assert_eq!(graphite.last_words(Duration::from_secs(60)), Ok(()));
        let mut text = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"last\n");
        let graphite = Graphite::start(&address).unwrap();
        graphite.push("x".repeat(64 << 20));
        let began = Instant::now();
        assert!(graphite.last_words(Duration::from_millis(100)).is_err(), "nobody reads");
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_stays() {
        let mut queue = Queue::default();
        for n in 0..2000 {
            queue.push(Arc::new(format!("{n}")));
        }
        assert_eq!((queue.waiting.len(), queue.dropped), (MAX_WAITING.0, 1000));
        queue.push(Arc::new("x".repeat(MAX_WAITING.1 + 1)));
        assert_eq!((queue.waiting.len(), queue.bytes), (1, MAX_WAITING.1 + 1));
    }
}
