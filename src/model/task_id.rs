//! What a task in an actor's hands is called, in logs above all.

use std::fmt;

/// Names one task that an actor of this process took: no other that it took is called so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    /// The message that it came with, where there are messages: the run that published it, and which of that run's it is.
    pub message: Option<(u64, u64)>,
    /// Counts the tasks that this process took, from 1.
    pub number: u64,
}

/// `RUN:MESSAGE.NUMBER`, the first two in hexadecimal, or the number alone.
impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((session, message)) = self.message {
            write!(f, "{session:x}:{message:x}.")?;
        }
        write!(f, "{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::TaskId;

    #[test]
    fn a_task_is_called_after_its_message() {
        assert_eq!(TaskId { message: None, number: 12 }.to_string(), "12");
        assert_eq!(TaskId { message: Some((0xab, 17)), number: 12 }.to_string(), "ab:11.12");
    }
}
