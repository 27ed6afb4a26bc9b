//! What a connection's metrics are named by.
//!
//! `serve` asks [`Meters`] once for each connection that opens; an engine that serves requests asks once for each
//! connection and destination. Invariant: the same ends have the same labels as long as the configuration stays.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_common::model::{ObjectKey, SpiffeId, TrustDomain, Workload};

use super::journey::identity_of;
use crate::{
    state::Snapshot,
    telemetry::{
        Connection, Destination, Direction, RequestEnds,
        metrics::{Metrics, Party, Protocol, Reporter, Security, TcpMeter, Traffic},
    },
};

/// Connections' ends that are remembered.
const REMEMBERED: usize = 1024;

/// One data worker's way to the series.
pub struct Meters {
    metrics: Arc<Metrics>,
    trust_domain: TrustDomain,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the snapshot that labels were taken from.
    version: u64,
    tcp: HashMap<Key, Arc<TcpMeter>>,
    requests: HashMap<(Key, Option<SocketAddr>), Arc<RequestEnds>>,
}

impl Known {
    /// Forgets what was known of another version, and everything when it is too much.
    fn of(&mut self, version: u64) -> &mut Self {
        if self.version != version || self.tcp.len().max(self.requests.len()) >= REMEMBERED {
            self.version = version;
            self.tcp.clear();
            self.requests.clear();
        }
        self
    }
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Which way.
    pub direction: Direction,
    /// The enrolled workload on whose side the agent stands.
    pub workload: &'a Workload,
    /// Who dialled, if it is known.
    pub client: Option<&'a ObjectKey>,
    /// What was dialled.
    pub destination: &'a Destination,
    /// The service that is meant, where the destination does not say it.
    pub service: Option<&'a ObjectKey>,
    /// Who the other end proved to be.
    pub peer: Option<&'a SpiffeId>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    workload: ObjectKey,
    client: Option<ObjectKey>,
    server: Option<ObjectKey>,
    service: Option<ObjectKey>,
    peer: Option<SpiffeId>,
}

impl Meters {
    pub(in crate::listener) fn new(metrics: Arc<Metrics>, trust_domain: TrustDomain) -> Self {
        Self {
            metrics,
            trust_domain,
            known: Mutex::default(),
        }
    }

    /// Everything that is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The meter of a TCP connection between these ends.
    pub fn tcp(&self, snapshot: &Snapshot, ends: &Ends<'_>) -> Arc<TcpMeter> {
        let key = ends.key();
        let mut known = self.lock();
        let known = known.of(snapshot.version());
        let meter = known.tcp.entry(key).or_insert_with(|| {
            let labels = ends.labels(snapshot, &self.trust_domain, Protocol::Tcp);
            Arc::new(self.metrics.tcp(labels))
        });
        Arc::clone(meter)
    }

    /// The ends of requests that go to `upstream`, with their meters. To be kept by the connection that they come on, as
    /// long as the configuration stays.
    pub fn requests(
        &self,
        snapshot: &Snapshot,
        ends: &Ends<'_>,
        upstream: Option<SocketAddr>,
    ) -> Arc<RequestEnds> {
        let key = (ends.key(), upstream);
        let mut known = self.lock();
        let known = known.of(snapshot.version());
        let ends = known.requests.entry(key).or_insert_with(|| {
            let meter = |protocol| {
                self.metrics
                    .requests(ends.labels(snapshot, &self.trust_domain, protocol))
            };
            Arc::new(RequestEnds {
                direction: ends.direction,
                destination: ends.destination.clone(),
                upstream,
                peer: ends.peer.cloned(),
                http: meter(Protocol::Http),
                grpc: meter(Protocol::Grpc),
            })
        });
        Arc::clone(ends)
    }

    /// Lets go of series that no connection needs.
    pub fn sweep(&self) {
        let mut known = self.lock();
        known.tcp.clear();
        known.requests.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> From<&'a Connection> for Ends<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            direction: connection.direction,
            workload: &connection.workload,
            client: connection.client_workload.as_ref(),
            destination: &connection.destination,
            service: None,
            peer: connection.peer(),
        }
    }
}

impl Ends<'_> {
    fn key(&self) -> Key {
        Key {
            direction: self.direction,
            workload: self.workload.key.clone(),
            client: self.client.cloned(),
            server: self.server().cloned(),
            service: self.service().cloned(),
            peer: self.peer.cloned(),
        }
    }

    /// One for each side that the agent stands on: both, between pods of its node.
    fn labels(&self, snapshot: &Snapshot, domain: &TrustDomain, protocol: Protocol) -> Vec<Traffic> {
        let own = self.peer.and_then(|_| identity_of(domain, self.workload));
        let known = |key: &ObjectKey| snapshot.workload(key).map(|entry| &*entry.workload);
        let client = self.client.and_then(known);
        let server = self.server().and_then(known);
        let (source, destination, security) = match self.direction {
            Direction::Outbound => (
                Party::new(Some(self.workload), own.as_ref()),
                Party::new(server, self.peer),
                self.encrypted(),
            ),
            Direction::Inbound => (
                Party::new(client, self.peer),
                Party::new(Some(self.workload), own.as_ref()),
                self.encrypted(),
            ),
            Direction::Local => {
                let proved = server.and_then(|server| identity_of(domain, server));
                (
                    Party::new(Some(self.workload), self.peer),
                    Party::new(server, proved.as_ref()),
                    Security::SameNode,
                )
            }
        };
        let traffic = |reporter| Traffic {
            reporter,
            source: source.clone(),
            destination: destination.clone(),
            service: self.service().cloned(),
            protocol,
            security,
        };
        match self.direction {
            Direction::Outbound => vec![traffic(Reporter::Source)],
            Direction::Inbound => vec![traffic(Reporter::Destination)],
            Direction::Local => vec![traffic(Reporter::Source), traffic(Reporter::Destination)],
        }
    }

    /// Between nodes, whoever proved an identity did so under mutual TLS.
    fn encrypted(&self) -> Security {
        match self.peer {
            Some(_) => Security::MutualTls,
            None => Security::None,
        }
    }

    fn server(&self) -> Option<&ObjectKey> {
        match self.destination {
            Destination::Service { endpoint, .. } => endpoint.as_ref().map(|(workload, _)| workload),
            Destination::Workload(workload) => Some(workload),
            Destination::Passthrough => None,
        }
    }

    fn service(&self) -> Option<&ObjectKey> {
        match self.destination {
            Destination::Service { service, .. } => Some(service),
            Destination::Workload(_) | Destination::Passthrough => self.service,
        }
    }
}

#[cfg(test)]
mod tests;
