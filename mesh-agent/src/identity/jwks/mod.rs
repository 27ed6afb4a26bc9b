//! Fetches the public keys of token issuers.
//!
//! The agent names the [`KeyCell`]s that the workloads of its node need ([`KeyFetcher::want`]); a task for each fetches
//! the keys, again every [`PERIOD`], when somebody misses a key, and after a failure a little later each time. Workers
//! read the cells and never wait for this.
//!
//! Invariant: a cell gets a key set that came whole, or the reason why not; what it had before stays then.

mod client;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::policy::jwt::{KeyCell, KeySet};

pub use client::{Client, FetchError};

/// How old keys become before they are fetched again.
const PERIOD: Duration = Duration::from_secs(20 * 60);
/// How long after a failure the next try is made: at first, and at the most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Keeps key cells filled.
#[derive(Debug)]
pub struct KeyFetcher {
    client: Client,
    /// Who is fetched for, by the cell's address; a cell that is here lives.
    wanted: Mutex<HashMap<usize, (Arc<KeyCell>, CancellationToken)>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl KeyFetcher {
    /// A fetcher that does nothing yet, and nothing more after `stop`.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Self {
            client,
            wanted: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Fetches for these cells from now on, and for no others. To be called in a runtime, which does the fetching.
    pub fn want(&self, cells: impl IntoIterator<Item = Arc<KeyCell>>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *wanted);
        for cell in cells.into_iter().filter(|cell| cell.url().is_some()) {
            let address = Arc::as_ptr(&cell).addr();
            if wanted.contains_key(&address) {
                continue;
            }
            let entry = before.remove(&address).unwrap_or_else(|| {
                let stop = self.stop.child_token();
                self.tasks.spawn(
                    stop.clone()
                        .run_until_cancelled_owned(keep_filled(self.client.clone(), Arc::clone(&cell))),
                );
                (cell, stop)
            });
            wanted.insert(address, entry);
        }
        for (_, stop) in before.into_values() {
            stop.cancel();
        }
    }

    /// Waits until every task has ended; they end after `stop`.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn keep_filled(client: Client, cell: Arc<KeyCell>) {
    let mut retry = FIRST_RETRY;
    loop {
        let pause = match fetch(&client, &cell).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                PERIOD
            }
            Err(()) => {
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        // Either way the next fetch is due.
        let _ = tokio::time::timeout(pause, cell.wished()).await;
    }
}

async fn fetch(client: &Client, cell: &KeyCell) -> Result<(), ()> {
    let url = cell.url().unwrap_or_default();
    cell.begin();
    let result = match client.get(url, cell.timeout()).await {
        Ok(body) => KeySet::parse(&body).map_err(|error| format!("{url}: {error}")),
        Err(error) => Err(format!("{url}: {error}")),
    };
    let outcome = match &result {
        Ok(_) => Ok(()),
        Err(_) => Err(()),
    };
    match &result {
        Ok(keys) => tracing::debug!(url, ?keys, "fetched the keys of a token issuer"),
        Err(error) if cell.load().is_ok() => {
            tracing::warn!(%error, "the keys of a token issuer are not fetched again; those known stay");
        }
        Err(error) => {
            tracing::warn!(%error, "the keys of a token issuer are not known; requests with its tokens are refused");
        }
    }
    cell.end(result);
    outcome
}
