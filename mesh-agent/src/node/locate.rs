//! From what a `Workload` says about its place on the node to its network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mesh_common::model::Locate;
use thiserror::Error;

use super::cgroup::{self, CgroupError};

/// Why a workload's network namespace was not found (yet).
#[derive(Debug, Error)]
pub enum LocateError {
    /// There is no such namespace now.
    #[error("network namespace {path} does not exist yet; it is looked for again until it appears")]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The cgroup has no process to take the namespace from.
    #[error("cgroup {path} has no process yet; it is looked at again until one appears")]
    NoProcess {
        /// The cgroup.
        path: PathBuf,
    },
    /// The cgroup hierarchy is not usable.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The path that names the workload's namespace now. It may name another one, or none, later.
pub fn netns_path(locate: &Locate) -> Result<PathBuf, LocateError> {
    let path = match locate {
        Locate::NetnsName(name) => Path::new("/run/netns").join(name),
        Locate::NetnsPath(path) => path.clone(),
        Locate::Pid(pid) => process_netns(*pid),
        Locate::Cgroup(path) => process_netns(first_process(&cgroup::absolute(path)?)?),
    };
    if path.exists() {
        Ok(path)
    } else {
        Err(LocateError::Absent { path })
    }
}

fn process_netns(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// A process in the cgroup or, since containers nest, in one below it.
fn first_process(cgroup: &Path) -> Result<u32, LocateError> {
    let io_error = |source| LocateError::Io {
        path: cgroup.to_owned(),
        source,
    };
    let procs = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(procs) => procs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LocateError::NoProcess {
                path: cgroup.to_owned(),
            });
        }
        Err(error) => return Err(io_error(error)),
    };
    if let Some(pid) = procs.lines().find_map(|line| line.parse().ok()) {
        return Ok(pid);
    }
    let children = fs::read_dir(cgroup).map_err(io_error)?;
    children
        .filter_map(Result::ok)
        .filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|child| first_process(&child.path()).ok())
        .ok_or_else(|| LocateError::NoProcess {
            path: cgroup.to_owned(),
        })
}
