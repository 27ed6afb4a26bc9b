//! What to do about an authority that cannot be used.

use super::super::failure::Failure;
use crate::identity::authority::{DirectoryError, SignError};

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        let remedy = match &error {
            DirectoryError::Exists(path) => format!(
                "choose another directory, or see what is there with `mesh-agent ca show --dir {}`",
                path.display()
            ),
            DirectoryError::Missing(path) => format!(
                "make one with `mesh-agent ca init --dir {} --trust-domain NAME`",
                path.display()
            ),
            DirectoryError::Exposed { path, wanted, .. } => format!(
                "if nobody has read the key, `chmod {wanted:o} {}`; else make a new root",
                path.display()
            ),
            DirectoryError::Content { .. } | DirectoryError::Bundle { .. } => {
                "put the file back from a copy; without one, make a new authority".to_owned()
            }
            DirectoryError::Sign { source, .. } => match source {
                SignError::SignerExpired { .. } => "if it is a node's, make a new one with `mesh-agent ca \
                    intermediate`; a root that has expired must be made anew; else set the clock"
                    .to_owned(),
                SignError::NotARoot => "use the directory that `mesh-agent ca init` made".to_owned(),
                _ => return Self::because(error.to_string(), error),
            },
            DirectoryError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "become the owner of the directory, root for example".to_owned()
            }
            DirectoryError::Io { .. } => return Self::because(error.to_string(), error),
        };
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::Remedied { message, remedy }
    }
}

/// A request that is not signed, and why.
pub(super) fn unsigned(source: SignError) -> Failure {
    let remedy = match &source {
        SignError::TrustDomain { ours, .. } => format!("this authority signs for {ours}"),
        SignError::Request(_) => {
            "make a request for a P-256 key with the identity as its only name: one URI, and \
                                  nothing else; or let --new-key do it"
                .to_owned()
        }
        SignError::SignerExpired { .. } => {
            "make a new intermediate with `mesh-agent ca intermediate`, or set the clock".to_owned()
        }
        _ => return Failure::because("cannot sign the request", source),
    };
    Failure::Remedied {
        message: source.to_string(),
        remedy,
    }
}
