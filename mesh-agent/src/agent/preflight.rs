//! What must hold before an agent touches anything: who it is and where it runs.

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        utsname::uname,
    },
    unistd::geteuid,
};
use procfs::{ProcError, process::Process};
use thiserror::Error;

/// The oldest kernel with every feature the kernel half uses.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// Descriptors below which a busy node runs out.
const FEW_DESCRIPTORS: u64 = 65_536;

/// Why an agent cannot start here.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// The process is not root.
    #[error(
        "the agent must run as root: it loads eBPF programs and enters the network namespaces of pods; run it with \
         sudo, or with CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN and CAP_SYS_PTRACE in a container"
    )]
    NotRoot,
    /// Rights are missing.
    #[error("the agent lacks {}; run it as root, or grant them to the container", .missing.join(", "))]
    Capabilities {
        /// Their names, each with its purpose.
        missing: Vec<String>,
    },
    /// The kernel lacks what the kernel half needs.
    #[error(
        "Linux {release} is too old: `bpf_set_retval` and the interface in sk_lookup came with {}.{}; run the agent on \
         a newer kernel (nothing was changed on this node)", OLDEST_KERNEL.0, OLDEST_KERNEL.1
    )]
    Kernel {
        /// What runs here.
        release: String,
    },
}

/// Checks what can be checked without changing anything, and raises the limit of open files.
pub(super) fn check() -> Result<(), PreflightError> {
    if !geteuid().is_root() {
        return Err(PreflightError::NotRoot);
    }
    let missing = missing_capabilities().unwrap_or_default();
    if !missing.is_empty() {
        return Err(PreflightError::Capabilities { missing });
    }
    let release = release();
    if is_too_old(&release) {
        return Err(PreflightError::Kernel { release });
    }
    raise_descriptors();
    Ok(())
}

/// Rights the agent needs: their bits, and what for.
const CAPABILITIES: [(u32, &str, &str); 6] = [
    (12, "CAP_NET_ADMIN", "attach programs"),
    (13, "CAP_NET_RAW", "answer connection requests"),
    (19, "CAP_SYS_PTRACE", "find pods by their processes"),
    (21, "CAP_SYS_ADMIN", "enter the pods' namespaces"),
    (38, "CAP_PERFMON", "load programs that read kernel memory"),
    (39, "CAP_BPF", "load programs and maps"),
];

/// The rights that this process lacks, each with its purpose.
pub(crate) fn missing_capabilities() -> Result<Vec<String>, ProcError> {
    let effective = Process::myself()?.status()?.capeff;
    let missing = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0);
    Ok(missing
        .map(|(_, name, purpose)| format!("{name} (to {purpose})"))
        .collect())
}

/// Whether a kernel of this release may have every feature; one that cannot be read may.
pub(crate) fn is_too_old(release: &str) -> bool {
    version(release).is_some_and(|version| version < OLDEST_KERNEL)
}

/// The release of the running kernel.
pub(crate) fn release() -> String {
    uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Two descriptors a connection; the soft limit is often 1024.
fn raise_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays at {soft}");
    }
    if hard < FEW_DESCRIPTORS {
        tracing::warn!(
            limit = hard,
            "few open files are allowed; each connection needs two (raise `ulimit -n`)"
        );
    }
}

/// How many files the agent may have open.
pub(super) fn descriptors() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions() {
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("6.1.0"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
        assert!(is_too_old("5.15.0-91-generic") && is_too_old("4.19.0"));
        assert!(!is_too_old("5.18.0") && !is_too_old("6.1.0") && !is_too_old("unknown"));
    }
}
