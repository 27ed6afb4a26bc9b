//! What is seen of one request while it is on its way, for whoever counts requests and tells of them.
//!
//! The server makes one for each request; whoever steers says with [`Attached`] what is known of its destination; the
//! engine counts in it, and hands it to [`Steer::over`] when everything has ended, however that came about. Invariant:
//! each request that was read is told exactly once, and what it costs is no look-up and no text.

use std::{fmt, pin::Pin, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::{
    Broken,
    exchange::{Message, Steer},
    fault::{self, Cause, Dialect, Fault, flag},
};
use crate::{
    balance::{Active, Moment},
    telemetry::{
        Connection, Kind, Place, RequestEnds, Side,
        metrics::{Outcome, Protocol, Spent},
    },
};

/// What whoever steers knows of a request, for as long as it is on its way.
#[derive(Default)]
pub struct Attached {
    /// Between whom it goes.
    pub ends: Option<Arc<RequestEnds>>,
    /// Keeps it counted at its endpoint.
    pub load: Option<Active>,
    /// When it must not go on any more.
    pub revoked: Option<Revoked>,
}

/// Comes true when a request must not go on, with the reason.
pub type Revoked = Pin<Box<dyn Future<Output = Fault> + Send + Sync>>;

/// One request.
pub struct Trail {
    began: Instant,
    asked: Option<Asked>,
    dialect: Dialect,
    connection: Option<Arc<Connection>>,
    /// Among the requests of its workload.
    place: Option<Place>,
    attached: Attached,
    status: Option<StatusCode>,
    grpc: Option<u8>,
    request_bytes: u64,
    response_bytes: u64,
    /// What another agent says that it failed of.
    told: Option<Cause>,
    end: End,
}

/// What was asked. Cheap to keep: the pieces are shared with the request itself.
struct Asked {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
}

/// How a request ended.
#[derive(Debug)]
enum End {
    /// It has not; or its connection was cut here.
    Open,
    /// With a whole answer.
    Whole,
    /// The mesh answered, or broke it off.
    Fault(Fault),
    /// Whoever asked went away.
    Gone,
    /// The answer broke off.
    Cut(String),
}

/// A request, and who is told when it is over.
pub(super) struct Attended<'s, S: Steer> {
    steer: &'s S,
    pub(super) trail: Trail,
}

impl<'s, S: Steer> Attended<'s, S> {
    /// Of a request that was read.
    pub(super) fn new(steer: &'s S, message: &Message) -> Self {
        let parts = &message.parts;
        let asked = Asked {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(header::HOST).cloned(),
        };
        let mut trail = Trail::begin(steer.connection());
        trail.asked = Some(asked);
        trail.dialect = Dialect::of(&parts.headers);
        Self { steer, trail }
    }

    /// Of what should have been a request.
    pub(super) fn unread(steer: &'s S) -> Self {
        let trail = Trail::begin(steer.connection());
        Self { steer, trail }
    }
}

impl<S: Steer> Drop for Attended<'_, S> {
    fn drop(&mut self) {
        self.trail.blame();
        self.steer.over(&self.trail);
    }
}

impl Trail {
    fn begin(connection: Option<&Arc<Connection>>) -> Self {
        if let Some(connection) = connection {
            connection.count_request();
        }
        Self {
            began: Instant::now(),
            asked: None,
            dialect: Dialect::Http,
            connection: connection.cloned(),
            place: None,
            attached: Attached::default(),
            status: None,
            grpc: None,
            request_bytes: 0,
            response_bytes: 0,
            told: None,
            end: End::Open,
        }
    }

    /// The method; `None` of what was no request.
    pub fn method(&self) -> Option<&Method> {
        self.asked.as_ref().map(|asked| &asked.method)
    }

    /// The path as it came, without the query.
    pub fn path(&self) -> &str {
        self.asked.as_ref().map_or("", |asked| asked.uri.path())
    }

    /// The host that is named, as it came.
    pub fn host(&self) -> &[u8] {
        let Some(asked) = &self.asked else {
            return b"";
        };
        match (asked.uri.authority(), &asked.host) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            (None, None) => b"",
        }
    }

    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        match self.dialect {
            Dialect::Http => Protocol::Http,
            Dialect::Grpc => Protocol::Grpc,
        }
    }

    /// Between whom it goes, as far as that came to be known.
    pub fn ends(&self) -> Option<&Arc<RequestEnds>> {
        self.attached.ends.as_ref()
    }

    /// Why the mesh answered, or broke it off.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.end {
            End::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    /// Why the answer is not whole, where that is the server's doing.
    pub fn cut(&self) -> Option<&str> {
        match &self.end {
            End::Cut(why) => Some(why),
            _ => None,
        }
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        let flags = match &self.end {
            End::Open => flag::CUT_HERE,
            End::Gone => flag::CLIENT_GONE,
            End::Cut(_) => Cause::Reset.flag(),
            End::Fault(fault) => fault.cause.flag(),
            End::Whole => self.told.map_or(flag::NOTHING, Cause::flag),
        };
        Outcome {
            code: self.status.map_or(0, |status| status.as_u16()),
            grpc: self.grpc,
            flags,
        }
    }

    /// What it took until now.
    pub fn spent(&self) -> Spent {
        Spent {
            duration: self.began.elapsed(),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        }
    }

    /// Takes a place for it among the requests of its workload.
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        if let Some(connection) = &self.connection {
            let place = connection.claim.take(Kind::Request);
            self.place = Some(place.map_err(|full| Fault::new(Cause::RequestLimit, full.to_string()))?);
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, attached: Attached) {
        self.attached = attached;
    }

    pub(super) fn take_revoked(&mut self) -> Option<Revoked> {
        self.attached.revoked.take()
    }

    /// What is to go on being watched.
    pub(super) fn watch(&mut self, revoked: Option<Revoked>) {
        self.attached.revoked = revoked;
    }

    /// The head of the answer came from where the request went.
    pub(super) fn heard(&mut self, headers: &HeaderMap) {
        self.told = fault::told(headers);
        let Some(load) = &self.attached.load else {
            return;
        };
        let now = Instant::now();
        let took = now - self.began;
        match self.told {
            Some(cause) if cause.is_of_endpoint() => load.failed(took, Moment::from(now)),
            _ => load.answered(took, Moment::from(now)),
        }
    }

    /// The answer begins.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        self.trailed(headers);
    }

    /// Headers that may have the status of a gRPC call in them.
    pub(super) fn trailed(&mut self, headers: &HeaderMap) {
        if self.dialect == Dialect::Grpc
            && let Some(status) = headers.get("grpc-status")
        {
            self.grpc = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    pub(super) fn count_request(&mut self, bytes: usize) {
        self.request_bytes += bytes as u64;
        if let Some(connection) = &self.connection {
            connection.count(Side::ToUpstream, bytes as u64);
        }
    }

    pub(super) fn count_response(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
        if let Some(connection) = &self.connection {
            connection.count(Side::ToDownstream, bytes as u64);
        }
    }

    pub(super) fn whole(&mut self) {
        self.end = End::Whole;
    }

    pub(super) fn faulted(&mut self, fault: Fault) {
        self.end = End::Fault(fault);
    }

    pub(super) fn gone(&mut self) {
        self.end = End::Gone;
    }

    pub(super) fn cut_by(&mut self, broken: &Broken) {
        self.end = End::Cut(broken.to_string());
    }

    /// Lets the endpoint's load know of a failure that is its own.
    fn blame(&self) {
        let failed = match &self.end {
            End::Fault(fault) => fault.cause.is_of_endpoint(),
            End::Cut(_) => true,
            End::Open | End::Whole | End::Gone => false,
        };
        if let (true, Some(load)) = (failed, &self.attached.load) {
            let now = Instant::now();
            load.failed(now - self.began, Moment::from(now));
        }
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trail")
            .field("path", &self.path())
            .field("status", &self.status)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Comes true when what `revoked` watches for does; never if there is nothing to watch for.
pub(super) async fn revoked(revoked: &mut Option<Revoked>) -> Fault {
    match revoked {
        Some(revoked) => revoked.await,
        None => std::future::pending().await,
    }
}
