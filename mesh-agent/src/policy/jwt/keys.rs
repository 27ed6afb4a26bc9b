//! The public keys of an issuer, and the place where those that are fetched are kept.
//!
//! Readers take the current set without waiting. Whoever fetches says when it begins and how it went; whoever misses a
//! key can ask for a fetch and wait for its end, but not more often than every [`PAUSE`].
//!
//! Invariant: a set that was good stays until there is a newer good one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{Notify, watch};

/// How long a key that is missed must wait for the next fetch after the last one.
const PAUSE: Duration = Duration::from_secs(10);
/// How many keys of a set are taken.
const MAX_KEYS: usize = 64;

/// Keys to verify signatures with.
pub struct KeySet {
    keys: Vec<Key>,
}

/// One public key. It has no secret, so a signature made with the key as a secret cannot pass.
pub(super) struct Key {
    id: Option<String>,
    algorithms: &'static [Algorithm],
    /// The one algorithm that the set says it is for.
    only: Option<Algorithm>,
    pub(super) key: DecodingKey,
}

/// A text that is no key set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// It has another form.
    #[error("not a JSON Web Key Set: {0}")]
    Form(String),
    /// None of its keys is a public key for signatures of a known kind.
    #[error("no key that can be used: RSA, EC P-256 or P-384, or Ed25519, for signatures")]
    NoKey,
}

/// Where the keys of one issuer are found.
pub struct KeyCell {
    /// Where they are fetched; `None` for those that a policy holds itself.
    url: Option<Box<str>>,
    timeout: Duration,
    keys: ArcSwapOption<KeySet>,
    fetching: Mutex<Fetching>,
    /// Counts the fetches that ended.
    ended: watch::Sender<u64>,
    wish: Notify,
}

#[derive(Default)]
struct Fetching {
    running: bool,
    last_end: Option<Instant>,
    /// When the keys came.
    fetched_at: Option<SystemTime>,
    /// Why there are no keys, or no newer ones.
    fault: Option<String>,
}

/// How it is with the keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStanding {
    /// How many there are.
    pub keys: usize,
    /// When they were fetched; `None` for those that were not.
    pub fetched_at: Option<SystemTime>,
    /// Why there are none, or why they could not be fetched again the last time.
    pub fault: Option<String>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that are of no use here are left out.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let set: Value =
            serde_json::from_slice(json).map_err(|error| KeySetError::Form(error.to_string()))?;
        let Some(list) = set.get("keys").and_then(Value::as_array) else {
            return Err(KeySetError::Form("it has no list `keys`".to_owned()));
        };
        let keys: Vec<Key> = list.iter().filter_map(key).take(MAX_KEYS).collect();
        match keys.is_empty() {
            true => Err(KeySetError::NoKey),
            false => Ok(Self { keys }),
        }
    }

    /// The keys that a signature by this algorithm, with a key of this name, may have been made with.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            let named = match (id, &key.id) {
                (Some(id), Some(own)) => id == own,
                _ => true,
            };
            named && key.algorithms.contains(&algorithm) && key.only.is_none_or(|only| only == algorithm)
        })
    }
}

fn key(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    use Algorithm::*;
    let algorithms: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => return None,
    };
    let only = match jwk.common.key_algorithm {
        Some(name) => Some(name.to_string().parse().ok()?),
        None => None,
    };
    Some(Key {
        key: DecodingKey::from_jwk(&jwk).ok()?,
        id: jwk.common.key_id,
        algorithms,
        only,
    })
}

impl KeyCell {
    /// A cell for keys that a policy holds itself.
    pub fn inline(text: &str) -> Self {
        let cell = Self::new(None, Duration::ZERO);
        match KeySet::parse(text.as_bytes()) {
            Ok(keys) => cell.keys.store(Some(Arc::new(keys))),
            Err(error) => cell.lock().fault = Some(error.to_string()),
        }
        cell
    }

    /// An empty cell for keys to be fetched, each time within `timeout`.
    pub fn fetched(url: &str, timeout: Duration) -> Self {
        Self::new(Some(url.into()), timeout)
    }

    fn new(url: Option<Box<str>>, timeout: Duration) -> Self {
        Self {
            url,
            timeout,
            keys: ArcSwapOption::empty(),
            fetching: Mutex::default(),
            ended: watch::Sender::new(0),
            wish: Notify::new(),
        }
    }

    /// Where its keys are fetched, if they are.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// How long a fetch may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The keys as they are known, or why there are none.
    pub fn load(&self) -> Result<Arc<KeySet>, String> {
        match self.keys.load_full() {
            Some(keys) => Ok(keys),
            None => Err(self.fault().unwrap_or_else(|| "not fetched yet".to_owned())),
        }
    }

    /// Why there are no keys, or why they could not be fetched again the last time.
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    /// How it is with the keys.
    pub fn standing(&self) -> KeyStanding {
        let fetching = self.lock();
        KeyStanding {
            keys: self.keys.load().as_ref().map_or(0, |keys| keys.keys.len()),
            fetched_at: fetching.fetched_at,
            fault: fetching.fault.clone(),
        }
    }

    /// Whether these are the keys now.
    pub(super) fn is_current(&self, keys: &Arc<KeySet>) -> bool {
        self.keys
            .load()
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, keys))
    }

    /// Asks for a fetch and waits for its end, up to the time that a fetch may take. False if there was none: then
    /// the keys are what they were.
    pub async fn renewed(&self) -> bool {
        let mut ended = self.ended.subscribe();
        {
            let fetching = self.lock();
            let soon = fetching.last_end.is_some_and(|end| end.elapsed() < PAUSE);
            if self.url.is_none() || (soon && !fetching.running) {
                return false;
            }
            if !fetching.running {
                self.wish.notify_one();
            }
        }
        let end = tokio::time::timeout(self.timeout + Duration::from_secs(1), ended.changed());
        matches!(end.await, Ok(Ok(())))
    }

    /// For whoever fetches: waits until somebody misses a key.
    pub async fn wished(&self) {
        self.wish.notified().await;
    }

    /// For whoever fetches: a fetch begins.
    pub fn begin(&self) {
        self.lock().running = true;
    }

    /// For whoever fetches: how it went.
    pub fn end(&self, result: Result<KeySet, String>) {
        {
            let mut fetching = self.lock();
            fetching.running = false;
            fetching.last_end = Some(Instant::now());
            match result {
                Ok(keys) => {
                    fetching.fault = None;
                    fetching.fetched_at = Some(SystemTime::now());
                    self.keys.store(Some(Arc::new(keys)));
                }
                Err(fault) => fetching.fault = Some(fault),
            }
        }
        self.ended.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Fetching> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| &key.id))
            .finish()
    }
}

impl fmt::Debug for KeyCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCell")
            .field("url", &self.url)
            .field("keys", &self.keys.load())
            .finish_non_exhaustive()
    }
}
