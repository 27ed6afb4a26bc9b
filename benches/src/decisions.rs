//! What it costs to decide on a request when many policies concern one workload.
//!
//! Each policy allows one path, or one client, that no other does. Asked are requests that the first of them allows, the
//! last, and none. `cargo run --release -p mesh-benches --bin decisions` runs it. Prints JSON: nanoseconds for one decision, in the best of some
//! short rounds, which other work of the machine disturbed least.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::HeaderMap;
use mesh_agent::policy::{
    Channel, CompiledPolicy, ConnectionFacts, Governing, Headers, Modes, Peer, ROOT_NAMESPACE, RequestFacts,
    Verdict, WorkloadPolicy,
};
use mesh_common::model::{
    Action, AuthorizationPolicy, Enforcement, ObjectKey, Operation, PathPattern, Pattern, Rule, Source,
    Target, TunnelProtocol, Values, Workload,
};
use serde_json::json;

const STEPS: [usize; 5] = [1, 10, 100, 1000, 5000];
const ROUNDS: usize = 30;
const ROUND: Duration = Duration::from_millis(10);

/// In what the policies differ.
#[derive(Clone, Copy, Debug)]
enum Differ {
    Paths,
    Clients,
}

impl Differ {
    /// The path and the client that the policy with this number allows.
    fn of(self, number: usize) -> (String, String) {
        let (path, client) = match self {
            Self::Paths => (number, 0),
            Self::Clients => (0, number),
        };
        (format!("/team-{path}"), format!("client-{client}"))
    }
}

fn main() -> Result<()> {
    let mut report = json!({});
    for (differ, name) in [(Differ::Paths, "paths"), (Differ::Clients, "clients")] {
        for count in STEPS {
            let policy = workload_policy(differ, count);
            for (asked, number, verdict) in [
                ("first", 0, Verdict::Allow),
                ("last", count - 1, Verdict::Allow),
                ("none", count, Verdict::Deny),
            ] {
                let nanoseconds = measure(&policy, differ, number, verdict)?;
                report[format!("{name}, {asked}")][count.to_string()] = nanoseconds.into();
            }
        }
    }
    println!("{report}");
    Ok(())
}

/// Nanoseconds for a decision about what the policy with this number allows.
fn measure(policy: &WorkloadPolicy, differ: Differ, number: usize, verdict: Verdict) -> Result<f64> {
    let (path, account) = differ.of(number);
    let headers = HeaderMap::new();
    let facts = RequestFacts {
        connection: ConnectionFacts {
            channel: Channel::MutualTls(Peer {
                trust_domain: "cluster.local",
                namespace: "default",
                service_account: &account,
            }),
            source_ip: [10, 0, 0, 1].into(),
            remote_ip: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 8080).into(),
            sni: None,
        },
        method: "GET",
        path: &path,
        host: "web",
        headers: Headers::Known(&headers),
        token: None,
    };
    let decision = policy.decide_request(&facts);
    ensure!(decision.verdict() == verdict, "request {number}: {decision}");
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < ROUND {
            for _ in 0..10 {
                black_box(policy.decide_request(black_box(&facts)));
            }
            count += 10;
        }
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    }
    Ok(best.round())
}

fn workload_policy(differ: Differ, count: usize) -> WorkloadPolicy {
    let workload = Workload {
        key: ObjectKey::new("default", "web"),
        labels: [].into(),
        service_account: "web".to_owned(),
        node: "node-a".to_owned(),
        addresses: Vec::new(),
        ports: Vec::new(),
        ready: true,
        policies: Vec::new(),
        tunnel: TunnelProtocol::default(),
        locate: None,
    };
    let governing = Governing {
        root_namespace: ROOT_NAMESPACE,
        workload: &workload,
        serves: &|_| false,
    };
    let policies = (0..count).map(|number| Arc::new(CompiledPolicy::new(Arc::new(policy(differ, number)))));
    WorkloadPolicy::new(Modes::new(&governing, []), policies, Vec::new())
}

fn policy(differ: Differ, number: usize) -> AuthorizationPolicy {
    let (path, account) = differ.of(number);
    let principal = format!("cluster.local/ns/default/sa/{account}");
    AuthorizationPolicy {
        // In the order of their numbers.
        key: ObjectKey::new("default", format!("bench-{number:05}")),
        action: Action::Allow,
        enforcement: Enforcement::Enforced,
        target: Target::All,
        rules: vec![Rule {
            from: vec![Source {
                principals: one(Pattern::Exact(principal)),
                ..Source::default()
            }],
            to: vec![Operation {
                methods: one(Pattern::Exact("GET".to_owned())),
                paths: one(PathPattern::Text(Pattern::Exact(path))),
                ..Operation::default()
            }],
            when: Vec::new(),
        }],
        provider: None,
    }
}

fn one<T>(value: T) -> Values<T> {
    Values {
        any: vec![value],
        none: Vec::new(),
    }
}
