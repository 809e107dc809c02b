//! Jobs whose leader died: nobody will ever conclude them.

use super::envelope::Seal;
use super::joblog::{self, Next, Reader};
use super::messages::JobEvent;
use super::{AmqpConfig, AmqpError, connection, topology};
use crate::model::{JobId, JobSpec};
use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use std::collections::BTreeMap;
use std::time::Duration;

/// A log that says nothing for so long has been read to its end. A job that is missed because the broker was
/// slower stays until the next time.
const END_OF_LOG: Duration = Duration::from_millis(100);

/// Makes sure that the broker can be used, and removes jobs that `is_same` recognises and that no leader
/// follows any more, so that the one that is to be submitted can take over. Returns their names. Blocks.
///
/// # Errors
/// Any [`AmqpError`], which names the broker and the way out.
pub fn check(config: &AmqpConfig, is_same: &dyn Fn(&JobSpec) -> bool) -> Result<Vec<JobId>, AmqpError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let opened = connection::open(config, "check").await?;
        let removed = remove_stale(&opened, &config.seal, is_same).await;
        connection::close(&opened).await;
        removed.map_err(|e| AmqpError::using(config, &e))
    })
}

async fn remove_stale(
    connection: &Connection,
    seal: &Seal,
    is_same: &dyn Fn(&JobSpec) -> bool,
) -> lapin::Result<Vec<JobId>> {
    let out = connection::confirmed_channel(connection).await?;
    topology::declare_shared(&out).await?;
    let mut removed = Vec::new();
    for job in jobs_in_log(connection, seal, is_same).await? {
        if is_followed(connection, job).await {
            continue;
        }
        joblog::append(&out, seal, &JobEvent::Removed(job)).await?;
        topology::delete_job(connection, job).await?;
        removed.push(job);
    }
    Ok(removed)
}

async fn jobs_in_log(
    connection: &Connection,
    seal: &Seal,
    is_same: &dyn Fn(&JobSpec) -> bool,
) -> lapin::Result<Vec<JobId>> {
    let mut reader = Reader::open(connection, seal).await?;
    let mut jobs = BTreeMap::new();
    while let Some(Next::Event(event)) = reader.next(END_OF_LOG).await? {
        match event {
            JobEvent::Submitted(spec) if is_same(&spec) => drop(jobs.insert(spec.id, ())),
            JobEvent::Removed(job) => drop(jobs.remove(&job)),
            _ => {}
        }
    }
    Ok(jobs.into_keys().collect())
}

/// A leader consumes its job's results as long as it lives. A queue that is gone has nobody either.
async fn is_followed(connection: &Connection, job: JobId) -> bool {
    let looked = async {
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(topology::results(job).into(), passive, FieldTable::default()).await
    };
    looked.await.is_ok_and(|queue| queue.consumer_count() > 0)
}
