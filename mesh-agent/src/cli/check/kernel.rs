//! Whether the kernel half loads, and whether somebody else's stands in its way.

use std::path::Path;

use aya::programs::{ProgramInfo, loaded_programs};
use aya_obj::generated::bpf_prog_type;

use super::Check;
use crate::{
    cli::bpf,
    kernel::{Probe, load::object_bytes, pins::Pins, probe},
};

/// Everything about the kernel half.
pub(super) fn checks(object: Option<&Path>, bpffs: &Path) -> Vec<Check> {
    const NAME: &str = "eBPF object";
    let mut checks = match object_bytes(object) {
        Ok(bytes) => {
            let whence = object.map_or_else(|| "embedded".to_owned(), |path| path.display().to_string());
            let mut checks = vec![Check::ok(NAME, format!("{whence}, {} bytes", bytes.len()))];
            checks.extend(probe(&bytes).into_iter().map(loads));
            checks
        }
        Err(error) => vec![Check::failed(
            NAME,
            error.to_string(),
            "build it with `cargo xtask build-ebpf` and the agent again, or name one with --ebpf-object",
        )],
    };
    checks.push(neighbours(&Pins::below(bpffs)));
    checks
}

fn loads(probe: Probe) -> Check {
    let name = format!("loads {}", probe.name);
    match probe.outcome {
        Ok(()) => Check::ok(name, "yes"),
        Err(reason) => Check::failed(name, reason, remedy_for_loading()),
    }
}

fn remedy_for_loading() -> &'static str {
    "run as root; on a kernel older than 5.18 use a newer one; otherwise report the reason and `uname -r`"
}

/// Programs of others on hooks that rewrite addresses or choose sockets.
fn neighbours(pins: &Pins) -> Check {
    const NAME: &str = "other programs";
    let found = bpf::own_program_ids(pins).map(|own| {
        let foreign = |program: &ProgramInfo| {
            let kind = program.program_type();
            let ours = own.contains(&program.id());
            !ours
                && matches!(
                    kind,
                    bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR | bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP
                )
        };
        let mut names: Vec<String> = loaded_programs()
            .filter_map(Result::ok)
            .filter(foreign)
            .map(|program| {
                format!(
                    "{} ({})",
                    program.name_as_str().unwrap_or("unnamed"),
                    program.id()
                )
            })
            .collect();
        names.sort();
        names
    });
    match found {
        Ok(names) if names.is_empty() => Check::ok(NAME, "none on the hooks of the mesh"),
        Ok(names) => Check::warning(
            NAME,
            names.join(", "),
            "they may rewrite addresses before the mesh sees them; with Cilium set socketLB.hostNamespaceOnly=true",
        ),
        Err(failure) => Check::warning(NAME, failure.to_string(), "run as root to see them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Outcome;

    #[test]
    fn an_absent_object_fails_with_a_remedy() {
        let checks = checks(
            Some(Path::new("/nonexistent/object")),
            Path::new("/nonexistent/pins"),
        );
        assert_eq!(checks[0].outcome, Outcome::Failed);
        assert!(
            checks[0]
                .remedy
                .as_deref()
                .unwrap()
                .contains("cargo xtask build-ebpf")
        );
    }

    #[test]
    fn a_program_that_does_not_load_fails() {
        let check = loads(Probe {
            name: "on_connect4".to_owned(),
            outcome: Err("unknown func".to_owned()),
        });
        assert_eq!(
            (check.outcome, check.found.as_str()),
            (Outcome::Failed, "unknown func")
        );
    }
}
