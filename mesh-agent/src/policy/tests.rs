//! Random policies, connections and requests, judged as the field reference words it and as the compiled policies do.
//!
//! [`Naive`] is the reference read aloud: texts are put together and compared, lists are walked, nothing is shared
//! with the code under test.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_common::model::{
    Action, AuthorizationPolicy, Condition, Enforcement, ObjectKey, Operation, PathPattern, Pattern,
    PeerAuthentication, PeerMode, RequestField, Rule, Source, Target, TunnelProtocol, Values, Workload,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

mod many;

/// One connection, in values of its own.
#[derive(Clone, Debug)]
struct Connection {
    /// Trust domain, namespace, service account.
    peer: Option<(&'static str, &'static str, &'static str)>,
    same_node: bool,
    source: IpAddr,
    remote: IpAddr,
    destination: IpAddr,
    port: u16,
    sni: Option<&'static str>,
}

impl Connection {
    fn facts(&self) -> ConnectionFacts<'_> {
        let peer = self.peer.map(|(trust_domain, namespace, service_account)| Peer {
            trust_domain,
            namespace,
            service_account,
        });
        ConnectionFacts {
            channel: match peer {
                None => Channel::Plaintext,
                Some(peer) if self.same_node => Channel::SameNode(peer),
                Some(peer) => Channel::MutualTls(peer),
            },
            source_ip: self.source,
            remote_ip: self.remote,
            destination: (self.destination, self.port).into(),
            sni: self.sni,
        }
    }
}

/// Yes, no, or a question about requests.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Yes,
    No,
    AboutRequests,
}

/// One request, in values of its own.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    /// Issuer and subject, and the claim `group`.
    token: Option<(&'static str, &'static str, Vec<&'static str>)>,
}

/// What [`RequestFacts`] borrow.
type Lent = (http::HeaderMap, Option<Token>);

impl Asked {
    fn lent(&self) -> Lent {
        let mut headers = http::HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        let token = self.token.as_ref().map(|(issuer, subject, groups)| {
            let claims = serde_json::json!({"iss": issuer, "sub": subject, "group": groups});
            Token::new(claims.as_object().unwrap().clone())
        });
        (headers, token)
    }

    fn facts<'a>(&self, connection: &'a Connection, (headers, token): &'a Lent) -> RequestFacts<'a> {
        RequestFacts {
            connection: connection.facts(),
            method: self.method,
            path: self.path,
            host: self.host,
            headers: Headers::Known(headers),
            token: token.as_ref(),
        }
    }
}

struct Naive<'a> {
    connection: &'a Connection,
    /// `None` judges the connection as TCP.
    asked: Option<&'a Asked>,
    action: Action,
}

impl Naive<'_> {
    /// A field: one of the values, none of the excluded ones.
    fn field<T>(&self, values: &Values<T>, is: impl Fn(&T) -> bool) -> Answer {
        let wanted = values.any.is_empty() || values.any.iter().any(&is);
        let excluded = values.none.iter().any(&is);
        if wanted && !excluded {
            Answer::Yes
        } else {
            Answer::No
        }
    }

    /// A field about the peer: without identity no value fits, and only those who do not want to allow anybody may
    /// call that "not one of them".
    fn peer_field<T>(&self, values: &Values<T>, is: impl Fn(&T, (&str, &str, &str)) -> bool) -> Answer {
        match self.connection.peer {
            Some(peer) => self.field(values, |value| is(value, peer)),
            None if !values.any.is_empty() => Answer::No,
            None if !values.none.is_empty() && self.action == Action::Allow => Answer::No,
            None => Answer::Yes,
        }
    }

    /// A field about requests.
    fn request_field<T>(&self, values: &Values<T>, is: impl Fn(&T, &Asked) -> bool) -> Answer {
        match self.asked {
            _ if values.any.is_empty() && values.none.is_empty() => Answer::Yes,
            None => Answer::AboutRequests,
            Some(asked) => self.field(values, |value| is(value, asked)),
        }
    }

    /// A field about the token: as one about the peer.
    fn token_field(&self, values: &Values<Pattern>, texts: impl Fn(&Asked) -> Vec<String>) -> Answer {
        let missing = self.asked.is_some_and(|asked| asked.token.is_none());
        match missing {
            true if !values.any.is_empty() => Answer::No,
            true if !values.none.is_empty() && self.action == Action::Allow => Answer::No,
            true => Answer::Yes,
            false => self.request_field(values, |pattern, asked| {
                texts(asked).iter().any(|text| fits(pattern, text))
            }),
        }
    }

    fn request_principals(&self, values: &Values<Pattern>) -> Answer {
        self.token_field(values, |asked| {
            let token = asked.token.iter();
            token
                .map(|(issuer, subject, _)| format!("{issuer}/{subject}"))
                .collect()
        })
    }

    /// A header: absent it has no value; of several values those count that are worse for the caller.
    fn header(&self, name: &str, values: &Values<Pattern>) -> Answer {
        let Some(asked) = self.asked else {
            return Answer::AboutRequests;
        };
        let named = asked.headers.iter().filter(|(own, _)| *own == name);
        let own: Vec<&str> = named.map(|(_, value)| *value).collect();
        let single = |value: &&str| self.field(values, |pattern| fits(pattern, value)) == Answer::Yes;
        let wanted =
            |value: &&str| values.any.is_empty() || values.any.iter().any(|pattern| fits(pattern, value));
        let spared = |value: &&str| !values.none.iter().any(|pattern| fits(pattern, value));
        let holds = match (own.is_empty(), self.action) {
            (true, _) => values.any.is_empty(),
            (false, Action::Allow) => own.iter().all(single),
            // One value is wanted, and one, be it another, is not excluded.
            (false, _) => own.iter().any(wanted) && own.iter().any(spared),
        };
        if holds { Answer::Yes } else { Answer::No }
    }

    fn principals(&self, values: &Values<Pattern>) -> Answer {
        self.peer_field(values, |pattern, (domain, namespace, account)| {
            fits(pattern, &format!("{domain}/ns/{namespace}/sa/{account}"))
        })
    }

    fn namespaces(&self, values: &Values<Pattern>) -> Answer {
        self.peer_field(values, |pattern, (_, namespace, _)| fits(pattern, namespace))
    }

    fn accounts(&self, values: &Values<ObjectKey>) -> Answer {
        self.peer_field(values, |key, (_, namespace, account)| {
            key.to_string() == format!("{namespace}/{account}")
        })
    }

    fn source(&self, source: &Source) -> Vec<Answer> {
        vec![
            self.principals(&source.principals),
            self.namespaces(&source.namespaces),
            self.accounts(&source.service_accounts),
            self.field(&source.ip_blocks, |net| net.contains(&self.connection.source)),
            self.field(&source.remote_ip_blocks, |net| {
                net.contains(&self.connection.remote)
            }),
            self.request_principals(&source.request_principals),
        ]
    }

    fn operation(&self, operation: &Operation) -> Vec<Answer> {
        vec![
            self.field(&operation.ports, |port| *port == self.connection.port),
            self.request_field(&operation.hosts, |pattern, asked| {
                fits(pattern, &asked.host.to_lowercase())
            }),
            self.request_field(&operation.methods, |pattern, asked| fits(pattern, asked.method)),
            self.request_field(&operation.paths, |pattern, asked| match pattern {
                PathPattern::Text(pattern) => fits(pattern, asked.path),
                PathPattern::Template(template) => {
                    let pattern = template.replace("{**}", ".*").replace("{*}", "[^/]+");
                    regex::Regex::new(&format!("^{pattern}$"))
                        .unwrap()
                        .is_match(asked.path)
                }
            }),
        ]
    }

    fn condition(&self, condition: &Condition) -> Answer {
        let at = self.connection;
        match condition {
            Condition::SourceIp(values) => self.field(values, |net| net.contains(&at.source)),
            Condition::RemoteIp(values) => self.field(values, |net| net.contains(&at.remote)),
            Condition::DestinationIp(values) => self.field(values, |net| net.contains(&at.destination)),
            Condition::DestinationPort(values) => self.field(values, |port| *port == at.port),
            Condition::SourceNamespace(values) => self.namespaces(values),
            Condition::SourcePrincipal(values) => self.principals(values),
            Condition::SourceServiceAccount(values) => self.accounts(values),
            Condition::Sni(values) => {
                self.field(values, |pattern| at.sni.is_some_and(|sni| fits(pattern, sni)))
            }
            Condition::Request(RequestField::Header(name), values) => self.header(name, values),
            Condition::Request(RequestField::Principal, values) => self.request_principals(values),
            Condition::Request(RequestField::Claim(_), values) => self.token_field(values, |asked| {
                let groups = asked.token.iter().flat_map(|(_, _, groups)| groups);
                groups.map(|group| (*group).to_owned()).collect()
            }),
            Condition::Request(..) => unreachable!("not generated"),
        }
    }

    fn rule(&self, rule: &Rule) -> bool {
        let from: Vec<_> = rule.from.iter().map(|source| self.source(source)).collect();
        let to: Vec<_> = rule
            .to
            .iter()
            .map(|operation| self.operation(operation))
            .collect();
        let when: Vec<_> = rule
            .when
            .iter()
            .map(|condition| self.condition(condition))
            .collect();
        let mut answers = from.iter().chain(&to).flatten().chain(&when);
        if self.action == Action::Allow && answers.any(|answer| *answer == Answer::AboutRequests) {
            return false;
        }
        let entry = |answers: &Vec<Answer>| answers.iter().all(|answer| *answer != Answer::No);
        (from.is_empty() || from.iter().any(entry)) && (to.is_empty() || to.iter().any(entry)) && entry(&when)
    }
}

fn fits(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Exact(exact) => text == exact,
        Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
        Pattern::Suffix(suffix) => text.ends_with(suffix.as_str()),
        Pattern::Present => !text.is_empty(),
    }
}

/// The first rule of a policy that matches.
fn naive_match(
    policy: &AuthorizationPolicy,
    connection: &Connection,
    asked: Option<&Asked>,
) -> Option<usize> {
    let action = policy.action;
    policy.rules.iter().position(|rule| {
        Naive {
            connection,
            asked,
            action,
        }
        .rule(rule)
    })
}

/// The order of the reference: CUSTOM, DENY, no ALLOW, ALLOW, deny. Policies come in the order of their names.
fn naive_decision(
    policies: &[AuthorizationPolicy],
    connection: &Connection,
    asked: Option<&Asked>,
    dry_run: bool,
) -> String {
    let acting: Vec<_> = policies
        .iter()
        .filter(|policy| dry_run || policy.enforcement == Enforcement::Enforced)
        .collect();
    let of = |action| acting.iter().filter(move |policy| policy.action == action);
    if let Some(policy) = of(Action::Custom).next() {
        return format!(
            "denied: CUSTOM policy {} asks for external authorization, and there is none",
            policy.key
        );
    }
    for policy in of(Action::Deny) {
        if let Some(rule) = naive_match(policy, connection, asked) {
            return format!("denied by DENY policy {}, rule {rule}", policy.key);
        }
    }
    if of(Action::Allow).next().is_none() {
        return "allowed: no ALLOW policy concerns the workload".to_owned();
    }
    for policy in of(Action::Allow) {
        if let Some(rule) = naive_match(policy, connection, asked) {
            return format!("allowed by ALLOW policy {}, rule {rule}", policy.key);
        }
    }
    "denied: no rule of the ALLOW policies matches".to_owned()
}

fn any_pattern(texts: &'static [&'static str]) -> impl Strategy<Value = Pattern> {
    (select(texts), 0usize..8, 0..8).prop_map(|(text, cut, form)| {
        let cut = cut.min(text.len() - 1);
        match form {
            0..4 => Pattern::Exact(text.to_owned()),
            4..6 => Pattern::Prefix(text[..=cut].to_owned()),
            6 => Pattern::Suffix(text[cut..].to_owned()),
            _ => Pattern::Present,
        }
    })
}

const PRINCIPALS: &[&str] = &["td/ns/a/sa/x", "td/ns/b/sa/y", "other/ns/a/sa/x", "td/ns/ab/sa/x"];
const NAMESPACES: &[&str] = &["a", "b", "ab"];
const SERVER_NAMES: &[&str] = &["a.example", "b.example", "a.test"];

fn any_network() -> impl Strategy<Value = IpNet> {
    select(
        &[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.0.1/32",
            "0.0.0.0/0",
            "fd00::/8",
            "fd00::1/128",
        ][..],
    )
    .prop_map(|text| text.parse().unwrap())
}

fn any_account() -> impl Strategy<Value = ObjectKey> {
    (select(NAMESPACES), select(&["x", "y"][..]))
        .prop_map(|(namespace, name)| ObjectKey::new(namespace, name))
}

/// A field: mostly unused.
fn any_values<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Values<T>> {
    prop_oneof![
        5 => Just(Values { any: Vec::new(), none: Vec::new() }),
        2 => vec(value.clone(), 1..3).prop_map(|any| Values { any, none: Vec::new() }),
        1 => vec(value.clone(), 1..3).prop_map(|none| Values { any: Vec::new(), none }),
        1 => (vec(value.clone(), 1..3), vec(value, 1..3)).prop_map(|(any, none)| Values { any, none }),
    ]
}

/// A field about requests: hardly ever used, for it keeps rules from allowing TCP.
fn any_request_values<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Values<T>> {
    prop_oneof![
        12 => Just(Values::default()),
        2 => any_values(value),
    ]
}

const METHODS: &[&str] = &["GET", "POST", "PUT"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/a/b/c", "/b/a"];
const TEMPLATES: &[&str] = &["/{*}", "/a/{*}", "/{*}/b/{**}", "/a/{**}", "/{**}/c"];
const HOSTS: &[&str] = &["a.example", "b.example"];
const REQUEST_PRINCIPALS: &[&str] = &["i/s", "i/t", "j/s"];
const GROUPS: &[&str] = &["dev", "ops", "devops"];

fn any_path_pattern() -> impl Strategy<Value = PathPattern> {
    prop_oneof![
        2 => any_pattern(PATHS).prop_map(PathPattern::Text),
        1 => select(TEMPLATES).prop_map(|template| PathPattern::Template(template.to_owned())),
    ]
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let header = (select(&["x-a", "x-b"][..]), select(GROUPS));
    let token = (
        select(&["i", "j"][..]),
        select(&["s", "t"][..]),
        vec(select(GROUPS), 0..3),
    );
    (
        select(METHODS),
        select(PATHS),
        select(&["a.example", "b.example", "A.Example"][..]),
        vec(header, 0..4),
        prop::option::of(token),
    )
        .prop_map(|(method, path, host, headers, token)| Asked {
            method,
            path,
            host,
            headers,
            token,
        })
}

fn any_source() -> impl Strategy<Value = Source> {
    (
        any_values(any_pattern(PRINCIPALS).boxed()),
        any_values(any_pattern(NAMESPACES).boxed()),
        any_values(any_account().boxed()),
        any_values(any_network().boxed()),
        any_values(any_network().boxed()),
        any_request_values(any_pattern(REQUEST_PRINCIPALS).boxed()),
    )
        .prop_map(
            |(principals, namespaces, service_accounts, ip_blocks, remote_ip_blocks, request_principals)| {
                Source {
                    principals,
                    request_principals,
                    namespaces,
                    service_accounts,
                    ip_blocks,
                    remote_ip_blocks,
                }
            },
        )
}

fn any_operation() -> impl Strategy<Value = Operation> {
    (
        any_values(80u16..83),
        any_request_values(any_pattern(METHODS).boxed()),
        any_request_values(any_path_pattern().boxed()),
        any_request_values(any_pattern(HOSTS).boxed()),
    )
        .prop_map(|(ports, methods, paths, hosts)| Operation {
            hosts,
            ports,
            methods,
            paths,
        })
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let networks = || any_values(any_network().boxed());
    prop_oneof![
        4 => networks().prop_map(Condition::SourceIp),
        4 => networks().prop_map(Condition::RemoteIp),
        4 => networks().prop_map(Condition::DestinationIp),
        4 => any_values(80u16..83).prop_map(Condition::DestinationPort),
        4 => any_values(any_pattern(NAMESPACES).boxed()).prop_map(Condition::SourceNamespace),
        4 => any_values(any_pattern(PRINCIPALS).boxed()).prop_map(Condition::SourcePrincipal),
        4 => any_values(any_account().boxed()).prop_map(Condition::SourceServiceAccount),
        4 => any_values(any_pattern(SERVER_NAMES).boxed()).prop_map(Condition::Sni),
        1 => any_values(any_pattern(REQUEST_PRINCIPALS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Principal, values)),
        1 => any_values(any_pattern(GROUPS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Claim(vec!["group".to_owned()]), values)),
        1 => any_values(any_pattern(GROUPS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Header("x-a".to_owned()), values)),
    ]
}

fn any_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let rule = (
        vec(any_source(), 0..3),
        vec(any_operation(), 0..3),
        vec(any_condition(), 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when });
    let action = prop_oneof![
        8 => Just(Action::Allow),
        6 => Just(Action::Deny),
        2 => Just(Action::Audit),
        1 => Just(Action::Custom),
    ];
    let enforcement = prop_oneof![4 => Just(Enforcement::Enforced), 1 => Just(Enforcement::DryRun)];
    (vec(rule, 0..4), action, enforcement).prop_map(|(rules, action, enforcement)| AuthorizationPolicy {
        key: ObjectKey::new("shop", ""),
        action,
        enforcement,
        target: Target::All,
        rules,
        provider: None,
    })
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let ip = || {
        select(
            &[
                "10.1.0.1",
                "10.1.0.2",
                "10.2.0.1",
                "192.0.2.1",
                "fd00::1",
                "fd00::2",
                "2001:db8::1",
            ][..],
        )
        .prop_map(|text| text.parse().unwrap())
    };
    let peer = (
        select(&["td", "other"][..]),
        select(NAMESPACES),
        select(&["x", "y"][..]),
    );
    (
        prop::option::weighted(0.7, peer),
        any::<bool>(),
        (ip(), ip(), ip()),
        80u16..83,
        prop::option::of(select(SERVER_NAMES)),
    )
        .prop_map(
            |(peer, same_node, (source, remote, destination), port, sni)| Connection {
                peer,
                same_node,
                source,
                remote,
                destination,
                port,
                sni,
            },
        )
}

fn workload() -> Workload {
    Workload {
        key: ObjectKey::new("shop", "web"),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        service_account: "web".to_owned(),
        node: "node-a".to_owned(),
        addresses: Vec::new(),
        ports: Vec::new(),
        ready: true,
        policies: Vec::new(),
        tunnel: TunnelProtocol::default(),
        locate: None,
    }
}

fn modes(policies: &[PeerAuthentication]) -> Modes {
    let workload = workload();
    let governing = Governing {
        root_namespace: "root",
        workload: &workload,
        serves: &|_| false,
    };
    Modes::new(&governing, policies)
}

/// Whether the policies say of each connection, and of a request on most of them, what the reference says.
fn compare(
    mut policies: Vec<AuthorizationPolicy>,
    connections: &[Connection],
    asked: &[Asked],
) -> Result<(), TestCaseError> {
    for (number, policy) in policies.iter_mut().enumerate() {
        policy.key = ObjectKey::new("shop", format!("p{number:03}"));
    }
    let compiled = policies
        .iter()
        .rev()
        .cloned()
        .map(|policy| Arc::new(CompiledPolicy::new(Arc::new(policy))));
    let workload = WorkloadPolicy::new(modes(&[]), compiled, Vec::new());
    for (connection, asked) in connections
        .iter()
        .zip(asked.iter().map(Some).chain([None]).cycle())
    {
        let lent = asked.map(Asked::lent).unwrap_or_default();
        let request = asked.map(|asked| asked.facts(connection, &lent));
        let facts = connection.facts();
        let (decision, rehearsal, found, trace) = match &request {
            Some(request) => (
                workload.decide_request(request),
                workload.rehearse_request(request),
                workload.reports_request(request).collect::<Vec<_>>(),
                workload.trace_request(*request),
            ),
            None => (
                workload.decide(&facts),
                workload.rehearse(&facts),
                workload.reports(&facts).collect(),
                workload.trace(facts),
            ),
        };
        prop_assert_eq!(
            decision.to_string(),
            naive_decision(&policies, connection, asked, false)
        );

        let rehearses = policies
            .iter()
            .any(|policy| policy.enforcement == Enforcement::DryRun);
        let expected = rehearses.then(|| naive_decision(&policies, connection, asked, true));
        prop_assert_eq!(rehearsal.map(|decision| decision.to_string()), expected);

        // Where nobody waits for requests, rules about them have nothing to report.
        if request.is_some() && matches!(workload.admit(&facts), Entrance::Open(_, Interest::None)) {
            for report in &found {
                let policy = CompiledPolicy::new(Arc::new(report.policy.clone()));
                let reads = |rule: usize| policy.rules()[rule].reads_requests();
                prop_assert!(!report.rule.is_some_and(reads), "{}", policy.policy().key);
            }
        }

        let mut reports: Vec<_> = found
            .into_iter()
            .map(|report| (report.policy.key.clone(), report.rule))
            .collect();
        reports.sort();
        let silent = policies
            .iter()
            .filter(|policy| policy.action == Action::Audit || policy.enforcement == Enforcement::DryRun);
        let expected: Vec<_> = silent
            .filter_map(|policy| match policy.action {
                Action::Custom => Some((policy.key.clone(), None)),
                _ => naive_match(policy, connection, asked).map(|rule| (policy.key.clone(), Some(rule))),
            })
            .collect();
        prop_assert_eq!(reports, expected);

        // Before its requests nothing is denied that a request could have changed.
        if let BeforeRequests::Deny(early) = workload.decide_connection_for_http(&facts) {
            prop_assert_eq!(workload.decide(&facts).verdict(), Verdict::Deny);
            if request.is_some() {
                prop_assert_eq!(decision.verdict(), Verdict::Deny, "{}", early);
            }
        }

        prop_assert_eq!(trace.decision, decision);
        for policy in trace.considered.iter().chain(&trace.reported) {
            if policy.policy.action == Action::Custom {
                continue;
            }
            let matched = policy.rules.iter().position(|rule| rule.matched);
            prop_assert_eq!(matched, naive_match(policy.policy, connection, asked));
            for rule in &policy.rules {
                prop_assert!(rule.matched || !rule.misses.is_empty(), "no reason given");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn compiled_policies_decide_as_the_reference_says(
        policies in vec(any_policy(), 0..5),
        connections in vec(any_connection(), 1..8),
        asked in vec(any_asked(), 1..4),
    ) {
        compare(policies, &connections, &asked)?;
    }

    #[test]
    fn the_closest_mode_counts(
        policies in vec(
            (
                select(&["root", "shop", "bank"][..]),
                any::<bool>(),
                prop::option::of(any_mode()),
                prop::option::of((80u16..82, prop::option::of(any_mode()))),
            ),
            0..5,
        ),
        port in 80u16..82,
    ) {
        let policies: Vec<_> = policies
            .into_iter()
            .enumerate()
            .map(|(number, (namespace, selects, mode, port))| PeerAuthentication {
                key: ObjectKey::new(namespace, format!("p{number}")),
                selector: selects.then(|| ("app".to_owned(), "web".to_owned())).into_iter().collect(),
                mode,
                ports: port.filter(|_| selects).into_iter().collect(),
            })
            .collect();
        let first = |namespace: &str, selects: bool| {
            policies
                .iter()
                .find(|policy| *policy.key.namespace == *namespace && policy.selector.is_empty() != selects)
        };
        let own = first("shop", true).or(first("root", true));
        let of_port = own.and_then(|policy| policy.ports.get(&port).copied().flatten());
        let mode = of_port
            .or(own.and_then(|policy| policy.mode))
            .or(first("shop", false).and_then(|policy| policy.mode))
            .or(first("root", false).and_then(|policy| policy.mode))
            .unwrap_or(PeerMode::Permissive);
        prop_assert_eq!(modes(&policies).at(port).mode, mode);
    }
}

fn any_mode() -> impl Strategy<Value = PeerMode> {
    select(&[PeerMode::Disable, PeerMode::Permissive, PeerMode::Strict][..])
}

/// Decisions are made on the way of every connection: they must be small, and hold nothing of their own.
#[test]
fn a_decision_borrows_everything() {
    assert!(!std::mem::needs_drop::<Decision<'_>>() && !std::mem::needs_drop::<Report<'_>>());
    assert!(size_of::<Decision<'_>>() <= 24);
}

#[test]
fn reasons_have_distinct_words() {
    let key = ObjectKey::new("shop", "p");
    let reasons = [
        Reason::Plaintext(None),
        Reason::UnknownPolicy(&key),
        Reason::NoAuthorizer(&key),
        Reason::DenyRule(&key, 1),
        Reason::NothingAllows,
        Reason::AllowRule(&key, 2),
        Reason::NoAllowPolicy,
    ];
    let all: Vec<_> = reasons
        .into_iter()
        .map(|reason| {
            let decision = Decision { reason };
            let policy = decision.policy().map_or("-".to_owned(), ToString::to_string);
            format!(
                "{:?} {} {policy} {:?}",
                decision.verdict(),
                reason.word(),
                decision.rule()
            )
        })
        .collect();
    assert_eq!(
        all,
        [
            "Deny plaintext - None",
            "Deny unknown-policy shop/p None",
            "Deny no-authorizer shop/p None",
            "Deny deny-rule shop/p Some(1)",
            "Deny nothing-allows - None",
            "Allow allow-rule shop/p Some(2)",
            "Allow no-allow-policy - None",
        ]
    );
}
