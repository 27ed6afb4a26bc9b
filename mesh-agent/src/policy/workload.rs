//! The policies that concern one workload, and what they say about a connection to it.

use std::sync::Arc;

use mesh_common::model::{Action, ObjectKey, PeerMode};

use super::compile::CompiledPolicy;
use super::decision::{Decision, Reason, Report};
use super::facts::{Channel, ConnectionFacts};
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
    custom: Vec<Arc<CompiledPolicy>>,
    deny: Vec<Arc<CompiledPolicy>>,
    allow: Vec<Arc<CompiledPolicy>>,
    audit: Vec<Arc<CompiledPolicy>>,
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
        let mut all = Self {
            modes,
            unknown,
            custom: Vec::new(),
            deny: Vec::new(),
            allow: Vec::new(),
            audit: Vec::new(),
        };
        for policy in policies {
            let list = match policy.policy().action {
                Action::Custom => &mut all.custom,
                Action::Deny => &mut all.deny,
                Action::Allow => &mut all.allow,
                Action::Audit => &mut all.audit,
            };
            list.push(policy);
        }
        for list in [&mut all.custom, &mut all.deny, &mut all.allow, &mut all.audit] {
            list.sort_by(|a, b| a.policy().key.cmp(&b.policy().key));
            list.shrink_to_fit();
        }
        all
    }

    /// What the workload takes from its peers.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// All policies in the order in which they are asked, and by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        let decide = self.custom.iter().chain(&self.deny).chain(&self.allow);
        decide.chain(&self.audit)
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
            || lists.into_iter().flatten().any(|policy| policy.is_enforced())
    }

    /// Decides on a connection.
    pub fn decide(&self, facts: &ConnectionFacts<'_>) -> Decision<'_> {
        self.walk(facts, Cast::Enforced, &mut ())
    }

    /// What would be decided if the policies in dry run were enforced too; `None` if there are none.
    pub fn rehearse(&self, facts: &ConnectionFacts<'_>) -> Option<Decision<'_>> {
        self.rehearses().then(|| self.walk(facts, Cast::All, &mut ()))
    }

    /// The policies that decide nothing and match the connection.
    pub fn reports<'a>(&'a self, facts: &ConnectionFacts<'_>) -> impl Iterator<Item = Report<'a>> {
        self.policies()
            .filter_map(move |policy| report(policy, facts, &mut ()))
    }

    /// How the decision about a connection comes about.
    pub fn trace<'a>(&'a self, facts: ConnectionFacts<'a>) -> Trace<'a> {
        let mut considered = Recorder::default();
        let decision = self.walk(&facts, Cast::Enforced, &mut considered);
        let mut reported = Recorder::default();
        self.policies().for_each(|policy| {
            report(policy, &facts, &mut reported);
        });
        Trace {
            facts,
            mode: self.modes.at(facts.destination.port()),
            considered: considered.policies,
            reported: reported.policies,
            decision,
            rehearsal: self.rehearse(&facts),
        }
    }

    fn rehearses(&self) -> bool {
        self.policies().any(|policy| !policy.is_enforced())
    }

    /// The one way to a decision.
    fn walk<'a>(
        &'a self,
        facts: &ConnectionFacts<'_>,
        cast: Cast,
        notes: &mut impl Notes<'a>,
    ) -> Decision<'a> {
        let mode = self.modes.at(facts.destination.port());
        if mode.mode == PeerMode::Strict && facts.channel == Channel::Plaintext {
            return Reason::Plaintext(mode.from.as_ref()).into();
        }
        if let Some(key) = self.unknown.first() {
            return Reason::UnknownPolicy(key).into();
        }
        let acting = |policy: &&'a Arc<CompiledPolicy>| cast == Cast::All || policy.is_enforced();
        if let Some(policy) = self.custom.iter().find(acting) {
            notes.policy(policy);
            return Reason::NoAuthorizer(&policy.policy().key).into();
        }
        for policy in self.deny.iter().filter(acting) {
            if let Some(rule) = policy.first_match(facts, notes) {
                return Reason::DenyRule(&policy.policy().key, rule).into();
            }
        }
        let mut undecided = Reason::NoAllowPolicy;
        for policy in self.allow.iter().filter(acting) {
            if let Some(rule) = policy.first_match(facts, notes) {
                return Reason::AllowRule(&policy.policy().key, rule).into();
            }
            undecided = Reason::NothingAllows;
        }
        undecided.into()
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
    }
}

impl<'a> From<Reason<'a>> for Decision<'a> {
    fn from(reason: Reason<'a>) -> Self {
        Self { reason }
    }
}

/// The match of a policy that decides nothing.
fn report<'a>(
    policy: &'a Arc<CompiledPolicy>,
    facts: &ConnectionFacts<'_>,
    notes: &mut impl Notes<'a>,
) -> Option<Report<'a>> {
    let action = policy.policy().action;
    if action != Action::Audit && policy.is_enforced() {
        return None;
    }
    let rule = policy.first_match(facts, notes);
    (rule.is_some() || action == Action::Custom).then(|| Report {
        policy: policy.policy(),
        rule,
    })
}
