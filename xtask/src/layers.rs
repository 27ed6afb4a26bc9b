//! The floors of mesh-agent, and the check that nobody climbs them.
//!
//! A module uses the floors below its own, so that what decides can be read and tested without what moves bytes.
//! [`scan`] finds what a source names; this file knows the floors and judges. [`crate::test`] runs it.
//!
//! Invariant: every module has a floor; a new one must be placed before it can be tested.

mod scan;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;

/// Lowest first; the index is the number of the floor.
const FLOORS: [Floor; 7] = [
    Floor {
        does: "pure decisions",
        modules: &["policy", "routing", "balance", "telemetry", "config", "drain"],
    },
    Floor {
        does: "what is known of mesh and machine",
        modules: &["identity", "state", "kernel", "node"],
    },
    Floor {
        does: "request mechanics and upstream sockets",
        modules: &["http", "upstream"],
    },
    Floor {
        does: "the way of a connection",
        modules: &["outbound", "inbound"],
    },
    Floor {
        does: "doors to the outside",
        modules: &["listener", "admin", "dns"],
    },
    Floor {
        does: "building and supervising everything",
        modules: &["agent", "runtime"],
    },
    Floor {
        does: "commands",
        modules: &["main", "cli"],
    },
];

/// The only uses between neighbours of one floor: `(who, whom)`.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("main", "cli"),
    // The agent starts the runtimes; a runtime does not know what runs in it.
    ("agent", "runtime"),
    // A request ends on an upstream connection; the connection does not know of requests.
    ("http", "upstream"),
    // What no path is like is told where it is written; how paths are spelt is the policies' matter.
    ("config", "policy"),
    // Programs attach to the namespaces and cgroups that node opens.
    ("kernel", "node"),
    // For `kernel::raw`, the one module that may make unsafe system calls: a namespace's cookie takes one.
    ("node", "kernel"),
];

/// Objects for unit tests. Every floor may use them, and they use none.
const SAMPLES: &str = "samples";

struct Floor {
    does: &'static str,
    modules: &'static [&'static str],
}

/// Checks the agent's sources; fails with every offence, its place and its remedy.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let sources = repo.root().join("mesh-agent/src");
    let mut files = Vec::new();
    collect(&sources, &mut files)?;
    let mut offences = Vec::new();
    for file in &files {
        let source = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let inside = file
            .strip_prefix(&sources)
            .context("a source outside of the sources")?;
        let shown = file.strip_prefix(repo.root()).unwrap_or(file);
        offences.extend(judge(shown, &module_path(inside), &source));
    }
    if offences.is_empty() {
        println!("  {} sources keep to their floors", files.len());
        return Ok(());
    }
    let list: Vec<String> = offences.iter().map(ToString::to_string).collect();
    bail!(
        "{} uses against the floors (ARCHITECTURE.md shows them):\n{}",
        list.len(),
        list.join("\n")
    )
}

/// One use that the floors do not allow.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    file: PathBuf,
    line: usize,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A use of a higher floor.
    Upward { from: String, to: String },
    /// A use of a neighbour on the same floor.
    Sideways { from: String, to: String },
    /// A module that no floor lists.
    Homeless { module: String },
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        match &self.kind {
            Kind::Upward { from, to } => write!(
                f,
                "`{from}` ({}) uses `{to}` ({})\n    remedy: take what is needed as an argument or through a trait that \
                 `{from}` defines, or move this code up to the floor of `{to}`",
                Described(from),
                Described(to)
            ),
            Kind::Sideways { from, to } => write!(
                f,
                "`{from}` uses its neighbour `{to}`, both on {}\n    remedy: let the floor above join the two, move what \
                 both need to a floor below, or allow the pair in NEIGHBOURS of xtask/src/layers.rs with its reason",
                Described(from)
            ),
            Kind::Homeless { module } => write!(
                f,
                "`{module}` has no floor\n    remedy: place it in FLOORS of xtask/src/layers.rs and in ARCHITECTURE.md"
            ),
        }
    }
}

struct Described<'a>(&'a str);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match floor_of(self.0) {
            Some(number) => write!(f, "floor {number}, {}", FLOORS[number].does),
            None => f.write_str("no floor"),
        }
    }
}

fn judge(file: &Path, path: &[String], source: &str) -> Vec<Offence> {
    // The library's root declares the modules and belongs to no floor.
    let Some(own) = path.first() else {
        return Vec::new();
    };
    let offence = |line, kind| Offence {
        file: file.to_owned(),
        line,
        kind,
    };
    let floor = floor_of(own);
    if floor.is_none() && own != SAMPLES {
        return vec![offence(1, Kind::Homeless { module: own.clone() })];
    }
    let alias = (own == "main").then_some("mesh_agent");
    scan::references(source, path, alias)
        .into_iter()
        .filter_map(|reference| {
            let to = reference.module;
            let kind = match floor_of(&to) {
                _ if to == *own || to == SAMPLES => return None,
                None => Kind::Homeless { module: to },
                Some(other) if floor.is_none_or(|floor| other > floor) => Kind::Upward {
                    from: own.clone(),
                    to,
                },
                Some(other) if Some(other) == floor && !NEIGHBOURS.contains(&(own, &to)) => Kind::Sideways {
                    from: own.clone(),
                    to,
                },
                Some(_) => return None,
            };
            Some(offence(reference.line, kind))
        })
        .collect()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.modules.contains(&module))
}

/// `["http", "retry"]` for `http/retry.rs`, `["http"]` for `http.rs` and `http/mod.rs`, nothing for `lib.rs`.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|segment| segment.to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] {
        path.pop();
    }
    path
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(file: &str, source: &str) -> Vec<Kind> {
        judge(Path::new(file), &module_path(Path::new(file)), source)
            .into_iter()
            .map(|offence| offence.kind)
            .collect()
    }

    #[test]
    fn a_module_may_look_down_and_into_itself() {
        assert_eq!(
            judged(
                "outbound/tcp.rs",
                "use crate::{upstream, state, policy, outbound::route};"
            ),
            []
        );
        assert_eq!(judged("lib.rs", "pub use crate::cli::Cli;"), []);
        assert_eq!(judged("main.rs", "use mesh_agent::cli;"), []);
        assert_eq!(judged("policy/tests.rs", "use crate::samples;"), []);
    }

    #[test]
    fn a_module_may_not_look_up() {
        let kind = |from: &str, to: &str| Kind::Upward {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        assert_eq!(
            judged("policy/mod.rs", "use crate::upstream::Pool;"),
            [kind("policy", "upstream")]
        );
        assert_eq!(
            judged("http.rs", "use super::inbound::authorize;"),
            [kind("http", "inbound")]
        );
        assert_eq!(
            judged("samples.rs", "use crate::policy;"),
            [kind("samples", "policy")]
        );
    }

    #[test]
    fn neighbours_need_a_pair_in_the_list_and_it_has_a_direction() {
        let kind = |from: &str, to: &str| Kind::Sideways {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        assert_eq!(judged("http/mod.rs", "use crate::upstream;"), []);
        assert_eq!(
            judged("upstream/mod.rs", "use crate::http;"),
            [kind("upstream", "http")]
        );
        assert_eq!(
            judged("inbound.rs", "use crate::outbound;"),
            [kind("inbound", "outbound")]
        );
    }

    #[test]
    fn a_module_without_a_floor_is_sent_for_one() {
        let kind = Kind::Homeless {
            module: "helpers".to_owned(),
        };
        assert_eq!(judged("helpers/text.rs", ""), [kind]);
        let kind = Kind::Homeless {
            module: "helpers".to_owned(),
        };
        assert_eq!(judged("cli/status.rs", "use crate::helpers;"), [kind]);
    }

    #[test]
    fn the_message_names_place_floors_and_remedy() {
        let offences = judge(
            Path::new("mesh-agent/src/policy/l4.rs"),
            &["policy".into(), "l4".into()],
            "\nuse crate::cli;",
        );
        let text = offences[0].to_string();
        for part in [
            "mesh-agent/src/policy/l4.rs:2:",
            "`policy` (floor 0, pure",
            "`cli` (floor 6, commands)",
            "remedy",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn each_module_has_one_floor_and_each_pair_is_on_one() {
        let mut modules: Vec<_> = FLOORS.iter().flat_map(|floor| floor.modules).collect();
        let count = modules.len();
        modules.sort_unstable();
        modules.dedup();
        assert_eq!(modules.len(), count);
        assert!(NEIGHBOURS.iter().all(|(from, to)| floor_of(from) == floor_of(to)));
    }
}
