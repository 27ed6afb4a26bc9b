//! Resident memory of an agent with a large mesh in its model.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::{Process, wait_until};

use super::{Body, Round, Rounds, Scenario};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage};

const WORKLOADS_KNOWN: usize = 10_000;
const ROUTES_KNOWN: usize = 1000;
const SOON: Duration = Duration::from_secs(120);
const KIB: f64 = 1024.0;

pub(super) const WORKLOADS: Scenario = Scenario {
    name: "memory-workloads",
    about: "resident memory of one agent with 10,000 more workloads in its model",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: AGENTS,
        prepare: |_, _| Ok(Vec::<Process>::new()),
        measure: workloads,
    },
};

pub(super) const ROUTES: Scenario = Scenario {
    name: "memory-routes",
    about: "resident memory of one agent with 1,000 HTTPRoutes more",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: &[Setup::Mtls],
        prepare: |_, _| Ok(Vec::<Process>::new()),
        measure: routes,
    },
};

const AGENTS: &[Setup] = &[Setup::Clear, Setup::Mtls];

fn routes(stage: &Stage, _: Round) -> Result<Sample> {
    let idle = stage.resident_bytes()?;
    // A file is read as a whole: who knows the workload knows the routes.
    let documents: Vec<String> = (0..ROUTES_KNOWN)
        .map(route)
        .chain([document(WORKLOADS_KNOWN)])
        .collect();
    learn(stage, &documents, 1)?;
    let with = stage.resident_bytes()?;
    Ok(Sample::default()
        .with("idle", "KiB", idle / KIB)
        .with("with 1,000 routes", "KiB", with / KIB)
        .with("a route", "bytes", (with - idle) / ROUTES_KNOWN as f64))
}

fn workloads(stage: &Stage, _: Round) -> Result<Sample> {
    let idle = stage.resident_bytes()?;
    let documents: Vec<String> = (0..WORKLOADS_KNOWN).map(document).collect();
    learn(stage, &documents, WORKLOADS_KNOWN as u64)?;
    let with = stage.resident_bytes()?;
    Ok(Sample::default()
        .with("idle", "KiB", idle / KIB)
        .with("with 10,000 workloads", "KiB", with / KIB)
        .with("a workload", "bytes", (with - idle) / WORKLOADS_KNOWN as f64))
}

/// Tells the agents of documents, so many of them workloads, and waits until they know those.
fn learn(stage: &Stage, documents: &[String], workloads: u64) -> Result<()> {
    let wanted = known(stage)? + workloads;
    stage.mesh().write_config("many.yaml", &documents.join("---\n"))?;
    wait_until(SOON, "the agents to know all workloads", || {
        known(stage).is_ok_and(|known| known == wanted)
    })
}

/// The smallest number of workloads that any of the agents knows.
fn known(stage: &Stage) -> Result<u64> {
    let mut least = u64::MAX;
    for agent in stage.agents() {
        let status = agent.ask(&["status"])?;
        least = least.min(status["counts"]["workloads"].as_u64().unwrap_or(0));
    }
    Ok(least)
}

/// A workload as a mesh has them: of another node, with labels and a port.
fn document(number: usize) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata:\n  name: bench-{number}\n  namespace: team-{}\n  \
         labels:\n    app: app-{}\n    version: v{}\nspec:\n  serviceAccount: app-{}\n  node: elsewhere-{}\n  \
         addresses:\n  - \"10.250.{high}.{low}\"\n  ports:\n  - name: http\n    port: 8080\n    appProtocol: http\n",
        number % 50,
        number % 500,
        number % 2,
        number % 500,
        number % 100,
    )
}

/// A route as a mesh has them: two paths of its own, one with a header, to a service.
fn route(number: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bench-{number}, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  - matches:\n    - path: {{type: PathPrefix, \
         value: /team-{number}}}\n    - path: {{type: PathPrefix, value: /canary-{number}}}\n      headers: [{{name: x-version, value: \
         v2}}]\n    backendRefs: [{{name: web, port: 80}}]\n"
    )
}
