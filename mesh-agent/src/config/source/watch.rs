//! The kernel's events about the directory, and what they ask to be looked at.
//!
//! Invariant: what an event told of is in [`Watch::news`] before the wake-up is sent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::warn;

use super::RESCAN;
use super::reading::{Scope, Trust, is_configuration};

/// The kernel's watch on the directory, renewed when another directory stands at the path.
pub(super) struct Watch {
    path: PathBuf,
    wake: mpsc::Sender<()>,
    /// What events told of since somebody asked.
    news: Arc<Mutex<Scope>>,
    watcher: Option<RecommendedWatcher>,
    /// Set when the directory that is watched was removed or moved: another one may have got its inode.
    left: Arc<AtomicBool>,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    /// The failure that was logged, so that it is logged once.
    failed: bool,
}

impl Watch {
    pub(super) fn new(path: &Path, wake: mpsc::Sender<()>) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            wake,
            news: Arc::new(Mutex::new(Scope::Everything)),
            left: Arc::default(),
            watcher: None,
            watched: None,
            failed: false,
        };
        watch.renew();
        watch
    }

    /// What there is to look at since this was asked last.
    pub(super) fn news(&self) -> Scope {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut news, Scope::Files(BTreeMap::new()))
    }

    /// Watches what stands at the path now, if that is not what is watched already.
    pub(super) fn renew(&mut self) {
        let now = fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        let left = self.left.swap(false, Ordering::Relaxed);
        if now.is_some() && now == self.watched && !left {
            return;
        }
        self.watcher = None;
        self.watched = None;
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = Scope::Everything;
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

    /// Whether the kernel tells what changes in the directory.
    pub(super) fn is_on(&self) -> bool {
        self.watcher.is_some()
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let (wake, news, path) = (self.wake.clone(), Arc::clone(&self.news), self.path.clone());
        let left = Arc::clone(&self.left);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().is_ok_and(|event| tells_of_its_end(&path, event)) {
                left.store(true, Ordering::Relaxed);
            }
            let Some(told) = told(&path, event) else {
                return;
            };
            let mut news = news.lock().unwrap_or_else(PoisonError::into_inner);
            let all = std::mem::replace(&mut *news, Scope::Everything).and(told);
            *news = match all {
                Scope::Files(names) if names.len() > MOST_NAMES => Scope::Everything,
                all => all,
            };
            drop(news);
            // A wake-up that waits already will see this change too.
            let _ = wake.try_send(());
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// More names than this are not worth keeping: a look at everything is cheaper.
const MOST_NAMES: usize = 1000;

/// What an event asks to be looked at. `None` if it tells of no change.
fn told(directory: &Path, event: notify::Result<notify::Event>) -> Option<Scope> {
    let Ok(event) = event else {
        return Some(Scope::Everything);
    };
    if event.need_rescan() {
        return Some(Scope::Everything);
    }
    if !tells_of_a_change(event.kind) {
        return None;
    }
    let name = |path: &PathBuf| {
        let name = Path::new(path.file_name()?);
        (path != directory && is_configuration(name)).then(|| (name.to_owned(), Trust::Nothing))
    };
    // Whatever else changed, a link to a directory perhaps, files may lead elsewhere now.
    let names: Option<BTreeMap<_, _>> = event.paths.iter().map(name).collect();
    Some(match names {
        Some(names) if !names.is_empty() => Scope::Files(names),
        _ => Scope::Everything,
    })
}

/// Whether the directory itself is no more where it was.
fn tells_of_its_end(directory: &Path, event: &notify::Event) -> bool {
    let kind = matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    kind && event.paths.iter().any(|path| path == directory)
}

/// Reading is no change: without this our own look would wake us again.
fn tells_of_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
