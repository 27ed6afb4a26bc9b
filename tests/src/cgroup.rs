//! The part of the cgroup v2 tree that belongs to a mesh.
//!
//! The mount is looked up in `/proc/self/mountinfo`, since hybrid machines have it elsewhere than `/sys/fs/cgroup`.
//! `footprint` asks for the removal; nothing outside the mesh's own directory is ever killed or removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process::wait_until;

/// Where cgroup v2 is mounted on this machine.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    match find_mount(&mounts, "cgroup2") {
        Some(path) => Ok(path),
        None => bail!(
            "no cgroup v2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
        ),
    }
}

/// Kills every process in the subtree, waits until they are gone and removes its directories.
pub(crate) fn remove_tree(root: &Path) -> Result<()> {
    // A process that was just started may enter after the first kill, hence every round kills again; once the
    // directories are gone it finds no way in.
    let mut last = Ok(());
    let removed = wait_until(Duration::from_secs(10), "the cgroup to be empty", || {
        last = match fs::write(root.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => remove_directories(root),
        };
        last.is_ok()
    });
    last.with_context(|| format!("removing the cgroup {}", root.display()))
        .and(removed)
}

fn remove_directories(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The mount point of the first file system of this type, see proc_pid_mountinfo(5).
fn find_mount(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let root = fields.next()?;
        let point = fields.next()?;
        (source.split(' ').next() == Some(kind) && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_a_hybrid_machine() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_mount(mounts, "cgroup2"),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(find_mount(mounts, "bpf"), None);
    }
}
