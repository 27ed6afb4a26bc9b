//! What the machine and this process's rights on it must offer.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::SystemTime,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit},
    unistd::geteuid,
};

use super::Check;
use crate::{agent::preflight, kernel::bpffs::is_bpffs, node::cgroup::Cgroup};

/// Everything about the machine.
pub(super) fn checks(pods_cgroup: Option<&Path>, bpffs: &Path) -> Vec<Check> {
    vec![
        capabilities(),
        kernel_release(),
        cgroup2(pods_cgroup),
        pin_directory(bpffs),
        btf(),
        processes(),
        clock(),
        open_files(),
    ]
}

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    if !geteuid().is_root() {
        return Check::failed(NAME, "not root", "run as root (sudo)");
    }
    match preflight::missing_capabilities() {
        Ok(missing) if missing.is_empty() => Check::ok(NAME, "all that are needed"),
        Ok(missing) => Check::failed(
            NAME,
            format!("missing {}", missing.join(", ")),
            "run as root, or grant them to the container",
        ),
        Err(error) => Check::failed(NAME, error.to_string(), "mount /proc"),
    }
}

/// The agent refuses older ones; for the others only the programs tell.
fn kernel_release() -> Check {
    const NAME: &str = "kernel";
    let release = preflight::release();
    if preflight::is_too_old(&release) {
        return Check::failed(NAME, format!("Linux {release}"), "use Linux 5.18 or newer");
    }
    Check::ok(NAME, format!("Linux {release}"))
}

fn cgroup2(pods: Option<&Path>) -> Check {
    const NAME: &str = "cgroup2";
    match Cgroup::of_pods(pods) {
        Ok(cgroup) => Check::ok(NAME, format!("pods at or below {}", cgroup.path().display())),
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            "mount a cgroup2 hierarchy that holds the pods, and name their directory with --pods-cgroup",
        ),
    }
}

/// Where pins would go. Mounting is tried in a mount namespace that ends with its thread.
fn pin_directory(dir: &Path) -> Check {
    const NAME: &str = "bpffs";
    let present = dir
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    if is_bpffs(present) {
        return Check::ok(NAME, format!("{} is on a BPF file system", dir.display()));
    }
    match std::thread::spawn(mount_privately).join() {
        Ok(Ok(())) => Check::ok(NAME, format!("one can be mounted for {}", dir.display())),
        Ok(Err(error)) => Check::failed(
            NAME,
            format!(
                "{} is not on one, and none can be mounted: {error}",
                dir.display()
            ),
            "mount one (`mount -t bpf bpf /sys/fs/bpf`), and name a directory on it with --bpffs",
        ),
        Err(_) => Check::failed(
            NAME,
            "the attempt to mount one broke off",
            "report this, it is a defect",
        ),
    }
}

fn mount_privately() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), "/sys", Some("bpf"), MsFlags::empty(), none)?;
    Ok(())
}

fn btf() -> Check {
    const NAME: &str = "BTF";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match File::open(PATH) {
        Ok(_) => Check::ok(NAME, PATH),
        Err(error) => Check::failed(
            NAME,
            format!("{PATH}: {error}"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, and mount /sys",
        ),
    }
}

/// Workloads may be named by a process, whose namespaces only a tracer may look at.
fn processes() -> Check {
    const NAME: &str = "processes";
    const REMEDY: &str = "run with CAP_SYS_PTRACE, and in a container with the host's process ids (hostPID)";
    let own = std::process::id();
    let processes = match procfs::process::all_processes() {
        Ok(processes) => processes,
        Err(error) => return Check::failed(NAME, format!("/proc: {error}"), REMEDY),
    };
    let (mut seen, mut hidden) = (0_usize, 0_usize);
    for process in processes
        .filter_map(Result::ok)
        .filter(|process| process.pid().unsigned_abs() != own)
    {
        match fs::read_link(format!("/proc/{}/ns/net", process.pid())) {
            Ok(_) => seen += 1,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden += 1,
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    match (seen, hidden) {
        (0, _) => Check::failed(NAME, "no namespace of another process can be read", REMEDY),
        (_, 0) => Check::ok(NAME, format!("the namespaces of {seen} others can be read")),
        _ => Check::warning(
            NAME,
            format!(
                "the namespaces of {hidden} of {} others are hidden",
                seen + hidden
            ),
            REMEDY,
        ),
    }
}

/// A clock before the day the program was made is certainly wrong, and certificates would be too.
fn clock() -> Check {
    const NAME: &str = "clock";
    let made = std::env::current_exe()
        .and_then(fs::metadata)
        .and_then(|metadata| metadata.modified());
    let now = SystemTime::now();
    match made {
        Ok(made) if now < made => Check::failed(
            NAME,
            format!(
                "{} is before the program was made",
                humantime::format_rfc3339_seconds(now)
            ),
            "set the clock, best with a time service",
        ),
        _ => Check::ok(NAME, humantime::format_rfc3339_seconds(now).to_string()),
    }
}

/// Each connection takes two descriptors, each pod one for a worker.
fn open_files() -> Check {
    const NAME: &str = "open files";
    const ENOUGH: u64 = 65_536;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= ENOUGH => Check::ok(NAME, format!("at most {hard}")),
        Ok((_, hard)) => Check::warning(
            NAME,
            format!("at most {hard}, which is two for a connection"),
            format!("raise the limit to {ENOUGH} or more (LimitNOFILE= of systemd, `ulimit -Hn`)"),
        ),
        Err(error) => Check::warning(NAME, error.to_string(), "see `ulimit -Hn`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Outcome;

    #[test]
    fn what_is_not_well_has_a_remedy() {
        for check in checks(Some(Path::new("/proc")), Path::new("/nonexistent/pins")) {
            assert_eq!(check.remedy.is_some(), check.outcome != Outcome::Ok, "{check:?}");
        }
    }

    #[test]
    fn a_directory_that_is_no_cgroup_fails() {
        assert_eq!(cgroup2(Some(Path::new("/proc"))).outcome, Outcome::Failed);
    }

    #[test]
    fn cgroup_mount_is_named() {
        let mount = crate::node::cgroup::mount_point().unwrap();
        assert!(cgroup2(Some(&mount)).found.contains(&mount.display().to_string()));
    }
}
