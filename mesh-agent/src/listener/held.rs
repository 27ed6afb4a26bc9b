//! Reads the requests that the kernel half holds for one data worker.

use std::{collections::HashMap, io, sync::Arc};

use aya::maps::{MapData, RingBuf};
use mesh_common::kernel::SynEvent;

use super::{accept::PodListener, data_path::DataPath, serve};
use crate::kernel::raw;

/// Requests taken in a row before the worker's connections get their turn.
const BATCH: usize = 16;

/// The worker's listeners by the number of their pod.
pub type Listeners = std::sync::Mutex<HashMap<u32, Arc<PodListener>>>;

/// Takes held requests off the ring for ever.
pub async fn run(
    ring: RingBuf<MapData>,
    listeners: Arc<Listeners>,
    path: Arc<DataPath>,
) -> io::Result<std::convert::Infallible> {
    let mut ring = raw::await_ring(ring)?;
    loop {
        let mut guard = ring.readable_mut().await?;
        let mut taken = 0;
        while taken < BATCH
            && let Some(item) = guard.get_inner_mut().next()
        {
            taken += 1;
            if let Some(event) = raw::read_value::<SynEvent>(&item) {
                take(&event, &listeners, &path);
            }
        }
        if taken < BATCH {
            guard.clear_ready();
        } else {
            drop(guard);
            tokio::task::yield_now().await;
        }
    }
}

fn take(event: &SynEvent, listeners: &Listeners, path: &Arc<DataPath>) {
    let listener = {
        let listeners = listeners
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        listeners.get(&event.pod).cloned()
    };
    // A pod just un-enrolled: its listener is gone, and the client's repetition will be refused by the kernel.
    let Some(listener) = listener else {
        return;
    };
    if let Some(held) = listener.hold(event) {
        serve::held(path, held, event);
    }
}
