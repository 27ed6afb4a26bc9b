//! What the agents cost: `cargo xtask bench`.
//!
//! A scenario is one file of [`scenarios`]: it says what is done between two pods and what came of it. A
//! [`Stage`] is the same pods with something between them, from nothing at all to agents under mTLS. The rounds of one
//! scenario alternate between its stages, after a warm-up that is not counted. Figures compare only within one run:
//! the machine may be shared. Progress goes to standard error, the table to standard output.
//!
//! Invariant: a round in which anything failed is an error, never a figure.

mod http;
mod machine;
mod peers;
mod report;
mod sample;
mod scenarios;
mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use self::machine::Machine;
use self::report::{Report, Results};
use self::sample::{Sample, Series};
use self::scenarios::{Body, Round, Rounds, SCENARIOS, Scenario};
use self::stage::{Peer, Setup, Stage};
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
    /// Write everything that was measured, and on which machine, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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
    let mut report = Report {
        machine: Machine::look(&agent)?,
        agent,
        rounds: options.rounds,
        seconds: options.seconds,
        results: Vec::new(),
    };
    eprintln!("{}", report.machine);
    for scenario in chosen {
        let results = run(repo, scenario, options, &report).with_context(|| scenario.name.to_owned())?;
        print!("{results}");
        report.results.push(results);
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
        eprintln!("written: {}", path.display());
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

/// One scenario, from its stages to its figures.
fn run(repo: &Repo, scenario: &'static Scenario, options: &Options, report: &Report) -> Result<Results> {
    let mut series: BTreeMap<Setup, Series> = BTreeMap::new();
    let rounds = match scenario.rounds {
        Rounds::AsAsked => report.rounds,
        Rounds::Once => 1,
    };
    match scenario.body {
        Body::Between {
            setups,
            prepare,
            measure,
        } => {
            eprintln!("{}: {}", scenario.name, scenario.about);
            let mut stages: Vec<Stage> = setups
                .iter()
                .filter(|setup| options.wants(**setup))
                .map(|setup| Stage::build(*setup, &report.agent))
                .collect::<Result<_>>()?;
            if let Some(against) = &options.against {
                stages.push(Stage::build(Setup::Against, against)?);
            }
            let _servers: Vec<_> = stages
                .iter()
                .map(|stage| prepare(stage, rounds))
                .collect::<Result<_>>()?;
            // Round 0 is the warm-up.
            let first = match scenario.rounds {
                Rounds::AsAsked => 0,
                Rounds::Once => 1,
            };
            for number in first..=rounds {
                let seconds = if number == 0 { 1 } else { options.seconds };
                for stage in &stages {
                    let before = stage.cpu_seconds()?;
                    let mut sample = measure(stage, Round { number, seconds })
                        .with_context(|| format!("{}", stage.setup()))?;
                    sample.charge(stage.cpu_seconds()? - before, stage.setup());
                    progress(number, rounds, stage.setup(), &sample);
                    if number > 0 {
                        series.entry(stage.setup()).or_default().push(sample);
                    }
                }
            }
        }
        Body::Alone { prepare, measure } => {
            prepare(repo)?;
            for number in 1..=rounds {
                let sample = measure(repo)?;
                progress(number, rounds, Setup::Alone, &sample);
                series.entry(Setup::Alone).or_default().push(sample);
            }
        }
    }
    Ok(Results { scenario, series })
}

fn progress(number: u8, rounds: u8, setup: Setup, sample: &Sample) {
    match number {
        0 => eprintln!("  warm-up, {setup}: {sample}"),
        _ => eprintln!("  round {number} of {rounds}, {setup}: {sample}"),
    }
}
