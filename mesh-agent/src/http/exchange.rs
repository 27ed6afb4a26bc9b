//! One request and its answer, from end to end.
//!
//! A downstream connection hands over each request; [`Steer`] says where it goes; [`ask`] asks there, [`hear`] moves both
//! messages at once in the one task, and [`mod@say`] answers when there is nobody to answer.
//!
//! Invariant: nothing is sent again that a server may have seen, unless that is harmless; an answer is whole or visibly cut.

mod ask;
mod hear;
mod say;

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use h2::Reason;
use http::{Method, StatusCode, request};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

pub(super) use self::say::refuse;
use self::{
    hear::unless_gone,
    say::{cut, refused, say},
};
use super::{
    Broken,
    course::{Course, Deadline, Escort, Onward},
    downstream::Downstream,
    fault::{Cause, Dialect, Fault, NO_CONNECT, Signature},
    h1::{Framing, Switch, Target},
    mirror::Copies,
    pool::Shelf,
    pump::Pump,
    streams::is_empty,
    trail::{self, Attached, Trail},
    upstream::Upstream,
    wire::Spoken,
};
use crate::telemetry::{self, Claim};
use crate::upstream::session::{Mark, Room};

/// A request on its way.
pub struct Message {
    /// Its head, without what belongs to one connection.
    pub parts: request::Parts,
    /// What the client speaks.
    pub spoken: Spoken,
    /// What whoever steers knows of it.
    pub attached: Attached,
    pub(super) target: Target,
    pub(super) body: Framing,
    pub(super) switch: Switch,
    /// Where its body goes as well.
    pub(super) copies: Copies,
}

/// Decides where requests go: the part of the way that the engine does not know.
pub trait Steer: Send + Sync {
    /// A server as [`Steer::steer`] names it.
    type Server: Server;
    /// Another agent as [`Steer::steer`] names it.
    type Agent: Agent;
    /// What goes with a request.
    type Escort: Escort;

    /// Who signs the answers that the mesh makes.
    fn signature(&self) -> &Signature;

    /// The connection that the requests come on, as it is told of.
    fn connection(&self) -> Option<&Arc<telemetry::Connection>> {
        None
    }

    /// A request is over, however it ended.
    fn over(&self, _: &Trail) {}

    /// What becomes of this request. May change its head.
    fn steer(&self, message: &mut Message) -> impl Future<Output = Steered<Self>> + Send;
}

/// What becomes of a request that `S` steers.
pub type Steered<S> =
    Result<Course<Hop<<S as Steer>::Server, <S as Steer>::Agent>, <S as Steer>::Escort>, Fault>;

/// The next hop of a request.
pub enum Hop<S, A> {
    /// The agent of the destination, as a request in a tunnel to it.
    Agent(Room, A),
    /// Straight to a server, in the version that the client speaks.
    Server(S),
}

/// The agent of a destination.
pub trait Agent: Send + Sync {
    /// Room in another tunnel to it than the one with this mark, which takes no requests any more or has refused one.
    fn another(&self, mark: &Mark) -> impl Future<Output = Result<Room, Fault>> + Send;
}

/// Where no agent is ever asked.
impl Agent for Infallible {
    async fn another(&self, _: &Mark) -> Result<Room, Fault> {
        match *self {}
    }
}

/// A server that is spoken to directly.
pub trait Server: Send + Sync {
    /// Connections to it that may be used for this request.
    fn shelf(&self) -> &Arc<Shelf>;

    /// The client's end of the connection that the request came on.
    fn asker(&self) -> SocketAddr;

    /// Owns the tasks of HTTP/2 connections to it.
    fn connections(&self) -> &TaskTracker;

    /// In whose turns its connections work, and what they may hold.
    fn claim(&self) -> Arc<Claim>;

    /// Opens a connection to it.
    fn connect(&self) -> impl Future<Output = Result<TcpStream, Fault>> + Send;
}

/// How an exchange ended.
pub(super) enum Done {
    /// With an answer.
    Answered,
    /// Before the answer was whole. An HTTP/1 connection downstream must be reset.
    Broken(Broken),
    /// Both sides left HTTP.
    Switched(Box<Upstream>),
}

/// What stops an exchange before an answer has begun.
enum Stop {
    /// The mesh answers.
    Fault(Fault),
    /// Nobody is there to read an answer.
    Gone(Broken),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Who goes with a request, and how far it is.
struct Charge<E> {
    escort: E,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered.
    Unanswered,
    /// The client hears an answer: there can be no other.
    Answering { body: Framing },
}

/// Serves one request.
pub(super) async fn exchange<S: Steer>(steer: &S, mut message: Message, down: &mut Downstream<'_>) -> Done {
    let dialect = Dialect::of(&message.parts.headers);
    let method = message.parts.method.clone();
    if method == Method::CONNECT {
        let fault = Fault::new(Cause::Method, NO_CONNECT);
        return refused(steer, &fault, dialect, &method, down).await;
    }
    if let Err(fault) = down.trail().enter() {
        return refused(steer, &fault, dialect, &method, down).await;
    }
    let Onward {
        hop,
        escort,
        deadline,
    } = match unless_gone(down, steer.steer(&mut message)).await {
        Ok(Ok(Course::Onward(onward))) => onward,
        Ok(Ok(Course::Answer(answer))) => {
            let done = say(answer.status, answer.headers, Bytes::new(), &method, down).await;
            down.trail().attach(message.attached);
            down.trail().whole();
            return done;
        }
        Ok(Err(fault)) => {
            down.trail().attach(message.attached);
            return refused(steer, &fault, dialect, &method, down).await;
        }
        Err(broken) => {
            down.trail().gone();
            return Done::Broken(broken);
        }
    };
    down.trail().attach(std::mem::take(&mut message.attached));
    let mut revoked = down.trail().take_revoked();
    let mut request = if is_empty(message.body) {
        Pump::flush_only()
    } else {
        Pump::new()
    };
    request.share(std::mem::take(&mut message.copies));
    let mut charge = Charge {
        escort,
        stage: Stage::Unanswered,
    };
    let ended = {
        let work = pin!(ask::forward(hop, message, down, &mut request, &mut charge));
        tokio::select! {
            biased;
            ended = Deadline::bound(deadline, work) => ended,
            fault = trail::revoked(&mut revoked) => Err(fault),
        }
    };
    match ended {
        Ok(Ok(done)) => {
            down.trail().watch(revoked);
            done
        }
        Ok(Err(Stop::Gone(broken))) => {
            down.trail().gone();
            down.reset(Reason::CANCEL);
            Done::Broken(broken)
        }
        Ok(Err(Stop::Fault(fault))) => refused(steer, &fault, dialect, &method, down).await,
        Err(fault) if charge.stage == Stage::Unanswered => {
            refused(steer, &fault, dialect, &method, down).await
        }
        Err(fault) => {
            tracing::debug!(%fault, "an answer is broken off");
            down.trail().faulted(fault.clone());
            cut(steer.signature(), &fault, dialect, charge.stage, down)
        }
    }
}

/// The status with which a switch of protocols is agreed to, where streams leave HTTP instead of connections.
pub(super) const JOINED: StatusCode = StatusCode::OK;
