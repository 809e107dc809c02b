//! What is served over HTTP: a page, health, metrics.
//!
//! Invariant: whoever asks is never waited for: a job goes on as fast with a page that hangs as without one.

mod metrics;

pub use metrics::metrics;

use axum::Router;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Something that listens, on threads of its own, until it is dropped.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at an address; port 0 is any that is free.
    ///
    /// # Errors
    /// The system's: the address is taken, or not one of this machine's.
    pub fn start(address: SocketAddr, pages: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            let serving = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, pages).await
            };
            // Streams of events never end by themselves: whoever still listens is left.
            let ended = runtime.block_on(async {
                tokio::select! { ended = serving => ended, _ = stopped => Ok(()) }
            });
            if let Err(error) = ended {
                tracing::error!(%address, %error, "nothing is served any more");
            }
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("web".into()).spawn(serve)?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has said why, if it died
        }
    }
}
