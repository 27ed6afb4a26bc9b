//! A client that sends requests at a steady pace to endpoints that take their time: who gets how many.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// Time in microseconds.
struct World {
    endpoints: Vec<Arc<Target>>,
    /// How long each takes for an answer.
    takes: Vec<u64>,
    now: u64,
    rng: SmallRng,
    /// By the time of its answer: whose, and since when.
    open: BinaryHeap<Reverse<(u64, usize, u64)>>,
    guards: Vec<Vec<Active>>,
    sent: Vec<u64>,
    most_open: Vec<u32>,
}

impl World {
    fn new(takes: &[u64]) -> Self {
        let mut world = Self {
            endpoints: Vec::new(),
            takes: Vec::new(),
            now: 0,
            rng: SmallRng::seed_from_u64(7),
            open: BinaryHeap::new(),
            guards: Vec::new(),
            sent: Vec::new(),
            most_open: Vec::new(),
        };
        for takes in takes {
            world.add(*takes);
        }
        world
    }

    fn add(&mut self, takes: u64) {
        self.endpoints.push(Arc::new(Target {
            name: self.endpoints.len(),
            load: Arc::default(),
        }));
        self.takes.push(takes);
        self.guards.push(Vec::new());
        self.sent.push(0);
        self.most_open.push(0);
    }

    fn moment(&self) -> Moment {
        Moment::after(Duration::from_micros(self.now))
    }

    /// Sends `count` requests, one each `every` microseconds, and says how many each endpoint got.
    fn run(&mut self, count: u64, every: u64) -> Vec<u64> {
        self.sent.fill(0);
        self.most_open.fill(0);
        for _ in 0..count {
            self.now += every;
            self.answer();
            let to = pick_fastest(&self.endpoints, self.moment(), &mut self.rng).unwrap();
            let to = to.name;
            self.guards[to].push(Active::on(&*self.endpoints[to]));
            self.open.push(Reverse((self.now + self.takes[to], to, self.now)));
            self.sent[to] += 1;
            self.most_open[to] = self.most_open[to].max(self.endpoints[to].load.active());
        }
        self.sent.clone()
    }

    fn answer(&mut self) {
        while let Some(Reverse((at, from, since))) = self.open.peek().copied()
            && at <= self.now
        {
            self.open.pop();
            let guard = self.guards[from].pop().unwrap();
            guard.answered(
                Duration::from_micros(at - since),
                Moment::after(Duration::from_micros(at)),
            );
        }
    }
}

#[test]
fn equals_get_equal_shares() {
    let sent = World::new(&[2_000; 4]).run(40_000, 250);
    assert!(sent.iter().all(|sent| (9_000..11_000).contains(sent)), "{sent:?}");
}

#[test]
fn a_slow_one_gets_few_and_is_found_out_again_when_it_recovers() {
    let mut world = World::new(&[1_000, 1_000, 20_000]);
    let sent = world.run(60_000, 500);
    // By load alone, in 30 s: each of its requests keeps it busy 20 times as long.
    assert!(sent[2] < 60_000 / 100, "{sent:?}");
    assert!(sent[2] > 0, "{sent:?}");
    world.takes[2] = 1_000;
    // It is tried again after a while, and the average comes down with its answers.
    world.run(120_000, 500);
    let sent = world.run(60_000, 500);
    assert!(sent[2] > 10_000, "{sent:?}");
}

#[test]
fn all_of_them_slow_is_no_reason_to_prefer_one() {
    let sent = World::new(&[50_000, 50_000]).run(10_000, 1_000);
    assert!(sent.iter().all(|sent| (4_000..6_000).contains(sent)), "{sent:?}");
}

#[test]
fn a_new_one_is_not_flooded() {
    let mut world = World::new(&[5_000, 5_000, 5_000]);
    world.run(20_000, 100);
    // As slow as can be: nothing of it is known for long.
    world.add(2_000_000);
    world.run(20_000, 100);
    let (new, others) = world.most_open.split_last().unwrap();
    assert!(*new <= others.iter().max().unwrap() + 1, "{:?}", world.most_open);
    world.takes[3] = 5_000;
    world.run(400_000, 100);
    let sent = world.run(40_000, 100);
    assert!(sent[3] > 5_000, "its share after it recovered: {sent:?}");
}

#[test]
fn one_that_fails_at_once_does_not_draw_everything() {
    let mut world = World::new(&[2_000, 2_000]);
    world.run(1_000, 500);
    let guard = Active::on(&*world.endpoints[1]);
    guard.failed(Duration::from_micros(50), world.moment());
    drop(guard);
    let sent = world.run(10_000, 500);
    assert!(sent[1] < 1_000, "{sent:?}");
}
