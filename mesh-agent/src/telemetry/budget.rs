//! What one workload may take up in this agent: connections, requests, bytes held, time of the data workers.
//!
//! [`Claim`] has places and time; this file has the bytes. What a slow reader does not take is either held by the agent, and then counted here, or still at the other agent,
//! for want of room in the stream's window. The more streams a workload has, the smaller are their windows, so that all
//! of them filled stay below the limit: an eighth of it at once at full size, then half as much for each
//! doubling. Windows shrink at once and grow later: telling all tunnels of every change would cost more than the requests.
//! Who is over the limit reads in small pieces, one at a time: slower, but never not at all.
//!
//! Invariant: no connection waits for another one's reader.

mod claim;
mod limits;
mod mark;
mod turn;

use std::{
    collections::HashMap,
    fmt::Display,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mesh_common::model::ObjectKey;
use tokio::{sync::watch, time};

use self::{claim::Taken, mark::Mark};
pub use self::{
    claim::{Claim, Full, Guest, Kind, Place},
    limits::{Limits, Resource},
    mark::Limited,
    turn::TURN,
};

/// The window of a stream whose workload has few of them, in bytes.
pub const WINDOW_MOST: usize = 1 << 20;
/// The window of a stream however many there are, in bytes.
pub const WINDOW_LEAST: usize = 16 << 10;
/// After a window has shrunk it stays so for this long.
pub const WINDOW_REST: Duration = Duration::from_secs(1);
/// What one workload may make the agent hold unless somebody says otherwise, in bytes.
const LIMIT: usize = 32 << 20;
/// The least that makes sense as a limit, in bytes: one full window, four times. See [`window`].
pub const LIMIT_LEAST: usize = 4 * WINDOW_MOST;
/// The windows that streams should have make one in so many of the limit.
const WINDOWS: usize = 4;
/// Read at once by a connection whose workload is over its limit, in bytes.
const SMALL: usize = 4 << 10;

/// Workloads that are remembered though they have nothing now, with what they were denied.
const REMEMBERED: usize = 1024;

/// The budgets of all workloads that have, or had, connections.
#[derive(Debug)]
pub struct Budgets {
    limits: Limits,
    of: Mutex<HashMap<ObjectKey, Arc<Budget>>>,
}

/// What one workload takes up, and may.
#[derive(Debug)]
pub struct Budget {
    workload: ObjectKey,
    limits: Limits,
    streams: AtomicUsize,
    held: AtomicUsize,
    window: AtomicUsize,
    /// The same, for those who wait for a change.
    windows: watch::Sender<usize>,
    least: watch::Sender<usize>,
    shrunk: Mutex<Option<time::Instant>>,
    taken: Taken,
    guests: Mutex<HashMap<IpAddr, Weak<Taken>>>,
    /// Nanoseconds of data workers.
    time: AtomicU64,
    mark: Mark,
}

/// The place of one stream; leaving it gives the others more room.
#[derive(Debug)]
pub struct Seat(Arc<Budget>);

impl Budgets {
    /// The same limits for each workload.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            of: Mutex::default(),
        })
    }

    /// The budget of a workload.
    pub fn of(&self, workload: &ObjectKey) -> Arc<Budget> {
        let mut budgets = self.lock();
        if let Some(budget) = budgets.get(workload) {
            return Arc::clone(budget);
        }
        if budgets.len() >= REMEMBERED {
            // A moment to forget those that have nothing.
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = Arc::new(Budget::new(workload, self.limits));
        budgets.insert(workload.clone(), Arc::clone(&budget));
        budget
    }

    /// Who wants places and time on the side of `workload`: itself, or one who connects to it.
    pub fn claim(self: &Arc<Self>, workload: &ObjectKey, guest: Option<Guest>) -> Arc<Claim> {
        Claim::new(self, workload, guest)
    }

    /// Those of all workloads that are known.
    pub fn all(&self) -> Vec<Arc<Budget>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Arc<Budget>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    fn new(workload: &ObjectKey, limits: Limits) -> Self {
        Self {
            workload: workload.clone(),
            limits,
            streams: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            window: AtomicUsize::new(window(limits.bytes, 0)),
            windows: watch::Sender::new(window(limits.bytes, 0)),
            least: watch::Sender::new(window(limits.bytes, 0)),
            shrunk: Mutex::default(),
            taken: Taken::default(),
            guests: Mutex::default(),
            time: AtomicU64::new(0),
            mark: Mark::default(),
        }
    }

    /// Whose it is.
    pub fn workload(&self) -> &ObjectKey {
        &self.workload
    }

    /// What may be held, in bytes.
    pub fn limit(&self) -> usize {
        self.limits.bytes
    }

    /// How many places are taken.
    pub fn count(&self, kind: Kind) -> usize {
        self.taken.count(kind)
    }

    /// What its connections took of the data workers, but for the last millisecond of each.
    pub fn worker_time(&self) -> Duration {
        Duration::from_nanos(self.time.load(Ordering::Relaxed))
    }

    /// What it was denied since it is known.
    pub fn limited(&self) -> Vec<Limited> {
        self.mark.all()
    }

    /// What it was denied lately: a mark that goes by itself.
    pub fn limited_lately(&self) -> Vec<Limited> {
        self.mark.lately(SystemTime::now())
    }

    /// What is held now for readers that do not take it, in bytes; what lies in windows is not known.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts bytes that stay for a while.
    pub fn hold(&self, bytes: usize) {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before < self.limits.bytes && before + bytes >= self.limits.bytes {
            let why = format!(
                "slow readers made the agent hold {} bytes, more than one may (--buffer-limit)",
                before + bytes
            );
            self.tell(Resource::Bytes, &why, Instant::now());
        }
    }

    /// Counts bytes that are gone.
    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether no more should be held than is needed to go on.
    pub fn is_spent(&self) -> bool {
        self.held() >= self.limits.bytes
    }

    /// How much of `room` may be read at once.
    pub fn room(&self, room: usize) -> usize {
        if self.is_spent() { room.min(SMALL) } else { room }
    }

    /// Counts a stream in a tunnel.
    pub fn join(self: &Arc<Self>) -> Seat {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.settle();
        Seat(Arc::clone(self))
    }

    /// The window that each stream of the workload is to have now.
    pub fn window(&self) -> usize {
        self.window.load(Ordering::Relaxed)
    }

    /// The window that each stream of the workload is to have, as it changes. It grows when somebody joins, leaves, or asks
    /// to [`Budget::settle`], [`WINDOW_REST`] after it shrank.
    pub fn windows(&self) -> watch::Receiver<usize> {
        self.windows.subscribe()
    }

    /// The smallest that window has ever been: it only shrinks, and few times.
    pub fn least_window(&self) -> watch::Receiver<usize> {
        self.least.subscribe()
    }

    /// What the windows of all streams make at most while each is as it should be, but for those with [`WINDOW_LEAST`].
    pub fn windows_together(&self) -> usize {
        self.limits.bytes / WINDOWS
    }

    /// Tells that the workload wanted more than it may have.
    fn tell(&self, resource: Resource, why: &dyn Display, now: Instant) {
        self.mark.tell(&self.workload, resource, why, now);
    }

    fn count_time(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.time.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What a guest from there has.
    fn guest(&self, addr: IpAddr) -> Arc<Taken> {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = guests.get(&addr).and_then(Weak::upgrade) {
            return taken;
        }
        if guests.len() == guests.capacity() {
            // Before room is made for more: a moment to forget those that are gone.
            guests.retain(|_, taken| taken.strong_count() > 0);
        }
        let taken = Arc::default();
        guests.insert(addr, Arc::downgrade(&taken));
        taken
    }

    #[cfg(test)]
    fn guests(&self) -> usize {
        self.guests.lock().unwrap().len()
    }

    /// Brings the window to what the number of streams asks for, if it may.
    pub fn settle(&self) {
        let due = self.due(self.window());
        if due == self.window() {
            return;
        }
        let mut shrunk = self.shrunk.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Somebody may have been here before, or have joined meanwhile and seen that nothing was to be done.
            let (now, due) = (self.window(), self.due(self.window()));
            if due < now {
                *shrunk = Some(time::Instant::now());
            } else if due == now || shrunk.is_some_and(|shrunk| shrunk.elapsed() < WINDOW_REST) {
                return;
            }
            self.window.store(due, Ordering::Relaxed);
            self.windows.send_replace(due);
            self.least
                .send_if_modified(|least| due < std::mem::replace(least, due.min(*least)));
        }
    }

    fn due(&self, now: usize) -> usize {
        let streams = self.streams.load(Ordering::Relaxed);
        match window(self.limits.bytes, streams) {
            less if less < now => less,
            // Given back only once twice as many would still have it: no back and forth.
            _ => window(self.limits.bytes, streams * 2).max(now),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.settle();
    }
}

/// The window for each of so many streams.
///
/// The full one as long as that makes a quarter of the limit; then half for each doubling. Each doubling that fills up
/// therefore adds an eighth of the limit to what the ones before it hold; from the full window down to the least there
/// are six, which with the first quarter makes the limit.
fn window(limit: usize, streams: usize) -> usize {
    (limit / WINDOWS / streams.max(1).next_power_of_two()).clamp(WINDOW_LEAST, WINDOW_MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn windows_shrink_with_the_streams_and_grow_again() {
        let budgets = Budgets::new(Limits::default());
        let budget = budgets.of(&ObjectKey::new("a", "b"));
        let windows = budget.windows();
        let mut seats: Vec<Seat> = (0..8).map(|_| budget.join()).collect();
        assert_eq!(*windows.borrow(), WINDOW_MOST);
        seats.push(budget.join());
        assert_eq!(*windows.borrow(), WINDOW_MOST / 2);
        seats.truncate(4);
        assert_eq!(*windows.borrow(), WINDOW_MOST / 2, "so soon");
        seats.extend((0..4).map(|_| budget.join()));
        time::advance(WINDOW_REST).await;
        seats.truncate(5);
        assert_eq!(*windows.borrow(), WINDOW_MOST / 2);
        seats.truncate(4);
        assert_eq!(*windows.borrow(), WINDOW_MOST);
        assert_eq!(*budget.least_window().borrow(), WINDOW_MOST / 2);
        seats.extend((0..2000).map(|_| budget.join()));
        assert_eq!(*windows.borrow(), WINDOW_LEAST);
        drop(seats);
        assert_eq!(*windows.borrow(), WINDOW_LEAST);
        time::advance(WINDOW_REST).await;
        budget.settle();
        assert_eq!(*windows.borrow(), WINDOW_MOST);
        assert_eq!(*budget.least_window().borrow(), WINDOW_LEAST);
    }

    #[test]
    fn a_spent_budget_leaves_room_to_go_on() {
        let budget = Budgets::new(Limits::default()).of(&ObjectKey::new("a", "b"));
        assert_eq!(budget.room(100_000), 100_000);
        budget.hold(LIMIT - 1);
        assert_eq!(budget.limited(), []);
        budget.hold(1);
        assert!(budget.is_spent());
        assert_eq!(budget.limited()[0].resource, Resource::Bytes);
        assert_eq!(budget.room(100_000), SMALL);
        budget.release(1);
        assert_eq!(budget.room(100_000), 100_000);
    }

    #[test]
    fn a_workload_has_one_budget_and_many_are_forgotten() {
        let budgets = Budgets::new(Limits::default());
        let used = budgets.of(&ObjectKey::new("n", "used"));
        for number in 0..2 * REMEMBERED {
            budgets.of(&ObjectKey::new("n", number.to_string()));
        }
        assert!(Arc::ptr_eq(&used, &budgets.of(&ObjectKey::new("n", "used"))));
        assert!(budgets.all().len() <= REMEMBERED);
    }

    proptest! {
        /// Streams come and go and each may fill the smallest window it has had since it came: at the time when
        /// all stand still, what is held is below the limit.
        #[test]
        fn filled_windows_stay_below_the_limit(
            limit in LIMIT_LEAST..=64 * LIMIT,
            steps in proptest::collection::vec((any::<bool>(), 1_usize..200), 1..60),
        ) {
            let limits = Limits { bytes: limit, ..Limits::default() };
            let budget = Budgets::new(limits).of(&ObjectKey::new("a", "b"));
            let windows = budget.windows();
            // Each with what it holds: a full window of when it came.
            let mut streams: Vec<(Seat, usize)> = Vec::new();
            for (come, count) in steps {
                if come {
                    for _ in 0..count {
                        let seat = budget.join();
                        streams.push((seat, *windows.borrow()));
                    }
                } else {
                    streams.truncate(streams.len().saturating_sub(count));
                }
                let held: usize = streams.iter().map(|(_, window)| window).sum();
                prop_assert!(held <= limit + streams.len() * WINDOW_LEAST, "{held} bytes in {} streams", streams.len());
            }
        }
    }
}
