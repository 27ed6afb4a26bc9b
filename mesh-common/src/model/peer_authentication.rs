//! Whether a workload takes plaintext: Istio's PeerAuthentication.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ObjectKey;

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAuthentication {
    /// Its name. In the mesh's root namespace it concerns the whole mesh, elsewhere its namespace.
    pub key: ObjectKey,
    /// The labels that a workload must have; every workload of the scope when empty.
    pub selector: BTreeMap<String, String>,
    /// The mode; `None` inherits the one of the wider scope.
    pub mode: Option<PeerMode>,
    /// Modes of single ports of the workload; `None` inherits `mode`. Empty without a selector.
    pub ports: BTreeMap<u16, Option<PeerMode>>,
}

/// What a workload takes from its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PeerMode {
    /// Plaintext only: inbound connections are not intercepted.
    Disable,
    /// Mutual TLS, and plaintext from outside the mesh.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl fmt::Display for PeerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        })
    }
}
