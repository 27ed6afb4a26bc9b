//! Copies of a request for the mirrors of its route.
//!
//! Invariant: a worker sends a bounded number of copies at once; one more is left out, and the request itself goes on.

use std::sync::Arc;

use mesh_common::model::Workload;
use tokio::sync::OwnedSemaphorePermit;

use super::{outbound::backend_of, server::Target, ways::Ways};
use crate::{
    balance::Active,
    http::{
        course::{Course, Onward},
        exchange::{Message, Steer},
        fault::{Fault, Side, Signature},
        mirror::{self, Mirrored},
    },
    outbound::{self, Chosen, Way},
    routing::{BackendPort, Filters},
    state::{Family, Snapshot},
};

/// Copies that one worker sends at once.
pub(in crate::listener) const COPIES_MAX: usize = 256;

/// The copies of one request that are to be sent if the request itself is.
pub(super) struct Copies<'w> {
    ways: &'w Arc<Ways>,
    family: Family,
    ready: Vec<(Copying, Mirrored)>,
}

/// Steers one copy to the endpoint that was chosen for it.
struct Copying {
    ways: Arc<Ways>,
    way: Way,
    peer: Arc<Workload>,
    signature: Signature,
    _active: Active,
    _place: OwnedSemaphorePermit,
}

impl<'w> Copies<'w> {
    /// None yet. `family` is the one that was dialled.
    pub(super) fn new(ways: &'w Arc<Ways>, family: Family) -> Self {
        Self {
            ways,
            family,
            ready: Vec::new(),
        }
    }

    /// Copies the request as it is now, for the mirrors that it falls to.
    pub(super) fn take(&mut self, snapshot: &Snapshot, filters: &Filters, message: &mut Message) {
        if !filters.copy() {
            return;
        }
        for mirror in filters.mirrors(outbound::lot()) {
            if let Some(copying) = self.copying(snapshot, mirror)
                && let Some(copy) = message.copy()
            {
                self.ready.push((copying, copy));
            } else {
                tracing::debug!(%mirror, "a request is not copied");
            }
        }
    }

    /// The way of a copy; none if there is no such backend, no endpoint, or no place for one more copy.
    fn copying(&self, snapshot: &Snapshot, mirror: &BackendPort) -> Option<Copying> {
        let path = &self.ways.path;
        let backend = backend_of(snapshot, mirror, self.family)?;
        let Chosen {
            way, peer, active, ..
        } = outbound::choose(backend, &path.pods).ok()?;
        let place = Arc::clone(&path.copies).try_acquire_owned().ok()?;
        Some(Copying {
            ways: Arc::clone(self.ways),
            way: way.ok()?,
            peer,
            signature: Signature::new(self.ways.pod.workload.node.as_str().into(), Side::Source),
            _active: active,
            _place: place,
        })
    }

    /// Sends them, each as a task of the worker.
    pub(super) fn send(self) {
        for (copying, copy) in self.ready {
            self.ways.path.spawn(
                &self.ways.claim,
                async move { mirror::serve(&copying, copy).await },
            );
        }
    }
}

impl Steer for Copying {
    type Server = Target;
    type Escort = ();

    fn signature(&self) -> &Signature {
        &self.signature
    }

    async fn steer(&self, message: &mut Message) -> Result<Course<Target, ()>, Fault> {
        let hop = self
            .ways
            .open(self.way.clone(), &self.peer, None, message)
            .await?;
        Ok(Course::Onward(Onward {
            hop,
            escort: (),
            deadline: None,
        }))
    }
}
