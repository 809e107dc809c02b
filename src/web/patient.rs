//! A listener whose patience has an end.
//!
//! Invariant: there are never more than so many connections, fewer of one peer elsewhere, and one that was answered nothing
//! for a while is closed, whatever it sends: who opens many, hangs, or dawdles, takes nothing from others for long.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time; more have to wait.
const CONNECTIONS: usize = 128;
/// Connections of one peer at a time, unless it is this machine.
const OF_A_PEER: usize = 32;
/// From the last byte written, or the first of a request, to the next byte written. Streams of events say something more
/// often.
const IDLE: Duration = Duration::from_secs(30);

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Connected<IncomingStream<'_, Patient>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Patient>) -> Self {
        Peer(*stream.remote_addr())
    }
}

/// How many connections each peer has.
#[derive(Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

impl Peers {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of this peer; none, if it has enough.
    fn enter(self: &Arc<Self>, address: SocketAddr) -> Option<Seat> {
        let peer = peer_of(address.ip());
        let mut counts = self.counts();
        let count = counts.entry(peer).or_default();
        if *count >= OF_A_PEER && !peer.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Seat { peers: Arc::clone(self), peer })
    }
}

/// Whoever has one address of version 6 has all of its network.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        other => other,
    }
}

/// A connection that is counted, until it is dropped.
struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.peers.counts();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// Takes connections.
pub struct Patient {
    listener: TcpListener,
    room: Arc<Semaphore>,
    peers: Arc<Peers>,
    idle: Duration,
}

impl Patient {
    /// Takes those of a listener.
    pub fn new(listener: TcpListener) -> Self {
        Patient { listener, room: Arc::new(Semaphore::new(CONNECTIONS)), peers: Arc::default(), idle: IDLE }
    }
}

impl Listener for Patient {
    type Io = Moving;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Moving, SocketAddr) {
        // Nobody closes it.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        loop {
            // It tries again by itself where there are no descriptors left.
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Some(seat) = self.peers.enter(address) else { continue };
            let end = Box::pin(tokio::time::sleep(self.idle));
            let moving = Moving { stream, idle: self.idle, end, is_answered: false, _room: room, _seat: seat };
            return (moving, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing was written for a while.
pub struct Moving {
    stream: TcpStream,
    idle: Duration,
    end: Pin<Box<Sleep>>,
    /// What was written last came after what was read last.
    is_answered: bool,
    _room: Option<OwnedSemaphorePermit>,
    _seat: Seat,
}

impl Moving {
    /// The time counts from now on.
    fn restart(&mut self) {
        self.end.as_mut().reset(Instant::now() + self.idle);
    }

    /// Waiting ends with the patience.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What came of an attempt to write.
    fn written(&mut self, context: &mut Context<'_>, moved: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if moved.is_pending() {
            return self.wait(context);
        }
        self.is_answered = true;
        self.restart();
        moved
    }
}

impl AsyncRead for Moving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, into);
        if moved.is_pending() {
            return self.wait(cx);
        }
        // The first byte after an answer begins another request; those that follow gain no time.
        if std::mem::take(&mut self.is_answered) {
            self.restart();
        }
        moved
    }
}

impl AsyncWrite for Moving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Serves one page with so much room and patience; the address.
    fn serve(connections: usize, idle: Duration) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let room = Arc::new(Semaphore::new(connections));
                let patient = Patient { listener, room, peers: Arc::default(), idle };
                let pages = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
                axum::serve(patient, pages).await
            })
        });
        address
    }

    #[test]
    fn who_hangs_makes_room_for_others() {
        let address = serve(2, Duration::from_millis(300));
        let connect = || std::net::TcpStream::connect(address).unwrap();
        // They ask for nothing, or never come to the end of it.
        let (mut silent, mut slow) = (connect(), connect());
        slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
        let mut asks = connect();
        asks.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        for hangs in [&mut silent, &mut slow] {
            assert_eq!(hangs.read(&mut [0; 1]).unwrap(), 0, "it is closed");
        }
    }

    #[test]
    fn who_sends_a_byte_now_and_then_is_not_waited_for_either() {
        let address = serve(1, Duration::from_millis(300));
        let mut slow = std::net::TcpStream::connect(address).unwrap();
        let dawdles = std::thread::spawn(move || {
            slow.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
            while slow.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut asks = std::net::TcpStream::connect(address).unwrap();
        for _ in 0..3 {
            asks.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"here") {
                let mut byte = [0];
                assert_eq!(asks.read(&mut byte).unwrap(), 1, "who is answered stays");
                answer.push(byte[0]);
            }
        }
        dawdles.join().unwrap();
    }

    #[test]
    fn a_peer_elsewhere_has_so_many_connections() {
        let peers = Arc::new(Peers::default());
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = |text: &str| (0..40).filter_map(|_| peers.enter(address(text))).collect::<Vec<_>>();
        assert_eq!(all("127.0.0.1:9").len(), 40);
        let held = all("10.0.0.1:9");
        assert_eq!(
            (held.len(), all("10.0.0.2:9").len(), all("[2001:db8::1]:9").len()),
            (OF_A_PEER, OF_A_PEER, OF_A_PEER)
        );
        assert!(peers.enter(address("[::ffff:10.0.0.1]:7")).is_none());
        drop(held);
        assert!(peers.enter(address("10.0.0.1:7")).is_some() && peers.counts().is_empty());
    }
}
