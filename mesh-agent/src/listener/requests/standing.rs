//! Whether a request on its way may go on: long answers, streams, and connections that have left HTTP.
//!
//! A steerer makes one [`Standing`] for a request that may be; the engine breaks the request off when it ends. Invariant:
//! a request outlives neither the policy that allowed it nor what its ends proved; whatever else changes, it goes on.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_common::model::{SpiffeId, Workload};

use super::denial;
use crate::{
    http::{
        fault::{Cause, Fault, Judgement},
        trail::Revoked,
    },
    identity::{CertificateStore, Credentials},
    inbound::{Guard, KeptRequest},
    listener::{
        data_path::DataPath,
        terms::{Changed, Changes, Party},
    },
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
    /// What it goes in, where its ends proved who they are. The destination ends tunnels that are not believed any more as a
    /// whole; this side only learns of its own roots.
    pub(super) carrier: Option<Arc<Carrier>>,
}

/// The tunnel that a request is in, as far as its ends proved who they are. Another one if the request was sent once more.
pub(super) struct Carrier(Mutex<Arc<Credentials>>);

impl Carrier {
    /// A tunnel whose ends proved this.
    pub(super) fn new(credentials: Arc<Credentials>) -> Self {
        Self(Mutex::new(credentials))
    }

    /// The request is in another tunnel.
    pub(super) fn change(&self, credentials: Arc<Credentials>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    fn check(&self, certificates: &CertificateStore) -> Result<(), Fault> {
        let Some(bundle) = certificates.bundle() else {
            return Ok(());
        };
        let credentials = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        credentials
            .check(&bundle)
            .map_err(|refusal| ended(refusal.label(), refusal.to_string()))
    }
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
            let tunnelled = self.carrier.as_deref().zip(self.path.certificates.as_deref());
            let roots = tunnelled.map(|(_, certificates)| certificates);
            let mut changes = Changes::of(&self.path.store, roots);
            // Between the decision and now something may have changed.
            let mut changed = self.path.store.load().version() != self.version;
            loop {
                if let Some((carrier, certificates)) = tunnelled
                    && let Err(fault) = carrier.check(certificates)
                {
                    return fault;
                }
                if changed && let Err(fault) = self.check(&self.path.store.load()) {
                    return fault;
                }
                changed |= changes.next().await == Changed::Configuration;
            }
        })
    }

    fn check(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        if let Some((guard, kept)) = &self.guard {
            guard
                .still_allows(snapshot, kept)
                .map_err(|denied| denial(&denied))?;
        }
        let own = Party::workload(&self.own);
        let other = match &self.other {
            Other::Peer(ip, peer) => Party::address(*ip, peer.account()),
            Other::Local(workload) => Party::workload(workload),
            Other::Unproved => return Ok(()),
        };
        for party in [own, other] {
            party
                .check(snapshot)
                .map_err(|cause| ended(cause.word, cause.text))?;
        }
        Ok(())
    }
}

/// Who is at one of its ends is not to be believed any more.
fn ended(word: &'static str, text: String) -> Fault {
    Fault::new(Cause::Denied, text).judged(Judgement {
        word,
        policy: None,
        rule: None,
    })
}
