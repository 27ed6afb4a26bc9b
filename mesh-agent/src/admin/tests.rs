//! The admin API over a real socket, with an agent made of fixed answers.

use std::{
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{sync::broadcast, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    AdminSocket, DialError, ExplainError, FlowFeed, HandoverError, Inspect, LogError, ServeError,
    SocketError, dial, proto, samples, serve,
};
use crate::telemetry::{Direction, Flow, FlowKind, FlowSubject};

/// Longer than anything here takes, shorter than a person waits.
const LIMIT: Duration = Duration::from_secs(10);

struct Fixed {
    recent: Vec<Arc<Flow>>,
    live: broadcast::Sender<Arc<Flow>>,
    log: Mutex<String>,
    drained: Mutex<Vec<Option<Duration>>>,
}

impl Default for Fixed {
    fn default() -> Self {
        Self {
            recent: [
                (FlowKind::Opened, 1),
                (FlowKind::Closed, 2),
                (FlowKind::Refused, 3),
            ]
            .map(|(kind, port)| Arc::new(flow(kind, port)))
            .into(),
            live: broadcast::Sender::new(4),
            log: Mutex::new("info".to_owned()),
            drained: Mutex::default(),
        }
    }
}

impl Inspect for Fixed {
    fn version(&self) -> proto::VersionReply {
        proto::VersionReply {
            version: "0.1.0".into(),
            abi: 1,
            pid: 4242,
        }
    }

    fn status(&self) -> proto::StatusReply {
        samples::status()
    }

    fn workloads(&self) -> Vec<proto::Workload> {
        samples::workloads()
    }

    fn certificates(&self) -> Vec<proto::Certificate> {
        samples::certificates()
    }

    fn services(&self) -> Vec<proto::Service> {
        samples::services()
    }

    fn routes(&self) -> Vec<proto::Route> {
        samples::routes()
    }

    fn policies(&self) -> Vec<proto::Policy> {
        samples::policies()
    }

    fn explain(&self, asked: &proto::ExplainRequest) -> Result<proto::ExplainReply, ExplainError> {
        if asked.destination == "nowhere" {
            return Err(ExplainError::Destination(asked.destination.clone()));
        }
        Ok(samples::explained())
    }

    fn connections(&self) -> Vec<proto::Connection> {
        samples::connections()
    }

    fn flows(&self) -> FlowFeed {
        FlowFeed {
            recent: self.recent.clone(),
            live: self.live.subscribe(),
        }
    }

    fn set_log(&self, directives: &str) -> Result<String, LogError> {
        if directives == "shout" {
            return Err(LogError {
                directives: directives.into(),
                reason: "no such level".into(),
            });
        }
        Ok(std::mem::replace(
            &mut *self.log.lock().unwrap(),
            directives.to_owned(),
        ))
    }

    fn drain(&self, deadline: Option<Duration>) -> proto::DrainReply {
        self.drained.lock().unwrap().push(deadline);
        proto::DrainReply {
            connections: 23,
            deadline_ms: 30_000,
        }
    }

    fn handover(&self, successor: &proto::HandoverRequest) -> Result<proto::HandoverReply, HandoverError> {
        if successor.abi != 1 {
            return Err(HandoverError::Abi {
                own: 1,
                successor: successor.abi,
            });
        }
        Ok(proto::HandoverReply {
            pid: 4242,
            abi: 1,
            generation: 1,
            connections: 23,
        })
    }
}

/// A flow that its port tells from others.
fn flow(kind: FlowKind, port: u16) -> Flow {
    Flow {
        time: SystemTime::UNIX_EPOCH + Duration::from_micros(samples::NOW),
        kind,
        subject: FlowSubject::Request {
            workload: None,
            direction: Direction::Outbound,
            client: ([10, 0, 0, 7], port).into(),
            original_destination: ([10, 96, 0, 10], 80).into(),
            process: None,
        },
        duration: None,
        cause: None,
    }
}

/// The client's port of a flow as it came over the socket.
fn port(reply: Option<proto::WatchFlowsReply>) -> u16 {
    let client = reply.unwrap().flow.unwrap().path.unwrap().client;
    client.parse::<SocketAddr>().unwrap().port()
}

/// A served agent in a directory of its own.
struct Served {
    agent: Arc<Fixed>,
    stop: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let agent = Arc::new(Fixed::default());
        let stop = CancellationToken::new();
        let socket = AdminSocket::bind(&path).unwrap();
        let server = tokio::spawn(serve(socket, agent.clone(), stop.clone()));
        Self {
            agent,
            stop,
            server,
            path,
            _dir: dir,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LIMIT, self.server).await.unwrap().unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is removed");
    }
}

#[tokio::test]
async fn lists_are_filtered_and_in_order() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let keys =
        |reply: proto::ListWorkloadsReply| reply.workloads.into_iter().map(|w| w.key).collect::<Vec<_>>();
    let all = client
        .list_workloads(proto::ListWorkloadsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(keys(all), ["shop/cart-1", "shop/db-0", "shop/web-1"]);
    let local = proto::ListWorkloadsRequest {
        name: "shop/".into(),
        local: true,
    };
    assert_eq!(
        keys(client.list_workloads(local).await.unwrap().into_inner()),
        ["shop/cart-1", "shop/web-1"]
    );
    let named = proto::ListServicesRequest { name: "cart".into() };
    let services = client.list_services(named).await.unwrap().into_inner().services;
    assert_eq!(services.len(), 1);
    let named = proto::ListRoutesRequest { name: "shop".into() };
    let routes = client.list_routes(named).await.unwrap().into_inner().routes;
    let names = routes.iter().map(|route| format!("{} {}", route.kind, route.key));
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["GRPCRoute shop/cart", "HTTPRoute shop/cart", "HTTPRoute shop/web"]
    );
    assert_eq!(
        client.status(proto::StatusRequest {}).await.unwrap().into_inner(),
        samples::status()
    );
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn policies_of_a_workload_are_told_where_they_are_decided() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let mut asked = async |workload: &str| {
        let request = proto::ListPoliciesRequest {
            workload: workload.into(),
            ..Default::default()
        };
        let reply = client.list_policies(request).await;
        reply.map(|reply| reply.into_inner().policies.len())
    };
    assert_eq!(asked("web-1").await.unwrap(), 3);
    assert_eq!(asked("cart-1").await.unwrap(), 1);
    // Some of these are here.
    assert_eq!(asked("shop/").await.unwrap(), 3);
    let elsewhere = asked("shop/db-0").await.unwrap_err();
    assert_eq!(
        (elsewhere.code(), elsewhere.message()),
        (
            tonic::Code::FailedPrecondition,
            "`shop/db-0` is on node node-b, whose agent decides about it: ask that one"
        )
    );
    let unknown = asked("shop/bd").await.unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (
            tonic::Code::NotFound,
            "no workload is known whose namespace/name contains `shop/bd`"
        )
    );
}

#[tokio::test]
async fn connections_are_chosen_by_every_field() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let cases = [
        (proto::PathFilter::default(), vec![1, 3, 2]),
        (
            proto::PathFilter {
                workload: "cart".into(),
                ..Default::default()
            },
            vec![3],
        ),
        (
            proto::PathFilter {
                service: "shop/web".into(),
                ..Default::default()
            },
            vec![1],
        ),
        (
            proto::PathFilter {
                direction: proto::Direction::Local.into(),
                ..Default::default()
            },
            vec![3],
        ),
        (
            proto::PathFilter {
                port: 443,
                ..Default::default()
            },
            vec![2],
        ),
        (
            proto::PathFilter {
                port: 443,
                service: "web".into(),
                ..Default::default()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let request = proto::ListConnectionsRequest {
            filter: Some(filter),
            limit: 0,
        };
        let reply = client.list_connections(request).await.unwrap().into_inner();
        let ids: Vec<u64> = reply.connections.iter().map(|connection| connection.id).collect();
        assert_eq!(ids, expected);
    }
    let limited = proto::ListConnectionsRequest {
        filter: None,
        limit: 1,
    };
    let reply = client.list_connections(limited).await.unwrap().into_inner();
    assert_eq!((reply.connections.len(), reply.total), (1, 3));
}

#[tokio::test]
async fn flows_begin_with_the_past_and_go_on() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let request = proto::WatchFlowsRequest {
        last: 2,
        follow: true,
        ..Default::default()
    };
    let mut flows = client.watch_flows(request).await.unwrap().into_inner();
    let mut next = async || timeout(LIMIT, flows.message()).await.unwrap().unwrap();
    assert_eq!(port(next().await), 2);
    assert_eq!(port(next().await), 3);
    served
        .agent
        .live
        .send(Arc::new(flow(FlowKind::Reset, 4)))
        .unwrap();
    assert_eq!(port(next().await), 4);

    served.stop.cancel();
    assert_eq!(next().await, None, "an ending agent ends its streams");
}

#[tokio::test]
async fn a_slow_reader_learns_what_it_missed() {
    let served = Served::start();
    let request = proto::WatchFlowsRequest {
        follow: true,
        ..Default::default()
    };
    let feed = served.agent.flows();
    for port in 10..16 {
        served
            .agent
            .live
            .send(Arc::new(flow(FlowKind::Opened, port)))
            .unwrap();
    }
    let watch = super::server::Watch::new(request, feed, CancellationToken::new());
    let (first, watch) = watch.step().await.unwrap();
    assert_eq!(first.unwrap().missed, 2);
    let (second, _) = watch.step().await.unwrap();
    assert_eq!(port(second.ok()), 12);
}

#[tokio::test]
async fn only_the_past_ends_by_itself_and_kinds_are_chosen() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let kind = proto::FlowKind::Refused.into();
    let request = proto::WatchFlowsRequest {
        last: 100,
        kind,
        ..Default::default()
    };
    let mut flows = client.watch_flows(request).await.unwrap().into_inner();
    assert_eq!(port(timeout(LIMIT, flows.message()).await.unwrap().unwrap()), 3);
    assert_eq!(timeout(LIMIT, flows.message()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn what_it_is_told_reaches_the_agent() {
    let served = Served::start();
    let mut client = dial(&served.path).await.unwrap();
    let log = |directives: &str| proto::SetLogLevelRequest {
        directives: directives.into(),
    };
    assert_eq!(
        client
            .set_log_level(log("debug"))
            .await
            .unwrap()
            .into_inner()
            .previous,
        "info"
    );
    let refused = client.set_log_level(log("shout")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(refused.message(), "`shout` is not a log filter: no such level");

    client
        .drain(proto::DrainRequest { deadline_ms: 0 })
        .await
        .unwrap();
    client
        .drain(proto::DrainRequest { deadline_ms: 1_500 })
        .await
        .unwrap();
    assert_eq!(
        *served.agent.drained.lock().unwrap(),
        [None, Some(Duration::from_millis(1_500))]
    );

    let handover = |abi| proto::HandoverRequest { pid: 1, abi };
    assert_eq!(client.handover(handover(1)).await.unwrap().into_inner().pid, 4242);
    let refused = client.handover(handover(2)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn only_the_owner_may_open_the_socket() {
    let served = Served::start();
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let beside = std::fs::read_dir(served.path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "no temporary name is left");
    served.end().await;
}

#[tokio::test]
async fn a_successor_takes_the_path_and_keeps_it() {
    let old = Served::start();
    let mut held = dial(&old.path).await.unwrap();
    let socket = AdminSocket::bind(&old.path).unwrap();
    let inode = std::fs::metadata(&old.path).unwrap().ino();
    let stop = CancellationToken::new();
    let new = tokio::spawn(serve(socket, Arc::new(Fixed::default()), stop.clone()));

    // Who is connected to the old one still gets answers; who comes now gets the new one.
    held.version(proto::VersionRequest {}).await.unwrap();
    old.stop.cancel();
    drop(held);
    timeout(LIMIT, old.server).await.unwrap().unwrap().unwrap();
    assert_eq!(
        std::fs::metadata(&old.path).unwrap().ino(),
        inode,
        "the old one left it alone"
    );
    dial(&old.path)
        .await
        .unwrap()
        .version(proto::VersionRequest {})
        .await
        .unwrap();

    stop.cancel();
    timeout(LIMIT, new).await.unwrap().unwrap().unwrap();
    assert!(!old.path.exists());
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    assert!(matches!(dial(&path).await, Err(DialError::NotRunning { .. })));
    // A socket that a killed agent left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(dial(&path).await, Err(DialError::NotRunning { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(dial(&path).await, Err(DialError::NotRunning { .. })));
}

#[test]
fn a_path_too_long_for_the_kernel_is_refused() {
    let path = Path::new("/tmp").join("d".repeat(120)).join("agent.sock");
    let error = AdminSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::TooLong { .. }));
    assert!(error.to_string().contains("--run-dir"));
}
