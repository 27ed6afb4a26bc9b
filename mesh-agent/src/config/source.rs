//! The directory on disk: reads its files, and reads them again whenever they change.
//!
//! [`DirectorySource::open`] reads once; [`DirectorySource::run`] then watches until it is cancelled, as a task of
//! the admin runtime. It watches the directory itself, because editors and ConfigMap mounts replace files and links
//! instead of writing to them, and looks at everything every few seconds for what no event tells: a linked
//! file that changes elsewhere, a directory that is replaced, a watch that the kernel refused.
//!
//! Invariant: an update is sent only if something differs from the one before.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Directory, File, Rejection, Update};

/// A directory of YAML files as a source of changes.
#[derive(Debug)]
pub struct DirectorySource {
    path: PathBuf,
    directory: Directory,
    /// The reading that was taken in last.
    fingerprint: u64,
    /// What was wrong in it.
    last: Update,
    settle: Duration,
    rescan: Duration,
}

/// Why a configuration directory cannot be used at all.
#[derive(Debug, Error)]
pub enum SourceError {
    /// There is nothing at the path.
    #[error("configuration directory {path} does not exist; create it, or name another with --config")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// There is something else at the path.
    #[error("{path} is not a directory; name the directory that holds the YAML files with --config")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory cannot be listed.
    #[error("configuration directory {path} cannot be read; let the agent's user list it")]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DirectorySource {
    /// Reads the directory for the first time. The update holds everything that is in it.
    pub fn open(path: &Path) -> Result<(Self, Update), SourceError> {
        let Reading { files, fingerprint } = Reading::of(path);
        let files = files?;
        let mut directory = Directory::new();
        let update = directory.load(&files);
        let last = Update {
            changes: Vec::new(),
            ..update.clone()
        };
        Ok((
            Self {
                path: path.to_owned(),
                directory,
                fingerprint,
                last,
                settle: SETTLE,
                rescan: RESCAN,
            },
            update,
        ))
    }

    /// Sends an update whenever the directory says something else, until `stop` is cancelled or nobody listens.
    pub async fn run(mut self, updates: mpsc::Sender<Update>, stop: CancellationToken) {
        let look = async {
            let (wake, mut woken) = mpsc::channel(1);
            let mut watch = Watch::new(&self.path, wake);
            loop {
                // The first look is at once: something may have changed between `open` and the watch.
                watch.renew();
                let reading = self.settled().await?;
                if let Some(update) = self.refresh(reading).await? {
                    updates.send(update).await.ok()?;
                }
                // An event during the look is waiting already and ends the pause at once.
                let _ = timeout(self.rescan, woken.recv()).await;
            }
        };
        let _: Option<Option<()>> = stop.run_until_cancelled(look).await;
    }

    /// Reads the directory, and if it says something new, again until two readings agree: a file that is being
    /// written is not taken for what it will be. `None` if the runtime is going down.
    async fn settled(&self) -> Option<Reading> {
        let mut reading = Reading::take(self.path.clone()).await?;
        for _ in 0..MOST_READINGS {
            if reading.fingerprint == self.fingerprint {
                break;
            }
            sleep(self.settle).await;
            let again = Reading::take(self.path.clone()).await?;
            let settled = again.fingerprint == reading.fingerprint;
            reading = again;
            if settled {
                break;
            }
        }
        Some(reading)
    }

    /// Takes in a reading and returns what differs from the one before, if anything does. `None` if the runtime is
    /// going down.
    async fn refresh(&mut self, reading: Reading) -> Option<Option<Update>> {
        if reading.fingerprint == self.fingerprint {
            return Some(None);
        }
        self.fingerprint = reading.fingerprint;
        let update = match reading.files {
            Ok(files) => {
                let mut directory = std::mem::take(&mut self.directory);
                // A large directory takes a while to parse, which is not the admin runtime's to wait for.
                let loaded = spawn_blocking(move || (directory.load(&files), directory)).await;
                let (update, directory) = loaded.ok()?;
                self.directory = directory;
                update
            }
            Err(error) => {
                let mut rejections = vec![directory_rejection(&self.path, &error)];
                let known = self
                    .last
                    .rejections
                    .iter()
                    .filter(|rejection| rejection.file != self.path);
                rejections.extend(known.cloned());
                Update {
                    changes: Vec::new(),
                    rejections,
                    ignored: self.last.ignored.clone(),
                }
            }
        };
        let remarks = Update {
            changes: Vec::new(),
            ..update.clone()
        };
        let differs = !update.changes.is_empty() || remarks != self.last;
        self.last = remarks;
        Some(differs.then_some(update))
    }
}

/// What one look at the directory saw.
#[derive(Debug)]
struct Reading {
    files: Result<Vec<File>, SourceError>,
    fingerprint: u64,
}

impl Reading {
    /// Reads on a thread that may block. `None` if the runtime is going down.
    async fn take(path: PathBuf) -> Option<Self> {
        spawn_blocking(move || Self::of(&path)).await.ok()
    }

    fn of(path: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut files = read(path);
        match &mut files {
            Ok(files) => {
                files.sort_by(|a, b| a.name.cmp(&b.name));
                files.hash(&mut hasher);
            }
            Err(error) => format!("{error:?}").hash(&mut hasher),
        }
        Self {
            files,
            fingerprint: hasher.finish(),
        }
    }
}

/// The time between two readings that must agree; also makes one update of a burst of edits.
const SETTLE: Duration = Duration::from_millis(50);

/// How often a directory that never comes to rest is read before it is taken as it is.
const MOST_READINGS: usize = 20;

/// The longest time between two looks.
const RESCAN: Duration = Duration::from_secs(5);

/// Reads the YAML files of a directory, in no particular order.
fn read(path: &Path) -> Result<Vec<File>, SourceError> {
    let error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SourceError::Missing {
            path: path.to_owned(),
        },
        io::ErrorKind::NotADirectory => SourceError::NotADirectory {
            path: path.to_owned(),
        },
        _ => SourceError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let mut files = Vec::new();
    for item in fs::read_dir(path).map_err(error)? {
        let name = item.map_err(error)?.file_name();
        if let Some(file) = read_file(path, Path::new(&name)) {
            files.push(file);
        }
    }
    Ok(files)
}

/// Reads one entry of the directory. `None` if it is no YAML file, or gone by now.
fn read_file(directory: &Path, name: &Path) -> Option<File> {
    let is_hidden = name.to_str().is_some_and(|name| name.starts_with('.'));
    let extension = name.extension().and_then(|extension| extension.to_str());
    if is_hidden || !extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json")) {
        return None;
    }
    let path = directory.join(name);
    let content = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => return None,
        // Opening a pipe or a device could wait for ever.
        Ok(metadata) if !metadata.is_file() => Err("it is not a regular file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
            Err(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20))
        }
        Ok(_) => fs::read_to_string(&path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    // A file that went away while we looked is no file; a link that leads nowhere is a mistake to report.
    if content.is_err() && fs::symlink_metadata(&path).is_err() {
        return None;
    }
    Some(File {
        name: name.to_owned(),
        content,
    })
}

/// No list of objects is larger.
const MAX_FILE_BYTES: u64 = 256 << 20;

fn directory_rejection(path: &Path, error: &SourceError) -> Rejection {
    let (reason, remedy) = match error {
        SourceError::Missing { .. } => ("the configuration directory is gone".to_owned(), "restore it"),
        SourceError::NotADirectory { .. } => ("is not a directory any more".to_owned(), "restore it"),
        SourceError::Unreadable { source, .. } => (
            format!("the configuration directory cannot be read: {source}"),
            "let the agent's user list it",
        ),
    };
    Rejection {
        file: path.to_owned(),
        line: 0,
        column: 0,
        object: None,
        field: None,
        reason,
        remedy: format!("{remedy}; until then all objects stay as they were"),
    }
}

/// The kernel's watch on the directory, renewed when another directory stands at the path.
struct Watch {
    path: PathBuf,
    wake: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    /// The failure that was logged, so that it is logged once.
    failed: bool,
}

impl Watch {
    fn new(path: &Path, wake: mpsc::Sender<()>) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            wake,
            watcher: None,
            watched: None,
            failed: false,
        };
        watch.renew();
        watch
    }

    fn renew(&mut self) {
        let now = fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        if now.is_some() && now == self.watched {
            return;
        }
        self.watcher = None;
        self.watched = None;
        if now.is_none() {
            return;
        }
        match self.start() {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = now;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                warn!(
                    directory = %self.path.display(),
                    %error,
                    "cannot watch the configuration directory: changes are seen within {} s",
                    RESCAN.as_secs()
                );
                self.failed = true;
            }
            Err(_) => {}
        }
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let wake = self.wake.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_news = match &event {
                Ok(event) => tells_of_a_change(event.kind),
                Err(_) => true,
            };
            if is_news {
                // A wake-up that waits already will see this change too.
                let _ = wake.try_send(());
            }
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Reading is no change: without this our own look would wake us again.
fn tells_of_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
