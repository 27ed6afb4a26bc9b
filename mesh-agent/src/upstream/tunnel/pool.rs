//! The tunnels of one data worker.
//!
//! Keyed by source pod, protocol, the address that is dialled and the identity expected there: no pod ever rides another's tunnel.
//! Requests for a tunnel that is being established wait for it; one that broke is replaced.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use mesh_common::model::{SpiffeId, TunnelProtocol};
use tokio::sync::OnceCell;

use super::{
    Stream,
    client::{Asking, Place, Tunnel, TunnelError},
    tuning,
};

/// Whose tunnel to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The agent's number of the source pod.
    pub source: u32,
    /// What is spoken in it.
    pub protocol: TunnelProtocol,
    /// Where it is dialled: for our own protocol on the original port, for HBONE on that of HBONE.
    pub door: SocketAddr,
    /// Who must be there.
    pub expected: SpiffeId,
    /// Serial number of the source's certificate: a renewed one makes new tunnels.
    pub credentials: String,
}

/// The pool.
#[derive(Default)]
pub struct Pool {
    tunnels: Mutex<HashMap<Key, Vec<Slot>>>,
}

#[derive(Clone)]
struct Slot {
    tunnel: Arc<OnceCell<Tunnel>>,
    used: Instant,
}

impl Pool {
    /// A stream in a tunnel that exists and is still `good`, or that `establish` makes.
    pub async fn open<E, F>(
        &self,
        key: &Key,
        asking: Asking<'_>,
        good: impl Fn(&Tunnel) -> bool,
        establish: impl Fn() -> F,
    ) -> Result<(Stream, Place), E>
    where
        F: Future<Output = Result<Tunnel, E>>,
        E: From<TunnelError>,
    {
        let cell = self.good_slot(key, good);
        let fresh = !cell.initialized();
        let tunnel = cell.get_or_try_init(&establish).await?;
        match tunnel.open(asking).await {
            Err(error) if error.is_broken() => {
                self.forget(key, &cell);
                if fresh {
                    return Err(error.into());
                }
                // The tunnel had gone meanwhile, and no stream was joined: a new tunnel is a first try.
                let cell = self.slot(key);
                let tunnel = cell.get_or_try_init(&establish).await?;
                tunnel.open(asking).await.map_err(E::from)
            }
            other => other.map_err(E::from),
        }
    }

    /// A tunnel that has room, one that exists and is still `good`, or that `establish` makes. It may have broken since it was
    /// used: whoever finds that out tells [`Pool::give_up`].
    pub async fn tunnel<E, F>(
        &self,
        key: &Key,
        good: impl Fn(&Tunnel) -> bool,
        establish: impl Fn() -> F,
    ) -> Result<Tunnel, E>
    where
        F: Future<Output = Result<Tunnel, E>>,
    {
        self.good_slot(key, good)
            .get_or_try_init(&establish)
            .await
            .cloned()
    }

    /// Gives up a tunnel that broke.
    pub fn give_up(&self, key: &Key, broken: &Tunnel) {
        if let Some(slots) = self.lock().get_mut(key) {
            slots.retain(|slot| {
                !slot
                    .tunnel
                    .get()
                    .is_some_and(|tunnel| tunnel.session().is(broken.session()))
            });
        }
    }

    /// Lets every tunnel go as soon as its streams have ended.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Lets tunnels go that have had no stream for a while.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, slots| {
            slots.retain(|slot| {
                // Somebody establishes it, or opens a stream in it.
                let wanted = Arc::strong_count(&slot.tunnel) > 1;
                let busy = slot
                    .tunnel
                    .get()
                    .is_some_and(|tunnel| tunnel.session().streams() > 0);
                wanted || busy || now.saturating_duration_since(slot.used) < tuning::IDLE
            });
            !slots.is_empty()
        });
    }

    fn good_slot(&self, key: &Key, good: impl Fn(&Tunnel) -> bool) -> Arc<OnceCell<Tunnel>> {
        let mut cell = self.slot(key);
        while cell.get().is_some_and(|tunnel| !good(tunnel)) {
            self.forget(key, &cell);
            cell = self.slot(key);
        }
        cell
    }

    fn slot(&self, key: &Key) -> Arc<OnceCell<Tunnel>> {
        let mut tunnels = self.lock();
        let slots = tunnels.entry(key.clone()).or_default();
        let room = |slot: &&mut Slot| slot.tunnel.get().is_none_or(|tunnel| tunnel.session().has_room());
        if let Some(slot) = slots.iter_mut().find(room) {
            slot.used = Instant::now();
            return Arc::clone(&slot.tunnel);
        }
        let slot = Slot {
            tunnel: Arc::default(),
            used: Instant::now(),
        };
        slots.push(slot.clone());
        slot.tunnel
    }

    fn forget(&self, key: &Key, cell: &Arc<OnceCell<Tunnel>>) {
        if let Some(slots) = self.lock().get_mut(key) {
            slots.retain(|slot| !Arc::ptr_eq(&slot.tunnel, cell));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Vec<Slot>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: u32) -> Key {
        Key {
            source,
            protocol: TunnelProtocol::Nodemesh,
            door: "10.0.0.1:80".parse().unwrap(),
            expected: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
            credentials: "01".to_owned(),
        }
    }

    #[test]
    fn places_of_tunnels_that_nobody_wants_go_after_a_while() {
        let pool = Pool::default();
        let wanted = pool.slot(&key(1));
        drop(pool.slot(&key(2)));
        assert!(
            Arc::ptr_eq(&wanted, &pool.slot(&key(1))),
            "one tunnel serves a key"
        );
        let now = Instant::now();
        pool.sweep(now);
        assert_eq!(pool.lock().len(), 2, "a place used a moment ago stays");
        pool.sweep(now + tuning::IDLE * 2);
        assert_eq!(pool.lock().keys().collect::<Vec<_>>(), [&key(1)]);
        drop(wanted);
        pool.sweep(now + tuning::IDLE * 2);
        assert!(pool.lock().is_empty());
    }
}
