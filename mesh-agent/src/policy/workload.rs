//! The policies that concern one workload, and what they say about a connection or a request to it.

use std::sync::Arc;

use mesh_common::model::{Action, ObjectKey, PeerMode};

use super::compile::{CompiledPolicy, Reads};
use super::decision::{Decision, Reason, Report, Verdict};
use super::facts::{Channel, ConnectionFacts, RequestFacts, Subject};
use super::jwt::CompiledAuthentication;
use super::list::{Place, PolicyList};
use super::mode::Modes;
use super::trace::{Notes, Recorder, Trace};

/// Everything that decides who may connect to one workload.
///
/// Two are equal when they are made of the same compiled policies, not merely of equal ones.
#[derive(Debug)]
pub struct WorkloadPolicy {
    modes: Modes,
    /// Named by the workload, and not there.
    unknown: Vec<ObjectKey>,
    custom: PolicyList,
    deny: PolicyList,
    allow: PolicyList,
    audit: PolicyList,
    authentications: Vec<Arc<CompiledAuthentication>>,
    /// What those look at that decide.
    reads: Reads,
    /// What those look at that decide nothing; `None` if there are none.
    silent: Option<Reads>,
    /// Whether any is in dry run.
    rehearses: bool,
}

/// What can be said of a connection before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeforeRequests<'a> {
    /// Whatever is asked for, it is denied.
    Deny(Decision<'a>),
    /// Each request must be judged.
    Ask,
}

/// How a connection may go on whose bytes come as they are: HTTP perhaps, perhaps not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance<'a> {
    /// Not at all: it is denied as TCP, and so is every request on it.
    Closed(Decision<'a>),
    /// Only as requests, each judged by itself: as TCP it is denied.
    Requests(Decision<'a>),
    /// As TCP, which allows every request as well; there may be more to be said of those.
    Open(Decision<'a>, Interest),
}

/// What is left to be said of the requests on a connection that is allowed as TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing.
    None,
    /// Policies that decide nothing could match some.
    Reports,
    /// A RequestAuthentication looks at their tokens.
    Tokens,
}

/// Which policies take part in a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    /// Those that are enforced.
    Enforced,
    /// Those in dry run as well.
    All,
}

impl WorkloadPolicy {
    /// Puts together what concerns a workload: each policy once, and the policies that the workload names and that
    /// are not known.
    pub fn new(
        modes: Modes,
        policies: impl IntoIterator<Item = Arc<CompiledPolicy>>,
        unknown: Vec<ObjectKey>,
    ) -> Self {
        let (mut custom, mut deny, mut allow, mut audit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut reads, mut silent, mut rehearses) = (Reads::default(), None, false);
        for policy in policies {
            rehearses |= !policy.is_enforced();
            let reads = match policy.is_silent() {
                true => silent.get_or_insert_default(),
                false => &mut reads,
            };
            reads.add(policy.reads());
            let list = match policy.policy().action {
                Action::Custom => &mut custom,
                Action::Deny => &mut deny,
                Action::Allow => &mut allow,
                Action::Audit => &mut audit,
            };
            list.push(policy);
        }
        Self {
            modes,
            unknown,
            custom: PolicyList::new(custom),
            deny: PolicyList::new(deny),
            allow: PolicyList::new(allow),
            audit: PolicyList::new(audit),
            authentications: Vec::new(),
            reads,
            silent,
            rehearses,
        }
    }

    /// Adds the RequestAuthentications that concern the workload, in the order of their names.
    #[must_use]
    pub fn with_authentications(mut self, authentications: Vec<Arc<CompiledAuthentication>>) -> Self {
        self.authentications = authentications;
        self
    }

    /// The RequestAuthentications that concern the workload.
    pub fn authentications(&self) -> &[Arc<CompiledAuthentication>] {
        &self.authentications
    }

    /// What the workload takes from its peers.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// All policies in the order in which they are asked, and by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        let lists = [&self.custom, &self.deny, &self.allow, &self.audit];
        lists.into_iter().flat_map(|list| list.iter())
    }

    /// The policies that the workload names and that are not known.
    pub fn unknown(&self) -> &[ObjectKey] {
        &self.unknown
    }

    /// Whether some connection to this port may be denied.
    pub fn may_deny(&self, port: u16) -> bool {
        let lists = [&self.custom, &self.deny, &self.allow];
        self.modes.at(port).mode == PeerMode::Strict
            || !self.unknown.is_empty()
            || lists
                .into_iter()
                .flat_map(|list| list.iter())
                .any(|policy| policy.is_enforced())
    }

    /// Whether the requests of a connection must be looked at to judge them: some policy that decides asks for something
    /// that only a request has, or a RequestAuthentication looks at tokens.
    pub fn needs_requests(&self) -> bool {
        self.reads.requests || !self.authentications.is_empty()
    }

    /// What the policies that decide look at in requests. For the others nothing about a request changes.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// What the policies that decide nothing look at in requests.
    pub fn silent_reads(&self) -> Reads {
        self.silent.unwrap_or_default()
    }

    /// Whether there is any policy that decides nothing, so that [`Self::reports`] or [`Self::rehearse`] have
    /// something to say.
    pub fn has_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// Decides on a connection as TCP, whose bytes nobody reads: see [`BeforeRequests`] for one with requests.
    pub fn decide(&self, facts: &ConnectionFacts<'_>) -> Decision<'_> {
        self.walk(Subject::Connection(facts), Cast::Enforced, &mut ())
    }

    /// Decides on a connection whose requests will each be decided on, as far as that can be done before them: what is
    /// denied now would be denied for every request. Plaintext where the mode is STRICT is, and a match of a DENY rule
    /// without fields about requests.
    pub fn decide_connection_for_http(&self, facts: &ConnectionFacts<'_>) -> BeforeRequests<'_> {
        let decision = self.walk(Subject::Requests(facts), Cast::Enforced, &mut ());
        match decision.verdict() {
            Verdict::Deny => BeforeRequests::Deny(decision),
            Verdict::Allow => BeforeRequests::Ask,
        }
    }

    /// Decides on a connection of which nobody knows yet whether it carries requests. What it allows as TCP it allows for
    /// every request: a field about requests keeps ALLOW rules from matching TCP, and never a DENY rule.
    pub fn admit(&self, facts: &ConnectionFacts<'_>) -> Entrance<'_> {
        let decision = self.decide(facts);
        match (decision.verdict(), self.decide_connection_for_http(facts)) {
            (Verdict::Allow, _) => Entrance::Open(decision, self.interest(facts)),
            (Verdict::Deny, BeforeRequests::Ask) => Entrance::Requests(decision),
            (Verdict::Deny, BeforeRequests::Deny(_)) => Entrance::Closed(decision),
        }
    }

    fn interest(&self, facts: &ConnectionFacts<'_>) -> Interest {
        if !self.authentications.is_empty() {
            return Interest::Tokens;
        }
        // For a rule that permits, the requests thought of at their best are those that it wants to see; from one that
        // objects, what it says of requests is dropped.
        let subjects = [
            (&self.deny, Subject::Connection(facts)),
            (&self.audit, Subject::Connection(facts)),
            (&self.allow, Subject::Requests(facts)),
        ];
        let could_match = |(list, subject): (&PolicyList, Subject<'_, '_>)| {
            list.find(Place::default(), subject, |policy, rule| {
                policy.is_silent() && rule.reads_requests()
            })
            .is_some()
        };
        match self.has_silent() && subjects.into_iter().any(could_match) {
            true => Interest::Reports,
            false => Interest::None,
        }
    }

    /// Decides on a request.
    pub fn decide_request(&self, facts: &RequestFacts<'_>) -> Decision<'_> {
        self.walk(Subject::Request(facts), Cast::Enforced, &mut ())
    }

    /// What would be decided on a connection if the policies in dry run were enforced too; `None` if there are none.
    pub fn rehearse(&self, facts: &ConnectionFacts<'_>) -> Option<Decision<'_>> {
        self.rehearse_subject(Subject::Connection(facts))
    }

    /// What would be decided on a request if the policies in dry run were enforced too; `None` if there are none.
    pub fn rehearse_request(&self, facts: &RequestFacts<'_>) -> Option<Decision<'_>> {
        self.rehearse_subject(Subject::Request(facts))
    }

    /// The policies that decide nothing and match the connection.
    pub fn reports<'a>(&'a self, facts: &ConnectionFacts<'_>) -> impl Iterator<Item = Report<'a>> {
        self.reports_on(Subject::Connection(facts))
    }

    /// The policies that decide nothing and match the request.
    pub fn reports_request<'a>(&'a self, facts: &RequestFacts<'_>) -> impl Iterator<Item = Report<'a>> {
        self.reports_on(Subject::Request(facts))
    }

    /// How the decision about a connection comes about.
    pub fn trace<'a>(&'a self, facts: ConnectionFacts<'a>) -> Trace<'a> {
        self.trace_subject(Subject::Connection(&facts), facts, None)
    }

    /// How the decision about a request comes about.
    pub fn trace_request<'a>(&'a self, facts: RequestFacts<'a>) -> Trace<'a> {
        self.trace_subject(Subject::Request(&facts), facts.connection, Some(facts))
    }

    fn rehearse_subject(&self, subject: Subject<'_, '_>) -> Option<Decision<'_>> {
        self.rehearses.then(|| self.walk(subject, Cast::All, &mut ()))
    }

    fn reports_on<'a>(&'a self, subject: Subject<'_, '_>) -> impl Iterator<Item = Report<'a>> {
        let custom = self.custom.iter().filter(|policy| policy.is_silent());
        let lists = [&self.deny, &self.allow, &self.audit]
            .into_iter()
            .filter(|_| self.has_silent());
        let matches = lists.flat_map(move |list| list.matches(subject, CompiledPolicy::is_silent));
        let whole = custom.map(|policy| (policy, None));
        let all = whole.chain(matches.map(|(policy, rule)| (policy, Some(rule))));
        all.map(|(policy, rule)| Report {
            policy: policy.policy(),
            rule,
        })
    }

    fn trace_subject<'a>(
        &'a self,
        subject: Subject<'_, 'a>,
        facts: ConnectionFacts<'a>,
        request: Option<RequestFacts<'a>>,
    ) -> Trace<'a> {
        let mut considered = Recorder::default();
        let decision = self.walk(subject, Cast::Enforced, &mut considered);
        let mut reported = Recorder::default();
        for policy in self.policies().filter(|policy| policy.is_silent()) {
            policy.first_match(subject, &mut reported);
        }
        Trace {
            facts,
            request,
            mode: self.modes.at(facts.destination.port()),
            considered: considered.policies,
            reported: reported.policies,
            decision,
            rehearsal: self.rehearse_subject(subject),
        }
    }

    /// The one way to a decision.
    fn walk<'a>(&'a self, subject: Subject<'_, '_>, cast: Cast, notes: &mut impl Notes<'a>) -> Decision<'a> {
        let facts = subject.connection();
        let mode = self.modes.at(facts.destination.port());
        if mode.mode == PeerMode::Strict && facts.channel == Channel::Plaintext {
            return Reason::Plaintext(mode.from.as_ref()).into();
        }
        if let Some(key) = self.unknown.first() {
            return Reason::UnknownPolicy(key).into();
        }
        let acts = |policy: &CompiledPolicy| cast == Cast::All || policy.is_enforced();
        if let Some(policy) = self.custom.iter().find(|policy| acts(policy)) {
            notes.policy(policy);
            return Reason::NoAuthorizer(&policy.policy().key).into();
        }
        if let Some((policy, rule)) = self.deny.first_match(subject, acts, notes) {
            return Reason::DenyRule(&policy.policy().key, rule).into();
        }
        if let Some((policy, rule)) = self.allow.first_match(subject, acts, notes) {
            return Reason::AllowRule(&policy.policy().key, rule).into();
        }
        match self.allow.iter().any(|policy| acts(policy)) {
            true => Reason::NothingAllows.into(),
            false => Reason::NoAllowPolicy.into(),
        }
    }
}

impl PartialEq for WorkloadPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.modes == other.modes
            && self.unknown == other.unknown
            && self.policies().count() == other.policies().count()
            && self
                .policies()
                .zip(other.policies())
                .all(|(a, b)| Arc::ptr_eq(a, b))
            && self.authentications.len() == other.authentications.len()
            && self
                .authentications
                .iter()
                .zip(&other.authentications)
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl<'a> From<Reason<'a>> for Decision<'a> {
    fn from(reason: Reason<'a>) -> Self {
        Self { reason }
    }
}
