//! What is served over HTTP: a page, health, metrics.
//!
//! Invariant: whoever asks is never waited for: a job goes on as fast with a page that hangs as without one.

mod dashboard;
mod guard;
pub mod health;
mod lost;
mod metrics;
mod patient;
mod poll;
mod source;
mod state;

pub use dashboard::Retry;
pub use guard::Token;
pub use metrics::{health_of, metrics};
pub use source::{Alone, Deed, Fleet, Refused, Seen, Source};

use self::dashboard::Dashboard;
use self::guard::Guard;
use self::poll::Hub;
use axum::Router;
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
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
                let pages = pages.into_make_service_with_connect_info::<patient::Peer>();
                axum::serve(patient::Patient::new(listener), pages).await
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

/// What a dashboard shows, and to whom.
pub struct Shown {
    /// Where its figures come from.
    pub source: Box<dyn Source>,
    /// In a word: "fleet" or "alone".
    pub mode: &'static str,
    /// What is shown: the broker, or the host.
    pub title: String,
    /// What opens it.
    pub token: Option<Token>,
    /// Looking needs the token, too, wherever it listens.
    pub is_private: bool,
    /// How failed entries are tried again, where that can be.
    pub retry: Option<Retry>,
}

/// A dashboard that is served until it is finished or dropped.
pub struct Serving {
    server: Server,
    hub: Arc<Hub>,
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It must not listen there.
    #[error("{0}")]
    Refused(String),
    /// The system's: the address is taken, or not one of this machine's.
    #[error("cannot listen on {0}: {1}")]
    System(SocketAddr, io::Error),
}

impl Serving {
    /// Serves a dashboard at an address; port 0 is any that is free.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn start(address: SocketAddr, shown: Shown) -> Result<Self, ServeError> {
        let guard = Guard::new(address, shown.token, shown.is_private).map_err(ServeError::Refused)?;
        let about = json!({
            "mode": shown.mode,
            "title": crate::model::escaped(shown.title.as_bytes()),
            "version": env!("TREEHAUL_VERSION"),
            "acts": guard.has_token(),
            "retries": shown.retry.is_some(),
        });
        let system = |error| ServeError::System(address, error);
        let hub = Hub::start(shown.source, about).map_err(system)?;
        let retrying = Arc::new(tokio::sync::Semaphore::new(1));
        let dashboard = Dashboard { hub: Arc::clone(&hub), guard, retry: shown.retry, retrying };
        let server = Server::start(address, dashboard::pages(Arc::new(dashboard))).map_err(system)?;
        Ok(Serving { server, hub })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/", self.server.address())
    }

    /// Shows how it ended to those who watch, and ends.
    pub fn finish(self) {
        self.hub.finish();
    }
}
