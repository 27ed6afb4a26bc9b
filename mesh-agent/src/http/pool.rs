//! Connections to servers that wait for another request.
//!
//! A [`Shelf`] holds those that serve one client's requests to one server: whoever takes from it decides by its key, or by
//! owning it, that nobody rides another's connection. Invariant: a connection on a shelf carries no message, and one on which
//! anything has arrived meanwhile is not used again.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{LIMITS, Reader, Writer, h1::Limits, io};
use crate::upstream::session::Session;

/// An unused connection goes after this long.
const IDLE: Duration = Duration::from_secs(60);
/// A request that must not be sent twice takes only a connection used so recently that its server hardly closes it now.
const FRESH: Duration = Duration::from_secs(1);
/// Who gave up more requests than this of late gets HTTP/2 connections of its own. Servers may take what it does for an attack (the h2
/// crate's do for 20 resets that they had not looked at) and end a connection, with everybody's requests in it.
const GIVEN_UP_MAX: usize = 4;
/// How long after the last one.
const FICKLE: Duration = Duration::from_secs(10);
/// Clients' connections of which that is remembered, on one shelf.
const FICKLE_MAX: usize = 256;
/// Unused connections kept on one shelf.
const IDLE_MAX: usize = 128;

/// An HTTP/1 connection to a server.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    used: Instant,
}

/// Connections of one client to one server.
#[derive(Default)]
pub struct Shelf {
    idle: Mutex<Vec<Connection>>,
    shared: Mutex<SharedOnes>,
}

/// HTTP/2 connections to a server.
#[derive(Default)]
struct SharedOnes {
    connections: Vec<Shared>,
    /// Those who give up requests, by the client's end of their connections.
    fickle: HashMap<SocketAddr, Fickle>,
}

/// A client's connection on which requests were given up before their answers.
struct Fickle {
    count: usize,
    until: Instant,
}

/// An HTTP/2 connection to a server.
struct Shared {
    connection: Session,
    used: Instant,
    /// Whose alone it is; of none, all others'.
    of: Option<SocketAddr>,
}

impl SharedOnes {
    /// Whose connections a client's connection uses: its own, or those of all.
    fn apart(&self, asker: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let fickle = self.fickle.get(&asker)?;
        (fickle.count >= GIVEN_UP_MAX && now < fickle.until).then_some(asker)
    }
}

/// The shelves of one data worker, by key.
pub struct Shelves<K> {
    shelves: Mutex<HashMap<K, Arc<Shelf>>>,
}

/// Whether a request may be sent again when its connection breaks before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It may.
    Harmless,
    /// It may not: it could take effect twice.
    Harmful,
}

impl Connection {
    /// Over an established TCP connection.
    pub(super) fn new(stream: TcpStream, limits: Limits) -> Self {
        let (read, write) = io::split(stream);
        Self {
            reader: Reader::new(read, limits),
            writer: Writer::new(write),
            used: Instant::now(),
        }
    }

    /// Nothing has arrived since the last answer: neither an end nor bytes that nobody asked for. Costs no system call:
    /// the runtime knows.
    fn is_quiet(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        matches!(self.reader.poll_readable(&mut nobody), Poll::Pending)
    }
}

impl Shelf {
    /// An unused connection, the one used last.
    pub(super) fn take(&self, repeat: Repeat, now: Instant) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
            let patience = match repeat {
                Repeat::Harmless => IDLE,
                Repeat::Harmful => FRESH,
            };
            if now.saturating_duration_since(connection.used) > patience {
                // Those below it are older still, but may serve others.
                if repeat == Repeat::Harmful {
                    idle.push(connection);
                    return None;
                }
            } else if connection.is_quiet() {
                return Some(connection);
            }
            connection.end();
        }
        None
    }

    /// Puts a connection back.
    pub(super) fn put(&self, mut connection: Connection, now: Instant) {
        connection.used = now;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        } else {
            connection.end();
        }
    }

    /// Puts a connection there on which nothing was said yet.
    pub fn begin_with(&self, stream: TcpStream) {
        self.put(Connection::new(stream, LIMITS), Instant::now());
    }

    /// A shared connection with room for another request of `asker`, which is a client's connection.
    pub(super) fn shared(&self, asker: SocketAddr, now: Instant) -> Option<Session> {
        let mut shared = lock(&self.shared);
        let whose = shared.apart(asker, now);
        let one = shared
            .connections
            .iter_mut()
            .find(|one| one.of == whose && one.connection.has_room())?;
        one.used = now;
        Some(one.connection.clone())
    }

    /// Keeps a shared connection that was made for `asker`.
    pub(super) fn share(&self, connection: Session, asker: SocketAddr, now: Instant) {
        let mut shared = lock(&self.shared);
        let of = shared.apart(asker, now);
        shared.connections.push(Shared {
            connection,
            used: now,
            of,
        });
    }

    /// A request was given up by `asker` before its answer.
    pub(super) fn given_up(&self, asker: SocketAddr, now: Instant) {
        let mut shared = lock(&self.shared);
        shared.fickle.retain(|_, fickle| now < fickle.until);
        if shared.fickle.len() >= FICKLE_MAX && !shared.fickle.contains_key(&asker) {
            return;
        }
        let fickle = shared
            .fickle
            .entry(asker)
            .or_insert(Fickle { count: 0, until: now });
        fickle.count += 1;
        fickle.until = now + FICKLE;
    }

    /// Gives up a shared connection that takes no requests any more.
    pub(super) fn give_up(&self, broken: &Session) {
        lock(&self.shared)
            .connections
            .retain(|one| !one.connection.is(broken));
    }

    /// Lets go of what was not used for a while, or was closed by its server.
    pub fn sweep(&self, now: Instant) {
        lock(&self.idle).retain_mut(|connection| {
            let keep = now.saturating_duration_since(connection.used) < IDLE && connection.is_quiet();
            if !keep {
                connection.in_order();
            }
            keep
        });
        lock(&self.shared)
            .connections
            .retain(|one| one.connection.streams() > 0 || now.saturating_duration_since(one.used) < IDLE);
    }

    /// Lets everything go that carries no request.
    pub fn clear(&self) {
        lock(&self.idle).drain(..).for_each(Connection::end);
        lock(&self.shared).connections.clear();
    }

    fn is_empty(&self) -> bool {
        lock(&self.idle).is_empty() && lock(&self.shared).connections.is_empty()
    }
}

impl Connection {
    /// Its two halves.
    pub(super) fn into_halves(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    fn in_order(&self) {
        self.reader.io().in_order();
    }

    /// Closes it in order.
    fn end(self) {
        self.in_order();
    }
}

impl<K: Hash + Eq> Shelves<K> {
    /// The shelf with this key.
    pub fn shelf(&self, key: K) -> Arc<Shelf> {
        Arc::clone(lock(&self.shelves).entry(key).or_default())
    }

    /// Lets go of what nobody uses.
    pub fn sweep(&self, now: Instant) {
        lock(&self.shelves).retain(|_, shelf| {
            shelf.sweep(now);
            Arc::strong_count(shelf) > 1 || !shelf.is_empty()
        });
    }

    /// Lets everything go that carries no request.
    pub fn clear(&self) {
        lock(&self.shelves).drain().for_each(|(_, shelf)| shelf.clear());
    }
}

impl<K> Default for Shelves<K> {
    fn default() -> Self {
        Self {
            shelves: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
