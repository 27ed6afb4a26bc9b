//! Why a command fails, what the person can do about it, and what a script sees of it.
//!
//! Every command ends in a [`Failure`] or not; `cli::main` turns it into a message and an exit code. Invariant: the
//! codes mean the same for every command: 0 done, 1 failed, 2 wrong usage (clap), 3 no agent runs.

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use thiserror::Error;

use super::{output, table::plain};
use crate::admin::DialError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// There is no agent to ask.
    #[error("no agent runs here: nothing listens on {}", path.display())]
    NotRunning {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is one, but it cannot be asked.
    #[error(transparent)]
    Dial(DialError),
    /// The agent refused or did not answer.
    #[error("the agent says: {}", .0.message())]
    Agent(tonic::Status),
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
    /// A message without a remedy of its own, and its cause.
    #[error("{message}")]
    Because {
        /// What was tried.
        message: String,
        /// Why it did not work.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A message that says what to do.
    #[error("{message}")]
    Remedied {
        /// What is wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// All is said already; the exit code remains.
    #[error("not everything is well")]
    Told,
}

const FAILED: u8 = 1;
const NOT_RUNNING: u8 = 3;

impl Failure {
    /// An answer that cannot be put into the chosen format.
    pub(super) fn serialize(source: impl Error + Send + Sync + 'static) -> Self {
        Self::because("cannot serialize the answer", source)
    }

    /// A failure with its cause.
    pub(super) fn because(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Because {
            message: message.into(),
            source: Box::new(source),
        }
    }

    /// Tells the person, and returns what the script gets.
    pub(super) fn report(&self) -> ExitCode {
        let code = match self {
            // The reader has seen enough, as with `| head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Told => return ExitCode::from(FAILED),
            Self::NotRunning { .. } => NOT_RUNNING,
            _ => FAILED,
        };
        output::note(&self.message());
        ExitCode::from(code)
    }

    /// The error, its causes and the remedy, as lines.
    pub(super) fn message(&self) -> String {
        let mut text = format!("error: {}", indented(&self.to_string()));
        let mut cause = self.source();
        while let Some(error) = cause {
            let reason = indented(&error.to_string());
            // Many errors name their cause themselves.
            if !text.contains(&reason) {
                text.push_str(&format!("\n  because: {reason}"));
            }
            cause = error.source();
        }
        if let Some(remedy) = self.remedy() {
            text.push_str(&format!("\nhint: {remedy}"));
        }
        text
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => Some(
                "start one with `mesh-agent run --config DIR --node NAME`, or say where it is with --run-dir or \
                 --socket (NODEMESH_SOCKET)"
                    .to_owned(),
            ),
            Self::Dial(DialError::Socket { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the admin socket is for root alone: try with sudo".to_owned())
            }
            Self::Agent(status) if status.code() == tonic::Code::Unimplemented => {
                Some("agent and command line are of different versions: see `mesh-agent version`".to_owned())
            }
            Self::Remedied { remedy, .. } => Some(remedy.clone()),
            _ => None,
        }
    }
}

/// Text whose further lines are seen to belong to the first.
fn indented(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(plain)
        .collect::<Vec<_>>()
        .join("\n    ")
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        match error {
            DialError::NotRunning { path, .. } => Self::NotRunning { path },
            other => Self::Dial(other),
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Agent(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_agent_has_its_own_code_and_a_remedy() {
        let path = "/run/nodemesh/agent.sock".into();
        let failure = Failure::from(DialError::NotRunning {
            path,
            source: io::ErrorKind::NotFound.into(),
        });
        assert_eq!(
            failure.message(),
            "error: no agent runs here: nothing listens on /run/nodemesh/agent.sock\n\
             hint: start one with `mesh-agent run --config DIR --node NAME`, or say where it is with --run-dir or \
             --socket (NODEMESH_SOCKET)"
        );
        assert_eq!(
            format!("{:?}", failure.report()),
            format!("{:?}", ExitCode::from(3))
        );
    }

    #[test]
    fn causes_are_told() {
        let failure = Failure::because("cannot read it", io::Error::other("the disk burns"));
        assert_eq!(
            failure.message(),
            "error: cannot read it\n  because: the disk burns"
        );
    }

    #[test]
    fn a_cause_is_told_once() {
        let failure = Failure::because("no luck: the disk burns", io::Error::other("the disk burns"));
        assert_eq!(failure.message(), "error: no luck: the disk burns");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let failure = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(
            format!("{:?}", failure.report()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }
}
