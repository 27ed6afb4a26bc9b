//! Runs scenarios: builds their stages, and alternates between them round by round.
//!
//! Handed scenarios by the command, hands back what each gave. Invariant: the stages of one scenario are measured by
//! turns, so that what else the machine does meets all of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mesh_tests::Process;

use super::Options;
use super::progress::Progress;
use super::report::Results;
use super::sample::{Sample, Series};
use super::scenarios::{Body, Measure, NoEntrance, Prepare, Round, Rounds, Scenario};
use super::stage::{Setup, Shares, Stage};
use crate::repo::Repo;

/// What all scenarios of a run share.
pub(super) struct Runner<'a> {
    repo: &'a Repo,
    options: &'a Options,
    agent: &'a Path,
    /// Peers that files describe.
    described: &'a [Setup],
    progress: Progress,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        repo: &'a Repo,
        options: &'a Options,
        agent: &'a Path,
        described: &'a [Setup],
        chosen: &[&Scenario],
    ) -> Self {
        let mut runner = Self {
            repo,
            options,
            agent,
            described,
            progress: Progress::new(0),
        };
        runner.progress = Progress::new(chosen.iter().map(|scenario| runner.measurements(scenario)).sum());
        runner
    }

    /// One scenario, from its stages to its figures.
    pub(super) fn run(&mut self, scenario: &'static Scenario) -> Results {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let before = self.progress.done();
        let mut results = Results {
            scenario,
            series: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        match scenario.body {
            Body::Between { prepare, measure, .. } => {
                self.between(&mut results, Shares::Usual, prepare, measure);
            }
            Body::Crowded { prepare, measure, .. } => {
                self.between(&mut results, Shares::Whole, prepare, measure);
            }
            Body::Alone { prepare, measure } => match self.alone(scenario, prepare, measure) {
                Ok(series) => drop(results.series.insert(Setup::Alone, series)),
                Err(error) => results.fail(Setup::Alone, &error),
            },
        }
        // Stages that were left out, and what an error cut short.
        let counted = self.progress.done() - before;
        self.progress.advance(self.measurements(scenario) - counted);
        results
    }

    fn between(&mut self, results: &mut Results, shares: Shares, prepare: Prepare, measure: Measure) {
        let scenario = results.scenario;
        let rounds = self.rounds(scenario);
        let mut stages: Vec<(Stage, Vec<Process>)> = Vec::new();
        for setup in self.setups(scenario) {
            let stage = Stage::build(setup, self.agent_of(setup), shares);
            let ready = stage.and_then(|stage| {
                let servers = prepare(&stage, rounds)?;
                Ok((stage, servers))
            });
            match ready {
                Ok(ready) => stages.push(ready),
                Err(error) if error.is::<NoEntrance>() => eprintln!("  {error}: left out"),
                Err(error) => results.fail(setup, &error),
            }
        }
        let mut slowest: Option<f64> = None;
        for number in first_round(scenario)..=rounds {
            let round = Round {
                number,
                seconds: if number == 0 { 1 } else { self.options.seconds },
                slowest: self.options.rate.map(f64::from).or(slowest),
            };
            // A stage goes when it fails, with what it gave before.
            stages.retain(|(stage, _)| {
                let setup = stage.setup();
                match measured(stage, round, measure) {
                    Ok(sample) => {
                        self.say(number, rounds, setup, &sample);
                        match number {
                            0 => slowest = least(slowest, sample.reached()),
                            _ => results.series.entry(setup).or_default().push(sample),
                        }
                        true
                    }
                    Err(error) => {
                        results.fail(setup, &error);
                        false
                    }
                }
            });
        }
    }

    fn alone(
        &mut self,
        scenario: &Scenario,
        prepare: fn(&Repo) -> Result<()>,
        measure: fn(&Repo) -> Result<Sample>,
    ) -> Result<Series> {
        prepare(self.repo)?;
        let (mut series, rounds) = (Series::default(), self.rounds(scenario));
        for number in 1..=rounds {
            let sample = measure(self.repo)?;
            self.say(number, rounds, Setup::Alone, &sample);
            series.push(sample);
        }
        Ok(series)
    }

    fn agent_of(&self, setup: Setup) -> &Path {
        match (setup, &self.options.against) {
            (Setup::Against, Some(against)) => against,
            _ => self.agent,
        }
    }

    /// What is to stand between the pods of a scenario.
    fn setups(&self, scenario: &Scenario) -> Vec<Setup> {
        let (Body::Between { setups, .. } | Body::Crowded { setups, .. }) = scenario.body else {
            return vec![Setup::Alone];
        };
        let options = self.options;
        let mut wanted: Vec<Setup> = setups
            .iter()
            .copied()
            .filter(|setup| options.wants(*setup))
            .collect();
        // Where any peer can stand, those of files can.
        if setups.iter().any(|setup| setup.is_peer()) {
            wanted.extend(self.described);
        }
        if options.against.is_some() {
            wanted.push(Setup::Against);
        }
        wanted
    }

    fn measurements(&self, scenario: &Scenario) -> u32 {
        let rounds = match scenario.body {
            Body::Between { .. } | Body::Crowded { .. } => self.rounds(scenario) + 1 - first_round(scenario),
            Body::Alone { .. } => self.rounds(scenario),
        };
        self.setups(scenario).iter().map(|_| u32::from(rounds)).sum()
    }

    fn rounds(&self, scenario: &Scenario) -> u8 {
        match scenario.rounds {
            Rounds::AsAsked => self.options.rounds,
            Rounds::Once => 1,
        }
    }

    fn say(&mut self, number: u8, rounds: u8, setup: Setup, sample: &Sample) {
        self.progress.advance(1);
        match number {
            0 => eprintln!("  {} warm-up, {setup}: {sample}", self.progress),
            _ => eprintln!(
                "  {} round {number} of {rounds}, {setup}: {sample}",
                self.progress
            ),
        }
    }
}

/// One round of a stage, with the CPU time of what stands between.
fn measured(stage: &Stage, round: Round, measure: Measure) -> Result<Sample> {
    let before = stage.cpu_seconds()?;
    let mut sample = measure(stage, round)?;
    sample.charge(stage.cpu_seconds()? - before, stage.setup());
    Ok(sample)
}

/// Round 0 is the warm-up.
fn first_round(scenario: &Scenario) -> u8 {
    match scenario.rounds {
        Rounds::AsAsked => 0,
        Rounds::Once => 1,
    }
}

fn least(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
