//! What a workload takes from its peers, port by port.
//!
//! The closest PeerAuthentication counts: workload, then namespace, then mesh; one that says nothing inherits from
//! the next. Of several that are equally close, one of the workload's own namespace goes before one of the root
//! namespace, and then the first by name.

use mesh_common::model::{ObjectKey, PeerAuthentication, PeerMode};

use super::scope::{Governing, Level};

/// The modes of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes {
    default: PortMode,
    /// The ports with a mode of their own, in order.
    ports: Vec<(u16, PortMode)>,
}

/// A mode, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMode {
    /// The mode.
    pub mode: PeerMode,
    /// The PeerAuthentication; `None` when there is none, and the mode is PERMISSIVE.
    pub from: Option<ObjectKey>,
}

impl Modes {
    /// The modes of a workload, out of those PeerAuthentications that may concern it.
    pub fn new<'p>(
        governing: &Governing<'_>,
        policies: impl IntoIterator<Item = &'p PeerAuthentication>,
    ) -> Self {
        let mut closest: [Option<&PeerAuthentication>; 3] = [None; 3];
        for policy in policies {
            let Some(level) = governing.peer_authentication(policy) else {
                continue;
            };
            let rank = |policy: &PeerAuthentication| (!governing.is_own(&policy.key), policy.key.clone());
            let current = &mut closest[level as usize];
            if current.is_none_or(|current| rank(policy) < rank(current)) {
                *current = Some(policy);
            }
        }
        let mut modes = Self {
            default: PortMode {
                mode: PeerMode::Permissive,
                from: None,
            },
            ports: Vec::new(),
        };
        for policy in closest.into_iter().flatten() {
            if let Some(mode) = policy.mode {
                modes.default = PortMode::of(policy, mode);
            }
        }
        if let Some(policy) = closest[Level::Workload as usize] {
            let own = policy
                .ports
                .iter()
                .filter_map(|(port, mode)| Some((*port, (*mode)?)));
            modes.ports = own
                .map(|(port, mode)| (port, PortMode::of(policy, mode)))
                .collect();
        }
        modes
    }

    /// The mode of a port.
    pub fn at(&self, port: u16) -> &PortMode {
        match self.ports.binary_search_by_key(&port, |(port, _)| *port) {
            Ok(at) => &self.ports[at].1,
            Err(_) => &self.default,
        }
    }

    /// The mode of every port that has none of its own.
    pub fn default_mode(&self) -> &PortMode {
        &self.default
    }

    /// The ports with modes of their own, in order.
    pub fn ports(&self) -> &[(u16, PortMode)] {
        &self.ports
    }
}

impl PortMode {
    fn of(policy: &PeerAuthentication, mode: PeerMode) -> Self {
        Self {
            mode,
            from: Some(policy.key.clone()),
        }
    }
}
