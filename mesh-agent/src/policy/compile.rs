//! An AuthorizationPolicy made ready to be asked about TCP connections.
//!
//! `state` compiles a policy once, when it comes or changes; all workloads that it concerns share the result.

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_common::model::{
    Action, AuthorizationPolicy, Condition, Enforcement, ObjectKey, Operation, Pattern, Rule, Source, Values,
};

use super::clause::{Address, Clause, Field, Miss, Part, Sense, Stranger, Test};
use super::facts::ConnectionFacts;
use super::networks::NetworkSet;
use super::text::{Case, TextSet};
use super::trace::Notes;

/// A policy in the form that decisions need.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: Arc<AuthorizationPolicy>,
    rules: Vec<CompiledRule>,
}

#[derive(Debug)]
enum CompiledRule {
    /// It allows by something of a request.
    Never(Field),
    When {
        from: Vec<Entry>,
        to: Vec<Entry>,
        when: Vec<Clause>,
    },
}

/// Fields that must all hold.
type Entry = Vec<Clause>;

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
            Action::Allow
                if self
                    .rules
                    .iter()
                    .all(|rule| matches!(rule, CompiledRule::Never(_))) =>
            {
                Some("rules about requests only: allows no TCP connection")
            }
            Action::Allow | Action::Deny | Action::Audit => None,
        }
    }

    /// Whether it decides, and does not only rehearse.
    pub(super) fn is_enforced(&self) -> bool {
        self.policy.enforcement == Enforcement::Enforced
    }

    /// The first rule that matches.
    pub(super) fn first_match<'a>(
        &'a self,
        facts: &ConnectionFacts<'_>,
        notes: &mut impl Notes<'a>,
    ) -> Option<usize> {
        notes.policy(self);
        for (number, rule) in self.rules.iter().enumerate() {
            notes.rule(number);
            if rule.matches(facts, notes) {
                notes.matched();
                return Some(number);
            }
        }
        None
    }
}

impl CompiledRule {
    fn matches<'a>(&'a self, facts: &ConnectionFacts<'_>, notes: &mut impl Notes<'a>) -> bool {
        match self {
            Self::Never(field) => {
                notes.miss(Miss::NoRequest(field));
                false
            }
            Self::When { from, to, when } => {
                one_of(Part::From, from, facts, notes)
                    && one_of(Part::To, to, facts, notes)
                    && when
                        .iter()
                        .enumerate()
                        .all(|(entry, clause)| holds(Part::When, entry, clause, facts, notes))
            }
        }
    }
}

fn one_of<'a>(
    part: Part,
    entries: &'a [Entry],
    facts: &ConnectionFacts<'_>,
    notes: &mut impl Notes<'a>,
) -> bool {
    let mut alternatives = entries.iter().enumerate();
    entries.is_empty()
        || alternatives.any(|(number, entry)| {
            entry
                .iter()
                .all(|clause| holds(part, number, clause, facts, notes))
        })
}

fn holds<'a>(
    part: Part,
    entry: usize,
    clause: &'a Clause,
    facts: &ConnectionFacts<'_>,
    notes: &mut impl Notes<'a>,
) -> bool {
    let result = clause.check(facts);
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
    let mut compiler = Compiler {
        stranger: match action {
            Action::Allow => Stranger::Fails,
            Action::Deny | Action::Audit | Action::Custom => Stranger::Holds,
        },
        request_field: None,
    };
    let from = rule.from.iter().map(|source| compiler.source(source)).collect();
    let to = rule
        .to
        .iter()
        .map(|operation| compiler.operation(operation))
        .collect();
    let when = rule
        .when
        .iter()
        .flat_map(|condition| compiler.condition(condition))
        .collect();
    match compiler.request_field {
        Some(field) if action == Action::Allow => CompiledRule::Never(field),
        _ => CompiledRule::When { from, to, when },
    }
}

/// The way through one rule.
struct Compiler {
    stranger: Stranger,
    /// The first field about requests that the rule has; no clause is made of such a field.
    request_field: Option<Field>,
}

impl Compiler {
    fn source(&mut self, source: &Source) -> Entry {
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
        self.request(
            "requestPrincipals",
            "notRequestPrincipals",
            &source.request_principals,
        );
        entry
    }

    fn operation(&mut self, operation: &Operation) -> Entry {
        self.request("hosts", "notHosts", &operation.hosts);
        self.request("methods", "notMethods", &operation.methods);
        self.request("paths", "notPaths", &operation.paths);
        self.clauses("ports", "notPorts", &operation.ports, ports)
            .collect()
    }

    fn condition(&mut self, condition: &Condition) -> Entry {
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
            Condition::Request(field, _) => self.note(Field(field.to_string().into())),
        }
        entry
    }

    /// What a field becomes: a clause for the values that it wants, and one for those that it excludes.
    fn clauses<T>(
        &self,
        wanted: &'static str,
        excluded: &'static str,
        values: &Values<T>,
        test: impl Fn(&[T]) -> Test,
    ) -> impl Iterator<Item = Clause> {
        let clause = |values: &[T], field, sense| {
            (!values.is_empty()).then(|| Clause {
                field: Field(Cow::Borrowed(field)),
                sense,
                test: test(values),
                stranger: self.stranger,
            })
        };
        let wanted = clause(&values.any, wanted, Sense::Wanted);
        let excluded = clause(&values.none, excluded, Sense::Excluded);
        wanted.into_iter().chain(excluded)
    }

    /// A field about requests: no connection can be compared with it.
    fn request<T>(&mut self, wanted: &'static str, excluded: &'static str, values: &Values<T>) {
        if !values.any.is_empty() {
            self.note(Field(Cow::Borrowed(wanted)));
        } else if !values.none.is_empty() {
            self.note(Field(Cow::Borrowed(excluded)));
        }
    }

    fn note(&mut self, field: Field) {
        self.request_field.get_or_insert(field);
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
    Test::ServerName(TextSet::new(patterns, Case::Lower))
}
