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

/// The error and its causes; of the verifier's log, which fills pages, the verdict at its end.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = shortened(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {}", shortened(&cause.to_string()));
        next = cause.source();
    }
    text
}

/// The first line, and the last that is no statistics.
fn shortened(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let is_statistics = |line: &str| {
        let words = ["processed ", "verification time", "stack depth"];
        words.iter().any(|words| line.starts_with(words))
    };
    match lines.rfind(|line| !is_statistics(line)) {
        Some(last) => format!("{first} … {last}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_verdict_remains() {
        let log = "rejected: 0: R1=ctx\n1: (61) r0 = *(u32 *)(r1 +0)\nR3 min value is negative\nprocessed 9 insns\n\n";
        assert_eq!(shortened(log), "rejected: 0: R1=ctx … R3 min value is negative");
        assert_eq!(shortened("no such map"), "no such map");
    }
}
