//! The directory on disk: reads its files, and reads them again whenever they change.
//!
//! [`DirectorySource::open`] reads once; [`DirectorySource::run`] then watches until it is cancelled, as a task of
//! the admin runtime. It watches the directory itself ([`watch`]), because editors and ConfigMap mounts replace files and links
//! instead of writing to them. Every few seconds it looks for what no event tells: a linked file that changes elsewhere, a directory that
//! is replaced. Now and then it looks at everything, as some file systems change without telling; how often depends on what a look takes, so
//! that a large directory costs as little as a small one. Without a watch, which the kernel may refuse, everything is looked
//! at more often. A look reads what an event named, and what differs from what was seen before ([`reading`]).
//!
//! Invariant: an update is sent only if something differs from the one before.

mod reading;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::reading::{Reading, Scope, Seen};
use self::watch::Watch;
use super::{Directory, Rejection, Update};

/// A directory of YAML files as a source of changes.
#[derive(Debug)]
pub struct DirectorySource {
    path: PathBuf,
    directory: Directory,
    /// The files as they were taken in last.
    seen: Arc<Seen>,
    /// Why the directory could not be read at the last look.
    failed: Option<String>,
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
        let reading = Reading::of(path, &Scope::Everything, &Seen::default());
        let files = reading.files?;
        let mut seen = Seen::default();
        seen.take(&files, reading.marks);
        let mut directory = Directory::new();
        let (present, gone) = files.split();
        let update = directory.take(&present, &gone);
        let last = directory.remarks();
        Ok((
            Self {
                path: path.to_owned(),
                directory,
                seen: Arc::new(seen),
                failed: None,
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
            // The first look is at everything: something may have changed between `open` and the watch.
            let mut next_full = Instant::now();
            let mut next_linked = next_full;
            loop {
                watch.renew();
                let mut scope = watch.news();
                let began = Instant::now();
                if began >= next_full || self.failed.is_some() {
                    scope = Scope::Everything;
                } else if began >= next_linked {
                    scope = scope.and(self.seen.linked());
                }
                let full = scope == Scope::Everything;
                let reading = self.settled(scope, &watch).await?;
                let (now, took) = (Instant::now(), reading.took);
                let least = self.rescan.max(took * MOST_LOOKING_UNTOLD);
                if full {
                    next_full = now
                        + match watch.is_on() {
                            true => least.max((took * MOST_LOOKING).min(SELDOM)),
                            false => least,
                        };
                    next_linked = now + self.rescan;
                } else if began >= next_linked {
                    next_linked = now + least;
                }
                if let Some(update) = self.refresh(reading).await? {
                    updates.send(update).await.ok()?;
                }
                // An event during the look is waiting already and ends the pause at once.
                let pause = next_full
                    .min(next_linked)
                    .saturating_duration_since(Instant::now());
                let _ = timeout(pause, woken.recv()).await;
            }
        };
        let _: Option<Option<()>> = stop.run_until_cancelled(look).await;
    }

    /// Looks at the directory, and if it says something new, again until two looks agree: a file that is being
    /// written is not taken for what it will be. `None` if the runtime is going down.
    async fn settled(&self, mut scope: Scope, watch: &Watch) -> Option<Reading> {
        let mut reading = self.read(scope.clone()).await?;
        for _ in 0..MOST_READINGS {
            if !self.is_news(&reading) {
                break;
            }
            sleep(self.settle).await;
            scope = scope.and(watch.news());
            let again = self.read(scope.clone()).await?;
            let settled = again.agrees_with(&reading);
            reading = again;
            if settled {
                break;
            }
        }
        Some(reading)
    }

    /// Reads on a thread that may block. `None` if the runtime is going down.
    async fn read(&self, scope: Scope) -> Option<Reading> {
        let (path, seen) = (self.path.clone(), Arc::clone(&self.seen));
        spawn_blocking(move || Reading::of(&path, &scope, &seen))
            .await
            .ok()
    }

    fn is_news(&self, reading: &Reading) -> bool {
        match &reading.files {
            Ok(files) => self.failed.is_some() || !files.is_empty(),
            Err(error) => self.failed != Some(error.to_string()),
        }
    }

    /// Takes in a reading and returns what differs from the one before, if anything does. `None` if the runtime is
    /// going down.
    async fn refresh(&mut self, reading: Reading) -> Option<Option<Update>> {
        let is_news = self.is_news(&reading);
        let update = match reading.files {
            Ok(files) => {
                if is_news || !reading.marks.is_empty() {
                    Arc::make_mut(&mut self.seen).take(&files, reading.marks);
                }
                if !is_news {
                    return Some(None);
                }
                self.failed = None;
                let mut directory = std::mem::take(&mut self.directory);
                // A large directory takes a while to parse, which is not the admin runtime's to wait for.
                let taken = spawn_blocking(move || {
                    let (present, gone) = files.split();
                    (directory.take(&present, &gone), directory)
                });
                let (update, directory) = taken.await.ok()?;
                self.directory = directory;
                update
            }
            Err(_) if !is_news => return Some(None),
            Err(error) => {
                self.failed = Some(error.to_string());
                let mut update = self.directory.remarks();
                update
                    .rejections
                    .insert(0, directory_rejection(&self.path, &error));
                update
            }
        };
        let differs = !update.changes.is_empty()
            || (&update.rejections, &update.ignored) != (&self.last.rejections, &self.last.ignored);
        self.last = Update {
            changes: Vec::new(),
            rejections: update.rejections.clone(),
            ignored: update.ignored.clone(),
        };
        Some(differs.then_some(update))
    }
}

/// The time between two looks that must agree; also makes one update of a burst of edits.
const SETTLE: Duration = Duration::from_millis(50);

/// How often a directory that never comes to rest is read before it is taken as it is.
const MOST_READINGS: usize = 20;

/// The least time between two looks for what no event told.
const RESCAN: Duration = Duration::from_secs(5);

/// The most time between two looks at everything.
const SELDOM: Duration = Duration::from_secs(60);

/// Looks at everything take one part in so many of the time, unless they are that seldom.
const MOST_LOOKING: u32 = 1000;

/// At most, however long a look takes; and where nothing else would tell.
const MOST_LOOKING_UNTOLD: u32 = 50;

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

#[cfg(test)]
mod tests;
