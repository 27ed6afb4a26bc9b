//! The task that keeps a store's certificates fresh.
//!
//! It asks the issuer for the roots every few seconds and for a leaf when its schedule says so, a few at a time, each
//! with a deadline, so that an issuer that hangs stops nothing. Invariants: an answer is used only after it was
//! verified as a peer would; a new bundle is published before any leaf that needs it; a failure is recorded, logged
//! and repeated, and never takes away what works.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_common::model::{ServiceAccountKey, SpiffeId};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{CertificateStore, LastError, Record, Slot, Slots};
use crate::identity::bundle::TrustBundle;
use crate::identity::certificate::Facts;
use crate::identity::issuer::{IssueError, Request, Roots};
use crate::identity::key::{KeyError, LeafKey};
use crate::identity::refusal::Expected;
use crate::identity::schedule::Schedule;
use crate::identity::tls::{Identity, algorithms};
use crate::identity::verify::{PeerVerifier, Side};

/// Requests that are with the issuer at the same time.
const AT_ONCE: usize = 8;
/// After a change of the roots, leaves are renewed within this time.
const HURRY: Duration = Duration::from_secs(30);
/// A sleep is never longer: the wall clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a request came to.
enum Done {
    Roots(Result<Roots, IssueError>),
    Leaf(ServiceAccountKey, Box<Result<Identity, IssueError>>),
}

/// What is under way.
struct Work {
    tasks: JoinSet<Done>,
    busy: HashSet<ServiceAccountKey>,
    asking_roots: bool,
    roots_due: SystemTime,
}

impl CertificateStore {
    /// Renews until `stop`. One task only may run this.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        let mut work = Work {
            tasks: JoinSet::new(),
            busy: HashSet::new(),
            asking_roots: false,
            roots_due: self.clock.now(),
        };
        loop {
            self.keep_wanted();
            let pause = self.start_due(&mut work);
            tokio::select! {
                () = stop.cancelled() => return,
                _ = wanted.changed() => {}
                Some(done) = work.tasks.join_next() => match done {
                    Ok(done) => self.finish(&mut work, done),
                    // The runtime's hook has logged the panic; all requests are made again.
                    Err(_) => {
                        work.tasks.abort_all();
                        work.busy.clear();
                        work.asking_roots = false;
                    }
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes slots for new accounts and drops those of accounts that have gone.
    fn keep_wanted(&self) {
        let wanted = self.wanted.borrow();
        let held = self.slots.load();
        if held.len() == wanted.len() && wanted.iter().all(|account| held.contains_key(account)) {
            return;
        }
        let slot = |account: &ServiceAccountKey| match held.get(account) {
            Some(slot) => Some((account.clone(), Arc::clone(slot))),
            None => match SpiffeId::new(&self.settings.trust_domain, account) {
                Ok(id) => Some((account.clone(), Arc::new(Slot::new(id, self.clock.now())))),
                // Names in the model are DNS names, which always fit.
                Err(error) => {
                    tracing::error!(%account, %error, "this service account cannot have an identity");
                    None
                }
            },
        };
        let slots: Slots = wanted.iter().filter_map(slot).collect();
        drop(wanted);
        self.slots.store(Arc::new(slots));
        self.published();
    }

    /// Starts what is due, and says how long nothing else will be.
    fn start_due(self: &Arc<Self>, work: &mut Work) -> Duration {
        let now = self.clock.now();
        let mut next = now + LOOK_AGAIN;
        if work.asking_roots {
        } else if work.roots_due <= now {
            work.asking_roots = true;
            let store = Arc::clone(self);
            work.tasks
                .spawn(async move { Done::Roots(store.ask_roots().await) });
        } else {
            next = next.min(work.roots_due);
        }
        // Without roots an answer cannot be verified.
        let Some(bundle) = self.bundle.load_full() else {
            return next.duration_since(now).unwrap_or_default();
        };
        for (account, slot) in self.slots.load().iter() {
            if work.busy.contains(account) {
                continue;
            }
            let due = slot.record.load().schedule.due();
            if due > now {
                next = next.min(due);
            } else if work.busy.len() < AT_ONCE {
                work.busy.insert(account.clone());
                let (store, bundle) = (Arc::clone(self), Arc::clone(&bundle));
                let (account, id) = (account.clone(), slot.id.clone());
                work.tasks
                    .spawn(async move { Done::Leaf(account, Box::new(store.ask_leaf(id, bundle).await)) });
            }
        }
        next.duration_since(now).unwrap_or_default()
    }

    async fn ask_roots(&self) -> Result<Roots, IssueError> {
        let patience = self.settings.patience;
        tokio::time::timeout(patience, self.issuer.roots())
            .await
            .unwrap_or(Err(IssueError::Silent(patience)))
    }

    async fn ask_leaf(&self, id: SpiffeId, bundle: Arc<TrustBundle>) -> Result<Identity, IssueError> {
        let key = LeafKey::generate().map_err(IssueError::unavailable)?;
        let request = Request {
            csr: key.request(&id).map_err(IssueError::unavailable)?,
            lifetime: self.settings.lifetime,
            id: id.clone(),
        };
        let patience = self.settings.patience;
        let chain = tokio::time::timeout(patience, self.issuer.issue(request))
            .await
            .unwrap_or(Err(IssueError::Silent(patience)))?;
        self.accept(&id, &key, chain, bundle)
            .map_err(|reason| IssueError::Unusable { id, reason })
    }

    /// Makes an identity of an answer that a peer would believe.
    fn accept(
        &self,
        id: &SpiffeId,
        key: &LeafKey,
        chain: Vec<CertificateDer<'static>>,
        bundle: Arc<TrustBundle>,
    ) -> Result<Identity, String> {
        let (leaf, others) = chain.split_first().ok_or("it is empty")?;
        let facts = Facts::of(leaf).map_err(|error| error.to_string())?;
        let since_epoch = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since_epoch);
        let verifier = PeerVerifier::new(Arc::clone(&bundle), Expected::one_of([id.clone()]), algorithms());
        for side in [Side::Client, Side::Server] {
            verifier
                .verify(leaf, others, side, now)
                .map_err(|refusal| refusal.to_string())?;
        }
        let signing = key.signing_key().map_err(|error: KeyError| error.to_string())?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| "it is for another key")?;
        let clock = self.clock.clone();
        Ok(Identity::new(
            id.clone(),
            Arc::new(certified),
            facts,
            bundle,
            clock,
        ))
    }

    fn finish(&self, work: &mut Work, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Roots(answer) => {
                work.asking_roots = false;
                work.roots_due = now + self.settings.roots_every;
                self.finish_roots(now, answer);
            }
            Done::Leaf(account, answer) => {
                work.busy.remove(&account);
                if let Err(IssueError::Unusable { .. }) = *answer {
                    // Perhaps it leads to a root that we have not heard of.
                    work.roots_due = now;
                }
                self.finish_leaf(now, &account, *answer);
            }
        }
    }

    fn finish_roots(&self, now: SystemTime, answer: Result<Roots, IssueError>) {
        let held = self.bundle.load_full();
        match self.judge_roots(held.as_deref(), answer) {
            Ok(None) => self.roots_error.store(None),
            Ok(Some(bundle)) => {
                self.roots_error.store(None);
                tracing::info!(
                    roots = bundle.roots().len(),
                    version = bundle.version(),
                    "roots changed"
                );
                self.publish_bundle(now, bundle);
            }
            Err(message) => {
                if self
                    .roots_error
                    .load()
                    .as_ref()
                    .is_none_or(|last| last.message != message)
                {
                    tracing::warn!(
                        error = message,
                        "cannot refresh the roots; keeping those there are"
                    );
                }
                self.roots_error
                    .store(Some(Arc::new(LastError { at: now, message })));
            }
        }
    }

    /// The new bundle, if the answer makes one that differs from `held`.
    fn judge_roots(
        &self,
        held: Option<&TrustBundle>,
        answer: Result<Roots, IssueError>,
    ) -> Result<Option<TrustBundle>, String> {
        let roots = answer.map_err(|error| told(&error))?;
        if roots.trust_domain != self.settings.trust_domain {
            let (theirs, ours) = (&roots.trust_domain, &self.settings.trust_domain);
            return Err(format!(
                "the roots are those of {theirs}, not of our trust domain {ours}"
            ));
        }
        if held.is_some_and(|held| held.holds(&roots)) {
            return Ok(None);
        }
        let version = held.map_or(1, |held| held.version() + 1);
        TrustBundle::new(&roots, version)
            .map(Some)
            .map_err(|error| told(&error))
    }

    fn publish_bundle(&self, now: SystemTime, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        self.bundle.store(Some(Arc::clone(&bundle)));
        for slot in self.slots.load().values() {
            if let Some(identity) = slot.identity.load_full() {
                let identity = identity.with_bundle(Arc::clone(&bundle));
                slot.identity.store(Some(Arc::new(identity)));
                slot.record(|record| record.schedule.hurry(now, HURRY, rand::random()));
            }
        }
        self.published();
    }

    fn finish_leaf(
        &self,
        now: SystemTime,
        account: &ServiceAccountKey,
        answer: Result<Identity, IssueError>,
    ) {
        let slots = self.slots.load();
        let Some(slot) = slots.get(account) else {
            // Not wanted any more; the key goes with the answer.
            return;
        };
        match answer {
            Ok(identity) => {
                let until = identity.facts().not_after;
                let serial = &identity.facts().serial;
                tracing::info!(id = %slot.id, serial, until = %humantime::format_rfc3339_seconds(until), "certificate issued");
                // The roots may have changed while the issuer worked.
                let identity = match self.bundle.load_full() {
                    Some(bundle) if bundle.version() != identity.bundle().version() => {
                        identity.with_bundle(bundle)
                    }
                    _ => identity,
                };
                slot.identity.store(Some(Arc::new(identity)));
                slot.record(|record| {
                    record.last_error = None;
                    record.schedule.succeeded(now, until, rand::random());
                });
                self.published();
            }
            Err(error) => {
                let message = told(&error);
                slot.record(|record| {
                    record.schedule.failed(now, rand::random());
                    record.failures_ever += 1;
                    let (failures, held) = (record.schedule.failures(), record.schedule.standing(now));
                    tracing::warn!(id = %slot.id, error = message, failures, ?held, "no new certificate");
                    record.last_error = Some(LastError { at: now, message });
                });
            }
        }
    }
}

impl Slot {
    fn new(id: SpiffeId, now: SystemTime) -> Self {
        Self {
            id,
            identity: ArcSwapOption::empty(),
            record: ArcSwap::from_pointee(Record {
                schedule: Schedule::new(now),
                last_error: None,
                failures_ever: 0,
            }),
        }
    }
}

/// An error with its causes, on one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}
