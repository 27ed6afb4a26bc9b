//! What one look at the directory finds.
//!
//! Each file that was read leaves its stamp, which is where it is, how long, and when it was changed; a file with the stamp that it had
//! is not read again. A file that an event named is read whatever its stamp says, and so is one that was changed moments before it was
//! read: the clock of a file system is too coarse to tell two writes in a row apart. No event of the directory tells that a file changed
//! which has another name elsewhere; [`Seen::linked`] names those.
//!
//! Invariant: what differs from what was seen is in the reading, once the file has been left alone for a moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::SourceError;
use crate::config::File;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// Entries of the directory, by name.
    Files(BTreeMap<PathBuf, Trust>),
}

/// What may be believed about a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    Nothing,
    Stamps,
}

/// The files as they were taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    files: HashMap<OsString, SeenFile>,
    /// Those that may change without an event of the directory.
    linked: HashSet<OsString>,
}

#[derive(Clone, Copy, Debug)]
struct SeenFile {
    /// None if the file must be read to know whether it changed.
    stamp: Option<Stamp>,
    hash: u64,
}

/// What a look leaves of a file that it read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    stamp: Option<Stamp>,
    names: Names,
}

/// Where a file has names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Here,
    /// It is a link, or has a second name.
    Elsewhere,
}

/// What changes whenever a file does: device, inode, length, times of modification and change in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64, i64, i64);

/// What one look found.
#[derive(Debug)]
pub(super) struct Reading {
    /// What differs from what was seen.
    pub(super) files: Result<Differences, SourceError>,
    /// Of the files that were read.
    pub(super) marks: Vec<(PathBuf, Mark)>,
    /// How long it took.
    pub(super) took: Duration,
}

/// Files that are new or changed, by name, and those that are gone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Differences(BTreeMap<PathBuf, Option<Result<String, String>>>);

impl Scope {
    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Files(mut names), Self::Files(more)) => {
                for (name, trust) in more {
                    let least = names.entry(name).or_insert(trust);
                    *least = trust.min(*least);
                }
                Self::Files(names)
            }
            _ => Self::Everything,
        }
    }
}

impl Reading {
    pub(super) fn of(path: &Path, scope: &Scope, seen: &Seen) -> Self {
        let began = Instant::now();
        let mut look = Look {
            path,
            seen,
            differences: BTreeMap::new(),
            marks: Vec::new(),
            now: nanoseconds(SystemTime::now()),
        };
        let files = match scope {
            Scope::Everything => look.everything(),
            Scope::Files(names) => look.named(names),
        };
        Self {
            files: files.map(|()| Differences(look.differences)),
            marks: look.marks,
            took: began.elapsed(),
        }
    }

    /// Whether both saw the same.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        match (&self.files, &other.files) {
            (Ok(files), Ok(others)) => files == others,
            (Err(error), Err(other)) => error.to_string() == other.to_string(),
            _ => false,
        }
    }
}

impl Differences {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is there, and the names of what is gone.
    pub(super) fn split(self) -> (Vec<File>, Vec<PathBuf>) {
        let (mut present, mut gone) = (Vec::new(), Vec::new());
        for (name, content) in self.0 {
            match content {
                Some(content) => present.push(File { name, content }),
                None => gone.push(name),
            }
        }
        (present, gone)
    }
}

impl Seen {
    /// Notes what was taken in, and what the files that were read left.
    pub(super) fn take(&mut self, differences: &Differences, marks: Vec<(PathBuf, Mark)>) {
        for (name, content) in &differences.0 {
            let name = name.as_os_str();
            match content {
                Some(content) => {
                    let file = SeenFile {
                        stamp: None,
                        hash: hash(content),
                    };
                    self.files.insert(name.to_owned(), file);
                }
                None => {
                    self.files.remove(name);
                    self.linked.remove(name);
                }
            }
        }
        for (name, mark) in marks {
            let name = name.into_os_string();
            let Some(file) = self.files.get_mut(&name) else {
                continue;
            };
            file.stamp = mark.stamp;
            match mark.names {
                Names::Here => _ = self.linked.remove(&name),
                Names::Elsewhere => _ = self.linked.insert(name),
            }
        }
    }

    /// The files that may have changed although no event said so.
    pub(super) fn linked(&self) -> Scope {
        let linked = self.linked.iter().map(PathBuf::from);
        Scope::Files(linked.map(|name| (name, Trust::Stamps)).collect())
    }

    fn file(&self, name: &OsStr) -> Option<&SeenFile> {
        self.files.get(name)
    }
}

/// A look under way.
struct Look<'a> {
    path: &'a Path,
    seen: &'a Seen,
    differences: BTreeMap<PathBuf, Option<Result<String, String>>>,
    marks: Vec<(PathBuf, Mark)>,
    now: i64,
}

impl Look<'_> {
    fn everything(&mut self) -> Result<(), SourceError> {
        let (mut names, mut known) = (Vec::new(), 0);
        for item in fs::read_dir(self.path).map_err(|source| error(self.path, source))? {
            let name = item.map_err(|source| error(self.path, source))?.file_name();
            if self.file(&name, Trust::Stamps) {
                known += usize::from(self.seen.file(&name).is_some());
                names.push(name);
            }
        }
        if known < self.seen.files.len() {
            let there: HashSet<OsString> = names.into_iter().collect();
            let gone = self.seen.files.keys().filter(|name| !there.contains(*name));
            self.differences
                .extend(gone.map(|name| (PathBuf::from(name), None)));
        }
        Ok(())
    }

    fn named(&mut self, names: &BTreeMap<PathBuf, Trust>) -> Result<(), SourceError> {
        let mut gone = false;
        for (name, trust) in names {
            if !self.file(name.as_os_str(), *trust) && self.seen.file(name.as_os_str()).is_some() {
                self.differences.insert(name.clone(), None);
                gone = true;
            }
        }
        if gone {
            // Or is it the directory that is gone?
            fs::read_dir(self.path).map_err(|source| error(self.path, source))?;
        }
        Ok(())
    }

    /// Looks at one entry of the directory. False if it is no YAML file, or gone by now.
    fn file(&mut self, name: &OsStr, trust: Trust) -> bool {
        if !is_configuration(Path::new(name)) {
            return false;
        }
        let path = self.path.join(name);
        let mut metadata = fs::symlink_metadata(&path);
        let mut names = Names::Here;
        if metadata.as_ref().is_ok_and(Metadata::is_symlink) {
            metadata = fs::metadata(&path);
            names = Names::Elsewhere;
        }
        if metadata.as_ref().is_ok_and(Metadata::is_dir) {
            return false;
        }
        if metadata.as_ref().is_ok_and(|metadata| metadata.nlink() > 1) {
            names = Names::Elsewhere;
        }
        let known = self.seen.file(name);
        let stamp = metadata
            .as_ref()
            .ok()
            .and_then(|metadata| Stamp::of(metadata, self.now));
        if trust == Trust::Stamps && stamp.is_some() && known.is_some_and(|known| known.stamp == stamp) {
            return true;
        }
        let content = read(&path, metadata);
        // A file that went away while we looked is no file; a link that leads nowhere is a mistake to report.
        if content.is_err() && fs::symlink_metadata(&path).is_err() {
            return false;
        }
        let name = PathBuf::from(name);
        self.marks.push((name.clone(), Mark { stamp, names }));
        if known.is_none_or(|known| known.hash != hash(&content)) {
            self.differences.insert(name, Some(content));
        }
        true
    }
}

impl Stamp {
    /// None if the file was changed so recently that another change could leave the same stamp.
    fn of(metadata: &Metadata, now: i64) -> Option<Self> {
        let time =
            |seconds: i64, nanoseconds: i64| seconds.saturating_mul(SECOND).saturating_add(nanoseconds);
        let modified = time(metadata.mtime(), metadata.mtime_nsec());
        let changed = time(metadata.ctime(), metadata.ctime_nsec());
        let is_old = modified.max(changed).saturating_add(RECENT) < now;
        is_old.then(|| Self(metadata.dev(), metadata.ino(), metadata.len(), modified, changed))
    }
}

const SECOND: i64 = 1_000_000_000;

/// Coarser than the clock of any file system that is worth the name.
const RECENT: i64 = 2 * SECOND;

/// No list of objects is larger.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Whether an entry of this name may hold objects.
pub(super) fn is_configuration(name: &Path) -> bool {
    let is_hidden = name.to_str().is_some_and(|name| name.starts_with('.'));
    let extension = name.extension().and_then(|extension| extension.to_str());
    !is_hidden && extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

fn read(path: &Path, metadata: io::Result<Metadata>) -> Result<String, String> {
    match metadata {
        // Opening a pipe or a device could wait for ever.
        Ok(metadata) if !metadata.is_file() => Err("it is not a regular file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
            Err(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20))
        }
        Ok(_) => fs::read_to_string(path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn error(path: &Path, source: io::Error) -> SourceError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path },
        io::ErrorKind::NotADirectory => SourceError::NotADirectory { path },
        _ => SourceError::Unreadable { path, source },
    }
}

fn nanoseconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn hash(content: &Result<String, String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
