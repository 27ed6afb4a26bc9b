//! Servers that are spoken to directly: applications of this node, and what is reached without an agent of ours at its
//! side.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{not_tcp, unreached};
use crate::{
    http::{
        exchange::Server,
        fault::{Cause, Fault},
        pool::Shelf,
    },
    listener::{data_path::DataPath, journey::Leg},
    telemetry::Claim,
    upstream::{Upstream, tunnel::tuning},
};

/// Whose connections to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ShelfKey {
    /// The agent's number of the pod that asks.
    pub(super) source: u32,
    /// The agent's number of the pod that is asked, when it is on this node.
    pub(super) target: Option<u32>,
    /// Its address and port.
    pub(super) addr: SocketAddr,
}

/// A server, for one request.
pub(in crate::listener) struct Target {
    pub(super) path: Arc<DataPath>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) asker: SocketAddr,
    pub(super) leg: Leg,
    pub(super) claim: Arc<Claim>,
}

impl Server for Target {
    fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    fn asker(&self) -> SocketAddr {
        self.asker
    }

    fn connections(&self) -> &TaskTracker {
        &self.path.tunnels
    }

    fn claim(&self) -> Arc<Claim> {
        Arc::clone(&self.claim)
    }

    async fn connect(&self) -> Result<TcpStream, Fault> {
        let opened = tokio::time::timeout(tuning::CONNECT, self.leg.open(&self.path, &self.claim)).await;
        match opened {
            Ok(Ok(Upstream::Tcp(stream))) => {
                self.leg.opened(&self.path);
                Ok(stream)
            }
            Ok(Ok(other)) => Err(not_tcp(other)),
            Ok(Err(error)) => {
                self.leg.not_opened(&self.path);
                Err(unreached(&error))
            }
            Err(_) => {
                let reason = format!("{} did not answer in time", self.leg.addr());
                Err(Fault::new(Cause::Connect, reason))
            }
        }
    }
}
