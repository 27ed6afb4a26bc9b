//! `mesh-agent uninstall`: takes back everything an agent left behind.
//!
//! Invariants: it holds the agent's lock meanwhile, so no agent can start in the middle; links go before maps, and the
//! capture of connections before what serves it; what is not the agent's is left alone; a second run finds nothing.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use nix::{mount::umount, unistd::geteuid};
use procfs::process::Process;
use serde::Serialize;

use super::{
    agent::{BPFFS, RUN_DIR},
    bpf::pins_in,
    failure::Failure,
    output::{OutputArgs, View},
    table::{Cell, Colour, Column, Detail, Table, Tone},
};
use crate::{
    admin::{AgentLock, LockError, RunDir},
    kernel::{bpffs::is_bpffs, pins::Pins},
    node::cgroup::{self, Cgroup},
};

/// What `uninstall` takes.
#[derive(Args, Debug)]
pub(super) struct UninstallArgs {
    /// Go on although an agent runs; it stops capturing, and should be ended next
    #[arg(long)]
    force: bool,
    /// Directory of the pins
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
    /// Directory of the agent's socket and lock
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl UninstallArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        if !geteuid().is_root() {
            return Err(Failure::Remedied {
                message: "only root can uninstall".to_owned(),
                remedy: "try with sudo".to_owned(),
            });
        }
        let run_dir = RunDir::new(&self.run_dir);
        let lock = self.lock(&run_dir)?;
        let mut report = Report::default();
        report.take_pins(&self.bpffs)?;
        report.take_mount(&run_dir, &self.bpffs);
        report.take_cgroup();
        report.take_run_dir(&run_dir, lock);
        self.output.show(&report)?;
        if report.left.is_empty() {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    }

    /// The lock, or none when there is no run directory or somebody holds it and we are to go on.
    fn lock(&self, run_dir: &RunDir) -> Result<Option<AgentLock>, Failure> {
        if !run_dir.path().exists() {
            return Ok(None);
        }
        match AgentLock::acquire(run_dir) {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Held { .. }) if self.force => Ok(None),
            Err(LockError::Held { pid, .. }) => Err(Failure::Remedied {
                message: format!("an agent runs (pid {pid})"),
                remedy: "end it first with `mesh-agent drain --wait`, or go on with --force".to_owned(),
            }),
            Err(error) => Err(Failure::because("cannot make sure that no agent runs", error)),
        }
    }
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    removed: Vec<Thing>,
    left: Vec<Thing>,
}

/// Something of the agent's.
#[derive(Debug, Serialize)]
struct Thing {
    what: &'static str,
    path: String,
    /// Why it is left.
    reason: Option<String>,
}

impl Report {
    fn take_pins(&mut self, dir: &Path) -> Result<(), Failure> {
        if !is_bpffs(dir) {
            // No pin can be there.
            return Ok(());
        }
        let pins = Pins::below(dir);
        for (what, place) in [("link", pins.links()), ("map", pins.maps())] {
            for (_, path) in pins_in(&place)? {
                self.note(what, &path, fs::remove_file(&path));
            }
            self.note("directory", &place, fs::remove_dir(&place));
        }
        // A mount point cannot be removed while something is mounted on it.
        if !is_mount_point(dir) {
            self.note("directory", dir, fs::remove_dir(dir));
        }
        Ok(())
    }

    /// The file system goes only if an agent noted that it had to mount it, and if nobody else has pinned anything
    /// on it since.
    fn take_mount(&mut self, run_dir: &RunDir, dir: &Path) {
        let Ok(noted) = fs::read(run_dir.bpffs_note()) else {
            return;
        };
        let point = PathBuf::from(OsString::from_vec(noted));
        if is_bpffs(&point) && is_unused(&point) {
            self.note("mount", &point, umount(&point).map_err(io::Error::from));
            if point == dir {
                self.note("directory", dir, fs::remove_dir(dir));
            }
        }
    }

    /// The cgroup an agent makes for itself when it is started in the root.
    fn take_cgroup(&mut self) {
        let path = cgroup::mount_point().map(|mount| mount.join(cgroup::AGENT_CGROUP));
        if let Ok(path) = path
            && Cgroup::open(&path).is_ok()
        {
            self.note("cgroup", &path, fs::remove_dir(&path));
        }
    }

    fn take_run_dir(&mut self, run_dir: &RunDir, lock: Option<AgentLock>) {
        let Some(lock) = lock else {
            return;
        };
        for (what, path) in [("socket", run_dir.socket()), ("note", run_dir.bpffs_note())] {
            self.note(what, &path, fs::remove_file(&path));
        }
        self.note("lock", &run_dir.lock(), lock.remove(run_dir));
        self.note("directory", run_dir.path(), fs::remove_dir(run_dir.path()));
    }

    /// Something that was not there was not removed, and is not left either.
    fn note(&mut self, what: &'static str, path: &Path, outcome: io::Result<()>) {
        let thing = |reason| Thing {
            what,
            path: path.display().to_string(),
            reason,
        };
        match outcome {
            Ok(()) => self.removed.push(thing(None)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.left.push(thing(Some(error.to_string()))),
        }
    }
}

/// True when nothing is pinned there. The kernel itself puts two files for debugging on some BPF file systems.
fn is_unused(point: &Path) -> bool {
    let of_the_kernel = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
    fs::read_dir(point).is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .all(|entry| of_the_kernel(&entry.file_name()))
    })
}

fn is_mount_point(dir: &Path) -> bool {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    mounts.is_ok_and(|mounts| mounts.into_iter().any(|mount| mount.mount_point == dir))
}

impl View for Report {
    fn text(&self, _: Detail, colour: Colour) -> String {
        let mut table = Table::new([
            Column::text("DONE"),
            Column::text("WHAT"),
            Column::text("PATH"),
            Column::text("REASON").optional(),
        ]);
        for (done, tone, things) in [
            ("removed", Tone::Good, &self.removed),
            ("left", Tone::Bad, &self.left),
        ] {
            for thing in things {
                table.row([
                    Cell::from(done).tone(tone),
                    Cell::from(thing.what),
                    Cell::from(&thing.path),
                    Cell::from(thing.reason.as_deref().unwrap_or_default()),
                ]);
            }
        }
        table.render(colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        (self.removed.is_empty() && self.left.is_empty()).then_some("Nothing to remove.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_goes_once() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path().join("run"));
        run_dir.create().unwrap();
        fs::write(run_dir.socket(), "").unwrap();
        let mut report = Report::default();
        report.take_run_dir(&run_dir, Some(AgentLock::acquire(&run_dir).unwrap()));
        let removed: Vec<_> = report.removed.iter().map(|thing| thing.what).collect();
        assert_eq!(removed, ["socket", "lock", "directory"]);
        assert!(!run_dir.path().exists());

        let mut again = Report::default();
        again.take_run_dir(&run_dir, None);
        assert_eq!(again.nothing(), Some("Nothing to remove."));
    }

    #[test]
    fn what_is_not_the_agents_is_left_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path());
        fs::write(dir.path().join("foreign"), "").unwrap();
        let mut report = Report::default();
        report.take_run_dir(&run_dir, Some(AgentLock::acquire(&run_dir).unwrap()));
        assert_eq!(report.left.len(), 1);
        assert!(dir.path().join("foreign").exists());
    }

    #[test]
    fn files_that_cannot_be_pins_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("links")).unwrap();
        let mut report = Report::default();
        report.take_pins(dir.path()).unwrap();
        assert!(report.nothing().is_some() && dir.path().join("links").exists());
    }

    #[test]
    fn a_running_agent_is_in_the_way_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path());
        let _agent = AgentLock::acquire(&run_dir).unwrap();
        let args = |force| UninstallArgs {
            force,
            bpffs: BPFFS.into(),
            run_dir: dir.path().to_owned(),
            output: OutputArgs::default(),
        };
        let refusal = args(false).lock(&run_dir).unwrap_err();
        assert!(refusal.message().contains("--force"));
        assert!(args(true).lock(&run_dir).unwrap().is_none());
    }
}
