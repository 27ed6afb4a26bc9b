//! The certificates of this node's service accounts.
//!
//! The agent says which accounts it needs ([`CertificateStore::want`]) and runs the renewal as a task
//! ([`CertificateStore::run`]); the data path asks for the [`current`](CertificateStore::current) identity, without a
//! lock. Invariants: there is one writer, the task; an identity that is still valid is replaced only by a newer one;
//! keys of accounts that are no longer wanted are dropped.

mod health;
mod renew;

pub use health::{Problem, Severity};

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_common::model::{ServiceAccountKey, SpiffeId, TrustDomain};
use tokio::sync::watch;

use super::authority::LEAF_LIFETIME;
use super::bundle::TrustBundle;
use super::clock::Clock;
use super::issuer::Issuer;
use super::schedule::{Schedule, Standing};
use super::tls::Identity;

/// How the store asks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain that we are in; roots of another are not accepted.
    pub trust_domain: TrustDomain,
    /// How long a leaf is to be valid.
    pub lifetime: Duration,
    /// How often to ask for the roots.
    pub roots_every: Duration,
    /// How long an issuer may take to answer.
    pub patience: Duration,
}

impl Settings {
    /// The usual ones: leaves for a day.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            lifetime: LEAF_LIFETIME,
            roots_every: Duration::from_secs(5),
            patience: Duration::from_secs(10),
        }
    }
}

/// Current keys and chains, and the roots to believe.
pub struct CertificateStore {
    settings: Settings,
    issuer: Arc<dyn Issuer>,
    clock: Clock,
    slots: ArcSwap<Slots>,
    bundle: ArcSwapOption<TrustBundle>,
    /// Why the roots could not be had the last time.
    roots_error: ArcSwapOption<LastError>,
    wanted: watch::Sender<BTreeSet<ServiceAccountKey>>,
    /// Counts what was published.
    changes: watch::Sender<u64>,
}

type Slots = HashMap<ServiceAccountKey, Arc<Slot>>;

/// The place of one account.
struct Slot {
    id: SpiffeId,
    identity: ArcSwapOption<Identity>,
    record: ArcSwap<Record>,
}

/// How renewal goes.
#[derive(Clone)]
struct Record {
    schedule: Schedule,
    last_error: Option<LastError>,
    failures_ever: u64,
}

/// What went wrong, and when.
#[derive(Clone, Debug)]
pub struct LastError {
    /// When it was noticed.
    pub at: SystemTime,
    /// What an operator should read.
    pub message: String,
}

/// How the certificate of one account is.
#[derive(Clone, Debug)]
pub struct CertificateState {
    /// Whose it is.
    pub account: ServiceAccountKey,
    /// Whom it names.
    pub id: SpiffeId,
    /// Whether it is valid, and for long enough.
    pub standing: Standing,
    /// The identity, unless there has not been one yet.
    pub identity: Option<Arc<Identity>>,
    /// When the next renewal, or the next attempt, is due.
    pub due: SystemTime,
    /// Attempts that failed since the last that did not.
    pub failures: u32,
    /// Attempts that failed since the account was wanted.
    pub failures_ever: u64,
    /// Why the last of them failed; kept until one succeeds.
    pub last_error: Option<LastError>,
}

impl CertificateStore {
    /// An empty store. Nothing happens until [`run`](Self::run).
    pub fn new(settings: Settings, issuer: Arc<dyn Issuer>, clock: Clock) -> Self {
        Self {
            settings,
            issuer,
            clock,
            slots: ArcSwap::default(),
            bundle: ArcSwapOption::empty(),
            roots_error: ArcSwapOption::empty(),
            wanted: watch::Sender::default(),
            changes: watch::Sender::default(),
        }
    }

    /// The domain that all its identities are in.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// Says which accounts have workloads here. Accounts that are left out lose key and certificate.
    pub fn want(&self, accounts: BTreeSet<ServiceAccountKey>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != accounts;
            *wanted = accounts;
            changed
        });
    }

    /// The identity of an account, as of now. `None` before the first certificate and after the last has expired.
    pub fn current(&self, account: &ServiceAccountKey) -> Option<Arc<Identity>> {
        let identity = self.slots.load().get(account)?.identity.load_full()?;
        (self.clock.now() <= identity.facts().not_after).then_some(identity)
    }

    /// The identity of an account, as soon as there is one.
    pub async fn obtained(&self, account: &ServiceAccountKey) -> Arc<Identity> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(identity) = self.current(account) {
                return identity;
            }
            if changes.changed().await.is_err() {
                // The sender is ours; it cannot go first.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes whenever an identity or the bundle does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The roots to believe, once the issuer has told them.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.bundle.load_full()
    }

    /// Why the roots could not be refreshed, if the last attempt failed.
    pub fn roots_error(&self) -> Option<Arc<LastError>> {
        self.roots_error.load_full()
    }

    /// When the first of the authorities in use ends: a root to believe, or what signed a certificate that is held.
    pub fn authority_until(&self) -> Option<SystemTime> {
        let bundle = self.bundle();
        let roots = bundle.iter().flat_map(|bundle| bundle.roots());
        let slots = self.slots.load();
        let signers = slots
            .values()
            .filter_map(|slot| slot.identity.load().as_ref()?.signers_until());
        roots.map(|root| root.facts.not_after).chain(signers).min()
    }

    /// The state of every account, by name.
    pub fn states(&self) -> Vec<CertificateState> {
        let now = self.clock.now();
        let state = |(account, slot): (&ServiceAccountKey, &Arc<Slot>)| {
            let Record {
                schedule,
                last_error,
                failures_ever,
            } = Record::clone(&slot.record.load());
            CertificateState {
                account: account.clone(),
                id: slot.id.clone(),
                standing: schedule.standing(now),
                identity: slot.identity.load_full(),
                due: schedule.due(),
                failures: schedule.failures(),
                failures_ever,
                last_error,
            }
        };
        let mut states: Vec<_> = self.slots.load().iter().map(state).collect();
        states.sort_by(|a, b| a.account.cmp(&b.account));
        states
    }

    /// The clock that certificates are judged by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    fn published(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Slot {
    fn record(&self, change: impl FnOnce(&mut Record)) {
        let mut record = Record::clone(&self.record.load());
        change(&mut record);
        self.record.store(Arc::new(record));
    }
}

#[cfg(test)]
mod tests;
