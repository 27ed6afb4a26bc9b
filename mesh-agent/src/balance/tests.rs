//! Tests of the choice and of the counters.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

mod simulation;

#[derive(Default)]
struct Target {
    name: usize,
    load: Arc<Load>,
}

impl Loaded for Target {
    fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

fn targets(count: usize) -> Vec<Arc<Target>> {
    (0..count)
        .map(|name| {
            Arc::new(Target {
                name,
                load: Arc::default(),
            })
        })
        .collect()
}

#[test]
fn none_of_none_and_the_only_one_of_one() {
    let mut rng = SmallRng::seed_from_u64(1);
    assert!(pick(&targets(0), &mut rng).is_none());
    let one = targets(1);
    let _busy = Active::on(&*one[0]);
    assert_eq!(pick(&one, &mut rng).map(|target| target.name), Some(0));
}

#[test]
fn of_two_the_less_loaded_always_wins() {
    let mut rng = SmallRng::seed_from_u64(2);
    let two = targets(2);
    let _busy = Active::on(&*two[0]);
    for _ in 0..100 {
        assert_eq!(pick(&two, &mut rng).map(|target| target.name), Some(1));
    }
}

#[test]
fn the_most_loaded_is_never_picked_and_the_others_are() {
    let mut rng = SmallRng::seed_from_u64(3);
    let all = targets(5);
    let _busy = Active::on(&*all[2]);
    let mut hits = [0; 5];
    for _ in 0..10_000 {
        hits[pick(&all, &mut rng).unwrap().name] += 1;
    }
    assert_eq!(hits[2], 0);
    // The idle ones tie with each other: 2,500 each, with a standard deviation of 43.
    for name in [0, 1, 3, 4] {
        assert!((2_200..2_800).contains(&hits[name]), "{hits:?}");
    }
}

#[test]
fn connections_spread_evenly() {
    let mut rng = SmallRng::seed_from_u64(4);
    let all = targets(10);
    let connections: Vec<Active> = (0..1_000)
        .map(|_| Active::on(&**pick(&all, &mut rng).unwrap()))
        .collect();
    for target in &all {
        // Two choices keep the fullest within a few connections of the mean, whatever their number.
        assert!(
            (95..=105).contains(&target.load.active()),
            "{}",
            target.load.active()
        );
    }
    drop(connections);
    assert!(all.iter().all(|target| target.load.active() == 0));
}

#[test]
fn a_guard_outlives_its_endpoint() {
    let target = Target::default();
    let load = Arc::clone(&target.load);
    let guard = Active::on(&target);
    drop(target);
    assert_eq!(load.active(), 1);
    drop(guard);
    assert_eq!(load.active(), 0);
}
