//! The BPF file system the pins live in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;

/// The usual place of the BPF file system.
const USUAL: &str = "/sys/fs/bpf";

/// Why there is no place for pins.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// Mounting failed.
    #[error(
        "no BPF file system at {path} and mounting one failed: {source}; run `mount -t bpf bpf {path}` as root"
    )]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What went wrong.
        source: nix::Error,
    },
    /// The agent could only mount one for itself.
    #[error(
        "no BPF file system at {path}, and one mounted here would end with this container or service, and every pin \
         with it; run `mount -t bpf bpf {path}` on the host, and let the agent see it"
    )]
    Private {
        /// The mount point.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("making {path}: {source}; name a writable place with --bpffs")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Makes sure that `dir` exists on a BPF file system; mounts one where there is none. Returns the mount point
/// when it mounted.
pub fn ensure(dir: &Path) -> Result<Option<PathBuf>, BpffsError> {
    let mut mounted = None;
    if !is_bpffs(existing_ancestor(dir)) {
        let point = if dir.starts_with(USUAL) {
            Path::new(USUAL)
        } else {
            dir
        };
        if is_private() {
            return Err(BpffsError::Private {
                path: point.to_owned(),
            });
        }
        fs::create_dir_all(point).map_err(|source| BpffsError::Directory {
            path: point.to_owned(),
            source,
        })?;
        mount(
            Some("bpf"),
            point,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(|source| BpffsError::Mount {
            path: point.to_owned(),
            source,
        })?;
        mounted = Some(point.to_owned());
    }
    fs::create_dir_all(dir).map_err(|source| BpffsError::Directory {
        path: dir.to_owned(),
        source,
    })?;
    Ok(mounted)
}

/// True when `path` lies on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// True when mounts of this process are not those of the machine's first process.
fn is_private() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    matches!((namespace("self"), namespace("1")), (Some(own), Some(first)) if own != first)
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"))
}
