//! How long `connect()` takes: to another node, on one node, and outside the mesh, where everybody pays for the programs
//! in the kernel.

use anyhow::Result;
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Round, Rounds, Scenario, p50_and_p99};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const PORT: u16 = 7001;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "connect",
    about: "the call connect(), 3,000 times to each destination",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, _| {
            let pods: &[&str] = &["near", "web", "other"];
            pods.iter()
                .map(|pod| traffic::serve(stage.pod(pod), "echo", PORT))
                .collect::<Result<Vec<Process>>>()
        },
        measure,
    },
};

fn measure(stage: &Stage, _: Round) -> Result<Sample> {
    let dial = |from: &str, to: &str| {
        let to = stage.target(to, PORT);
        let report = traffic::report(stage.pod(from), &["dial", "--to", &to, "--count", "3000"])?;
        Ok::<f64, anyhow::Error>(p50_and_p99(&report)?.0)
    };
    Ok(Sample::default()
        .with("to another node, p50", "µs", dial("client", "web")?)
        .with("on one node, p50", "µs", dial("client", "near")?)
        .with("outside the mesh, p50", "µs", dial("stranger", "other")?))
}
