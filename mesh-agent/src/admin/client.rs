//! The calling end of the admin API: for the command line, and for a successor that takes over.
//!
//! Invariant: "nobody is there" is told apart from every other failure, because it is a state and not a fault.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use super::proto;

/// A connection to an agent.
pub type AdminClient = proto::admin_client::AdminClient<Channel>;

/// Why no agent answers.
#[derive(Debug, Error)]
pub enum DialError {
    /// There is no socket, or nobody listens on it.
    #[error("no agent listens on {}", path.display())]
    NotRunning {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket is there but cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Socket {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path cannot be an address.
    #[error("{} is not text, and cannot be dialled", path.display())]
    Path {
        /// The path given.
        path: PathBuf,
    },
    /// Something listens there that does not speak as an agent does.
    #[error("what listens on {} is not an agent", path.display())]
    NotAnAgent {
        /// Where it was looked for.
        path: PathBuf,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// How long an agent may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node with 100,000 connections tells of them in about 40 MB.
const MAX_REPLY: usize = 512 * 1024 * 1024;

/// Calls the agent that listens at `socket`.
pub async fn dial(socket: &Path) -> Result<AdminClient, DialError> {
    let path = || socket.to_owned();
    if let Err(source) = UnixStream::connect(socket) {
        return Err(match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                DialError::NotRunning { path: path(), source }
            }
            _ => DialError::Socket { path: path(), source },
        });
    }
    let uri = socket
        .to_str()
        .map(|text| format!("unix:{text}"))
        .ok_or_else(|| DialError::Path { path: path() })?;
    let not_an_agent = |source| DialError::NotAnAgent { path: path(), source };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(not_an_agent)?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    let channel = endpoint.connect().await.map_err(not_an_agent)?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_REPLY))
}
