//! Whether a request to a pod of this node may be.
//!
//! The HTTP engine asks [`Guard::authorize`] for every request before the application hears of it, also on connections
//! that were let in long ago: the policies that count are those of the moment. For streams that stay open it keeps a
//! [`KeptRequest`] and asks [`Guard::still_allows`] when the snapshot changes.
//!
//! Invariant: nothing about a request is guessed. A path without an agreed spelling is refused, and the application
//! gets the path that was judged.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::HOST, request::Parts};
use mesh_common::model::ObjectKey;
use thiserror::Error;

use super::authorize::{Denied, Guard};
use crate::{
    identity::Clock,
    policy::{
        BadPath, BeforeRequests, ConnectionFacts, Decision, Headers, Reads, RequestFacts, Token, Verdict,
        WorkloadPolicy,
        jwt::{self, KeyCell, Proved, TokenCache, Unproved},
        normalize,
    },
    state::{Snapshot, Store},
    telemetry::metrics::Metrics,
};

/// What a worker keeps to judge requests: the tokens that it verified a moment ago.
#[derive(Debug)]
pub struct Gate {
    tokens: TokenCache,
    clock: Clock,
    reports: Reports,
}

/// A request that may be, and what must be changed about it before it goes on: nothing in most cases.
#[derive(Debug, Default)]
pub struct Authorized {
    /// Where to go on to, if the path was not in its one spelling.
    uri: Option<Uri>,
    proved: Option<Proved>,
    /// The policies, if some of them change requests.
    changes: Option<Arc<WorkloadPolicy>>,
}

/// A request that may not be. Shown as the reason in words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestDenied {
    /// By a policy, or for want of one that allows.
    #[error("{reason}")]
    Forbidden {
        /// The decision in words.
        reason: String,
        /// The reason in one word, for metrics.
        word: &'static str,
        /// The policy that decided, if a single one did.
        policy: Option<ObjectKey>,
        /// Its rule that matched, from 0.
        rule: Option<usize>,
    },
    /// Its token is not valid here.
    #[error("denied: {reason}")]
    Unauthenticated {
        /// What is wrong with the token.
        reason: String,
        /// The value for `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// Its token cannot be verified, for the keys of its issuer could not be had so far.
    #[error("denied: {0}")]
    NoKeys(String),
    /// The path cannot be judged.
    #[error("denied: {0}")]
    BadPath(#[from] BadPath),
    /// The workload is not in the mesh any more.
    #[error("denied: workload {0} is not known any more")]
    Unknown(ObjectKey),
}

/// What is judged of a request: its path in its one spelling, and its headers as the mesh leaves them.
#[derive(Debug)]
pub struct Judged<'r> {
    request: &'r Parts,
    path: Cow<'r, str>,
    /// What policies that decide nothing see in its place, if there are some; an error where they see nothing.
    reported: Result<Cow<'r, str>, BadPath>,
    headers: Cow<'r, HeaderMap>,
    token: Option<&'r Token>,
}

/// What must be known of a request to judge it again later. Shares its pieces with the request.
#[derive(Clone, Debug)]
pub struct KeptRequest {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    /// Copied only if some policy asked for headers when the request came.
    headers: Option<HeaderMap>,
    proved: Option<Proved>,
}

/// A refusal, and the keys that newer ones could turn it into something else.
struct Refused {
    denied: RequestDenied,
    keys: Option<Arc<KeyCell>>,
}

impl Gate {
    /// A gate that has seen nothing, for one worker.
    pub fn new(clock: Clock) -> Self {
        Self {
            tokens: TokenCache::new(),
            clock,
            reports: Reports::default(),
        }
    }
}

/// A gate by the machine's clock.
impl Default for Gate {
    fn default() -> Self {
        Self::new(Clock::system())
    }
}

impl<'r> Judged<'r> {
    /// What `policy` judges of a request whose token was proved.
    pub fn of(
        policy: &WorkloadPolicy,
        proved: Option<&'r Proved>,
        request: &'r Parts,
    ) -> Result<Self, BadPath> {
        let path = judged_path(policy.reads(), &request.uri)?;
        let reported = match policy.reads().paths {
            true => Ok(path.clone()),
            false => judged_path(policy.silent_reads(), &request.uri),
        };
        Ok(Self {
            request,
            path,
            reported,
            headers: judged_headers(policy, proved, &request.headers),
            token: proved.map(|proved| &proved.verified.token),
        })
    }

    /// The facts, of a request on that connection.
    pub fn facts<'s>(&'s self, connection: ConnectionFacts<'s>) -> RequestFacts<'s> {
        self.facts_at(connection, &self.path)
    }

    /// The same for policies that decide nothing: those that decide find the same in it. An error if the path cannot be
    /// judged, which only they wanted to know: then they say nothing, and the request is as good as any.
    pub fn reported_facts<'s>(
        &'s self,
        connection: ConnectionFacts<'s>,
    ) -> Result<RequestFacts<'s>, BadPath> {
        let path = self.reported.as_ref().map_err(|bad| *bad)?;
        Ok(self.facts_at(connection, path))
    }

    fn facts_at<'s>(&'s self, connection: ConnectionFacts<'s>, path: &'s str) -> RequestFacts<'s> {
        RequestFacts {
            connection,
            method: self.request.method.as_str(),
            path,
            host: host_of(self.request),
            headers: Headers::Known(&self.headers),
            token: self.token,
        }
    }
}

impl Authorized {
    /// Makes the changes: the path becomes the one that was judged, headers about the token are those of the mesh
    /// whatever the client sent, and the token goes unless its rule forwards it.
    pub fn apply(self, request: &mut Parts) {
        if let Some(uri) = self.uri {
            request.uri = uri;
        }
        if let Some(proved) = &self.proved {
            proved.remove_token(request);
        }
        if let Some(policy) = self.changes {
            policy.write_headers(self.proved.as_ref(), &mut request.headers);
        }
    }

    /// Who sent the request, by its token: `<issuer>/<subject>`.
    pub fn principal(&self) -> Option<String> {
        let token = &self.proved.as_ref()?.verified.token;
        token.principal().map(|pieces| pieces.concat())
    }
}

impl RequestDenied {
    /// What a decision means for the request.
    pub fn unless_allowed(decision: &Decision<'_>) -> Result<(), Self> {
        match decision.verdict() {
            Verdict::Allow => Ok(()),
            Verdict::Deny => Err(Self::Forbidden {
                reason: decision.to_string(),
                word: decision.reason.word(),
                policy: decision.policy().cloned(),
                rule: decision.rule(),
            }),
        }
    }

    /// The status to answer with. For gRPC 401 is UNAUTHENTICATED, 403 PERMISSION_DENIED, 503 UNAVAILABLE, and 400
    /// INTERNAL as everywhere.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::BadPath(_) => StatusCode::BAD_REQUEST,
            Self::NoKeys(_) | Self::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The value for `WWW-Authenticate`, which an answer with 401 must have.
    pub fn challenge(&self) -> Option<&HeaderValue> {
        match self {
            Self::Unauthenticated { challenge, .. } => Some(challenge),
            _ => None,
        }
    }

    /// The reason in one word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Forbidden { word, .. } => word,
            Self::Unauthenticated { .. } => "bad-token",
            Self::NoKeys(_) => "no-keys",
            Self::BadPath(_) => "bad-path",
            Self::Unknown(_) => "unknown-workload",
        }
    }
}

impl Guard {
    /// Whether the requests of a connection must be judged one by one. If not, [`Guard::check`] says everything, and
    /// the connection need not be read as HTTP on account of policies. Ask again when the snapshot changes.
    pub fn needs_requests(&self, snapshot: &Snapshot) -> bool {
        snapshot
            .workload(&self.workload.key)
            .is_none_or(|entry| snapshot.policy_of(entry).needs_requests())
    }

    /// In place of [`Guard::check`] for a connection whose requests are all given to [`Guard::authorize`]: denies what
    /// no request could change, and leaves everything else to the requests. Ask it when the connection begins and
    /// again when the snapshot changes.
    pub fn check_before_requests(&self, snapshot: &Snapshot) -> Result<(), Denied> {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return Err(Denied::Unknown(self.workload.key.clone()));
        };
        match snapshot
            .policy_of(entry)
            .decide_connection_for_http(&self.facts())
        {
            BeforeRequests::Ask => Ok(()),
            BeforeRequests::Deny(decision) => Err(Denied::by(&decision)),
        }
    }

    /// Judges one request by the policies of the moment: to be asked for every request, before anything of it goes
    /// to the application and before its headers are changed otherwise.
    ///
    /// Usually answers at once. It waits, for seconds at the most, only where a token names a key that is not known
    /// yet and its issuer is asked for new keys.
    pub async fn authorize(
        &self,
        store: &Store,
        gate: &Gate,
        metrics: &Metrics,
        request: &Parts,
    ) -> Result<Authorized, RequestDenied> {
        let refused = match self.judge(&store.load(), gate, metrics, request) {
            Ok(authorized) => return Ok(authorized),
            Err(refused) => refused,
        };
        match refused.keys {
            Some(keys) if keys.renewed().await => self.check_request(&store.load(), gate, metrics, request),
            _ => Err(refused.denied),
        }
    }

    /// [`Guard::authorize`] by a certain snapshot, without ever waiting for keys.
    pub fn check_request(
        &self,
        snapshot: &Snapshot,
        gate: &Gate,
        metrics: &Metrics,
        request: &Parts,
    ) -> Result<Authorized, RequestDenied> {
        self.judge(snapshot, gate, metrics, request)
            .map_err(|refused| refused.denied)
    }

    fn judge(
        &self,
        snapshot: &Snapshot,
        gate: &Gate,
        metrics: &Metrics,
        request: &Parts,
    ) -> Result<Authorized, Refused> {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return Err(RequestDenied::Unknown(self.workload.key.clone()).into());
        };
        let policy = snapshot.policy_of(entry);
        let proved = match policy.authentications().is_empty() {
            true => None,
            false => jwt::authenticate(&policy, request, &gate.tokens, gate.clock.now())?,
        };
        let judged = Judged::of(&policy, proved.as_ref(), request).map_err(RequestDenied::from)?;
        self.report_judged(gate, metrics, &policy, &judged);
        RequestDenied::unless_allowed(&policy.decide_request(&judged.facts(self.facts())))?;
        let uri = match judged.path {
            Cow::Owned(path) => Some(with_path(&request.uri, &path).map_err(RequestDenied::from)?),
            Cow::Borrowed(_) => None,
        };
        Ok(Authorized {
            uri,
            proved,
            changes: policy.writes_headers().then_some(policy),
        })
    }

    /// What to keep of a request that was authorized, to judge it again while its streams are open. Ask before
    /// [`Authorized::apply`].
    pub fn keep(&self, snapshot: &Snapshot, authorized: &Authorized, request: &Parts) -> KeptRequest {
        let entry = snapshot.workload(&self.workload.key);
        let reads_headers = entry.is_some_and(|entry| snapshot.policy_of(entry).reads().headers);
        KeptRequest {
            method: request.method.clone(),
            uri: authorized.uri.as_ref().unwrap_or(&request.uri).clone(),
            host: request.headers.get(HOST).cloned(),
            headers: reads_headers.then(|| {
                let mut headers = request.headers.clone();
                if let Some(policy) = &authorized.changes {
                    policy.write_headers(authorized.proved.as_ref(), &mut headers);
                }
                headers
            }),
            proved: authorized.proved.clone(),
        }
    }

    /// Whether a request that is still going on may go on by the policies of a later snapshot; if not, its streams are
    /// to be reset. Its token counts as it was proved. Where no headers were kept, since nobody asked for any when it came, a
    /// request may go on if policies that ask for them now allow it whatever they were.
    pub fn still_allows(&self, snapshot: &Snapshot, kept: &KeptRequest) -> Result<(), RequestDenied> {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return Err(RequestDenied::Unknown(self.workload.key.clone()));
        };
        let policy = snapshot.policy_of(entry);
        // Paths are in their one spelling if some policy asked for them when the request came.
        let path = judged_path(policy.reads(), &kept.uri)?;
        let decide = |headers| {
            policy.decide_request(&RequestFacts {
                connection: self.facts(),
                method: kept.method.as_str(),
                path: &path,
                host: host_named(&kept.uri, kept.host.as_ref()),
                headers,
                token: kept.proved.as_ref().map(|proved| &proved.verified.token),
            })
        };
        if let Some(headers) = &kept.headers {
            return RequestDenied::unless_allowed(&decide(Headers::Known(headers)));
        }
        // What no headers could save is denied for its own reason.
        RequestDenied::unless_allowed(&decide(Headers::AtBest))?;
        match decide(Headers::AtWorst).verdict() {
            Verdict::Allow => Ok(()),
            Verdict::Deny => Err(RequestDenied::Forbidden {
                reason: "denied: a policy that came later asks for headers, which were not kept".to_owned(),
                word: "headers-not-kept",
                policy: None,
                rule: None,
            }),
        }
    }

    /// Tells what policies that decide nothing would have said of a request that nobody judges: its bytes are carried as
    /// they are.
    pub fn report_unjudged(&self, snapshot: &Snapshot, gate: &Gate, metrics: &Metrics, request: &Parts) {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return;
        };
        let policy = snapshot.policy_of(entry);
        if let Ok(judged) = Judged::of(&policy, None, request) {
            self.report_judged(gate, metrics, &policy, &judged);
        }
    }

    fn report_judged(&self, gate: &Gate, metrics: &Metrics, policy: &WorkloadPolicy, judged: &Judged<'_>) {
        if policy.has_silent()
            && let Ok(facts) = judged.reported_facts(self.facts())
        {
            self.report_request(gate, metrics, policy, &facts);
        }
    }

    /// Counts and logs what policies that decide nothing would have said of the request: AUDIT, and those in dry run.
    fn report_request(
        &self,
        gate: &Gate,
        metrics: &Metrics,
        policy: &WorkloadPolicy,
        facts: &RequestFacts<'_>,
    ) {
        for report in policy.reports_request(facts) {
            metrics.count_report(&report.policy.key);
            if gate.reports.may(gate.clock.now()) {
                tracing::info!(
                    workload = %self.workload.key,
                    client = %self.client,
                    method = facts.method,
                    path = facts.path,
                    policy = %report.policy.key,
                    rule = report.rule,
                    "a policy that decides nothing matches a request"
                );
            }
        }
        let Some(rehearsed) = policy.rehearse_request(facts) else {
            return;
        };
        let enforced = policy.decide_request(facts).verdict();
        metrics.count_rehearsal(&self.workload.key, rehearsed.verdict().word(), enforced.word());
        if rehearsed.verdict() != enforced && gate.reports.may(gate.clock.now()) {
            tracing::info!(
                workload = %self.workload.key,
                client = %self.client,
                method = facts.method,
                path = facts.path,
                "a request would fare otherwise if the policies in dry run were enforced: {rehearsed}"
            );
        }
    }
}

/// The path for policies that look at this in requests. It is brought to its one spelling only where one asks for it: an
/// application without such policies gets its paths as they come.
fn judged_path(reads: Reads, uri: &Uri) -> Result<Cow<'_, str>, BadPath> {
    let path = uri.path();
    match reads.paths && !path.is_empty() {
        true => normalize(path),
        false => Ok(Cow::Borrowed(path)),
    }
}

/// The headers to judge: what the mesh says of the token stands in them, and not what the client says of it.
fn judged_headers<'r>(
    policy: &WorkloadPolicy,
    proved: Option<&Proved>,
    headers: &'r HeaderMap,
) -> Cow<'r, HeaderMap> {
    let is_read = policy.reads().headers || policy.silent_reads().headers;
    if !is_read || !policy.writes_headers() {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    policy.write_headers(proved, &mut headers);
    Cow::Owned(headers)
}

/// The host that a request names: that of its target, else that of its header.
fn host_of(request: &Parts) -> &str {
    host_named(&request.uri, request.headers.get(HOST))
}

fn host_named<'r>(uri: &'r Uri, host: Option<&'r HeaderValue>) -> &'r str {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let header = || host.and_then(|host| host.to_str().ok());
    let host = authority.or_else(header).unwrap_or_default();
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

/// A request target with another path.
fn with_path(uri: &Uri, path: &str) -> Result<Uri, BadPath> {
    let whole: Cow<'_, str> = match uri.query() {
        Some(query) => format!("{path}?{query}").into(),
        None => path.into(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(whole.parse().map_err(|_| BadPath::Encoding)?);
    Uri::from_parts(parts).map_err(|_| BadPath::Relative)
}

impl From<RequestDenied> for Refused {
    fn from(denied: RequestDenied) -> Self {
        Self { denied, keys: None }
    }
}

impl From<Unproved> for Refused {
    fn from(unproved: Unproved) -> Self {
        Self {
            denied: RequestDenied::from(&unproved),
            keys: match unproved {
                Unproved::Bad(_) => None,
                Unproved::UnknownKey(_, keys) | Unproved::NoKeys { keys, .. } => Some(keys),
            },
        }
    }
}

impl From<&Unproved> for RequestDenied {
    fn from(unproved: &Unproved) -> Self {
        let reason = unproved.to_string();
        match unproved {
            Unproved::Bad(_) | Unproved::UnknownKey(..) => Self::bad_token(reason),
            Unproved::NoKeys { .. } => Self::NoKeys(reason),
        }
    }
}

impl RequestDenied {
    fn bad_token(reason: String) -> Self {
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{reason}\"");
        Self::Unauthenticated {
            reason,
            // The reasons are plain ASCII without quotes.
            challenge: HeaderValue::try_from(challenge)
                .unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
        }
    }
}

/// How many reports about requests are logged in a second: the log must not follow the load.
const REPORTS_A_SECOND: u32 = 50;

/// Counts what was to be logged.
#[derive(Debug, Default)]
struct Reports {
    second: AtomicU64,
    count: AtomicU32,
}

impl Reports {
    /// Whether one more report may be logged now.
    fn may(&self, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second.swap(second, Ordering::Relaxed) != second {
            let left_out = self
                .count
                .swap(0, Ordering::Relaxed)
                .saturating_sub(REPORTS_A_SECOND);
            if left_out > 0 {
                tracing::info!(
                    left_out,
                    "reports about requests that were counted, and not logged"
                );
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed) < REPORTS_A_SECOND
    }
}

#[cfg(test)]
mod tests;
