//! Where the requests of a rule go: a choice by weight.
//!
//! Invariant: each backend gets its weight's share of the requests, also one that cannot be used: its share fails, and
//! does not become the others' load.

use std::fmt;

use mesh_common::model::{BackendRef, BackendTarget, ObjectKey};
use thiserror::Error;

use super::filters::Filters;

/// A port of a service that requests are sent to. Whether the service has it is for the snapshot to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendPort {
    /// The service.
    pub service: ObjectKey,
    /// Its port.
    pub port: u16,
}

/// One of the places that a rule sends requests to.
#[derive(Debug)]
pub struct Backend {
    /// The place.
    pub port: BackendPort,
    /// What is done only to requests that go there, after the filters of the rule.
    pub filters: Filters,
}

/// The backends of a rule with their weights.
#[derive(Debug, Default)]
pub struct Backends {
    /// Those with a weight, each with the sum of the weights up to and with it.
    entries: Box<[(u64, Result<Backend, NoBackend>)]>,
}

/// Why a request has nowhere to go. The answer is 500.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoBackend {
    /// The rule names no backends, or all of them have the weight 0.
    #[error("the rule has no backend with a weight")]
    None,
    /// The lot fell on a reference to something that is no service.
    #[error("{0} is not a kind of backend")]
    NotAService(BackendTarget),
}

impl Backends {
    /// Those of the references that have a weight; `filters` makes what is done on the way to each.
    pub(super) fn new<E>(
        references: &[BackendRef],
        mut filters: impl FnMut(&BackendRef) -> Result<Filters, E>,
    ) -> Result<Self, E> {
        let mut sum = 0;
        let mut entries = Vec::with_capacity(references.len());
        for reference in references {
            // Also what has no weight is made, so that its mistakes are known.
            let filters = filters(reference)?;
            if reference.weight == 0 {
                continue;
            }
            sum += u64::from(reference.weight);
            let backend = match &reference.target {
                BackendTarget::Service { service, port } => Ok(Backend {
                    port: BackendPort {
                        service: service.clone(),
                        port: *port,
                    },
                    filters,
                }),
                other => Err(NoBackend::NotAService(other.clone())),
            };
            entries.push((sum, backend));
        }
        Ok(Self {
            entries: entries.into(),
        })
    }

    /// Picks one by weight. `random` is evenly spread over all values.
    pub fn pick(&self, random: u64) -> Result<&Backend, NoBackend> {
        let Some((sum, _)) = self.entries.last() else {
            return Err(NoBackend::None);
        };
        let at = scale(random, *sum);
        let chosen = self.entries.partition_point(|(upto, _)| *upto <= at);
        match self.entries.get(chosen) {
            Some((_, Ok(backend))) => Ok(backend),
            Some((_, Err(none))) => Err(none.clone()),
            None => Err(NoBackend::None),
        }
    }

    /// All that can be picked and are services.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.entries
            .iter()
            .filter_map(|(_, backend)| backend.as_ref().ok())
    }
}

/// Spreads all values of a random number evenly over 0 to `below`, without `below`.
pub(super) fn scale(random: u64, below: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(below)) >> u64::BITS;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

impl fmt::Display for BackendPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}
