//! The name of a worker, as its own.
//!
//! Invariant: of the workers that are connected to a broker at a time, only one has a name's plate: a queue that
//! belongs to its connection, and goes with it.

use super::topology;
use lapin::{Connection, ErrorKind};
use std::time::Duration;

/// How often a name is tried before it counts as another's: the broker may take a moment to notice that a worker
/// that was killed is gone.
const TRIES: u32 = 5;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes a name. If another worker has it, this one is called after its process as well.
pub(super) async fn settle(connection: &Connection, wanted: &str) -> String {
    for tried in 0..TRIES {
        if claim(connection, wanted).await {
            return wanted.to_owned();
        }
        if tried + 1 < TRIES {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let name = format!("{wanted}-{}", std::process::id());
    claim(connection, &name).await;
    name
}

/// Takes a name for a connection. False: another connection has it.
pub(super) async fn claim(connection: &Connection, name: &str) -> bool {
    let declared = async {
        let channel = connection.create_channel().await?;
        topology::declare_mailbox(&channel, &topology::nameplate(name), false).await?;
        // The queue is the connection's, not the channel's.
        channel.close(200, "done".into()).await
    };
    match declared.await {
        Err(e) if is_locked(&e) => false,
        Err(e) => {
            tracing::debug!(error = %e, "the name of this worker may be another's, too");
            true
        }
        Ok(()) => true,
    }
}

/// Does the queue belong to another connection?
fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == 405)
}
