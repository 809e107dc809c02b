//! The only process exit numbers.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Everything is done.
    Complete,
    /// The two trees differ.
    Different,
    /// Usage or configuration: nothing was touched.
    Usage,
    /// Done, but entries failed; each is listed.
    FailedEntries,
    /// The job could not go on: broker, root, or a target that is full.
    Infrastructure,
    /// A fault of treehaul itself.
    Internal,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl ExitCode {
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            ExitCode::Complete => 0,
            ExitCode::Different => 1,
            ExitCode::Usage => 2,
            ExitCode::FailedEntries => 3,
            ExitCode::Infrastructure => 4,
            ExitCode::Internal => 70,
            ExitCode::Interrupted => 130,
            ExitCode::Terminated => 143,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.number())
    }
}
