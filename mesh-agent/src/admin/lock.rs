//! The run directory, and the lock in it that says which process is the node's agent.
//!
//! The agent takes the lock before it touches anything shared and holds it until it ends or gives way; `uninstall`
//! takes it to be sure that there is none. Invariant: whoever holds the lock holds it on the file that stands at
//! the path, so that two processes never both believe they have it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;

/// Where one agent keeps what other processes find it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// A run directory, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// The lock.
    pub fn lock(&self) -> PathBuf {
        self.0.join("agent.lock")
    }

    /// Where the agent notes which BPF file system it mounted.
    pub fn bpffs_note(&self) -> PathBuf {
        self.0.join("bpffs-mount")
    }

    /// Makes the directory, for the owner alone, unless it is there.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Process id of the agent that holds the lock, 0 if it has not written it; `None` when nobody holds it.
    pub fn holder(&self) -> Result<Option<u32>, LockError> {
        let file = match File::open(self.lock()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(source)),
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_released_at_once) => Ok(None),
            Err((file, Errno::EWOULDBLOCK)) => Ok(Some(pid_in(file))),
            Err((_, errno)) => Err(self.io(errno.into())),
        }
    }

    fn io(&self, source: io::Error) -> LockError {
        LockError::Io {
            path: self.lock(),
            source,
        }
    }
}

/// Proof that this process is the agent of its run directory; ends when dropped or with the process.
#[derive(Debug)]
pub struct AgentLock(Flock<File>);

/// Why the lock is not to be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("an agent runs already (pid {pid}, lock {})", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
        /// The other process, 0 when unknown.
        pid: u32,
    },
    /// The file cannot be used.
    #[error("cannot use the lock {}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// How often the file may be replaced under our hands before something is wrong.
const ATTEMPTS: usize = 8;

impl AgentLock {
    /// Takes the lock, without waiting, and writes this process's id into it.
    pub fn acquire(run_dir: &RunDir) -> Result<Self, LockError> {
        let path = run_dir.lock();
        for _ in 0..ATTEMPTS {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|source| run_dir.io(source))?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Held {
                        path,
                        pid: pid_in(file),
                    });
                }
                Err((_, errno)) => return Err(run_dir.io(errno.into())),
            };
            if stands_at(&lock, &path) {
                write_pid(&mut lock).map_err(|source| run_dir.io(source))?;
                return Ok(Self(lock));
            }
        }
        Err(run_dir.io(io::Error::other("it is being replaced again and again")))
    }

    /// Removes the file; whoever comes next makes a new one.
    pub fn remove(self, run_dir: &RunDir) -> io::Result<()> {
        let removed = fs::remove_file(run_dir.lock());
        drop(self.0);
        removed
    }
}

fn stands_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => identity(own) == identity(there),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn pid_in(mut file: File) -> u32 {
    let mut text = String::new();
    // A pid that cannot be read is one that is not known.
    let _ = file.read_to_string(&mut text);
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path());
        assert_eq!(run_dir.holder().unwrap(), None);
        let lock = AgentLock::acquire(&run_dir).unwrap();
        assert_eq!(run_dir.holder().unwrap(), Some(std::process::id()));
        let error = AgentLock::acquire(&run_dir).unwrap_err();
        assert!(matches!(error, LockError::Held { pid, .. } if pid == std::process::id()));
        drop(lock);
        assert_eq!(run_dir.holder().unwrap(), None);
        AgentLock::acquire(&run_dir).unwrap().remove(&run_dir).unwrap();
        assert!(!run_dir.lock().exists());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path());
        let orphan = AgentLock::acquire(&run_dir).unwrap();
        fs::remove_file(run_dir.lock()).unwrap();
        AgentLock::acquire(&run_dir).unwrap();
        drop(orphan);
    }
}
