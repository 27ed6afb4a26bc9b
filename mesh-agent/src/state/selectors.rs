//! Services findable by the labels of a workload, without asking each of them.
//!
//! `update` keeps it beside the services. A service is listed under the first label of its selector: whoever is selected has it.
//!
//! Invariant: it lists the services of the snapshot that select anything, and no others.

use std::sync::Arc;

use imbl::{HashMap, OrdSet};
use mesh_common::model::{ObjectKey, Service, Workload};

/// An index of services, part of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors(HashMap<Label, OrdSet<ObjectKey>>);

/// A namespace, a label and its value.
type Label = (Arc<str>, String, String);

impl Selectors {
    pub(super) fn add(&mut self, service: &Service) {
        if let Some(label) = label(service) {
            self.0.entry(label).or_default().insert(service.key.clone());
        }
    }

    pub(super) fn remove(&mut self, service: &Service) {
        let Some(label) = label(service) else { return };
        if let Some(services) = self.0.get_mut(&label) {
            services.remove(&service.key);
            if services.is_empty() {
                self.0.remove(&label);
            }
        }
    }

    /// The services that may select the workload.
    pub(super) fn candidates(&self, workload: &Workload) -> Vec<&ObjectKey> {
        let mut candidates = Vec::new();
        for (name, value) in &workload.labels {
            let label = (Arc::clone(&workload.key.namespace), name.clone(), value.clone());
            candidates.extend(self.0.get(&label).into_iter().flatten());
        }
        candidates
    }

    #[cfg(test)]
    pub(super) fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.0.values().flatten()
    }
}

fn label(service: &Service) -> Option<Label> {
    let (name, value) = service.selector.first_key_value()?;
    Some((Arc::clone(&service.key.namespace), name.clone(), value.clone()))
}
