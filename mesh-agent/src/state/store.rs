//! The one place that holds the current snapshot.
//!
//! Invariant: writers take turns and readers never wait; a subscriber that sees version `n` loads a snapshot of
//! version `n` or later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::Snapshot;
use crate::config::{Change, Rejection};
use crate::policy::ROOT_NAMESPACE;

/// The current snapshot, and what was kept out of it.
pub struct Store {
    current: ArcSwap<Snapshot>,
    rejections: ArcSwap<Vec<Rejection>>,
    writer: Mutex<()>,
    version: watch::Sender<u64>,
}

impl Store {
    /// A store that knows nothing yet, with the usual root namespace.
    pub fn new() -> Self {
        Self::with_root_namespace(ROOT_NAMESPACE)
    }

    /// A store that knows nothing yet. Policies of `root_namespace` concern the whole mesh.
    pub fn with_root_namespace(root_namespace: &str) -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot::new(root_namespace)),
            rejections: ArcSwap::from_pointee(Vec::new()),
            writer: Mutex::new(()),
            version: watch::Sender::new(0),
        }
    }

    /// The current snapshot. Meant to be held for one decision: clone the [`Arc`] inside to keep it longer.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Publishes one snapshot with all of the changes, or none if they change nothing. Returns the version now.
    pub fn apply(&self, changes: &[Change]) -> u64 {
        // A writer that panicked published nothing, so the next one may go on.
        let _turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.current.load());
        if next.update(changes) {
            let version = next.version;
            self.current.store(Arc::new(next));
            self.version.send_replace(version);
            version
        } else {
            next.version
        }
    }

    /// The version of the current snapshot, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What the source could not take in, in the order of files and lines.
    pub fn rejections(&self) -> Arc<Vec<Rejection>> {
        self.rejections.load_full()
    }

    /// Replaces the list of [`Store::rejections`].
    pub fn set_rejections(&self, rejections: Vec<Rejection>) {
        self.rejections.store(Arc::new(rejections));
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("version", &self.current.load().version)
            .finish_non_exhaustive()
    }
}
