//! The Unix socket of the admin API: where it is, who may open it, and whose it is.
//!
//! The agent binds an [`AdminSocket`] and hands it to the server. Invariants: only the owner may connect from the
//! first moment on; the path changes hands in one step, so a successor takes it over without a gap; what is
//! removed at the end is this process's own socket, never the successor's.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

/// A listening socket and the path it is reached by.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) path: OwnedPath,
}

/// Why the admin API has no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The kernel takes at most 107 bytes.
    #[error("the path {} is too long for a Unix socket ({MAX_PATH} bytes at most): choose a shorter --run-dir", path.display())]
    TooLong {
        /// The path asked for.
        path: PathBuf,
    },
    /// The directory could not be made, or the socket not be put there.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

const MAX_PATH: usize = 107;
const OWNER_ONLY: u32 = 0o600;
const BACKLOG: i32 = 128;

impl AdminSocket {
    /// Listens at `path`, in place of whatever socket stood there before.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let error = |action| {
            move |source| SocketError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let temporary = temporary_name(path);
        if temporary.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        let listener = listen(&temporary).map_err(error("make the socket"))?;
        let inode = match rename(&temporary, path) {
            Ok(inode) => inode,
            Err(source) => {
                // The error that matters is the first one; the leftover is a dead socket under a private name.
                let _ = fs::remove_file(&temporary);
                return Err(error("put the socket at")(source));
            }
        };
        Ok(Self {
            listener,
            path: OwnedPath {
                path: path.to_owned(),
                inode,
            },
        })
    }
}

/// Device and number of a file.
type Inode = (u64, u64);

/// A path that is removed on drop, unless somebody else's file stands there by then.
#[derive(Debug)]
pub(super) struct OwnedPath {
    path: PathBuf,
    inode: Inode,
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        let own = inode_of(&self.path).is_ok_and(|inode| inode == self.inode);
        if own && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// Nobody can connect before the mode is set, because only `listen` opens the socket.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn rename(from: &Path, to: &Path) -> io::Result<Inode> {
    let inode = inode_of(from)?;
    fs::rename(from, to)?;
    Ok(inode)
}

fn inode_of(path: &Path) -> io::Result<Inode> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A name beside `path` that no other process uses.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:08x}", rand::random::<u32>()))
}
