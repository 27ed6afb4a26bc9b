//! Tokens that were verified a moment ago, so that a signature is not checked for each request.
//!
//! Two generations: what is asked for lives in the young one; when that is full it becomes the old one, and what nobody
//! asked for since goes. That keeps what is used, at the cost of two look-ups, within a fixed amount of memory.
//!
//! Invariant: a token is found only for the rule and the keys that it was verified by, and as long as it is valid.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::CompiledJwtRule;
use super::keys::KeySet;
use super::verify::Verified;

/// The verified tokens of one worker.
#[derive(Debug)]
pub struct TokenCache {
    hasher: RandomState,
    generations: Mutex<Generations>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
    /// The bytes of the tokens in the young one.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    token: Box<str>,
    rule: Arc<CompiledJwtRule>,
    keys: Arc<KeySet>,
    verified: Arc<Verified>,
}

/// How many bytes of tokens one generation holds. What is kept beside a token is about as large again.
const CAPACITY: usize = 512 * 1024;

impl TokenCache {
    /// An empty one.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            generations: Mutex::default(),
            capacity,
        }
    }

    pub(super) fn get(
        &self,
        token: &str,
        rule: &Arc<CompiledJwtRule>,
        now: SystemTime,
    ) -> Option<Arc<Verified>> {
        let slot = self.slot(token, rule);
        let fits = |entry: &Entry| {
            *entry.token == *token
                && Arc::ptr_eq(&entry.rule, rule)
                && rule.keys.is_current(&entry.keys)
                && entry.verified.is_current(now)
        };
        let mut generations = self.lock();
        if let Some(entry) = generations.young.get(&slot) {
            return fits(entry).then(|| Arc::clone(&entry.verified));
        }
        let entry = generations.old.remove(&slot).filter(fits)?;
        let verified = Arc::clone(&entry.verified);
        self.insert(&mut generations, slot, entry);
        Some(verified)
    }

    pub(super) fn put(
        &self,
        token: &str,
        rule: &Arc<CompiledJwtRule>,
        keys: Arc<KeySet>,
        verified: &Arc<Verified>,
    ) {
        let slot = self.slot(token, rule);
        let entry = Entry {
            token: token.into(),
            rule: Arc::clone(rule),
            keys,
            verified: Arc::clone(verified),
        };
        self.insert(&mut self.lock(), slot, entry);
    }

    fn insert(&self, generations: &mut Generations, slot: u64, entry: Entry) {
        if generations.bytes + entry.token.len() > self.capacity {
            generations.old = std::mem::take(&mut generations.young);
            generations.bytes = 0;
        }
        generations.bytes += entry.token.len();
        if let Some(replaced) = generations.young.insert(slot, entry) {
            generations.bytes -= replaced.token.len();
        }
    }

    fn slot(&self, token: &str, rule: &Arc<CompiledJwtRule>) -> u64 {
        self.hasher.hash_one((token, Arc::as_ptr(rule)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let generations = self.lock();
        generations.young.len() + generations.old.len()
    }
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::new()
    }
}
