//! Enrolment: which pods of this node the agent carries, and the kernel half that makes it so.
//!
//! One thread owns the shared maps and the links. It compares what the snapshot says should be enrolled with what
//! is, whenever the snapshot changes and a few times a second, since namespaces come and go without telling.
//!
//! Order is everything. Enrolling: listeners first, and the data path learns of the pod; then what steers inbound
//! connections to the listeners; then the entry that captures outbound ones. Un-enrolling: the reverse, and the
//! listeners stay a little for requests already on their way. Invariant: whatever happens in between, a connection is
//! carried or refused, never let past.

mod ready;
mod roll;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh_common::model::ObjectKey;
use tokio::sync::oneshot;

use self::roll::Roll;
use crate::{
    identity::CertificateStore,
    kernel::Kernel,
    listener::direct::Direct,
    node::{Netns, Pod, PodTable},
    runtime::Workers,
    state::Store,
};

/// How often namespaces are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long a look around may take at most before the thread counts as stuck.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// Where each local workload stands; read by the admin API.
pub(super) type Standings = Arc<ArcSwap<HashMap<ObjectKey, Standing>>>;

/// Where a local workload stands.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Its traffic is carried.
    Enrolled(Arc<Pod>),
    /// Something it needs is not there yet.
    Waiting(String),
    /// It cannot be enrolled; its connections are refused if it was before.
    Failed(String),
}

/// The enrolment thread, seen from outside.
pub(super) struct Enrolment {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    /// Look now, and say when that is done.
    Look(Option<oneshot::Sender<()>>),
    /// Touch nothing from now on but, at the end, what is this agent's alone: a successor does the rest.
    Freeze { frozen: mpsc::Sender<()> },
    /// Forget other agents, and take over what they left: this one runs alone now.
    Alone,
    /// Take over what the replaced agent left.
    Succeed,
}

/// What enrolment works on.
pub(super) struct Scope {
    pub(super) node: String,
    pub(super) kernel: Kernel,
    pub(super) workers: Arc<Workers>,
    pub(super) store: Arc<Store>,
    pub(super) pods: Arc<PodTable>,
    pub(super) home: Arc<Netns>,
    pub(super) certificates: Option<Arc<CertificateStore>>,
    pub(super) direct: Arc<Direct>,
    pub(super) standings: Standings,
}

impl Enrolment {
    /// Starts the thread.
    pub(super) fn start(scope: Scope) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("enrolment".to_owned())
            .spawn(move || serve(Roll::new(scope), &inbox))?;
        Ok(Self { orders, thread })
    }

    /// Looks at once, and returns when that is done.
    pub(super) async fn look(&self) {
        let (done, looked) = oneshot::channel();
        self.order(Order::Look(Some(done)));
        // An error means that the thread is gone, which is reported where it is joined.
        let _ = looked.await;
    }

    /// Looks soon.
    pub(super) fn look_soon(&self) {
        self.order(Order::Look(None));
    }

    /// Leaves the kernel half to a successor. False when the thread does not answer; otherwise
    /// nothing that both use is touched any more once this returns.
    pub(super) fn freeze(&self) -> bool {
        let (frozen, answer) = mpsc::channel();
        self.order(Order::Freeze { frozen });
        answer.recv_timeout(FREEZE_PATIENCE).is_ok()
    }

    /// This agent runs alone: what agents before it left behind goes.
    pub(super) fn alone(&self) {
        self.order(Order::Alone);
    }

    /// The agent before this one has given way: the pods it had enrolled and nobody wants any more go.
    pub(super) fn succeed(&self) {
        self.order(Order::Succeed);
    }

    /// Ends the thread. Pins, maps and links stay: the pods' connections are refused until an agent comes.
    pub(super) fn join(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!("the enrolment thread had panicked");
        }
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!(
                "the enrolment thread is gone; pods are neither enrolled nor un-enrolled any more"
            );
        }
    }
}

/// Carries out orders, and looks around between them.
fn serve(mut roll: Roll, inbox: &mpsc::Receiver<Order>) {
    loop {
        match inbox.recv_timeout(LOOK_AGAIN) {
            Ok(Order::Look(done)) => {
                roll.look();
                if let Some(done) = done {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => roll.look(),
            Ok(Order::Alone) => roll.alone(),
            Ok(Order::Succeed) => roll.succeed(),
            Ok(Order::Freeze { frozen }) => {
                // Whoever asked may have gone; frozen all the same.
                let _ = frozen.send(());
                // Until the agent ends.
                while inbox.recv().is_ok() {}
                return roll.bow_out();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
