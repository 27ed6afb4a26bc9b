//! Follows the connections that the kernel half let go: tells of them, and ends what may not be any more.
//!
//! One task on the admin runtime. Invariant: whatever was let go is known here soon after, by its event or by a look
//! through all of them, and is judged by the configuration of that moment and at each change.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use mesh_common::kernel::{FlowKey, MAX_WORKERS, PASSAGE_OPEN, Passage, PassageEvent, PassageEventKind};
use tokio_util::sync::CancellationToken;

use super::{Direct, Passing};
use crate::{
    balance::Active,
    kernel::{
        diag::{self, SocketName},
        direct::Passages,
        raw,
    },
    listener::{
        measure::{Ends, Meters},
        serve::ACCEPT_DEADLINE,
    },
    node::{Netns, Pod},
    outbound,
    telemetry::{
        Cause, ConnectionState, Direction, Entry, Flow, FlowKind, FlowLog, FlowSubject, Opening, Process,
        Registry, Side, metrics::Metrics,
    },
};

/// The number that stands for no data worker.
pub const NO_WORKER: u32 = MAX_WORKERS as u32;

/// How often the ring is emptied. The kernel half wakes nobody for it.
const PERIOD: Duration = Duration::from_millis(10);
/// After this many empty looks it is looked at less often.
const QUIET_LOOKS: u32 = 50;
const QUIET_PERIOD: Duration = Duration::from_millis(100);
/// How often all connections are looked through, for events that were lost.
const ROUND: Duration = Duration::from_secs(10);
/// So many are asked about in one look through all.
const ASKED_AT_ONCE: usize = 2048;
/// A request that took longer than this to fail was lost at least once, on a network of one machine.
const LOST: Duration = Duration::from_millis(900);

/// Follows direct connections.
pub struct Watch {
    direct: Arc<Direct>,
    passages: Passages,
    ring: RingBuf<MapData>,
    registry: Arc<Registry>,
    flows: Arc<FlowLog>,
    meters: Meters,
    home: Arc<Netns>,
    /// By the cookie of the client's socket.
    open: HashMap<u64, Followed>,
    /// Which of the open ones are asked about next.
    turn: u64,
    /// Ended by order, as far as is known.
    revoked: HashMap<u64, (Passing, FlowKey)>,
    /// Of the open ones, those whose accepting socket was not seen yet.
    unproved: HashSet<u64>,
    /// Noted, but not open and not to be judged when they were last looked through.
    strays: HashSet<u64>,
    /// What had been turned away then.
    told_turned_away: u64,
    /// What had found no way then.
    told_wayless: u64,
}

/// What is needed to follow direct connections.
#[expect(missing_docs, reason = "the parts are named after what they are")]
pub struct WatchParts {
    pub passages: Passages,
    pub ring: RingBuf<MapData>,
    pub registry: Arc<Registry>,
    pub flows: Arc<FlowLog>,
    pub metrics: Arc<Metrics>,
    pub home: Arc<Netns>,
}

/// One connection.
struct Followed {
    entry: Entry,
    passing: Passing,
    flow: FlowKey,
    since: Instant,
    /// Keeps it counted at its endpoint.
    _active: Option<Active>,
}

impl Watch {
    /// Nothing is followed yet.
    pub fn new(direct: Arc<Direct>, parts: WatchParts) -> Self {
        let meters = Meters::new(parts.metrics, direct.trust_domain.clone());
        Self {
            direct,
            passages: parts.passages,
            ring: parts.ring,
            registry: parts.registry,
            flows: parts.flows,
            meters,
            home: parts.home,
            open: HashMap::new(),
            turn: 0,
            revoked: HashMap::new(),
            unproved: HashSet::new(),
            strays: HashSet::new(),
            told_turned_away: 0,
            told_wayless: 0,
        }
    }

    /// Takes over what an earlier agent let go, and follows everything until told to stop. What is open goes on then.
    /// Whether new connections are let go is `letting_go`'s to say.
    pub async fn run(mut self, letting_go: LettingGo, stop: CancellationToken) {
        let direct = Arc::clone(&self.direct);
        let mut versions = direct.store.subscribe();
        versions.mark_unchanged();
        for (_, passage) in self.passages.all() {
            self.passages.take(passage.client);
        }
        self.look_through();
        if letting_go == LettingGo::Allowed {
            direct.review();
        }
        let mut last_round = Instant::now();
        let mut quiet = 0;
        loop {
            let period = if quiet < QUIET_LOOKS { PERIOD } else { QUIET_PERIOD };
            let (changed, pods_changed) = tokio::select! {
                () = stop.cancelled() => return,
                changed = versions.changed() => (changed.is_ok(), false),
                () = direct.pods_changed.notified() => (true, true),
                () = tokio::time::sleep(period) => (false, false),
            };
            quiet += 1;
            if self.take_events() {
                quiet = 0;
            }
            self.prove();
            if changed {
                if letting_go == LettingGo::Allowed {
                    direct.review();
                }
                self.judge_all();
            }
            if pods_changed {
                self.look_through();
            }
            if last_round.elapsed() >= ROUND {
                last_round = Instant::now();
                let all = self.look_through();
                self.clear_strays(&all);
                self.tell_of_room();
                direct.forget_unused();
                self.meters.sweep();
            }
        }
    }

    fn take_events(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(item) = self.ring.next() else {
                break;
            };
            let event = raw::read_value::<PassageEvent>(&item);
            drop(item);
            any = true;
            let Some(event) = event else {
                continue;
            };
            match PassageEventKind::of(event.kind) {
                Some(PassageEventKind::Opened) => self.begin(event.flow, &event.passage),
                Some(PassageEventKind::Ended) => self.end(&event),
                None => {}
            }
        }
        any
    }

    /// Compares what is followed with what there is.
    fn look_through(&mut self) -> Vec<(FlowKey, Passage)> {
        let all = self.passages.all();
        // What began or ended meanwhile is told by its event.
        self.take_events();
        let there: HashSet<u64> = all.iter().map(|(_, passage)| passage.client).collect();
        for (flow, passage) in &all {
            if passage.state == PASSAGE_OPEN {
                self.begin(*flow, passage);
            }
        }
        self.revoked.retain(|cookie, _| there.contains(cookie));
        for (cookie, (passing, flow)) in &self.revoked {
            self.end_sockets(*cookie, passing, flow);
        }
        self.go_home();
        let mut gone: Vec<u64> = self
            .open
            .keys()
            .filter(|cookie| !there.contains(cookie))
            .copied()
            .collect();
        gone.extend(self.look_at_sockets());
        for cookie in gone {
            if let Some(followed) = self.open.remove(&cookie) {
                self.tell(&followed, FlowKind::Closed, None);
            }
        }
        all
    }

    /// Deals with what was noted and is neither followed nor on its way, for longer than from one look to the next: its end was
    /// not told, or one of its pods is not enrolled any more, so that nobody judges it.
    fn clear_strays(&mut self, all: &[(FlowKey, Passage)]) {
        let before = mem::take(&mut self.strays);
        let mut asked = 0;
        for (flow, passage) in all {
            let cookie = passage.client;
            if self.open.contains_key(&cookie) || self.revoked.contains_key(&cookie) {
                continue;
            }
            if !before.contains(&cookie) || asked == ASKED_AT_ONCE {
                self.strays.insert(cookie);
                continue;
            }
            asked += 1;
            match self.clear_stray(flow, passage) {
                Stray::Gone => self.passages.forget(flow, cookie),
                Stray::There => {
                    self.strays.insert(cookie);
                }
            }
        }
        self.go_home();
        let noted: HashSet<u64> = all.iter().map(|(_, passage)| passage.client).collect();
        let taken = self.passages.taken();
        // Twice without a connection: it failed before it was noted.
        let unnoted: Vec<u64> = taken
            .into_iter()
            .filter(|client| !noted.contains(client))
            .collect();
        for client in unnoted {
            if before.contains(&client) {
                self.passages.free(client);
            } else {
                self.strays.insert(client);
            }
        }
    }

    /// Ends what nobody can judge. What still asks is left alone.
    fn clear_stray(&self, flow: &FlowKey, passage: &Passage) -> Stray {
        let (client, addr): (SocketAddr, SocketAddr) = (flow.src.into(), flow.dst.into());
        let is_open = passage.state == PASSAGE_OPEN;
        let Some(source) = pod_in(&self.direct, passage.netns) else {
            if let Some(target) = self.direct.pods.at(addr.ip())
                && is_open
            {
                end_socket(&target, addr, client, passage.server);
            }
            return Stray::Gone;
        };
        let name = SocketName {
            local: client,
            remote: addr,
            cookie: passage.client,
        };
        match diag::carried(&source.netns, name) {
            Ok(None) => Stray::Gone,
            Ok(Some(_)) if is_open => {
                end_socket(&source, client, addr, passage.client);
                Stray::There
            }
            Ok(Some(_)) => Stray::There,
            Err(error) => {
                tracing::debug!(%error, "nothing is known of a direct connection");
                Stray::There
            }
        }
    }

    /// Says, now and then, that there is no room for more.
    fn tell_of_room(&mut self) {
        let turned_away = self.passages.turned_away();
        self.direct.turned_away.store(turned_away, Ordering::Relaxed);
        if turned_away > self.told_turned_away {
            tracing::warn!(
                connections = self.open.len(),
                carried = turned_away - self.told_turned_away,
                "no room for more direct connections; the agent carries the rest (see --direct-limit)"
            );
        }
        let wayless = self.direct.wayless.load(Ordering::Relaxed);
        if wayless > self.told_wayless {
            tracing::warn!(
                carried = wayless - self.told_wayless,
                "a pod, or all together, dial more addresses than are looked after; the agent carries the rest"
            );
        }
        (self.told_turned_away, self.told_wayless) = (turned_away, wayless);
    }

    /// Looks who has accepted. The network leads a connection to whoever bears the address there: that must be the pod that
    /// the policies were asked about.
    fn prove(&mut self) {
        for cookie in mem::take(&mut self.unproved) {
            let Some(followed) = self.open.get(&cookie) else {
                continue;
            };
            let passage = self.passages.get(&followed.flow);
            let Some(passage) = passage.filter(|passage| passage.client == cookie) else {
                // Its end is about to be told.
                continue;
            };
            let cause = match passage.server {
                0 if followed.since.elapsed() < ACCEPT_DEADLINE => {
                    self.unproved.insert(cookie);
                    continue;
                }
                0 => Cause::new("not-the-pod", "no socket of a pod of this node has accepted"),
                _ if passage.server_netns == followed.passing.target.netns.cookie() => continue,
                _ => Cause::new(
                    "not-the-pod",
                    "another pod has accepted than the one whose address it is",
                ),
            };
            if let Some(followed) = self.open.remove(&cookie) {
                self.revoke(cookie, followed, cause);
            }
        }
    }

    /// Asks the kernel what the connections have carried; at most [`ASKED_AT_ONCE`], in turn. Returns those whose socket
    /// is gone, although nobody said so: other programs on the pods' cgroup may keep ours from being told.
    fn look_at_sockets(&mut self) -> Vec<u64> {
        self.turn += 1;
        let turns = (self.open.len() / ASKED_AT_ONCE + 1) as u64;
        let mut gone = Vec::new();
        for (cookie, followed) in &self.open {
            if cookie % turns != self.turn % turns {
                continue;
            }
            let name = SocketName {
                local: followed.flow.src.into(),
                remote: followed.flow.dst.into(),
                cookie: *cookie,
            };
            match diag::carried(&followed.passing.source.netns, name) {
                Ok(Some(carried)) => followed.carried(carried.sent, carried.received),
                Ok(None) => gone.push(*cookie),
                Err(error) => tracing::debug!(%error, "nothing is known of a direct connection's bytes"),
            }
        }
        for cookie in &gone {
            if let Some(followed) = self.open.get(cookie) {
                self.passages.forget(&followed.flow, *cookie);
            }
        }
        self.go_home();
        gone
    }

    fn begin(&mut self, flow: FlowKey, passage: &Passage) {
        let cookie = passage.client;
        if self.open.contains_key(&cookie) || self.revoked.contains_key(&cookie) {
            return;
        }
        let direct = Arc::clone(&self.direct);
        let snapshot = Arc::clone(&direct.store.load());
        // Where a pod is not enrolled (yet, or any more) there is nobody to judge; it is looked for again.
        let Some(source) = pod_in(&direct, passage.netns) else {
            return;
        };
        let (client, addr): (SocketAddr, SocketAddr) = (flow.src.into(), flow.dst.into());
        let Some(passing) = direct.passing(&source, addr, Some(client)) else {
            return;
        };
        let dialled: SocketAddr = passage.dialled.into();
        direct.lock().used(&(passage.netns, dialled), Instant::now());
        let (destination, active) = outbound::stands_for(&snapshot, dialled, addr);
        let checked = passing.check(&snapshot);
        let opening = Opening {
            direction: Direction::Local,
            workload: Arc::clone(&source.workload),
            client,
            client_workload: Some(source.workload.key.clone()),
            original_destination: dialled,
            destination,
            process: Some(Process {
                pid: passage.pid,
                comm: passage.comm,
            }),
            peer: passing.guard.proof.id().cloned(),
            ruling: checked.as_ref().ok().cloned(),
            state: ConnectionState::Open,
        };
        // Takes no place of the workload's share: nothing of the agent is held for it but this.
        let claim = self.registry.claim(&opening);
        let entry = self.registry.open_as(opening, claim);
        let connection = entry.connection();
        connection.set_direct();
        connection.set_upstream(addr);
        self.registry.count_accepted();
        connection.measure(self.meters.tcp(&snapshot, &Ends::from(&**connection)));
        let followed = Followed {
            entry,
            passing,
            flow,
            since: Instant::now(),
            _active: active,
        };
        self.tell(&followed, FlowKind::Opened, None);
        match checked {
            Ok(_) => {
                self.open.insert(cookie, followed);
                self.unproved.insert(cookie);
            }
            Err(cause) => self.revoke(cookie, followed, cause),
        }
    }

    fn end(&mut self, event: &PassageEvent) {
        let cookie = event.passage.client;
        self.revoked.remove(&cookie);
        let Some(followed) = self.open.remove(&cookie) else {
            const SYN_SENT: u32 = 2;
            if event.before == SYN_SENT {
                self.failed(event);
            }
            return;
        };
        followed.carried(event.sent, event.received);
        self.tell(&followed, FlowKind::Closed, None);
    }

    /// A request was not answered, or refused.
    fn failed(&mut self, event: &PassageEvent) {
        let took = Duration::from_nanos(event.time.saturating_sub(event.passage.since));
        let dialled: SocketAddr = event.passage.dialled.into();
        let (kind, cause) = if took < LOST {
            (
                FlowKind::Refused,
                Cause::new("connection-refused", "the destination does not accept"),
            )
        } else {
            self.direct.shun((event.passage.netns, dialled));
            let text = "no answer on the node's own network; the next connections are carried by the agent";
            (FlowKind::TimedOut, Cause::new("timed-out", text))
        };
        let subject = FlowSubject::Request {
            workload: pod_in(&self.direct, event.passage.netns).map(|pod| Arc::clone(&pod.workload)),
            direction: Direction::Local,
            client: event.flow.src.into(),
            original_destination: dialled,
            process: Some(Process {
                pid: event.passage.pid,
                comm: event.passage.comm,
            }),
        };
        self.registry.count_refused();
        self.flows.push(Flow {
            time: SystemTime::now(),
            kind,
            subject,
            duration: None,
            cause: Some(cause),
        });
    }

    /// Judges all that is open by the snapshot of now.
    fn judge_all(&mut self) {
        let snapshot = Arc::clone(&self.direct.store.load());
        let mut denied = Vec::new();
        for (cookie, followed) in &self.open {
            match followed.passing.check(&snapshot) {
                Ok(ruling) => followed.entry.connection().set_ruling(ruling),
                Err(cause) => denied.push((*cookie, cause)),
            }
        }
        for (cookie, cause) in denied {
            if let Some(followed) = self.open.remove(&cookie) {
                self.revoke(cookie, followed, cause);
            }
        }
    }

    /// Ends a connection that may not be any more, at both ends.
    fn revoke(&mut self, cookie: u64, followed: Followed, cause: Cause) {
        let connection = followed.entry.connection();
        connection.set_unauthorized();
        tracing::info!(
            workload = %connection.workload.key,
            client = %connection.client,
            destination = %connection.original_destination,
            reason = %cause,
            "a direct connection is not permitted any more"
        );
        self.end_sockets(cookie, &followed.passing, &followed.flow);
        self.go_home();
        self.registry.count_failed();
        self.tell(&followed, FlowKind::Reset, Some(cause));
        self.revoked.insert(cookie, (followed.passing, followed.flow));
    }

    fn end_sockets(&self, cookie: u64, passing: &Passing, flow: &FlowKey) {
        let (client, addr): (SocketAddr, SocketAddr) = (flow.src.into(), flow.dst.into());
        let server = self.passages.get(flow).filter(|passage| passage.client == cookie);
        // The accepting end first: the client then learns of it by a reset, as of any server that breaks off.
        if let Some(server) = server.filter(|passage| passage.server != 0) {
            end_socket(&passing.target, addr, client, server.server);
        }
        end_socket(&passing.source, client, addr, cookie);
    }

    /// A thread keeps the namespace it is in alive.
    fn go_home(&self) {
        if let Err(error) = self.home.enter() {
            tracing::warn!(%error, "leaving a pod's network namespace failed");
        }
    }

    fn tell(&self, followed: &Followed, kind: FlowKind, cause: Option<Cause>) {
        self.flows.push(Flow {
            time: SystemTime::now(),
            kind,
            subject: FlowSubject::Connection(Arc::clone(followed.entry.connection())),
            duration: (kind != FlowKind::Opened).then(|| followed.since.elapsed()),
            cause,
        });
    }
}

impl Followed {
    /// So much in all.
    fn carried(&self, sent: u64, received: u64) {
        let connection = self.entry.connection();
        for (side, all) in [(Side::ToUpstream, sent), (Side::ToDownstream, received)] {
            connection.count(side, all.saturating_sub(connection.bytes(side)));
        }
    }
}

/// What became of a connection that nobody can judge.
enum Stray {
    Gone,
    There,
}

/// Whether new connections are let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettingGo {
    /// Those that need no agent.
    Allowed,
    /// None; what was let go before is followed to its end.
    Forbidden,
}

fn end_socket(pod: &Pod, local: SocketAddr, remote: SocketAddr, cookie: u64) {
    let name = SocketName {
        local,
        remote,
        cookie,
    };
    if let Err(error) = diag::destroy(&pod.netns, name) {
        tracing::error!(%local, %remote, %error, "a connection that is not permitted any more could not be ended");
    }
}

fn pod_in(direct: &Direct, netns_cookie: u64) -> Option<Arc<Pod>> {
    let pods = direct.pods.load();
    pods.values()
        .find(|pod| pod.netns.cookie() == netns_cookie)
        .cloned()
}
