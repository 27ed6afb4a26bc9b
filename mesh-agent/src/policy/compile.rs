//! An AuthorizationPolicy made ready to be asked about connections and requests.
//!
//! `state` compiles a policy once, when it comes or changes; all workloads that it concerns share the result.

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_common::model::{
    Action, AuthorizationPolicy, Condition, Enforcement, ObjectKey, Operation, PathPattern, Pattern, Rule,
    Source, Values,
};

use super::clause::{Address, Clause, Effect, Field, Miss, Part, Sense, Test};
use super::facts::{Kind, Subject};
use super::networks::NetworkSet;
use super::request::RequestTest;
use super::text::{Case, TextSet};
use super::trace::Notes;

/// A policy in the form that decisions need.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: Arc<AuthorizationPolicy>,
    rules: Vec<CompiledRule>,
}

/// What policies look at in requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Anything.
    pub requests: bool,
    /// Their paths.
    pub paths: bool,
    /// Their headers.
    pub headers: bool,
}

impl Reads {
    /// As well as `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.requests |= other.requests;
        self.paths |= other.paths;
        self.headers |= other.headers;
    }
}

/// A rule in the form that decisions need.
#[derive(Debug)]
pub(super) struct CompiledRule {
    effect: Effect,
    /// The first field about requests that it has.
    request_field: Option<Field>,
    pub(super) from: Vec<Entry>,
    pub(super) to: Vec<Entry>,
    pub(super) when: Vec<Clause>,
}

/// Fields that must all hold.
pub(super) type Entry = Vec<Clause>;

impl CompiledPolicy {
    /// Compiles a policy.
    pub fn new(policy: Arc<AuthorizationPolicy>) -> Self {
        let rules = match policy.action {
            // There is nobody to ask whether its rules match: it denies whatever it concerns.
            Action::Custom => Vec::new(),
            action => policy.rules.iter().map(|rule| compile(rule, action)).collect(),
        };
        Self { policy, rules }
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<AuthorizationPolicy> {
        &self.policy
    }

    /// What it does that its author may not expect.
    pub fn remark(&self) -> Option<&'static str> {
        match self.policy.action {
            Action::Custom => Some("no external authorizer: denies what it selects"),
            Action::Deny | Action::Audit if self.rules.is_empty() => Some("no rules: never matches"),
            Action::Allow if self.rules.is_empty() => Some("no rules: allows nothing"),
            Action::Allow if self.rules.iter().all(|rule| rule.request_field.is_some()) => {
                Some("rules about requests only: allows no TCP connection")
            }
            Action::Allow | Action::Deny | Action::Audit => None,
        }
    }

    /// Whether it decides, and does not only rehearse.
    pub(super) fn is_enforced(&self) -> bool {
        self.policy.enforcement == Enforcement::Enforced
    }

    /// Whether what it says counts: neither AUDIT nor in dry run.
    pub fn decides(&self) -> bool {
        !self.is_silent()
    }

    /// Whether it decides nothing: AUDIT, or in dry run.
    pub(super) fn is_silent(&self) -> bool {
        self.policy.action == Action::Audit || !self.is_enforced()
    }

    /// The fields of its rules that look at requests, in the order in which they stand there.
    pub fn request_fields(&self) -> impl Iterator<Item = &Field> {
        let clauses = self.rules.iter().flat_map(CompiledRule::clauses);
        clauses
            .filter(|clause| matches!(clause.test, Test::Request(_)))
            .map(|clause| &clause.field)
    }

    /// What it looks at in requests.
    pub(super) fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        for clause in self.rules.iter().flat_map(CompiledRule::clauses) {
            if let Test::Request(test) = &clause.test {
                reads.requests = true;
                reads.paths |= matches!(test, RequestTest::Path(..));
                reads.headers |= matches!(test, RequestTest::Header(..));
            }
        }
        reads
    }

    /// Its rules.
    pub(super) fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }

    /// The first rule that matches.
    pub(super) fn first_match<'a>(
        &'a self,
        subject: Subject<'_, '_>,
        notes: &mut impl Notes<'a>,
    ) -> Option<usize> {
        notes.policy(self);
        for (number, rule) in self.rules.iter().enumerate() {
            notes.rule(number);
            if rule.matches(subject, notes) {
                notes.matched();
                return Some(number);
            }
        }
        None
    }
}

impl CompiledRule {
    /// All its fields, in the order in which they stand there.
    pub(super) fn clauses(&self) -> impl Iterator<Item = &Clause> {
        let entries = self.from.iter().chain(&self.to).flatten();
        entries.chain(&self.when)
    }

    /// Whether it looks at requests.
    pub(super) fn reads_requests(&self) -> bool {
        self.request_field.is_some()
    }

    /// Whether it never matches such subjects: what it would permit is no TCP.
    pub(super) fn is_not_for(&self, kind: Kind) -> bool {
        kind == Kind::Connection && self.effect == Effect::Permit && self.reads_requests()
    }

    pub(super) fn matches<'a>(&'a self, subject: Subject<'_, '_>, notes: &mut impl Notes<'a>) -> bool {
        if let Some(field) = &self.request_field
            && self.is_not_for(subject.kind())
        {
            notes.miss(Miss::NoRequest(field));
            return false;
        }
        one_of(Part::From, &self.from, subject, notes)
            && one_of(Part::To, &self.to, subject, notes)
            && self
                .when
                .iter()
                .enumerate()
                .all(|(entry, clause)| holds(Part::When, entry, clause, subject, notes))
    }
}

fn one_of<'a>(
    part: Part,
    entries: &'a [Entry],
    subject: Subject<'_, '_>,
    notes: &mut impl Notes<'a>,
) -> bool {
    let mut alternatives = entries.iter().enumerate();
    entries.is_empty()
        || alternatives.any(|(number, entry)| {
            entry
                .iter()
                .all(|clause| holds(part, number, clause, subject, notes))
        })
}

fn holds<'a>(
    part: Part,
    entry: usize,
    clause: &'a Clause,
    subject: Subject<'_, '_>,
    notes: &mut impl Notes<'a>,
) -> bool {
    let result = clause.check(subject);
    if let Err(why) = result {
        let field = &clause.field;
        notes.miss(Miss::Field {
            part,
            entry,
            field,
            why,
        });
    }
    result.is_ok()
}

fn compile(rule: &Rule, action: Action) -> CompiledRule {
    let effect = match action {
        Action::Allow => Effect::Permit,
        Action::Deny | Action::Audit | Action::Custom => Effect::Object,
    };
    let compiler = Compiler { effect };
    let from: Vec<Entry> = rule.from.iter().map(|source| compiler.source(source)).collect();
    let to: Vec<Entry> = rule
        .to
        .iter()
        .map(|operation| compiler.operation(operation))
        .collect();
    let when: Vec<Clause> = rule
        .when
        .iter()
        .flat_map(|condition| compiler.condition(condition))
        .collect();
    let mut clauses = from.iter().chain(&to).flatten().chain(&when);
    let request_field = clauses
        .find(|clause| matches!(clause.test, Test::Request(_)))
        .map(|clause| clause.field.clone());
    CompiledRule {
        effect,
        request_field,
        from,
        to,
        when,
    }
}

/// The way through one rule.
struct Compiler {
    effect: Effect,
}

impl Compiler {
    fn source(&self, source: &Source) -> Entry {
        let mut entry = Entry::new();
        entry.extend(self.clauses("principals", "notPrincipals", &source.principals, principal));
        entry.extend(self.clauses("namespaces", "notNamespaces", &source.namespaces, namespace));
        let accounts = &source.service_accounts;
        entry.extend(self.clauses("serviceAccounts", "notServiceAccounts", accounts, service_account));
        entry.extend(
            self.clauses("ipBlocks", "notIpBlocks", &source.ip_blocks, |nets| {
                networks(Address::Source, nets)
            }),
        );
        let remote = &source.remote_ip_blocks;
        entry.extend(
            self.clauses("remoteIpBlocks", "notRemoteIpBlocks", remote, |nets| {
                networks(Address::Remote, nets)
            }),
        );
        let principals = &source.request_principals;
        entry.extend(self.clauses(
            "requestPrincipals",
            "notRequestPrincipals",
            principals,
            |patterns| Test::Request(RequestTest::principals(patterns)),
        ));
        entry
    }

    fn operation(&self, operation: &Operation) -> Entry {
        let hosts = |patterns: &[Pattern]| Test::Request(RequestTest::hosts(patterns));
        let methods = |patterns: &[Pattern]| Test::Request(RequestTest::methods(patterns));
        let paths = |patterns: &[PathPattern]| Test::Request(RequestTest::paths(patterns));
        let mut entry = Entry::new();
        entry.extend(self.clauses("ports", "notPorts", &operation.ports, ports));
        entry.extend(self.clauses("hosts", "notHosts", &operation.hosts, hosts));
        entry.extend(self.clauses("methods", "notMethods", &operation.methods, methods));
        entry.extend(self.clauses("paths", "notPaths", &operation.paths, paths));
        entry
    }

    fn condition(&self, condition: &Condition) -> Entry {
        let mut entry = Entry::new();
        match condition {
            Condition::SourceIp(values) => {
                let test = |nets: &[IpNet]| networks(Address::Source, nets);
                entry.extend(self.clauses("source.ip", "source.ip", values, test));
            }
            Condition::RemoteIp(values) => {
                let test = |nets: &[IpNet]| networks(Address::Remote, nets);
                entry.extend(self.clauses("remote.ip", "remote.ip", values, test));
            }
            Condition::DestinationIp(values) => {
                let test = |nets: &[IpNet]| networks(Address::Destination, nets);
                entry.extend(self.clauses("destination.ip", "destination.ip", values, test));
            }
            Condition::DestinationPort(values) => {
                entry.extend(self.clauses("destination.port", "destination.port", values, ports));
            }
            Condition::SourcePrincipal(values) => {
                entry.extend(self.clauses("source.principal", "source.principal", values, principal));
            }
            Condition::SourceNamespace(values) => {
                entry.extend(self.clauses("source.namespace", "source.namespace", values, namespace));
            }
            Condition::SourceServiceAccount(values) => {
                let key = "source.serviceAccount";
                entry.extend(self.clauses(key, key, values, service_account));
            }
            Condition::Sni(values) => {
                entry.extend(self.clauses("connection.sni", "connection.sni", values, server_name));
            }
            Condition::Request(field, values) => {
                let key: Cow<'static, str> = Cow::Owned(field.to_string());
                let test = |patterns: &[Pattern]| Test::Request(RequestTest::condition(field, patterns));
                entry.extend(self.clauses(key.clone(), key, values, test));
            }
        }
        entry
    }

    /// What a field becomes: a clause for the values that it wants, and one for those that it excludes.
    fn clauses<T>(
        &self,
        wanted: impl Into<Cow<'static, str>>,
        excluded: impl Into<Cow<'static, str>>,
        values: &Values<T>,
        test: impl Fn(&[T]) -> Test,
    ) -> impl Iterator<Item = Clause> {
        let clause = |values: &[T], field, sense| {
            (!values.is_empty()).then(|| Clause {
                field: Field(field),
                sense,
                test: test(values),
                effect: self.effect,
            })
        };
        let wanted = clause(&values.any, wanted.into(), Sense::Wanted);
        let excluded = clause(&values.none, excluded.into(), Sense::Excluded);
        wanted.into_iter().chain(excluded)
    }
}

fn networks(address: Address, networks: &[IpNet]) -> Test {
    Test::Address(address, NetworkSet::new(networks))
}

fn ports(ports: &[u16]) -> Test {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    Test::Port(ports)
}

fn principal(patterns: &[Pattern]) -> Test {
    Test::Principal(TextSet::new(patterns, Case::Sensitive))
}

fn namespace(patterns: &[Pattern]) -> Test {
    Test::Namespace(TextSet::new(patterns, Case::Sensitive))
}

fn service_account(accounts: &[ObjectKey]) -> Test {
    Test::ServiceAccount(accounts.to_vec())
}

fn server_name(patterns: &[Pattern]) -> Test {
    Test::ServerName(TextSet::new(patterns, Case::Ignored))
}
