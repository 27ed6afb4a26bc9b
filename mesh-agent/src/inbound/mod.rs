//! From a connection steered to an enrolled pod to the application in it.
//!
//! The listener asks [`resolve`] once a connection, and a [`Guard`] whether it may be; the HTTP engine asks the same
//! guard about every request. Invariant: a connection goes to the pod it was addressed to and to no other, and never
//! back to the agent.

mod authorize;
mod request;

pub use authorize::{Admitted, Denied, Guard, Proof, Reading};
pub use request::{Authorized, Gate, Judged, KeptRequest, RequestDenied};

use std::net::SocketAddr;

use mesh_common::model::ObjectKey;
use thiserror::Error;

use crate::{
    node::{Captured, Pod, PodTable},
    state::Snapshot,
};

/// An inbound connection that may be delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Where the application is expected.
    pub app: SocketAddr,
    /// The workload that dialled, if its address is a known one.
    pub client_workload: Option<ObjectKey>,
}

/// Why an inbound connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Undeliverable {
    /// It was addressed to the agent's listener itself.
    #[error("addressed to the agent's own listener")]
    OwnListener,
    /// It was addressed to something that is not the pod.
    #[error("not an address of this pod")]
    NotThisPod,
    /// It bears the address of a pod of this node, but none of that pod's sockets made it.
    #[error("not from the pod of this node whose address it bears: no socket of that pod made it")]
    Forged,
}

impl Undeliverable {
    /// The reason in one word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::OwnListener => "own-listener",
            Self::NotThisPod => "not-this-pod",
            Self::Forged => "forged-source",
        }
    }
}

/// Decides where an inbound connection from `client` to `addressed` goes. Connections of the pods captured here go to
/// the agent where they begin, so none of them comes this way.
pub fn resolve(
    snapshot: &Snapshot,
    pods: &PodTable,
    pod: &Pod,
    client: SocketAddr,
    addressed: SocketAddr,
) -> Result<Delivery, Undeliverable> {
    if pod.is_own_listener(addressed) {
        return Err(Undeliverable::OwnListener);
    }
    if !pod.has_address(addressed.ip()) {
        return Err(Undeliverable::NotThisPod);
    }
    if pods
        .at(client.ip())
        .is_some_and(|pod| pod.captured() == Captured::Yes)
    {
        return Err(Undeliverable::Forged);
    }
    Ok(Delivery {
        app: addressed,
        client_workload: snapshot.workload_key_at(client.ip()).cloned(),
    })
}
