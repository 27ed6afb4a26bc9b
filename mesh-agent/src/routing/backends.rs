//! Where the requests of a rule go: a choice by weight.
//!
//! Invariant: each backend gets its weight's share of the requests, also one that cannot be used: its share fails, and
//! does not become the others' load.

use std::{fmt, sync::Arc};

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
    pub filters: Arc<Filters>,
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
                    filters: Arc::new(filters),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn backends(weights: &[(&str, u32)]) -> Backends {
        let references: Vec<_> = weights
            .iter()
            .map(|(name, weight)| BackendRef {
                target: match *name {
                    "other" => BackendTarget::Other {
                        group: String::new(),
                        kind: "Bucket".to_owned(),
                        key: ObjectKey::new("shop", "b"),
                    },
                    name => BackendTarget::Service {
                        service: ObjectKey::new("shop", name),
                        port: 80,
                    },
                },
                weight: *weight,
                filters: Vec::new(),
            })
            .collect();
        Backends::new::<()>(&references, |_| Ok(Filters::default())).unwrap()
    }

    fn shares(backends: &Backends, total: u64) -> BTreeMap<String, u64> {
        let mut shares = BTreeMap::new();
        for n in 0..total {
            let name = match backends.pick(n.wrapping_mul(u64::MAX / total)) {
                Ok(backend) => backend.port.to_string(),
                Err(none) => none.to_string(),
            };
            *shares.entry(name).or_insert(0) += 1;
        }
        shares
    }

    #[test]
    fn each_gets_its_share_and_what_is_no_service_fails_its_own() {
        let shares = shares(
            &backends(&[("a", 90), ("zero", 0), ("b", 9), ("other", 1)]),
            10_000,
        );
        let near = |name: &str, share: u64| shares[name].abs_diff(share) <= 1;
        assert!(near("shop/a:80", 9_000) && near("shop/b:80", 900), "{shares:?}");
        assert!(near("Bucket shop/b is not a kind of backend", 100), "{shares:?}");
        assert_eq!(shares.len(), 3);
    }

    #[test]
    fn without_a_weight_there_is_nothing_to_pick() {
        assert_eq!(backends(&[]).pick(0).err(), Some(NoBackend::None));
        assert_eq!(
            backends(&[("a", 0), ("b", 0)]).pick(u64::MAX).err(),
            Some(NoBackend::None)
        );
    }

    proptest! {
        #[test]
        fn only_what_has_a_weight_is_picked(
            weights in prop::collection::vec(prop::sample::select(vec![0u32, 1, 2, 999_999, 1_000_000]), 0..16),
            random: u64,
        ) {
            let names: Vec<_> = (0..weights.len()).map(|n| format!("s{n}")).collect();
            let list: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            match backends(&list).pick(random) {
                Ok(backend) => {
                    let number: usize = backend.port.service.name[1..].parse().unwrap();
                    prop_assert!(weights[number] > 0);
                }
                Err(none) => {
                    prop_assert_eq!(none, NoBackend::None);
                    prop_assert!(weights.iter().all(|weight| *weight == 0));
                }
            }
        }
    }
}
