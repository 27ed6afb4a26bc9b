//! A pod on its way onto the roll, and the steps that make the kernel half carry it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use mesh_common::{
    kernel::{InboundEntry, Ip, ListenerEntry, MAX_WORKERS, PodEntry},
    model::{Locate, ObjectKey, Workload},
};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::{Scope, Standing};
use crate::{
    kernel::{Kernel, KernelError},
    listener::{answer::Answerer, socket},
    node::{
        Captured, Netns, Pod,
        locate::{self, LocateError},
    },
};

#[derive(Debug, Error)]
pub(super) enum EnrolError {
    #[error("the workload says no `locate`; name its netns, netnsPath, cgroup or pid")]
    NoLocate,
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error("network namespace {}: {source}", path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error(
        "{} is the agent's own network namespace; a workload on the host's network cannot be enrolled", path.display()
    )]
    HostNetwork { path: PathBuf },
    #[error("its network namespace is workload {0}'s; correct the `locate` of one of them")]
    SameNetns(ObjectKey),
    #[error("address {0} is not configured in its network namespace yet; it is looked for again")]
    NoAddress(IpAddr),
    #[error("opening sockets in its network namespace: {0}")]
    Sockets(#[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EnrolError {
    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Locate(LocateError::Absent { .. } | LocateError::NoProcess { .. }) | Self::NoAddress(_) => {
                Standing::Waiting(self.to_string())
            }
            _ => Standing::Failed(self.to_string()),
        }
    }
}

/// One enrolled pod.
pub(super) struct Enrolled {
    pub(super) pod: Arc<Pod>,
    pub(super) listener_cookies: Vec<u64>,
}

/// A pod that was found, and its open sockets. Nothing leads to them yet.
pub(super) struct Ready {
    pub(super) enrolled: Enrolled,
    sockets: Vec<Socket>,
    answerer: Arc<Answerer>,
}

impl Ready {
    /// Finds the workload's pod and opens what is needed in its namespace, which must be none of `taken`'s. The calling
    /// thread is in that namespace afterwards.
    pub(super) fn open<'a>(
        scope: &Scope,
        workload: &Arc<Workload>,
        number: u32,
        mut taken: impl Iterator<Item = &'a Enrolled>,
    ) -> Result<Self, EnrolError> {
        let netns = locate(scope, workload.locate.as_ref().ok_or(EnrolError::NoLocate)?)?;
        if let Some(other) = taken.find(|other| other.pod.netns.cookie() == netns.cookie()) {
            return Err(EnrolError::SameNetns(other.pod.workload.key.clone()));
        }
        if let Some(ip) = workload.addresses.iter().find(|ip| !is_configured(**ip)) {
            return Err(EnrolError::NoAddress(*ip));
        }
        let sockets = scope
            .workers
            .iter()
            .map(|_| socket::open(&netns))
            .collect::<io::Result<Vec<_>>>()
            .map_err(EnrolError::Sockets)?;
        let answerer = Answerer::open(&netns, scope.kernel.mark()).map_err(EnrolError::Sockets)?;
        let listener_ports = sockets
            .iter()
            .map(socket::port)
            .collect::<Result<_, _>>()
            .map_err(EnrolError::Sockets)?;
        let listener_cookies = sockets
            .iter()
            .map(Socket::cookie)
            .collect::<Result<_, _>>()
            .map_err(EnrolError::Sockets)?;
        let pod = Pod::new(number, Arc::clone(workload), netns, listener_ports);
        // By an agent before this one, or by this one before the pod was lost.
        if scope.kernel.tables.is_enrolled(pod.netns.cookie()) {
            pod.set_captured(Captured::Yes);
        }
        Ok(Self {
            enrolled: Enrolled {
                pod: Arc::new(pod),
                listener_cookies,
            },
            sockets,
            answerer: Arc::new(answerer),
        })
    }

    /// Makes the kernel half send the pod's connections to its listeners, inbound ones first.
    pub(super) fn carry(&self, scope: &mut Scope) -> Result<(), EnrolError> {
        let pod = &self.enrolled.pod;
        self.steer(&mut scope.kernel)?;
        for (worker, socket) in scope.workers.iter().zip(&self.sockets) {
            let socket = socket.try_clone().map_err(EnrolError::Sockets)?;
            worker.listen(Arc::clone(pod), socket.into(), Arc::clone(&self.answerer));
        }
        // Only now outbound connections are captured: everything they meet stands.
        scope.kernel.tables.enrol(pod.netns.cookie(), self.pod_entry())?;
        pod.set_captured(Captured::Yes);
        Ok(())
    }

    /// Points inbound connections at the pod's listeners.
    fn steer(&self, kernel: &mut Kernel) -> Result<(), KernelError> {
        let pod = &self.enrolled.pod;
        for (worker, (socket, cookie)) in (0..).zip(self.sockets.iter().zip(&self.enrolled.listener_cookies))
        {
            let entry = ListenerEntry {
                netns: pod.netns.cookie(),
                pod: pod.number,
                worker,
            };
            kernel.tables.describe_listener(*cookie, entry)?;
            kernel.hold(socket)?;
            for ip in &pod.workload.addresses {
                kernel.tables.set_listener(*ip, worker, socket)?;
            }
        }
        let inbound = InboundEntry {
            pod: pod.number,
            workers: self.workers(),
        };
        for ip in &pod.workload.addresses {
            kernel.tables.set_inbound(*ip, inbound)?;
        }
        kernel.capture_inbound(&pod.netns)
    }

    fn pod_entry(&self) -> PodEntry {
        let pod = &self.enrolled.pod;
        let own = |v4: bool| {
            let found = pod.workload.addresses.iter().find(|ip| ip.is_ipv4() == v4);
            found.map_or(Ip::UNSPECIFIED, |ip| Ip::from(*ip))
        };
        let mut ports = [0; MAX_WORKERS];
        ports
            .iter_mut()
            .zip(&pod.listener_ports)
            .for_each(|(slot, port)| *slot = *port);
        PodEntry {
            ip4: own(true),
            ip6: own(false),
            pod: pod.number,
            workers: self.workers(),
            ports,
        }
    }

    fn workers(&self) -> u32 {
        u32::try_from(self.sockets.len().min(MAX_WORKERS)).unwrap_or(0)
    }
}

fn locate(scope: &Scope, locate: &Locate) -> Result<Arc<Netns>, EnrolError> {
    let path = locate::netns_path(locate)?;
    let netns = Netns::open(&path).map_err(|source| EnrolError::Netns {
        path: path.clone(),
        source,
    })?;
    if netns.cookie() == scope.home.cookie() {
        return Err(EnrolError::HostNetwork { path });
    }
    Ok(Arc::new(netns))
}

/// Whether the namespace the thread is in has this address and it may be used (IPv6 addresses are checked for
/// duplicates first).
fn is_configured(ip: IpAddr) -> bool {
    let addr = SocketAddr::new(ip, 0);
    Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), None)
        .and_then(|socket| socket.bind(&addr.into()))
        .is_ok()
}
