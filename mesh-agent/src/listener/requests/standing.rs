//! Whether a request on its way may go on: long answers, streams, and connections that have left HTTP.
//!
//! A steerer makes one [`Standing`] for a request that may be; the engine breaks the request off when it ends. Invariant:
//! a request outlives neither the policy that allowed it nor what its ends proved; whatever else changes, it goes on.

use std::{net::IpAddr, sync::Arc};

use mesh_common::model::{SpiffeId, Workload};

use super::denial;
use crate::{
    http::{
        fault::{Cause, Fault, Judgement},
        trail::Revoked,
    },
    inbound::{Guard, KeptRequest},
    listener::{journey::account_of, serve::DataPath, terms::Party},
    state::Snapshot,
};

/// What must hold of a request as long as it is on its way.
pub(super) struct Standing {
    pub(super) path: Arc<DataPath>,
    /// The version of the snapshot by which it was let go on.
    pub(super) version: u64,
    /// The workload on whose side the agent stands.
    pub(super) own: Arc<Workload>,
    pub(super) other: Other,
    /// The policies of the destination, where this agent stands before it.
    pub(super) guard: Option<(Arc<Guard>, KeptRequest)>,
}

/// Who is at the other end.
pub(super) enum Other {
    /// Whoever proved this identity, at its workload's address.
    Peer(IpAddr, SpiffeId),
    /// A workload of this node.
    Local(Arc<Workload>),
    /// Nobody proved anything.
    Unproved,
}

impl Standing {
    /// Waits until it ends.
    pub(super) fn watch(self) -> Revoked {
        Box::pin(async move {
            let mut versions = self.path.store.subscribe();
            // Between the decision and now something may have changed.
            let mut changed = self.path.store.load().version() != self.version;
            loop {
                if changed && let Err(fault) = self.check(&self.path.store.load()) {
                    return fault;
                }
                if versions.changed().await.is_err() {
                    // The store outlives every request.
                    return std::future::pending().await;
                }
                changed = true;
            }
        })
    }

    fn check(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        if let Some((guard, kept)) = &self.guard {
            guard
                .still_allows(snapshot, kept)
                .map_err(|denied| denial(&denied))?;
        }
        let own = Party::workload(&self.own.key, account_of(&self.own));
        let other = match &self.other {
            Other::Peer(ip, peer) => Party::address(*ip, peer.account()),
            Other::Local(workload) => Party::workload(&workload.key, account_of(workload)),
            Other::Unproved => return Ok(()),
        };
        for party in [own, other] {
            party.check(snapshot).map_err(|cause| {
                Fault::new(Cause::Denied, cause.text).judged(Judgement {
                    word: cause.word,
                    policy: None,
                    rule: None,
                })
            })?;
        }
        Ok(())
    }
}
