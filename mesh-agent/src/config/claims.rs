//! Who gets which address when several objects want the same.
//!
//! `directory` hands in what each object holds and what it wants instead, in the order of precedence; out comes
//! whose wish is granted. Pure.
//!
//! A wish is granted as a whole or not at all, and only for addresses that are free or that their holders give up
//! with wishes of their own. Those are then granted with it: so two objects can swap their addresses.
//!
//! Invariant: no address has two owners, nobody loses an address that it does not give up, and no wish is refused
//! that could be granted beside those that are.

use std::collections::HashMap;
use std::net::IpAddr;

/// An object that holds addresses, wants some, or both.
#[derive(Clone, Debug)]
pub(super) struct Party<'a> {
    /// What it holds; no other party holds any of it.
    pub(super) holds: &'a [IpAddr],
    /// What it wants to hold instead, if it wants anything.
    pub(super) wants: Option<&'a [IpAddr]>,
}

/// Settles the wishes of all parties, the earlier going before the later, and tells whose are granted.
pub(super) fn settle(parties: &[Party<'_>]) -> Vec<bool> {
    let wishes = parties.iter().map(|party| match party.wants {
        Some(_) => Wish::Open,
        None => Wish::Refused,
    });
    let owners = parties.iter().enumerate();
    let mut settlement = Settlement {
        wishes: wishes.collect(),
        owners: owners
            .flat_map(|(number, party)| party.holds.iter().map(move |ip| (*ip, number)))
            .collect(),
    };
    for number in 0..parties.len() {
        if settlement.wishes[number] == Wish::Open {
            settlement.decide(number, parties);
        }
    }
    let wishes = settlement.wishes.into_iter();
    wishes.map(|wish| wish == Wish::Granted).collect()
}

/// Who has what, and who may get what it wants, so far.
#[derive(Debug)]
struct Settlement {
    wishes: Vec<Wish>,
    owners: HashMap<IpAddr, usize>,
}

impl Settlement {
    fn decide(&mut self, number: usize, parties: &[Party<'_>]) {
        match self.movers(number, parties) {
            Ok(movers) => self.grant(&movers, parties),
            Err(refused) => refused
                .into_iter()
                .for_each(|number| self.wishes[number] = Wish::Refused),
        }
    }

    /// All whose wishes have to be granted for the first one's to be granted, or those whose never can be.
    fn movers(&self, first: usize, parties: &[Party<'_>]) -> Result<Vec<usize>, Vec<usize>> {
        let mut movers = vec![first];
        // Who made a mover move.
        let mut causes = HashMap::from([(first, None)]);
        let mut claimed = HashMap::new();
        let mut next = 0;
        while let Some(&mover) = movers.get(next) {
            next += 1;
            for ip in parties[mover].wants.into_iter().flatten() {
                if claimed.insert(*ip, mover).is_some_and(|other| other != mover) {
                    return Err(vec![first]);
                }
                let Some(&holder) = self.owners.get(ip) else {
                    continue;
                };
                let stays = || {
                    let mut wants = parties[holder].wants.into_iter().flatten();
                    self.wishes[holder] != Wish::Open || wants.any(|wanted| wanted == ip)
                };
                if holder != mover && stays() {
                    let cause = |number: &usize| causes.get(number).copied().flatten();
                    return Err(std::iter::successors(Some(mover), cause).collect());
                }
                causes.entry(holder).or_insert_with(|| {
                    movers.push(holder);
                    Some(mover)
                });
            }
        }
        Ok(movers)
    }

    fn grant(&mut self, movers: &[usize], parties: &[Party<'_>]) {
        for mover in movers {
            for ip in parties[*mover].holds {
                self.owners.remove(ip);
            }
        }
        for mover in movers {
            let wants = parties[*mover].wants.into_iter().flatten();
            self.owners.extend(wants.map(|ip| (*ip, *mover)));
            self.wishes[*mover] = Wish::Granted;
        }
    }
}

/// What has become of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Open,
    Granted,
    /// For good: what stands in its way does not go away.
    Refused,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Numbers = Vec<u8>;

    fn ips(numbers: &[u8]) -> Vec<IpAddr> {
        numbers.iter().map(|number| [10, 0, 0, *number].into()).collect()
    }

    fn granted(list: &[(Numbers, Option<Numbers>)]) -> Vec<bool> {
        let held: Vec<_> = list.iter().map(|(holds, _)| ips(holds)).collect();
        let wanted: Vec<_> = list.iter().map(|(_, wants)| wants.as_deref().map(ips)).collect();
        let parties: Vec<_> = held
            .iter()
            .zip(&wanted)
            .map(|(holds, wants)| Party {
                holds,
                wants: wants.as_deref(),
            })
            .collect();
        settle(&parties)
    }

    fn check<const N: usize>(list: [(&[u8], &[u8]); N], expected: [bool; N]) {
        let list = list.map(|(holds, wants)| (holds.to_vec(), Some(wants.to_vec())));
        assert_eq!(granted(&list), expected, "{list:?}");
    }

    #[test]
    fn wishes_for_what_is_free_or_given_up_are_granted() {
        check([(&[], &[1]), (&[], &[2, 3])], [true, true]);
        check([(&[1], &[2]), (&[2], &[1])], [true, true]);
        check([(&[1], &[2]), (&[2], &[3]), (&[3], &[1, 4])], [true, true, true]);
        check([(&[], &[1]), (&[1], &[1, 2])], [false, true]);
        check([(&[], &[1]), (&[], &[1]), (&[], &[2])], [true, false, true]);
    }

    #[test]
    fn a_wish_that_fails_stands_in_no_ones_way() {
        // The first wants 2, which its holder gives up only for 3, which the first wants as well.
        check([(&[1], &[2, 3]), (&[2], &[3])], [false, true]);
        // A chain whose last link stays.
        check(
            [(&[1], &[2]), (&[2], &[3]), (&[3], &[3]), (&[], &[4])],
            [false, false, true, true],
        );
    }

    fn any_parties() -> impl Strategy<Value = Vec<(Numbers, Option<Numbers>)>> {
        let numbers = || prop::collection::btree_set(0u8..7, 0..3);
        prop::collection::vec((numbers(), prop::option::weighted(0.8, numbers())), 0..7).prop_map(|list| {
            let mut taken = BTreeSet::new();
            list.into_iter()
                .map(|(holds, wants)| {
                    let holds = holds.into_iter().filter(|number| taken.insert(*number));
                    (holds.collect(), wants.map(|wants| wants.into_iter().collect()))
                })
                .collect()
        })
    }

    /// Whether all addresses are distinct if these wishes are granted.
    fn possible(list: &[(Numbers, Option<Numbers>)], granted: &[bool]) -> bool {
        let mut taken = BTreeSet::new();
        list.iter().zip(granted).all(|((holds, wants), granted)| {
            let has = if *granted { wants.as_ref() } else { Some(holds) };
            has.is_some_and(|has| has.iter().all(|number| taken.insert(*number)))
        })
    }

    proptest! {
        #[test]
        fn as_much_is_granted_as_can_be(list in any_parties()) {
            let granted = granted(&list);
            prop_assert!(possible(&list, &granted));
            // Whoever is refused cannot be served along with those granted before it, whatever the later ones get.
            for (n, (_, wants)) in list.iter().enumerate() {
                let better = (0u32..1 << list.len()).any(|bits| {
                    let other: Vec<_> = (0..list.len()).map(|m| bits >> m & 1 == 1).collect();
                    other[n] && (0..n).all(|m| other[m] || !granted[m]) && possible(&list, &other)
                });
                prop_assert!(granted[n] || wants.is_none() || !better, "{} went before", n);
            }
        }
    }
}
