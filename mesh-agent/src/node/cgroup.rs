//! Where the node's cgroup v2 hierarchy is, and where in it the pods and the agent live.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{ProcError, process::Process};
use thiserror::Error;

/// The cgroup that an agent makes for itself, below the mount point.
pub const AGENT_CGROUP: &str = "nodemesh-agent";

/// Why a cgroup could not be found or joined.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup2 file system is mounted; mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or boot \
         with the unified hierarchy"
    )]
    NotMounted,
    /// The named directory is not a cgroup.
    #[error("{path} is not a cgroup v2 directory; name one below {mount} with --pods-cgroup")]
    NotACgroup {
        /// What was named.
        path: PathBuf,
        /// Where cgroup2 is mounted.
        mount: PathBuf,
    },
    /// /proc could not be read.
    #[error("reading /proc/self: {0}")]
    Proc(#[from] ProcError),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// An open cgroup v2 directory.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// The cgroup at an absolute path.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let io_error = |source| CgroupError::Io {
            path: path.to_owned(),
            source,
        };
        let procs = path.join("cgroup.procs");
        if !procs.exists() {
            return Err(CgroupError::NotACgroup {
                path: path.to_owned(),
                mount: mount_point()?,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            id: fs::metadata(path).map_err(io_error)?.ino(),
        })
    }

    /// The common ancestor of the node's pods: `named` when given, else the kubelet's, else the whole hierarchy.
    pub fn of_pods(named: Option<&Path>) -> Result<Self, CgroupError> {
        if let Some(path) = named {
            return Self::open(path);
        }
        let mount = mount_point()?;
        let kubelet = ["kubepods.slice", "kubepods"].map(|name| mount.join(name));
        Self::open(kubelet.iter().find(|path| path.is_dir()).unwrap_or(&mount))
    }

    /// The agent's own cgroup. The programs tell the agent from others by its cgroup, so an agent that was started in
    /// one with other programs in it, the root or a login session's for example, moves into one of its own first. An
    /// agent that it takes over from is not another program.
    pub fn of_agent() -> Result<Self, CgroupError> {
        let mount = mount_point()?;
        let relative = relative_path(Process::myself()?)?;
        if relative != Path::new("/") {
            let current = Self::open(&below(&mount, &relative))?;
            if current.holds_only_agents()? {
                return Ok(current);
            }
        }
        let own = mount.join(AGENT_CGROUP);
        let io_error = |source| CgroupError::Io {
            path: own.clone(),
            source,
        };
        fs::create_dir_all(&own).map_err(io_error)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string()).map_err(io_error)?;
        Self::open(&own)
    }

    /// True when every process in the cgroup runs this program.
    fn holds_only_agents(&self) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.procs");
        let processes = fs::read_to_string(&path).map_err(|source| CgroupError::Io { path, source })?;
        let own = Process::myself()?.stat()?.comm;
        let runs_this = |pid: i32| {
            Process::new(pid)
                .and_then(|process| process.stat())
                .is_ok_and(|stat| stat.comm == own)
        };
        Ok(processes
            .lines()
            .filter_map(|line| line.parse().ok())
            .all(runs_this))
    }

    /// The kernel's number for it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when this cgroup is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.path.starts_with(&other.path)
    }

    /// A handle for attaching programs.
    pub fn open_dir(&self) -> io::Result<fs::File> {
        fs::File::open(&self.path)
    }
}

/// Where cgroup v2 is mounted.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    Process::myself()?
        .mountinfo()?
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
        .ok_or(CgroupError::NotMounted)
}

/// An absolute path of a cgroup given as a path below the mount, or as the whole path.
pub fn absolute(path: &Path) -> Result<PathBuf, CgroupError> {
    let mount = mount_point()?;
    Ok(if path.starts_with(&mount) {
        path.to_owned()
    } else {
        below(&mount, path)
    })
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

fn relative_path(process: Process) -> Result<PathBuf, CgroupError> {
    let cgroups = process.cgroups()?;
    let unified = cgroups
        .0
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .ok_or(CgroupError::NotMounted)?;
    Ok(PathBuf::from(unified.pathname))
}
