//! The server of the admin API.
//!
//! The agent starts [`serve`] on its admin runtime; each call becomes one call of [`Inspect`]. Invariant: when
//! told to stop it first leaves the socket's path, then ends every stream, then answers what is under way.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, stream};
use thiserror::Error;
use tokio::{
    net::UnixListener,
    sync::broadcast::{self, error::RecvError},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Server};

use super::{
    inspect::{FlowFeed, Inspect},
    proto::{
        self,
        admin_server::{Admin, AdminServer},
    },
    socket::AdminSocket,
};
use crate::telemetry::Flow;

/// Why the admin API is not served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The listening socket cannot be used by the runtime.
    #[error("cannot serve the admin socket")]
    Listen(#[from] std::io::Error),
    /// The transport gave up.
    #[error("the admin API ended")]
    Transport(#[from] tonic::transport::Error),
}

/// Answers callers until `stop`.
pub async fn serve(
    socket: AdminSocket,
    inspect: Arc<dyn Inspect>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let AdminSocket { listener, path } = socket;
    let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
    let service = AdminServer::new(Api {
        inspect,
        stop: stop.clone(),
    });
    let stopped = async move {
        stop.cancelled().await;
        drop(path);
    };
    Ok(Server::builder()
        .serve_with_incoming_shutdown(service, incoming, stopped)
        .await?)
}

struct Api {
    inspect: Arc<dyn Inspect>,
    stop: CancellationToken,
}

impl Api {
    /// Fails unless some workload of this node has this text in its key: what concerns others is decided elsewhere, and
    /// not to know of them is not to have no policies.
    fn decides_about(&self, text: &str) -> Result<(), Status> {
        let mut nodes = BTreeSet::new();
        for workload in self.inspect.workloads() {
            if workload.key.contains(text) {
                nodes.insert(workload.node);
            }
        }
        if nodes.contains(&self.inspect.status().node) {
            return Ok(());
        }
        let nodes: Vec<String> = nodes.into_iter().collect();
        Err(match &*nodes {
            [] => {
                let text = format!("no workload is known whose namespace/name contains `{text}`");
                Status::new(Code::NotFound, text)
            }
            [node] => {
                let text = format!("`{text}` is on node {node}, whose agent decides about it: ask that one");
                Status::new(Code::FailedPrecondition, text)
            }
            nodes => {
                let nodes = nodes.join(", ");
                let text = format!("`{text}` is on nodes {nodes}, whose agents decide about it: ask those");
                Status::new(Code::FailedPrecondition, text)
            }
        })
    }
}

#[tonic::async_trait]
impl Admin for Api {
    async fn version(
        &self,
        _: Request<proto::VersionRequest>,
    ) -> Result<Response<proto::VersionReply>, Status> {
        Ok(Response::new(self.inspect.version()))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Ok(Response::new(self.inspect.status()))
    }

    async fn list_workloads(
        &self,
        request: Request<proto::ListWorkloadsRequest>,
    ) -> Result<Response<proto::ListWorkloadsReply>, Status> {
        let wanted = request.into_inner();
        let mut workloads = self.inspect.workloads();
        workloads.retain(|workload| workload.key.contains(&wanted.name) && (workload.local || !wanted.local));
        workloads.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(Response::new(proto::ListWorkloadsReply { workloads }))
    }

    async fn list_services(
        &self,
        request: Request<proto::ListServicesRequest>,
    ) -> Result<Response<proto::ListServicesReply>, Status> {
        let wanted = request.into_inner();
        let mut services = self.inspect.services();
        services.retain(|service| service.key.contains(&wanted.name));
        services.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(Response::new(proto::ListServicesReply { services }))
    }

    async fn list_routes(
        &self,
        request: Request<proto::ListRoutesRequest>,
    ) -> Result<Response<proto::ListRoutesReply>, Status> {
        let wanted = request.into_inner();
        let mut routes = self.inspect.routes();
        routes.retain(|route| route.key.contains(&wanted.name));
        routes.sort_unstable_by(|a, b| (&a.key, &a.kind).cmp(&(&b.key, &b.kind)));
        Ok(Response::new(proto::ListRoutesReply { routes }))
    }

    async fn list_certificates(
        &self,
        request: Request<proto::ListCertificatesRequest>,
    ) -> Result<Response<proto::ListCertificatesReply>, Status> {
        let wanted = request.into_inner();
        let mut certificates = self.inspect.certificates();
        certificates.retain(|certificate| certificate.account.contains(&wanted.name));
        certificates.sort_unstable_by(|a, b| a.account.cmp(&b.account));
        Ok(Response::new(proto::ListCertificatesReply { certificates }))
    }

    async fn list_policies(
        &self,
        request: Request<proto::ListPoliciesRequest>,
    ) -> Result<Response<proto::ListPoliciesReply>, Status> {
        let wanted = request.into_inner();
        if !wanted.workload.is_empty() {
            self.decides_about(&wanted.workload)?;
        }
        let mut policies = self.inspect.policies();
        policies.retain(|policy| {
            let concerns = |workload: &String| workload.contains(&wanted.workload);
            policy.key.contains(&wanted.name)
                && (wanted.workload.is_empty() || policy.workloads.iter().any(concerns))
        });
        policies.sort_unstable_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        Ok(Response::new(proto::ListPoliciesReply { policies }))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainReply>, Status> {
        self.inspect
            .explain(&request.into_inner())
            .map(Response::new)
            .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
    }

    async fn list_connections(
        &self,
        request: Request<proto::ListConnectionsRequest>,
    ) -> Result<Response<proto::ListConnectionsReply>, Status> {
        let wanted = request.into_inner();
        let filter = wanted.filter.unwrap_or_default();
        let mut connections = self.inspect.connections();
        connections.retain(|connection| filter.lets(connection.path.as_ref()));
        connections.sort_unstable_by_key(|connection| (connection.opened_at, connection.id));
        let total = connections.len() as u64;
        if wanted.limit != 0 {
            connections.truncate(wanted.limit as usize);
        }
        Ok(Response::new(proto::ListConnectionsReply { connections, total }))
    }

    type WatchFlowsStream = Pin<Box<dyn Stream<Item = Result<proto::WatchFlowsReply, Status>> + Send>>;

    async fn watch_flows(
        &self,
        request: Request<proto::WatchFlowsRequest>,
    ) -> Result<Response<Self::WatchFlowsStream>, Status> {
        let watch = Watch::new(request.into_inner(), self.inspect.flows(), self.stop.clone());
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::step))))
    }

    async fn set_log_level(
        &self,
        request: Request<proto::SetLogLevelRequest>,
    ) -> Result<Response<proto::SetLogLevelReply>, Status> {
        let directives = request.into_inner().directives;
        let previous = self
            .inspect
            .set_log(&directives)
            .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        Ok(Response::new(proto::SetLogLevelReply { previous }))
    }

    async fn drain(
        &self,
        request: Request<proto::DrainRequest>,
    ) -> Result<Response<proto::DrainReply>, Status> {
        let deadline = match request.into_inner().deadline_ms {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        };
        Ok(Response::new(self.inspect.drain(deadline)))
    }

    async fn handover(
        &self,
        request: Request<proto::HandoverRequest>,
    ) -> Result<Response<proto::HandoverReply>, Status> {
        self.inspect
            .handover(&request.into_inner())
            .map(Response::new)
            .map_err(|error| Status::new(Code::FailedPrecondition, error.to_string()))
    }
}

/// A reader of flows: first what is remembered, then what comes.
pub(super) struct Watch {
    wanted: proto::WatchFlowsRequest,
    recent: VecDeque<proto::Flow>,
    live: Option<broadcast::Receiver<Arc<Flow>>>,
    stop: CancellationToken,
}

impl Watch {
    pub(super) fn new(wanted: proto::WatchFlowsRequest, feed: FlowFeed, stop: CancellationToken) -> Self {
        let mut recent: VecDeque<_> = feed
            .recent
            .iter()
            .map(|flow| proto::Flow::from(&**flow))
            .filter(|flow| wanted.lets(flow))
            .collect();
        let surplus = recent.len().saturating_sub(wanted.last as usize);
        recent.drain(..surplus);
        let live = wanted.follow.then_some(feed.live);
        Self {
            wanted,
            recent,
            live,
            stop,
        }
    }

    pub(super) async fn step(mut self) -> Option<(Result<proto::WatchFlowsReply, Status>, Self)> {
        let reply = match self.recent.pop_front() {
            Some(flow) => proto::WatchFlowsReply {
                flow: Some(flow),
                missed: 0,
            },
            None => self.next().await?,
        };
        Some((Ok(reply), self))
    }

    /// The next one to pass the filter; `None` when there will be none.
    async fn next(&mut self) -> Option<proto::WatchFlowsReply> {
        let live = self.live.as_mut()?;
        loop {
            let received = tokio::select! {
                () = self.stop.cancelled() => return None,
                received = live.recv() => received,
            };
            match received {
                Ok(flow) => {
                    let flow = proto::Flow::from(&*flow);
                    if self.wanted.lets(&flow) {
                        return Some(proto::WatchFlowsReply {
                            flow: Some(flow),
                            missed: 0,
                        });
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    return Some(proto::WatchFlowsReply { flow: None, missed });
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
