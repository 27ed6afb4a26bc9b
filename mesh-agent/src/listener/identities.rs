//! The identities that workloads should prove, put together once each.
//!
//! Asked for each connection and each request. Invariant: an account has the same identity for ever, so nothing that is
//! remembered here can be out of date.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_common::model::{SpiffeId, SpiffeIdError, TrustDomain, Workload};

use super::journey::account_of;

/// Accounts that are remembered.
const REMEMBERED: usize = 4096;

/// Those of one trust domain, for one data worker.
#[derive(Debug)]
pub(crate) struct Identities {
    domain: TrustDomain,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    count: usize,
    by_namespace: HashMap<Arc<str>, HashMap<String, SpiffeId>>,
}

impl Identities {
    pub(super) fn new(domain: TrustDomain) -> Self {
        Self {
            domain,
            known: Mutex::default(),
        }
    }

    /// That of a workload's service account.
    pub(super) fn of(&self, workload: &Workload) -> Result<SpiffeId, SpiffeIdError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let accounts = known.by_namespace.get(&*workload.key.namespace);
        if let Some(id) = accounts.and_then(|accounts| accounts.get(&workload.service_account)) {
            return Ok(id.clone());
        }
        let id = SpiffeId::new(&self.domain, &account_of(workload))?;
        if known.count >= REMEMBERED {
            *known = Known::default();
        }
        known.count += 1;
        known
            .by_namespace
            .entry(Arc::clone(&workload.key.namespace))
            .or_default()
            .insert(workload.service_account.clone(), id.clone());
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn workload(namespace: &str, account: &str) -> Workload {
        Workload {
            service_account: account.to_owned(),
            ..samples::workload(namespace, "web-1")
        }
    }

    #[test]
    fn each_account_has_its_own_and_always_the_same() {
        let identities = Identities::new("cluster.local".parse().unwrap());
        for _ in 0..2 {
            for (namespace, account) in [("shop", "web"), ("shop", "cart"), ("bank", "web")] {
                let id = identities.of(&workload(namespace, account)).unwrap();
                let expected = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
                assert_eq!(id.as_str(), expected);
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let identities = Identities::new("cluster.local".parse().unwrap());
        for number in 0..3 * REMEMBERED {
            identities
                .of(&workload("shop", &format!("web-{number}")))
                .unwrap();
        }
        let known = identities.known.lock().unwrap();
        let held: usize = known.by_namespace.values().map(HashMap::len).sum();
        assert!(held <= REMEMBERED && held == known.count, "{held}");
    }
}
