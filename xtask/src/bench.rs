//! What the agents cost: `cargo xtask bench`.
//!
//! The same traffic between the same pods, first on plain networking, then with the agents. Each figure is a median
//! of interleaved rounds where it can be, and figures compare only within one run: the machine is shared. The pod
//! `stranger` is outside the mesh; what it pays is what the programs cost everybody on the node.
//!
//! Invariant: a round in which anything failed is an error, never a figure.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::traffic::{self, at};
use mesh_tests::{Agent, Mesh, Pod, Process};
use nix::unistd::Uid;
use serde_json::Value;

use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, setup};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each figure is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds of short connections in each round
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=120))]
    seconds: u16,
}

/// Something that is measured, with and without the agents.
struct Figure {
    what: &'static str,
    unit: &'static str,
    measure: fn(&Mesh, &Options) -> Result<f64>,
}

const FIGURES: &[Figure] = &[
    Figure {
        what: "connect(), outside the mesh",
        unit: "µs",
        measure: |mesh, _| dial(mesh, "stranger", "other"),
    },
    Figure {
        what: "connect(), to another node",
        unit: "µs",
        measure: |mesh, _| dial(mesh, "client", "web"),
    },
    Figure {
        what: "connect(), on one node",
        unit: "µs",
        measure: |mesh, _| dial(mesh, "client", "near"),
    },
    Figure {
        what: "round trip, to another node",
        unit: "µs",
        measure: |mesh, _| ping(mesh, "web"),
    },
    Figure {
        what: "round trip, on one node",
        unit: "µs",
        measure: |mesh, _| ping(mesh, "near"),
    },
    Figure {
        what: "256 MiB each way, to another node",
        unit: "s",
        measure: |mesh, _| bulk(mesh, "web"),
    },
    Figure {
        what: "256 MiB each way, on one node",
        unit: "s",
        measure: |mesh, _| bulk(mesh, "near"),
    },
    Figure {
        what: "short connections, to another node",
        unit: "/s",
        measure: |mesh, options| churn(mesh, "web", options),
    },
    Figure {
        what: "short connections, on one node",
        unit: "/s",
        measure: |mesh, options| churn(mesh, "near", options),
    },
];

/// Runs `cargo xtask bench`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "the benches make network namespaces and cgroups and load programs into the kernel: they need root. Run \
             `sudo -E env PATH=\"$PATH\" cargo xtask bench`"
        );
    }
    setup::ensure(repo)?;
    ebpf::build(repo)?;
    let agent = compile::agent(repo, Profile::Release)?;
    let builder = || {
        Mesh::builder("bench")
            .agent(&agent)
            .node("a")
            .node("b")
            .pod("a", Pod::new("client"))
            .pod("a", Pod::new("near"))
            .pod("b", Pod::new("web"))
            .outside("a", "stranger")
            .outside("a", "other")
    };
    // Two meshes side by side, so that the rounds can alternate; one of them has agents.
    let (plain, meshed) = (builder().build()?, builder().build()?);
    let _servers = [servers(&plain)?, servers(&meshed)?];
    let agents = meshed.start_agents()?;
    let idle: Vec<u64> = agents.iter().map(Agent::resident_bytes).collect::<Result<_>>()?;
    println!("\n{:<38} {:>12} {:>12} {:>8}", "", "plain", "agents", "ratio");
    for figure in FIGURES {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            without
                .push((figure.measure)(&plain, options).with_context(|| format!("{}, plain", figure.what))?);
            with.push(
                (figure.measure)(&meshed, options).with_context(|| format!("{}, agents", figure.what))?,
            );
        }
        let (without, with) = (median(without), median(with));
        let unit = figure.unit;
        println!(
            "{:<38} {without:>9.1} {unit:<2} {with:>9.1} {unit:<2} {:>7.2}",
            figure.what,
            with / without
        );
    }
    for ((agent, idle), node) in agents.iter().zip(idle).zip(meshed.nodes()) {
        let (now, cpu) = (agent.resident_bytes()?, cpu_seconds(agent.pid())?);
        let connections = agent.accepted()?;
        println!(
            "agent of node {}: {} KiB resident idle, {} KiB at the end; {cpu:.1} s of CPU for {connections} connections \
             and all bytes",
            node.name(),
            idle / 1024,
            now / 1024
        );
    }
    Ok(())
}

fn servers(mesh: &Mesh) -> Result<Vec<Process>> {
    ["near", "web", "other"]
        .iter()
        .flat_map(|name| {
            [
                (name, "echo", 7001),
                (name, "bulk", 7002),
                (name, "identity", 7003),
            ]
        })
        .map(|(name, behaviour, port)| traffic::serve(mesh.pod(name), behaviour, port))
        .collect()
}

fn dial(mesh: &Mesh, from: &str, to: &str) -> Result<f64> {
    let to = at(mesh.pod(to).v4(), 7001);
    p50(&traffic::report(
        mesh.pod(from),
        &["dial", "--to", &to, "--count", "3000"],
    )?)
}

fn ping(mesh: &Mesh, to: &str) -> Result<f64> {
    let to = at(mesh.pod(to).v4(), 7001);
    p50(&traffic::report(
        mesh.pod("client"),
        &["ping", "--to", &to, "--count", "10000"],
    )?)
}

fn bulk(mesh: &Mesh, to: &str) -> Result<f64> {
    let bytes = (256 << 20).to_string();
    let to = at(mesh.pod(to).v4(), 7002);
    let report = traffic::report(
        mesh.pod("client"),
        &["bulk", "--to", &to, "--send", &bytes, "--receive", &bytes],
    )?;
    ensure!(
        report["sent_intact"] == true && report["received_intact"] == true,
        "bytes were lost: {report}"
    );
    report["seconds"].as_f64().context("no time")
}

fn churn(mesh: &Mesh, to: &str, options: &Options) -> Result<f64> {
    let target = format!("{}={to}", at(mesh.pod(to).v4(), 7003));
    let seconds = options.seconds.to_string();
    let client = traffic::start(
        mesh.pod("client"),
        &[
            "churn",
            "--to",
            &target,
            "--seconds",
            &seconds,
            "--parallel",
            "16",
            "--timeout-ms",
            "30000",
        ],
    )?;
    let report = client
        .wait(Duration::from_secs(u64::from(options.seconds) + 60))?
        .ok()?
        .report()?;
    ensure!(report["failed"] == 0, "connections failed: {report}");
    let (good, took) = (
        report["good"].as_f64().context("no count")?,
        report["seconds"].as_f64().context("no time")?,
    );
    Ok(good / took)
}

fn p50(report: &Value) -> Result<f64> {
    report["times"]["p50_us"]
        .as_f64()
        .with_context(|| format!("no median in {report}"))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// User and system time of a process: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("no fields")?
        .1
        .split_whitespace()
        .collect();
    let ticks =
        |field: usize| -> Result<f64> { Ok(fields.get(field).context("too few fields")?.parse::<f64>()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
