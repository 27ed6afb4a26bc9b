//! The policies of one action that concern a workload, and the search for the first rule that matches.
//!
//! [`workload`](super::workload) asks. For a decision only the rules that the [`RuleIndex`] leaves are asked; for a trace
//! all of them are, one after the other.
//!
//! Invariant: both find the same rule, the first in the order of the policies' names and of the rules in each.

use std::array;
use std::iter;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::compile::{CompiledPolicy, CompiledRule};
use super::facts::{Kind, Subject};
use super::index::RuleIndex;
use super::trace::Notes;

/// Policies of one action, in the order of their names.
#[derive(Debug)]
pub(super) struct PolicyList {
    policies: Vec<Arc<CompiledPolicy>>,
    /// One for each [`Kind`], made when the first such subject is judged.
    indexes: [OnceLock<Box<RuleIndex>>; Kind::COUNT],
}

/// Where a rule stands in a list; in the order in which rules count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) policy: u32,
    pub(super) rule: u32,
}

/// All rules of policies in order.
pub(super) fn places(policies: &[Arc<CompiledPolicy>]) -> impl Iterator<Item = (Place, &CompiledRule)> {
    (0..).zip(policies).flat_map(|(policy, compiled)| {
        let rules = (0..).zip(compiled.rules());
        rules.map(move |(rule, compiled)| (Place { policy, rule }, compiled))
    })
}

impl PolicyList {
    pub(super) fn new(mut policies: Vec<Arc<CompiledPolicy>>) -> Self {
        policies.sort_by(|a, b| a.policy().key.cmp(&b.policy().key));
        policies.shrink_to_fit();
        Self {
            policies,
            indexes: array::from_fn(|_| OnceLock::new()),
        }
    }

    /// The first of those policies that `act` with a rule that matches, and the number of that rule.
    pub(super) fn first_match<'a, N: Notes<'a>>(
        &'a self,
        subject: Subject<'_, '_>,
        act: impl Fn(&CompiledPolicy) -> bool,
        notes: &mut N,
    ) -> Option<(&'a Arc<CompiledPolicy>, usize)> {
        if !N::WRITTEN {
            let place = self.find(Place::default(), subject, |policy, _| act(policy))?;
            return Some((self.policy(place), place.rule as usize));
        }
        let mut acting = self.policies.iter().filter(|policy| act(policy));
        acting.find_map(|policy| Some((policy, policy.first_match(subject, notes)?)))
    }

    /// Every one of them, each with its first rule that matches.
    pub(super) fn matches(
        &self,
        subject: Subject<'_, '_>,
        act: impl Fn(&CompiledPolicy) -> bool,
    ) -> impl Iterator<Item = (&Arc<CompiledPolicy>, usize)> {
        let mut from = Place::default();
        iter::from_fn(move || {
            let place = self.find(from, subject, |policy, _| act(policy))?;
            from = Place {
                policy: place.policy + 1,
                rule: 0,
            };
            Some((self.policy(place), place.rule as usize))
        })
    }

    /// The first rule that is `asked` and matches, at `from` or behind it.
    pub(super) fn find(
        &self,
        from: Place,
        subject: Subject<'_, '_>,
        asked: impl Fn(&CompiledPolicy, &CompiledRule) -> bool,
    ) -> Option<Place> {
        if self.policies.is_empty() {
            return None;
        }
        let kind = subject.kind();
        let index = self.indexes[kind as usize].get_or_init(|| RuleIndex::new(&self.policies, kind).into());
        let mut first: Option<Place> = None;
        index.each(subject, |places| {
            let known = first;
            let mut open = places[places.partition_point(|place| *place < from)..]
                .iter()
                .take_while(|place| known.is_none_or(|known| **place < known));
            let found = open.find(|place| {
                let policy = self.policy(**place);
                let rule = &policy.rules()[place.rule as usize];
                asked(policy, rule) && rule.matches(subject, &mut ())
            });
            first = found.copied().or(known);
        });
        first
    }

    fn policy(&self, place: Place) -> &Arc<CompiledPolicy> {
        &self.policies[place.policy as usize]
    }
}

impl Deref for PolicyList {
    type Target = [Arc<CompiledPolicy>];

    fn deref(&self) -> &Self::Target {
        &self.policies
    }
}
