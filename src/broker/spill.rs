//! A stack of tasks whose older part lies on disk.
//!
//! Invariant: what is in memory never weighs more than the bound and one task; the file has no name, so
//! nothing is left when the process dies.

use super::codec;
use crate::model::Task;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Weight of the tasks kept in memory, in bytes, before the older half is written out.
const MEMORY_BYTES: usize = 2 << 20;

/// Last in, first out, as far as memory goes: a walk that is depth first keeps its backlog small.
pub struct SpillStack {
    memory: VecDeque<Task>,
    memory_bytes: usize,
    bound_bytes: usize,
    /// A disk that had no room is tried again when there is twice as much to write.
    retry_bytes: usize,
    file: Option<File>,
    segments: Vec<Segment>,
    end: u64,
    spilled: u64,
}

/// A run of encoded tasks in the file.
struct Segment {
    offset: u64,
    bytes: usize,
    tasks: u64,
}

impl Default for SpillStack {
    fn default() -> Self {
        Self::with_bound(MEMORY_BYTES)
    }
}

impl SpillStack {
    /// A stack that keeps at most `bound_bytes` of tasks in memory.
    pub fn with_bound(bound_bytes: usize) -> Self {
        SpillStack {
            memory: VecDeque::new(),
            memory_bytes: 0,
            bound_bytes,
            retry_bytes: 0,
            file: None,
            segments: Vec::new(),
            end: 0,
            spilled: 0,
        }
    }

    /// Tasks in memory and on disk.
    pub fn len(&self) -> u64 {
        self.memory.len() as u64 + self.spilled
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a task on top.
    ///
    /// # Errors
    /// The disk's, when the older half could not be written; the task is kept all the same.
    pub fn push(&mut self, task: Task) -> io::Result<()> {
        self.memory_bytes += task.weight_bytes();
        self.memory.push_back(task);
        if self.memory_bytes <= self.bound_bytes.max(self.retry_bytes) || self.memory.len() < 2 {
            return Ok(());
        }
        let spilled = self.spill();
        self.retry_bytes = if spilled.is_err() { 2 * self.memory_bytes } else { 0 };
        spilled
    }

    /// Takes the top.
    ///
    /// # Errors
    /// The disk's, when an older part could not be read back.
    pub fn pop(&mut self) -> io::Result<Option<Task>> {
        if self.memory.is_empty() && !self.segments.is_empty() {
            self.fetch()?;
        }
        let top = self.memory.pop_back();
        if let Some(task) = &top {
            self.memory_bytes -= task.weight_bytes();
        }
        Ok(top)
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut tasks = 0;
        let half = self.memory_bytes / 2;
        let mut weight = 0;
        for task in &self.memory {
            if weight >= half {
                break;
            }
            let start = bytes.len();
            bytes.extend_from_slice(&[0; 4]);
            codec::encode_into(task, &mut bytes).map_err(io::Error::other)?;
            let len = u32::try_from(bytes.len() - start - 4).map_err(io::Error::other)?;
            bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
            weight += task.weight_bytes();
            tasks += 1;
        }
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&bytes, self.end)?;
        }
        self.segments.push(Segment { offset: self.end, bytes: bytes.len(), tasks });
        self.end += bytes.len() as u64;
        self.spilled += tasks;
        for _ in 0..tasks {
            self.memory.pop_front();
        }
        self.memory_bytes -= weight;
        Ok(())
    }

    fn fetch(&mut self) -> io::Result<()> {
        let (Some(segment), Some(file)) = (self.segments.last(), &self.file) else { return Ok(()) };
        let mut bytes = vec![0; segment.bytes];
        file.read_exact_at(&mut bytes, segment.offset)?;
        let mut rest: &[u8] = &bytes;
        let mut tasks = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (body, tail) = tail
                .split_at_checked(u32::from_le_bytes(*len) as usize)
                .ok_or_else(|| io::Error::other("the queue on disk is cut short"))?;
            tasks.push(codec::decode::<Task>(body).map_err(io::Error::other)?);
            rest = tail;
        }
        for task in tasks {
            self.memory_bytes += task.weight_bytes();
            self.memory.push_back(task);
        }
        self.end = segment.offset;
        self.spilled -= segment.tasks;
        self.segments.pop();
        file.set_len(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RelPath, task::Names};
    use proptest::prelude::*;

    fn task(n: u32) -> Task {
        Task::Dirs { parent: RelPath::parse(format!("d{n}").into_bytes()).unwrap(), names: Names::default() }
    }

    proptest! {
        #[test]
        fn every_task_comes_back_once_and_in_order(ops in proptest::collection::vec(0..10u32, 1..400)) {
            let mut stack = SpillStack::with_bound(2000);
            let mut model = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                if op < 6 {
                    stack.push(task(n as u32)).unwrap();
                    model.push(task(n as u32));
                } else {
                    prop_assert_eq!(stack.pop().unwrap(), model.pop());
                }
                prop_assert_eq!(stack.len(), model.len() as u64);
                prop_assert!(stack.memory_bytes <= 2000 + 1200);
            }
            while let Some(t) = model.pop() {
                prop_assert_eq!(stack.pop().unwrap(), Some(t));
            }
            prop_assert!(stack.is_empty());
        }
    }
}
