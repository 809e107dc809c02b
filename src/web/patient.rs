//! A listener whose patience has an end.
//!
//! Invariant: there are never more than so many connections, and one on which nothing moves is closed: who opens many, or
//! hangs, takes nothing from others for long.

use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time; more have to wait.
const CONNECTIONS: usize = 128;
/// Without a byte in either direction. Streams of events say something more often.
const IDLE: Duration = Duration::from_secs(60);

/// Takes connections.
pub struct Patient {
    listener: TcpListener,
    room: Arc<Semaphore>,
    idle: Duration,
}

impl Patient {
    /// Takes those of a listener.
    pub fn new(listener: TcpListener) -> Self {
        Patient { listener, room: Arc::new(Semaphore::new(CONNECTIONS)), idle: IDLE }
    }
}

impl Listener for Patient {
    type Io = Moving;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Moving, SocketAddr) {
        // Nobody closes it.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        // It tries again by itself where there are no descriptors left.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Moving { stream, idle: self.idle, end: Box::pin(tokio::time::sleep(self.idle)), _room: room }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing has moved for a while.
pub struct Moving {
    stream: TcpStream,
    idle: Duration,
    end: Pin<Box<Sleep>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Moving {
    /// What came of an attempt to move something; waiting ends with the patience.
    fn judge<T>(&mut self, context: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.end.as_mut().reset(Instant::now() + self.idle);
            return moved;
        }
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Moving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, into);
        self.judge(cx, moved)
    }
}

impl AsyncWrite for Moving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, moved)
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
        self.judge(cx, moved)
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
                let patient = Patient { listener, room: Arc::new(Semaphore::new(connections)), idle };
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
}
