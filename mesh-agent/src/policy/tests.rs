//! Random policies, connections and requests, judged as the field reference words it and as the compiled policies do.
//!
//! [`naive`] is the reference read aloud: texts are put together and compared, lists are walked, nothing is shared
//! with the code under test. [`random`] makes what is judged.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::model::{
    Action, AuthorizationPolicy, Enforcement, ObjectKey, PeerAuthentication, PeerMode, Workload,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use self::{
    naive::{naive_decision, naive_match},
    random::{any_asked, any_connection, any_mode, any_policy},
};
use super::*;
use crate::samples;

mod many;
mod naive;
mod random;

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

fn workload() -> Workload {
    Workload {
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ..samples::workload("shop", "web")
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
