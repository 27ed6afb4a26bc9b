//! Tries the kernel half on this kernel without attaching anything.

use aya::{EbpfLoader, programs::Program};

/// One thing tried.
#[derive(Debug)]
pub struct Probe {
    /// What was tried: the maps, or a program by its name.
    pub name: String,
    /// What the kernel said.
    pub outcome: Result<(), String>,
}

/// Loads the maps and every program of `object`, and lets them go again.
pub fn probe(object: &[u8]) -> Vec<Probe> {
    let maps = "maps".to_owned();
    let mut ebpf = match EbpfLoader::new().load(object) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            return vec![Probe {
                name: maps,
                outcome: Err(one_line(&error)),
            }];
        }
    };
    let mut probes = vec![Probe {
        name: maps,
        outcome: Ok(()),
    }];
    probes.extend(ebpf.programs_mut().map(|(name, program)| {
        let outcome = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SkLookup(program) => program.load(),
            Program::SocketFilter(program) => program.load(),
            _ => {
                return Probe {
                    name: name.to_owned(),
                    outcome: Err("is of an unknown kind".to_owned()),
                };
            }
        };
        Probe {
            name: name.to_owned(),
            outcome: outcome.map_err(|error| one_line(&error)),
        }
    }));
    probes.sort_by(|a, b| a.name.cmp(&b.name));
    probes
}

/// The error and its causes without the verifier's log, which fills pages.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = first_line(error);
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {}", first_line(cause));
        next = cause.source();
    }
    text
}

fn first_line(error: &dyn std::error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
