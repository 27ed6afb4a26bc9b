//! Network namespaces: opening them, naming them as the kernel half does, and entering them to make sockets.
//!
//! A socket belongs for ever to the namespace its thread was in when it was made. A thread that makes sockets
//! therefore enters the namespace and simply stays until it needs another: [`Netns::enter`] costs nothing when
//! the thread is there already. Threads that never enter one stay in the agent's own.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use crate::kernel::raw;

/// An open network namespace. Holding one keeps the namespace alive.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
    cookie: u64,
    path: PathBuf,
}

/// What identifies a namespace in the file system, as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

thread_local! {
    static ENTERED: Cell<Option<NetnsId>> = const { Cell::new(None) };
}

impl Netns {
    /// Opens the namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`). The calling thread enters it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = NetnsId::of(&file.metadata()?);
        enter(&file, id)?;
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        let cookie = raw::netns_cookie(&socket)?;
        Ok(Self {
            file,
            id,
            cookie,
            path: path.to_owned(),
        })
    }

    /// The namespace the kernel half knows by this number.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What identifies it in the file system.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Moves the calling thread into the namespace, unless it is there.
    pub fn enter(&self) -> io::Result<()> {
        enter(&self.file, self.id)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NetnsId {
    /// The namespace that `path` names now.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&std::fs::metadata(path)?))
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

fn enter(file: &File, id: NetnsId) -> io::Result<()> {
    if ENTERED.get() == Some(id) {
        return Ok(());
    }
    setns(file, CloneFlags::CLONE_NEWNET)?;
    ENTERED.set(Some(id));
    Ok(())
}

/// Moves the calling thread to `home` if it is in the namespace `id`: a thread keeps the namespace it is in alive.
pub fn leave(id: NetnsId, home: &Netns) -> io::Result<()> {
    if ENTERED.get() == Some(id) {
        home.enter()
    } else {
        Ok(())
    }
}
