//! What many objects have in common, kept once: namespaces, and the labels of replicas.
//!
//! `files` hands in entries before they are published. Invariant: the pool never holds much more than twice what is in use.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_common::model::Labels;

use super::super::object::{Entry, Identity, Object};

/// One copy of each namespace and of each set of labels.
#[derive(Debug)]
pub(super) struct Pool {
    namespaces: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    /// At how many of both together those without a user are let go.
    most: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            namespaces: HashSet::new(),
            labels: HashSet::new(),
            most: LEAST_KEPT,
        }
    }
}

impl Pool {
    /// Makes an entry use what others have already.
    pub(super) fn share(&mut self, entry: &mut Entry) {
        let Identity::Known(id) = &mut entry.identity else {
            return;
        };
        id.key.namespace = one(&mut self.namespaces, &id.key.namespace);
        // Nobody else has seen the object yet.
        if let Ok(parsed) = &mut entry.result {
            match &mut parsed.object {
                Object::Workload(object) => replace(object, |workload| {
                    workload.key = id.key.clone();
                    workload.labels = one(&mut self.labels, &workload.labels);
                }),
                Object::Service(object) => replace(object, |service| service.key = id.key.clone()),
                Object::AuthorizationPolicy(object) => replace(object, |policy| policy.key = id.key.clone()),
                Object::PeerAuthentication(object) => replace(object, |policy| policy.key = id.key.clone()),
                Object::RequestAuthentication(object) => {
                    replace(object, |policy| policy.key = id.key.clone());
                }
                Object::Route(object) => replace(object, |route| route.key = id.key.clone()),
            }
        }
        if self.namespaces.len() + self.labels.len() > self.most {
            self.namespaces
                .retain(|namespace| Arc::strong_count(namespace) > 1);
            self.labels.retain(Labels::is_shared);
            self.most = LEAST_KEPT.max(2 * (self.namespaces.len() + self.labels.len()));
        }
    }
}

/// Fewer than this are not worth a look at who uses them.
const LEAST_KEPT: usize = 1000;

fn one<T: Clone + Eq + std::hash::Hash>(known: &mut HashSet<T>, wanted: &T) -> T {
    if let Some(known) = known.get(wanted) {
        return known.clone();
    }
    known.insert(wanted.clone());
    wanted.clone()
}

fn replace<T>(object: &mut Arc<T>, change: impl FnOnce(&mut T)) {
    if let Some(object) = Arc::get_mut(object) {
        change(object);
    }
}
