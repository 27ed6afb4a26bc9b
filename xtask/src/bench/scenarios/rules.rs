//! What a request costs when there are many routes or policies, and how long the agents take to apply them.
//!
//! All of them concern the server that is asked, and the request is one of the last: whoever compares with one rule after
//! the other pays for all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::wait_until;

use super::http::serve;
use super::{Body, Round, Rounds, Scenario};
use crate::bench::http::{self, Load, Reuse, Version};
use crate::bench::sample::{Sample, Step};
use crate::bench::stage::{Setup, Stage};

pub(super) const ROUTES: Scenario = Scenario {
    name: "routes",
    about: "HTTP/1.1 requests over 64 connections to a service with 1, 100 and 1,000 HTTPRoutes",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: SETUPS,
        prepare: |stage, _| serve(stage, "web", Version::Http1),
        measure: |stage, round| measure(stage, round, Rule::Route),
    },
};

pub(super) const POLICIES: Scenario = Scenario {
    name: "policies",
    about: "HTTP/1.1 requests over 64 connections to a pod with 1, 100 and 1,000 AuthorizationPolicies",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: SETUPS,
        prepare: |stage, _| serve(stage, "web", Version::Http1),
        measure: |stage, round| measure(stage, round, Rule::Policy),
    },
};

/// The rules are this scenario's own.
const SETUPS: &[Setup] = &[Setup::Mtls];
const STEPS: [u32; 3] = [1, 100, 1000];
const FILE: &str = "rules.yaml";
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Rule {
    Route,
    Policy,
}

fn measure(stage: &Stage, round: Round, rule: Rule) -> Result<Sample> {
    STEPS.into_iter().try_fold(Sample::default(), |sample, count| {
        let sample = with_rules(stage, round, rule, count, sample)
            .with_context(|| format!("with {}", rule.step(count)))?;
        stage.mesh().remove_config(FILE)?;
        await_status(stage, NOWHERE, "200").context("after the rules were removed")?;
        Ok(sample)
    })
}

fn with_rules(stage: &Stage, round: Round, rule: Rule, count: u32, sample: Sample) -> Result<Sample> {
    let step = rule.step(count);
    let documents: Vec<String> = (0..count).map(|number| rule.document(number)).collect();
    let (before, begin) = (stage.cpu_seconds()?, Instant::now());
    stage.mesh().write_config(FILE, &documents.join("---\n"))?;
    await_status(stage, NOWHERE, rule.refusal())?;
    await_status(stage, &path(count - 1), "200")?;
    let (loaded, cpu) = (begin.elapsed(), stage.cpu_seconds()? - before);
    let load = Load {
        version: Version::Http1,
        reuse: Reuse::Kept,
        connections: 64,
        seconds: round.seconds,
    };
    let before = stage.cpu_seconds()?;
    let answered = http::load_at(stage, "web", &path(count - 1), load)?;
    let spent = stage.cpu_seconds()? - before;
    Ok(sample
        .with_at(step, "until they apply", "s", loaded.as_secs_f64())
        .with_at(step, "CPU until they apply", "ms", cpu * 1e3)
        .with_at(step, "requests", "1/s", answered.requests / answered.seconds)
        .with_at(step, "p50", "µs", answered.p50_us)
        .with_at(step, "CPU", "s per million", spent / answered.requests * 1e6))
}

/// Waits until a request is answered with this status.
fn await_status(stage: &Stage, path: &str, status: &str) -> Result<()> {
    let mut last = String::new();
    wait_until(SOON, "the rules to apply", || {
        last = match http::ask(stage, "web", Version::Http1, path, &[]) {
            Ok((_, said)) if said == status => return true,
            Ok((_, said)) => said,
            Err(error) => format!("{error:#}"),
        };
        false
    })
    .with_context(|| format!("{path} is answered with {last}, not {status}"))
}

/// What no rule names.
const NOWHERE: &str = "/nowhere";

/// What a rule names.
fn path(number: u32) -> String {
    format!("/team-{number}")
}

impl Rule {
    fn step(self, count: u32) -> Step {
        match self {
            Self::Route => Step::Routes(count),
            Self::Policy => Step::Policies(count),
        }
    }

    /// The answer to a request that no rule names.
    fn refusal(self) -> &'static str {
        match self {
            Self::Route => "404",
            Self::Policy => "403",
        }
    }

    fn document(self, number: u32) -> String {
        let path = path(number);
        match self {
            Self::Route => format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bench-{number}, namespace: \
                 default}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  - \
                 matches:\n    - path: {{type: PathPrefix, value: {path}}}\n    - path: {{type: PathPrefix, value: \
                 {path}-canary}}\n      headers: [{{name: x-version, value: v2}}]\n    backendRefs: [{{name: web, port: \
                 80}}]\n"
            ),
            Self::Policy => format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: bench-{number}, namespace: \
                 default}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: ALLOW\n  rules:\n  - from:\n    - \
                 source: {{principals: [cluster.local/ns/default/sa/client]}}\n    to:\n    - operation: {{methods: [GET], \
                 paths: [{path}]}}\n"
            ),
        }
    }
}
