//! What the agents cost: `cargo xtask bench`.
//!
//! A scenario is one file of [`scenarios`]: it says what is done between two pods and what came of it. A
//! [`stage::Stage`] is the same pods with something between them, from nothing at all to agents under mTLS. The rounds of one
//! scenario alternate between its stages, after a warm-up that is not counted. Figures compare only within one run:
//! the machine may be shared. Progress goes to standard error, the table to standard output.
//!
//! Invariant: a round in which anything failed is an error, never a figure. An error ends its scenario, not the others, and
//! the run fails at its end.

mod http;
mod machine;
mod peers;
mod plot;
mod progress;
mod report;
mod rounds;
mod sample;
mod scenarios;
mod stage;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use self::machine::Machine;
use self::report::Report;
use self::rounds::Runner;
use self::scenarios::{SCENARIOS, Scenario};
use self::stage::{Peer, Setup};
use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, setup};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these, by name or by what their names begin with: `http` for all of `http-…`; all of them by default
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Only with this between the pods: direct, clear, mtls, same-node or policy; repeat for several
    #[arg(long, value_name = "SETUP")]
    setup: Vec<Setup>,
    /// How often each figure is taken
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// How long each measurement of requests takes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Measure other proxies beside it, where a scenario has requests
    #[arg(long, value_name = "PEER,…", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Measure the proxies beside it that this file describes (docs/benchmarks.md says how); repeat for several
    #[arg(long, value_name = "FILE")]
    peer_file: Vec<PathBuf>,
    /// Requests a second of which open loops send shares; by default what the slowest setup reaches in the warm-up
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Write everything that was measured, and on which machine, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw what was measured, an SVG file for each scenario, into this directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
    /// Measure this binary beside it, under mTLS, in rounds of its own between the others
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure this binary instead of a release build of this checkout
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

impl Options {
    /// Whether this is to stand between the pods.
    fn wants(&self, setup: Setup) -> bool {
        match setup.is_peer() {
            true => self.peers.iter().any(|peer| peer.setup() == setup),
            false => self.setup.is_empty() || self.setup.contains(&setup),
        }
    }
}

/// Runs `cargo xtask bench`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    let chosen = choose(&options.scenarios)?;
    if options.list {
        for scenario in chosen {
            println!("{:<20} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    if !Uid::effective().is_root() {
        bail!(
            "the benches make network namespaces and cgroups and load programs into the kernel: they need root. Run \
             `sudo -E env PATH=\"$PATH\" cargo xtask bench`"
        );
    }
    setup::ensure(repo)?;
    let agent = match &options.agent {
        Some(agent) => agent
            .canonicalize()
            .with_context(|| format!("{}", agent.display()))?,
        None => {
            ebpf::build(repo)?;
            compile::agent(repo, Profile::Release)?
        }
    };
    compile::traffic(repo)?;
    let described = peers::describe(&options.peer_file)?;
    let mut report = Report {
        machine: Machine::look(repo, &agent)?,
        rounds: options.rounds,
        seconds: options.seconds,
        results: Vec::new(),
        failures: Vec::new(),
    };
    eprintln!("{}", report.machine);
    let mut runner = Runner::new(repo, options, &agent, &described, &chosen);
    for scenario in chosen {
        match runner.run(scenario) {
            Ok(results) => {
                print!("{results}");
                report.results.push(results);
            }
            // What else there is to measure is not lost by it.
            Err(error) => {
                eprintln!("{} FAILED: {error:#}", scenario.name);
                report.failures.push((scenario, format!("{error:#}")));
            }
        }
        write(&report, options)?;
    }
    for path in options.json.iter().chain(&options.plot) {
        eprintln!("written: {}", path.display());
    }
    match &report.failures[..] {
        [] => Ok(()),
        failures => {
            let names: Vec<_> = failures.iter().map(|(scenario, _)| scenario.name).collect();
            bail!(
                "{} of the scenarios failed, why is said above: {}",
                names.len(),
                names.join(", ")
            )
        }
    }
}

/// Writes what there is so far.
fn write(report: &Report, options: &Options) -> Result<()> {
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    if let (Some(dir), Some(results)) = (&options.plot, report.results.last()) {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(format!("{}.svg", results.scenario.name));
        let drawn = plot::draw(results, &report.machine.to_string());
        fs::write(&path, drawn).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        chosen.extend(SCENARIOS.iter().filter(|scenario| {
            let rest = scenario.name.strip_prefix(name.as_str());
            rest.is_some_and(|rest| {
                rest.is_empty()
                    || (!SCENARIOS.iter().any(|other| other.name == name) && rest.starts_with('-'))
            })
        }));
        if chosen.len() == before {
            bail!("there is no scenario {name}; `cargo xtask bench --list` says which there are");
        }
    }
    Ok(chosen)
}
