//! What the agent tells about itself, and what it can be told to do: [`Inspect`] over the running parts.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mesh_common::{
    kernel::ABI_VERSION,
    model::{ObjectKey, RouteKind, Service, TargetPort, TrustDomain, Workload},
};

use super::{
    enrol::{Enrolment, Standing, Standings},
    explain::{Encryption, World},
    lifecycle::{Lifecycle, Phase},
    logging, policies, preflight,
};
use crate::{
    admin::{ExplainError, Expose, FlowFeed, HandoverError, Inspect, LogError, proto, view, view::micros},
    identity::{CertificateState, CertificateStore, Severity, Standing as CertificateStanding},
    listener::direct::Direct,
    runtime::Workers,
    state::{ServiceEntry, Store},
    telemetry::{
        Budgets, Connection, Destination, FlowLog, Kind, Registry, Totals,
        metrics::{CertificateFacts, Metrics, NodeFacts, ShareFacts},
    },
};

/// The running parts that the admin API asks.
pub(super) struct Inspector {
    pub(super) node: String,
    pub(super) pins: PathBuf,
    pub(super) started_at: SystemTime,
    pub(super) started: Instant,
    pub(super) generation: AtomicU32,
    pub(super) store: Arc<Store>,
    pub(super) workers: Arc<Workers>,
    /// Connections that go directly.
    pub(super) by_themselves: Arc<Registry>,
    pub(super) direct: Arc<Direct>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) standings: Standings,
    pub(super) trust_domain: TrustDomain,
    pub(super) certificates: Option<Arc<CertificateStore>>,
    pub(super) flows: Arc<FlowLog>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) enrolment: Arc<Enrolment>,
    pub(super) log: logging::Handle,
}

impl Inspect for Inspector {
    fn version(&self) -> proto::VersionReply {
        proto::VersionReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            pid: std::process::id(),
        }
    }

    fn status(&self) -> proto::StatusReply {
        let state = match self.lifecycle.phase() {
            Phase::Starting => proto::AgentState::Starting,
            Phase::Ready => proto::AgentState::Ready,
            Phase::HandedOver | Phase::Draining => proto::AgentState::Draining,
        };
        let workers = self.workers.iter().map(|worker| proto::WorkerStatus {
            id: worker.registry().worker(),
            connections: worker.registry().len() as u64,
            held: worker.held() as u64,
        });
        let totals = self.registries().map(|registry| registry.totals());
        proto::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            pid: std::process::id(),
            node: self.node.clone(),
            state: state.into(),
            started_at: micros(self.started_at),
            uptime_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            generation: self.generation.load(Ordering::Relaxed),
            pins_dir: self.pins.display().to_string(),
            kernel_release: preflight::release(),
            workers: workers.collect(),
            counts: Some(self.counts()),
            totals: Some(sum(totals)),
            rejected: self.rejected(),
            certificates: self.certificates.as_deref().map(health),
        }
    }

    fn workloads(&self) -> Vec<proto::Workload> {
        let standings = self.standings.load();
        let mut made: HashMap<ObjectKey, u64> = HashMap::new();
        let mut got: HashMap<ObjectKey, u64> = HashMap::new();
        for connection in self.open_connections() {
            if let Some(client) = &connection.client_workload {
                *made.entry(client.clone()).or_default() += 1;
            }
            if let Some(server) = server_of(&connection) {
                *got.entry(server).or_default() += 1;
            }
        }
        let mut budgets: HashMap<_, _> = self
            .budgets
            .all()
            .into_iter()
            .map(|budget| (budget.workload().clone(), budget))
            .collect();
        let snapshot = self.store.load();
        snapshot
            .workloads()
            .map(|entry| {
                let workload = &entry.workload;
                let mut view = self.workload(workload, standings.get(&workload.key));
                view.connections_out = made.get(&workload.key).copied().unwrap_or(0);
                view.connections_in = got.get(&workload.key).copied().unwrap_or(0);
                if let Some(budget) = budgets.remove(&workload.key) {
                    view.held_bytes = budget.held() as u64;
                    view.requests = budget.count(Kind::Request) as u64;
                    view.worker_time_us = u64::try_from(budget.worker_time().as_micros()).unwrap_or(u64::MAX);
                    let limited = budget.limited_lately();
                    view.limited = limited.iter().map(proto::Limited::from).collect();
                }
                view
            })
            .collect()
    }

    fn services(&self) -> Vec<proto::Service> {
        self.store.load().services().map(|entry| service(entry)).collect()
    }

    fn routes(&self) -> Vec<proto::Route> {
        let snapshot = self.store.load();
        let routes = snapshot.routes();
        routes
            .map(|route| view::route(route, snapshot.conditions_of(route)))
            .collect()
    }

    fn certificates(&self) -> Vec<proto::Certificate> {
        let states = self.certificates.iter().flat_map(|store| store.states());
        states.map(|state| certificate(&state)).collect()
    }

    fn policies(&self) -> Vec<proto::Policy> {
        policies::list(&self.store.load(), &self.node)
    }

    fn explain(&self, asked: &proto::ExplainRequest) -> Result<proto::ExplainReply, ExplainError> {
        let world = World {
            snapshot: &self.store.load(),
            trust_domain: &self.trust_domain,
            node: &self.node,
            encryption: match self.certificates {
                Some(_) => Encryption::MutualTls,
                None => Encryption::None,
            },
        };
        world.explain(asked)
    }

    fn connections(&self) -> Vec<proto::Connection> {
        self.open_connections()
            .map(|connection| proto::Connection::from(&*connection))
            .collect()
    }

    fn flows(&self) -> FlowFeed {
        let (recent, live) = self.flows.watch();
        FlowFeed { recent, live }
    }

    fn set_log(&self, directives: &str) -> Result<String, LogError> {
        self.log.set(directives).map_err(|reason| LogError {
            directives: directives.to_owned(),
            reason,
        })
    }

    fn drain(&self, deadline: Option<Duration>) -> proto::DrainReply {
        let within = self.lifecycle.drain(deadline);
        proto::DrainReply {
            connections: self.workers.connections() as u64,
            deadline_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn handover(&self, successor: &proto::HandoverRequest) -> Result<proto::HandoverReply, HandoverError> {
        if successor.abi != ABI_VERSION {
            return Err(HandoverError::Abi {
                own: ABI_VERSION,
                successor: successor.abi,
            });
        }
        let phase = self.lifecycle.phase();
        if phase != Phase::Ready {
            return Err(HandoverError::NotServing {
                state: phase.to_string(),
            });
        }
        if !self.enrolment.freeze() {
            return Err(HandoverError::NotServing {
                state: "busy enrolling".to_owned(),
            });
        }
        tracing::info!(successor = successor.pid, "giving way to a successor");
        self.lifecycle.hand_over();
        Ok(proto::HandoverReply {
            pid: std::process::id(),
            abi: ABI_VERSION,
            generation: self.generation.load(Ordering::Relaxed),
            connections: self.workers.connections() as u64,
        })
    }
}

impl Expose for Inspector {
    fn metrics(&self) -> Option<String> {
        self.open_connections()
            .for_each(|connection| connection.tell_bytes());
        self.metrics.text(Instant::now(), self.node_facts()).ok()
    }

    fn is_ready(&self) -> bool {
        self.lifecycle.phase() == Phase::Ready
    }
}

impl Inspector {
    fn node_facts(&self) -> NodeFacts {
        let counts = self.counts();
        let states = self.certificates.iter().flat_map(|store| store.states());
        NodeFacts {
            pods: vec![
                ("enrolled", counts.workloads_enrolled as usize),
                ("waiting", counts.workloads_waiting as usize),
                ("failed", counts.workloads_failed as usize),
            ],
            connections: self.workers.connections() + self.by_themselves.len(),
            direct: self.direct.facts(self.by_themselves.len()),
            shares: self
                .budgets
                .all()
                .iter()
                .map(|budget| ShareFacts::from(&**budget))
                .collect(),
            rejected: self.store.rejections().len(),
            certificates: states
                .map(|state| CertificateFacts {
                    account: state.account.to_string(),
                    until: state.identity.map(|identity| identity.facts().not_after),
                    failures: state.failures_ever,
                })
                .collect(),
            authority_until: self
                .certificates
                .as_ref()
                .and_then(|store| store.authority_until()),
            roots_failing: self
                .certificates
                .as_ref()
                .map(|store| store.roots_error().is_some()),
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = Arc<Connection>> {
        self.registries().flat_map(|registry| registry.connections())
    }

    fn registries(&self) -> impl Iterator<Item = &Arc<Registry>> {
        let carried = self.workers.iter().map(|worker| worker.registry());
        carried.chain([&self.by_themselves])
    }

    fn counts(&self) -> proto::Counts {
        let snapshot = self.store.load();
        let standings = self.standings.load();
        let standing =
            |wanted: fn(&Standing) -> bool| count(standings.values().filter(|standing| wanted(standing)));
        proto::Counts {
            workloads: number(snapshot.workload_count()),
            workloads_local: count(snapshot.workloads_on(&self.node)),
            workloads_enrolled: standing(|standing| matches!(standing, Standing::Enrolled(_))),
            workloads_waiting: standing(|standing| matches!(standing, Standing::Waiting(_))),
            workloads_failed: standing(|standing| matches!(standing, Standing::Failed(_))),
            services: number(snapshot.service_count()),
            endpoints: count(
                snapshot
                    .services()
                    .flat_map(|entry| &entry.backends)
                    .flat_map(|backend| &backend.endpoints),
            ),
            connections: (self.workers.connections() + self.by_themselves.len()) as u64,
        }
    }

    fn rejected(&self) -> Vec<proto::RejectedObject> {
        let snapshot = self.store.load();
        let in_force = |kind: &str, key: &ObjectKey| match kind {
            "Workload" => snapshot.workload(key).is_some(),
            "Service" => snapshot.service(key).is_some(),
            "HTTPRoute" => snapshot.route(RouteKind::Http, key).is_some(),
            "GRPCRoute" => snapshot.route(RouteKind::Grpc, key).is_some(),
            "AuthorizationPolicy" => snapshot.authorization_policy(key).is_some(),
            "PeerAuthentication" => snapshot.peer_authentications().any(|policy| policy.key == *key),
            _ => false,
        };
        let rejections = self.store.rejections();
        let views = rejections.iter().map(|rejection| proto::RejectedObject {
            last_good_in_force: rejection
                .object
                .as_ref()
                .is_some_and(|(kind, key)| in_force(kind, key)),
            ..proto::RejectedObject::from(rejection)
        });
        views.collect()
    }

    fn workload(&self, workload: &Workload, standing: Option<&Standing>) -> proto::Workload {
        let local = workload.node == self.node;
        let (enrolment, reason, netns) = match standing {
            Some(Standing::Enrolled(pod)) => (proto::Enrolment::Enrolled, String::new(), Some(&pod.netns)),
            Some(Standing::Waiting(reason)) => (proto::Enrolment::Waiting, reason.clone(), None),
            Some(Standing::Failed(reason)) => (proto::Enrolment::Failed, reason.clone(), None),
            None if local => (proto::Enrolment::Waiting, "not looked at yet".to_owned(), None),
            None => (proto::Enrolment::Remote, String::new(), None),
        };
        proto::Workload {
            key: workload.key.to_string(),
            labels: (*workload.labels).clone(),
            service_account: workload.service_account.clone(),
            node: workload.node.clone(),
            addresses: workload.addresses.iter().map(ToString::to_string).collect(),
            ports: workload
                .ports
                .iter()
                .map(|port| proto::Port {
                    name: port.name.clone().unwrap_or_default(),
                    port: port.port.into(),
                    target_port: String::new(),
                    app_protocol: port.app_protocol.clone().unwrap_or_default(),
                })
                .collect(),
            ready: workload.ready,
            local,
            enrolment: enrolment.into(),
            reason,
            netns_path: netns
                .map(|netns| netns.path().display().to_string())
                .unwrap_or_default(),
            netns_cookie: netns.map(|netns| netns.cookie()).unwrap_or_default(),
            ..proto::Workload::default()
        }
    }
}

/// The workload that a connection leads to, if it is one.
fn server_of(connection: &Connection) -> Option<ObjectKey> {
    match &connection.destination {
        Destination::Service {
            endpoint: Some((workload, _)),
            ..
        }
        | Destination::Workload(workload) => Some(workload.clone()),
        Destination::Service { endpoint: None, .. } | Destination::Passthrough => None,
    }
}

fn health(store: &CertificateStore) -> proto::CertificateHealth {
    let states = store.states();
    let now = store.clock().now();
    let ends = |state: &CertificateState| Some(state.identity.as_ref()?.facts().not_after);
    let valid: Vec<_> = states.iter().filter_map(ends).filter(|end| now <= *end).collect();
    let problems = store
        .problems()
        .into_iter()
        .map(|problem| proto::CertificateProblem {
            severity: match problem.severity {
                Severity::Warning => proto::ProblemSeverity::Warning,
                Severity::Failure => proto::ProblemSeverity::Failure,
            }
            .into(),
            text: problem.text,
            remedy: problem.remedy.to_owned(),
        });
    proto::CertificateHealth {
        accounts: count(states.iter()),
        valid: count(valid.iter()),
        first_expiry: valid.iter().min().map_or(0, |end| micros(*end)),
        authority_expiry: store.authority_until().map_or(0, micros),
        problems: problems.collect(),
    }
}

fn certificate(state: &CertificateState) -> proto::Certificate {
    let standing = match state.standing {
        CertificateStanding::Missing => proto::CertificateStanding::Missing,
        CertificateStanding::Valid => proto::CertificateStanding::Valid,
        CertificateStanding::ExpiresSoon => proto::CertificateStanding::ExpiresSoon,
        CertificateStanding::Expired => proto::CertificateStanding::Expired,
    };
    let facts = state.identity.as_ref().map(|identity| identity.facts());
    proto::Certificate {
        account: state.account.to_string(),
        id: state.id.to_string(),
        standing: standing.into(),
        serial: facts.map(|facts| facts.serial.clone()).unwrap_or_default(),
        not_before: facts.map_or(0, |facts| micros(facts.not_before)),
        not_after: facts.map_or(0, |facts| micros(facts.not_after)),
        renewal_due: micros(state.due),
        failures: state.failures,
        last_error: state
            .last_error
            .as_ref()
            .map(|error| error.message.clone())
            .unwrap_or_default(),
    }
}

fn service(entry: &ServiceEntry) -> proto::Service {
    let service: &Service = &entry.service;
    let ports = service.ports.iter().map(|port| proto::Port {
        name: port.name.clone().unwrap_or_default(),
        port: port.port.into(),
        target_port: match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.clone(),
        },
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
    });
    let endpoints = entry.backends.iter().flat_map(|backend| {
        backend.endpoints.iter().map(|endpoint| proto::Endpoint {
            port: backend.port.port.into(),
            address: endpoint.addr.to_string(),
            workload: endpoint.workload.key.to_string(),
            node: endpoint.workload.node.clone(),
            ready: endpoint.workload.ready,
            connections: endpoint.load.active().into(),
        })
    });
    proto::Service {
        key: service.key.to_string(),
        cluster_ips: service.cluster_ips.iter().map(ToString::to_string).collect(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

fn sum(totals: impl Iterator<Item = Totals>) -> proto::Totals {
    totals.fold(proto::Totals::default(), |sum, worker| proto::Totals {
        accepted: sum.accepted + worker.accepted,
        refused: sum.refused + worker.refused,
        failed: sum.failed + worker.failed,
        bytes_to_upstream: sum.bytes_to_upstream + worker.bytes_to_upstream,
        bytes_to_downstream: sum.bytes_to_downstream + worker.bytes_to_downstream,
    })
}

fn count(items: impl Iterator) -> u32 {
    number(items.count())
}

fn number(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
