//! How a worker is, for those who watch over it.
//!
//! Invariant: who asks is answered from what the process knows; nobody but a pool's mailbox is asked, and no worker waits
//! for whoever asks.

use super::Pools;
use crate::actor::{IsAlive, PoolSupervisor};
use crate::broker::Pool;
use crate::broker::amqp::Worker;
use actix::Addr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// A pool that does not answer for so long is dead: it does nothing but start and end actors.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a worker. It is made before there is one.
#[derive(Default)]
pub struct Health {
    worker: OnceLock<Weak<Worker>>,
    pools: OnceLock<[Addr<PoolSupervisor>; 2]>,
}

impl Health {
    /// Of a worker that is just starting.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn connected(&self, worker: &Arc<Worker>) {
        let _ = self.worker.set(Arc::downgrade(worker)); // it is once
    }

    pub(super) fn started(&self, pools: &Pools) {
        let _ = self.pools.set([pools.dirs.clone(), pools.files.clone()]);
    }

    /// Is it connected to its broker, and does it take tasks?
    ///
    /// # Errors
    /// Why it takes none, in one line.
    pub fn ready(&self) -> Result<(), String> {
        let Some(worker) = self.worker.get() else { return Err("connecting to the broker".to_owned()) };
        worker.upgrade().ok_or("it has ended")?.takes_tasks()
    }

    /// Do its pools answer, and have they actors? What an actor's task waits for is no matter: a filesystem may hang.
    ///
    /// # Errors
    /// What is dead, in one line.
    pub async fn alive(&self) -> Result<(), String> {
        let Some(pools) = self.pools.get() else { return Ok(()) };
        for (kind, pool) in [Pool::Dirs, Pool::Files].into_iter().zip(pools) {
            let answer = tokio::time::timeout(PATIENCE, pool.send(IsAlive)).await;
            let why = match answer {
                Ok(Ok(true)) => continue,
                // Pools go before the rest of a worker that ends.
                Ok(Err(_)) if self.is_ending() => continue,
                Ok(Ok(false)) => "has no actors left",
                Ok(Err(_)) => "is gone",
                Err(_) => "does not answer",
            };
            return Err(format!("the pool of {} actors {why}", kind.noun()));
        }
        Ok(())
    }

    fn is_ending(&self) -> bool {
        self.worker.get().and_then(Weak::upgrade).is_none_or(|worker| worker.is_ending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_starts_is_alive_and_not_ready() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let health = Health::new();
        assert_eq!(runtime.block_on(health.alive()), Ok(()));
        assert_eq!(health.ready(), Err("connecting to the broker".to_owned()));
    }
}
