//! The ways that are looked after: who dials what, and what is known of it.
//!
//! [`Direct`](super::Direct) keeps them behind its lock. Invariant: there are never more than [`WAYS_MAX`], of one pod never
//! more than [`WAYS_OF_POD`]; what is beyond is the agent's to carry.

use std::{
    collections::{HashMap, hash_map},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Ways that are looked after at once. Each costs a judgement at every change of the configuration.
const WAYS_MAX: usize = 4096;

/// Of these, those of one pod: it must not leave the others without.
const WAYS_OF_POD: usize = 1024;

/// How long a way is looked after that nobody uses.
const UNUSED: Duration = Duration::from_secs(600);

/// Who dials what: the cookie of the namespace, and the address.
pub(super) type Way = (u64, SocketAddr);

/// All of them, each with its source.
pub(super) struct Ways<S> {
    known: HashMap<Way, Known<S>>,
    of_pod: HashMap<u64, usize>,
}

/// What is known of a way.
pub(super) struct Known<S> {
    pub(super) source: S,
    /// When it was last looked at.
    pub(super) generation: u64,
    /// Until then it is the agent's, whatever the policies say.
    pub(super) shunned: Option<Instant>,
    used: Instant,
}

/// There are too many ways.
#[derive(Debug)]
pub(super) struct NoRoom;

impl<S: Clone> Ways<S> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            of_pod: HashMap::new(),
        }
    }

    /// A way that is used now; one that was not known is looked after from now on.
    pub(super) fn enter(&mut self, way: Way, source: &S, now: Instant) -> Result<&mut Known<S>, NoRoom> {
        let all = self.known.len();
        match self.known.entry(way) {
            hash_map::Entry::Occupied(known) => {
                let known = known.into_mut();
                known.used = now;
                Ok(known)
            }
            hash_map::Entry::Vacant(vacant) => {
                let own = self.of_pod.entry(way.0).or_default();
                if all >= WAYS_MAX || *own >= WAYS_OF_POD {
                    return Err(NoRoom);
                }
                *own += 1;
                Ok(vacant.insert(Known {
                    source: source.clone(),
                    generation: 0,
                    shunned: None,
                    used: now,
                }))
            }
        }
    }

    /// What is known of a way.
    pub(super) fn get(&self, way: &Way) -> Option<&Known<S>> {
        self.known.get(way)
    }

    /// A connection went this way.
    pub(super) fn used(&mut self, way: &Way, now: Instant) {
        if let Some(known) = self.known.get_mut(way) {
            known.used = now;
        }
    }

    /// Gives a way to the agent for a while.
    pub(super) fn shun(&mut self, way: &Way, until: Instant) {
        if let Some(known) = self.known.get_mut(way) {
            known.shunned = Some(until);
        }
    }

    /// Shows all of them to `stays`, and drops those that it does not want to keep.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Way, &mut Known<S>) -> bool) {
        let of_pod = &mut self.of_pod;
        self.known.retain(|way, known| {
            let stays = stays(way, known);
            if !stays && let Some(own) = of_pod.get_mut(&way.0) {
                *own -= 1;
            }
            stays
        });
        of_pod.retain(|_, own| *own > 0);
    }

    /// Drops those that nobody has used for long, and returns them.
    pub(super) fn forget_unused(&mut self, now: Instant) -> Vec<Way> {
        let mut unused = Vec::new();
        self.retain(|way, known| {
            let is_shunned = known.shunned.is_some_and(|until| until > now);
            let stays = is_shunned || now.duration_since(known.used) < UNUSED;
            if !stays {
                unused.push(*way);
            }
            stays
        });
        unused
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(netns: u64, number: usize) -> Way {
        (
            netns,
            SocketAddr::from(([10, 0, 0, 1], u16::try_from(number).unwrap())),
        )
    }

    #[test]
    fn one_pod_does_not_leave_the_others_without_ways() {
        let (mut ways, now) = (Ways::new(), Instant::now());
        let enter = |ways: &mut Ways<()>, way| ways.enter(way, &(), now).is_ok();
        assert!((0..WAYS_OF_POD).all(|number| enter(&mut ways, way(1, number))));
        assert!(!enter(&mut ways, way(1, WAYS_OF_POD)));
        assert!(enter(&mut ways, way(1, 0)), "known already");
        for netns in 2..5 {
            assert!((0..WAYS_OF_POD).all(|number| enter(&mut ways, way(netns, number))));
        }
        assert_eq!(ways.len(), WAYS_MAX);
        assert!(!enter(&mut ways, way(9, 0)));
        ways.retain(|way, _| way.0 != 1);
        assert!(enter(&mut ways, way(9, 0)) && enter(&mut ways, way(1, 0)));
    }

    #[test]
    fn what_nobody_uses_is_forgotten_unless_it_is_shunned() {
        let (mut ways, start) = (Ways::new(), Instant::now());
        for number in 0..3 {
            ways.enter(way(1, number), &(), start).unwrap();
        }
        let later = start + UNUSED;
        ways.used(&way(1, 1), start + Duration::from_secs(1));
        ways.shun(&way(1, 2), later + Duration::from_secs(1));
        assert_eq!(ways.forget_unused(later - Duration::from_nanos(1)), []);
        assert_eq!(ways.forget_unused(later), [way(1, 0)]);
        assert_eq!(ways.forget_unused(later + UNUSED).len(), 2);
        assert!(ways.of_pod.is_empty());
    }
}
