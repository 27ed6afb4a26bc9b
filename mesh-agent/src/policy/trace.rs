//! How a decision came about: every policy and rule that was looked at, and what kept it from matching.
//!
//! The code that decides tells its steps to [`Notes`]. For a decision nobody writes them down, and rules that cannot match
//! are left out; for a [`Trace`] a [`Recorder`] does, and every rule is asked. The rules themselves are asked by the same
//! code, and [`list`](super::list) promises that the same one is found: so what is explained is what is done.

use std::fmt;

use mesh_common::model::{AuthorizationPolicy, Enforcement};

use super::clause::Miss;
use super::compile::CompiledPolicy;
use super::decision::Decision;
use super::facts::{Channel, ConnectionFacts, RequestFacts};
use super::mode::PortMode;

/// The way to a decision. Shown as one line for each step.
#[derive(Debug)]
pub struct Trace<'a> {
    /// The connection.
    pub facts: ConnectionFacts<'a>,
    /// The request, if one was decided on and not a connection.
    pub request: Option<RequestFacts<'a>>,
    /// The mode of the port.
    pub mode: &'a PortMode,
    /// The policies that took part, in order; after the one that decided, none is asked.
    pub considered: Vec<PolicyTrace<'a>>,
    /// The policies that decide nothing: AUDIT, and those in dry run.
    pub reported: Vec<PolicyTrace<'a>>,
    /// What was decided.
    pub decision: Decision<'a>,
    /// What would be decided if the policies in dry run were enforced; `None` if there are none.
    pub rehearsal: Option<Decision<'a>>,
}

/// One policy on the way.
#[derive(Debug)]
pub struct PolicyTrace<'a> {
    /// The policy.
    pub policy: &'a AuthorizationPolicy,
    /// The rules that were looked at, from the first to the one that matched.
    pub rules: Vec<RuleTrace<'a>>,
}

/// One rule on the way.
#[derive(Debug, Default)]
pub struct RuleTrace<'a> {
    /// Whether it matched.
    pub matched: bool,
    /// The entries that did not match. A rule can match all the same by another alternative.
    pub misses: Vec<Miss<'a>>,
}

/// Who is told the steps of a decision.
pub(super) trait Notes<'a> {
    /// Whether anybody wants to know of rules that cannot match.
    const WRITTEN: bool;

    /// A policy is asked.
    fn policy(&mut self, policy: &'a CompiledPolicy);
    /// A rule of the policy is looked at.
    fn rule(&mut self, number: usize);
    /// An entry of the rule does not match.
    fn miss(&mut self, miss: Miss<'a>);
    /// The rule matches.
    fn matched(&mut self);
}

/// Nobody.
impl<'a> Notes<'a> for () {
    const WRITTEN: bool = false;

    fn policy(&mut self, _: &'a CompiledPolicy) {}
    fn rule(&mut self, _: usize) {}
    fn miss(&mut self, _: Miss<'a>) {}
    fn matched(&mut self) {}
}

/// Writes the steps down.
#[derive(Default)]
pub(super) struct Recorder<'a> {
    pub(super) policies: Vec<PolicyTrace<'a>>,
}

impl<'a> Recorder<'a> {
    fn current(&mut self) -> Option<&mut RuleTrace<'a>> {
        self.policies.last_mut()?.rules.last_mut()
    }
}

impl<'a> Notes<'a> for Recorder<'a> {
    const WRITTEN: bool = true;

    fn policy(&mut self, policy: &'a CompiledPolicy) {
        self.policies.push(PolicyTrace {
            policy: policy.policy(),
            rules: Vec::new(),
        });
    }

    fn rule(&mut self, number: usize) {
        if let Some(policy) = self.policies.last_mut() {
            debug_assert_eq!(policy.rules.len(), number, "rules are looked at in order");
            policy.rules.push(RuleTrace::default());
        }
    }

    fn miss(&mut self, miss: Miss<'a>) {
        if let Some(rule) = self.current() {
            rule.misses.push(miss);
        }
    }

    fn matched(&mut self) {
        if let Some(rule) = self.current() {
            rule.matched = true;
        }
    }
}

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.facts.channel {
            Channel::Plaintext => writeln!(f, "identity: none, plaintext from {}", self.facts.source_ip)?,
            Channel::MutualTls(peer) => writeln!(f, "identity: {peer}, by mutual TLS")?,
            Channel::SameNode(peer) => writeln!(f, "identity: {peer}, by the kernel")?,
        }
        if let Some(request) = &self.request {
            writeln!(
                f,
                "request: {} {}, host {}",
                request.method, request.path, request.host
            )?;
            match request.token.map(|token| token.principal()) {
                Some(Some(principal)) => writeln!(f, "token: {}", principal.concat())?,
                Some(None) => writeln!(f, "token: without issuer or subject")?,
                None => writeln!(f, "token: none")?,
            }
        }
        match &self.mode.from {
            Some(key) => writeln!(f, "mode: {}, PeerAuthentication {key}", self.mode.mode)?,
            None => writeln!(f, "mode: {}, by default", self.mode.mode)?,
        }
        for policy in self.considered.iter().chain(&self.reported) {
            policy.fmt(f)?;
        }
        writeln!(f, "verdict: {}", self.decision)?;
        if let Some(rehearsal) = &self.rehearsal {
            writeln!(f, "with dry run: {rehearsal}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyTrace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuthorizationPolicy { key, action, .. } = self.policy;
        let note = match self.policy.enforcement {
            Enforcement::Enforced => "",
            Enforcement::DryRun => ", dry run",
        };
        writeln!(f, "policy: {key}, {action}{note}")?;
        for (number, rule) in self.rules.iter().enumerate() {
            writeln!(
                f,
                "  rule {number}: {}",
                if rule.matched { "match" } else { "no match" }
            )?;
            rule.misses
                .iter()
                .try_for_each(|miss| writeln!(f, "    {miss}"))?;
        }
        Ok(())
    }
}
