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
use crate::upstream::session::Seat;

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

/// A seat for a stream.
pub struct Seated {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The seat in it.
    pub seat: Seat,
    /// Whether the tunnel was made meanwhile. One that breaks at once would do so again.
    pub fresh: bool,
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
        loop {
            let Seated { tunnel, seat, fresh } = self.seat(key, &good, &establish).await?;
            match tunnel.open(asking, seat).await {
                // The tunnel had gone meanwhile, and no stream was joined. The others beside it may have gone too; a
                // new one is a first try.
                Err(error) if error.is_broken() => {
                    self.give_up(key, &tunnel);
                    if fresh {
                        return Err(error.into());
                    }
                }
                other => return other.map_err(E::from),
            }
        }
    }

    /// A seat in a tunnel that exists and is still `good`, or that `establish` makes. It may have broken since it was
    /// used: whoever finds that out tells [`Pool::give_up`].
    pub async fn seat<E, F>(
        &self,
        key: &Key,
        good: impl Fn(&Tunnel) -> bool,
        establish: impl Fn() -> F,
    ) -> Result<Seated, E>
    where
        F: Future<Output = Result<Tunnel, E>>,
    {
        loop {
            let cell = self.slot(key);
            if cell.get().is_some_and(|tunnel| !good(tunnel)) {
                self.forget(key, &cell);
                continue;
            }
            let fresh = !cell.initialized();
            // Boxed where it is done, which is seldom: whoever asks is not to hold what a handshake needs.
            let tunnel = cell.get_or_try_init(|| Box::pin(establish())).await?;
            // Many may have waited for it: beyond its room they would wait on for a stream that ends.
            if let Some(seat) = tunnel.session().take_seat() {
                let tunnel = tunnel.clone();
                return Ok(Seated { tunnel, seat, fresh });
            }
        }
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

    fn slot(&self, key: &Key) -> Arc<OnceCell<Tunnel>> {
        let mut tunnels = self.lock();
        let room = |slot: &&mut Slot| slot.tunnel.get().is_none_or(|tunnel| tunnel.session().has_room());
        if let Some(slot) = tunnels.get_mut(key).and_then(|slots| slots.iter_mut().find(room)) {
            slot.used = Instant::now();
            return Arc::clone(&slot.tunnel);
        }
        let slot = Slot {
            tunnel: Arc::default(),
            used: Instant::now(),
        };
        tunnels.entry(key.clone()).or_default().push(slot.clone());
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
mod tests;
