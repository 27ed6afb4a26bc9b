//! Which rules of many could match: an index by what they want to see.
//!
//! A rule that wants exact values, or beginnings of values, is filed under those that the fewest other rules want, and is
//! asked only about connections and requests that have one of them. [`list`](super::list) makes an index for each kind
//! of [`Subject`], since what a field means depends on it.
//!
//! Invariant: a rule that matches is always found. That a rule is found says nothing: it is asked itself.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::clause::{Clause, Effect, Sense, Test};
use super::compile::{CompiledPolicy, CompiledRule, Entry};
use super::facts::{Kind, Subject};
use super::filed::{Filed, Sheets};
use super::list::{Place, places};
use super::request::RequestTest;
use super::text::{Reach, TextSet};

/// The rules of some policies, for one kind of subject.
#[derive(Debug)]
pub(super) struct RuleIndex {
    by_fact: [Filed; FACTS],
    /// Those that want nothing of the kind, in order.
    others: Box<[Place]>,
}

/// What rules are filed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fact {
    /// Two bytes, the higher first.
    Port,
    Principal,
    Namespace,
    /// With its namespace before it, as `namespace/name`.
    ServiceAccount,
    Method,
    Path,
}

const FACTS: usize = Fact::Path as usize + 1;

/// What a rule can be filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key<'r> {
    fact: Fact,
    reach: Reach,
    text: Cow<'r, [u8]>,
}

/// A match needs one of these. Without any there is none.
type Keys<'r> = Vec<Key<'r>>;

/// How many clauses want each key.
type Wanted<'r> = HashMap<Key<'r>, u32>;

/// So many rules are asked one after the other; an index would cost more.
const FEW: usize = 8;

impl RuleIndex {
    pub(super) fn new(policies: &[Arc<CompiledPolicy>], kind: Kind) -> Self {
        if places(policies).nth(FEW).is_none() {
            let others = places(policies).map(|(place, _)| place).collect();
            return Self {
                by_fact: Default::default(),
                others,
            };
        }
        let mut wanted = Wanted::new();
        let clauses = places(policies).flat_map(|(_, rule)| rule.clauses());
        for key in clauses
            .filter_map(|clause| Key::of_clause(clause, kind))
            .flatten()
        {
            *wanted.entry(key).or_default() += 1;
        }
        let mut sheets: [Sheets<'_>; FACTS] = Default::default();
        let mut others = Vec::new();
        for (place, rule) in places(policies) {
            let Some(keys) = Key::of_rule(rule, kind, &wanted) else {
                others.push(place);
                continue;
            };
            for key in keys {
                let sheet = sheets[key.fact as usize].entry(key.text).or_default();
                let list = match key.reach {
                    Reach::Whole => &mut sheet.whole,
                    Reach::Beginning => &mut sheet.beginning,
                };
                if list.last() != Some(&place) {
                    list.push(place);
                }
            }
        }
        Self {
            by_fact: sheets.map(Filed::new),
            others: others.into(),
        }
    }

    /// Hands out every list that can have a rule that matches, each in order.
    pub(super) fn each(&self, subject: Subject<'_, '_>, mut visit: impl FnMut(&[Place])) {
        let by = |fact: Fact| &self.by_fact[fact as usize];
        let visit = &mut visit;
        let connection = subject.connection();
        by(Fact::Port).each(&[connection.destination.port().to_be_bytes()], visit);
        if let Some(peer) = connection.channel.peer() {
            by(Fact::Principal).each(&peer.principal(), visit);
            by(Fact::Namespace).each(&[peer.namespace], visit);
            by(Fact::ServiceAccount).each(&[peer.namespace, "/", peer.service_account], visit);
        }
        if let Subject::Request(request) = subject {
            by(Fact::Method).each(&[request.method], visit);
            by(Fact::Path).each(&[request.path], visit);
        }
        visit(&self.others);
    }
}

impl<'r> Key<'r> {
    /// What a rule is best filed under; `None` if it can match whatever there is to see.
    fn of_rule(rule: &'r CompiledRule, kind: Kind, wanted: &Wanted<'r>) -> Option<Keys<'r>> {
        if rule.is_not_for(kind) {
            return Some(Keys::new());
        }
        let parts = [&rule.from, &rule.to].map(|entries| Self::of_entries(entries, kind, wanted));
        let when = rule.when.iter().map(|clause| Self::of_clause(clause, kind));
        rarest(parts.into_iter().chain(when), wanted)
    }

    /// The same of alternatives: each of them needs something.
    fn of_entries(entries: &'r [Entry], kind: Kind, wanted: &Wanted<'r>) -> Option<Keys<'r>> {
        let entry =
            |entry: &'r Entry| rarest(entry.iter().map(|clause| Self::of_clause(clause, kind)), wanted);
        let keys: Option<Vec<Keys<'r>>> = entries.iter().map(entry).collect();
        keys.filter(|keys| !keys.is_empty()).map(|keys| keys.concat())
    }

    /// The same of one field.
    fn of_clause(clause: &'r Clause, kind: Kind) -> Option<Keys<'r>> {
        if let Test::Request(_) = clause.test {
            match (kind, clause.effect) {
                (Kind::Request, _) => {}
                // Nothing is denied yet on account of requests.
                (Kind::Requests, Effect::Object) => return Some(Keys::new()),
                (Kind::Requests, Effect::Permit) | (Kind::Connection, _) => return None,
            }
        }
        if clause.sense == Sense::Excluded {
            return None;
        }
        match &clause.test {
            Test::Port(ports) => {
                let ports = ports.iter().map(|port| port.to_be_bytes().to_vec());
                Some(ports.map(|port| Self::whole(Fact::Port, port)).collect())
            }
            Test::Principal(texts) => Self::of_texts(Fact::Principal, texts),
            Test::Namespace(texts) => Self::of_texts(Fact::Namespace, texts),
            Test::ServiceAccount(accounts) => {
                let accounts = accounts.iter().map(|account| account.to_string().into_bytes());
                Some(
                    accounts
                        .map(|account| Self::whole(Fact::ServiceAccount, account))
                        .collect(),
                )
            }
            Test::Request(RequestTest::Method(texts)) => Self::of_texts(Fact::Method, texts),
            Test::Request(RequestTest::Path(texts, templates)) => {
                let mut keys = Self::of_texts(Fact::Path, texts)?;
                keys.extend(templates.iter().map(|template| Self {
                    fact: Fact::Path,
                    reach: Reach::Beginning,
                    text: template.beginning().into_bytes().into(),
                }));
                Some(keys)
            }
            Test::Address(..) | Test::ServerName(_) | Test::Request(_) => None,
        }
    }

    fn of_texts(fact: Fact, texts: &'r TextSet) -> Option<Keys<'r>> {
        let key = |(reach, text): (Reach, &'r [u8])| Self {
            fact,
            reach,
            text: text.into(),
        };
        Some(texts.needed()?.map(key).collect())
    }

    fn whole(fact: Fact, text: Vec<u8>) -> Self {
        Self {
            fact,
            reach: Reach::Whole,
            text: text.into(),
        }
    }
}

/// Of several needs, all of which a match has, the one that the fewest others have; then the smallest.
fn rarest<'r>(needs: impl Iterator<Item = Option<Keys<'r>>>, wanted: &Wanted<'r>) -> Option<Keys<'r>> {
    needs.flatten().min_by_key(|keys| {
        let most = keys.iter().filter_map(|key| wanted.get(key)).max();
        (most.copied().unwrap_or_default(), keys.len())
    })
}
