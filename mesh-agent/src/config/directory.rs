//! What the files of a directory say together, and what of it may be used.
//!
//! `source` hands in the files' text; out come the differences to the state before. Pure: no file system, no
//! clock, and the result depends only on the text and on the state before.
//!
//! Files count in the order of their names and documents in the order of their lines; of two that want the same
//! name or the same address, the later yields. Whatever is wrong with an object keeps its last good version in
//! place, at the position of the document that is wrong. A document that could be any object keeps all those that
//! its file defined and that no document defines now.
//!
//! Invariant: the objects in use have distinct names and distinct addresses.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Fault, Place};
use super::object::{Claim, Entry, Id, Identity, Kind, Object, entries};
use super::{Change, Rejection};

/// One file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// Its name in the directory; shown in messages.
    pub name: PathBuf,
    /// Its text, or why it could not be read.
    pub content: Result<String, String>,
}

/// What one look at the directory brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The differences to the state before: first what is gone, then what is new or different.
    pub changes: Vec<Change>,
    /// Everything that is wrong now, whether it is new or not, in the order of files and lines.
    pub rejections: Vec<Rejection>,
    /// Parts of accepted objects that have no effect, such as the UDP ports of a service, or another one than
    /// elsewhere, such as external authorization.
    pub ignored: Vec<Rejection>,
}

/// The objects of a directory in their last good versions.
#[derive(Debug, Default)]
pub struct Directory {
    files: HashMap<PathBuf, ParsedFile>,
    held: BTreeMap<Id, Held>,
}

/// A file as it was last read.
#[derive(Debug)]
struct ParsedFile {
    hash: u64,
    entries: Arc<[Entry]>,
}

/// An object in use.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    object: Arc<Object>,
    ips: Vec<IpAddr>,
    file: PathBuf,
    line: u32,
}

impl Directory {
    /// A directory that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the files that the directory has now; a file that is not among them is gone.
    pub fn load(&mut self, files: &[File]) -> Update {
        let mut files: Vec<&File> = files.iter().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files.dedup_by(|a, b| a.name == b.name);
        let entries = self.parse(&files);
        let mut names = Names::default();
        for (file, entries) in &entries {
            names.collect(&file.name, entries);
        }
        let mut merge = Merge {
            before: &self.held,
            names,
            after: BTreeMap::new(),
            owners: HashMap::new(),
            update: Update::default(),
        };
        for (file, entries) in &entries {
            merge.file(file, entries);
        }
        let Merge {
            after, mut update, ..
        } = merge;
        update.changes = changes(&self.held, &after);
        self.held = after;
        update
    }

    /// Parses what changed since the last time and forgets the files that are gone.
    fn parse<'f>(&mut self, files: &[&'f File]) -> Vec<(&'f File, Arc<[Entry]>)> {
        let mut before = std::mem::take(&mut self.files);
        let mut parsed = Vec::with_capacity(files.len());
        for file in files {
            let Ok(text) = &file.content else {
                parsed.push((*file, Arc::from([])));
                continue;
            };
            let hash = hash(text);
            let known = before.remove(&file.name).filter(|known| known.hash == hash);
            let known = known.unwrap_or_else(|| ParsedFile {
                hash,
                entries: entries(text).into(),
            });
            parsed.push((*file, Arc::clone(&known.entries)));
            self.files.insert(file.name.clone(), known);
        }
        parsed
    }
}

/// Which document defines which name: the first that says so.
#[derive(Default)]
struct Names(HashMap<Id, (PathBuf, u32, u32)>);

impl Names {
    fn collect(&mut self, file: &Path, entries: &[Entry]) {
        for entry in entries {
            if let Identity::Known(id) = &entry.identity {
                let Place { line, column, .. } = entry.place;
                self.0
                    .entry(id.clone())
                    .or_insert_with(|| (file.to_owned(), line, column));
            }
        }
    }

    /// The place of the first definition, if it is another one.
    fn elsewhere(&self, id: &Id, file: &Path, place: &Place) -> Option<String> {
        let (first, line, column) = self.0.get(id)?;
        let here = first == file && (*line, *column) == (place.line, place.column);
        (!here).then(|| format!("{}:{line}:{column}", first.display()))
    }
}

/// One walk over all documents, in order.
struct Merge<'a> {
    before: &'a BTreeMap<Id, Held>,
    names: Names,
    after: BTreeMap<Id, Held>,
    owners: HashMap<IpAddr, Id>,
    update: Update,
}

impl Merge<'_> {
    fn file(&mut self, file: &File, entries: &[Entry]) {
        if let Err(reason) = &file.content {
            self.update.rejections.push(Rejection {
                file: file.name.clone(),
                line: 0,
                column: 0,
                object: None,
                field: None,
                reason: format!("cannot be read: {reason}"),
                remedy: "make it a UTF-8 text that the agent may read; its objects stay as they were"
                    .to_owned(),
            });
            self.retain_file(&file.name);
        }
        for entry in entries {
            self.entry(&file.name, entry);
        }
    }

    fn entry(&mut self, file: &Path, entry: &Entry) {
        if let Err(faults) = &entry.result {
            for fault in faults {
                let rejection = rejection(file, entry.title.clone(), fault);
                self.update.rejections.push(rejection);
            }
        }
        match &entry.identity {
            Identity::Known(id) => self.known(file, entry, id),
            Identity::Near(id) => {
                let ours = self.before.get(id).is_some_and(|held| held.file == file);
                if ours && !self.names.0.contains_key(id) {
                    self.retain(id);
                }
            }
            Identity::Foreign => {}
            Identity::Unknown => self.retain_file(file),
        }
    }

    /// A document that defines an object, rightly or wrongly.
    fn known(&mut self, file: &Path, entry: &Entry, id: &Id) {
        if let Some(first) = self.names.elsewhere(id, file, &entry.place) {
            let fault = entry.place.fault(
                format!("already defined at {first}"),
                "rename or remove one of the two",
            );
            self.reject(file, id, &fault);
            return;
        }
        let Ok(parsed) = &entry.result else {
            self.retain(id);
            return;
        };
        let mut free = true;
        for claim in &parsed.claims {
            if let Some(fault) = self.taken(claim, id) {
                self.reject(file, id, &fault);
                free = false;
            }
        }
        if free {
            self.update.ignored.extend(
                parsed
                    .ignored
                    .iter()
                    .map(|fault| rejection(file, Some(id.title()), fault)),
            );
            self.place(
                id,
                Held {
                    object: Arc::clone(&parsed.object),
                    ips: parsed.claims.iter().map(|claim| claim.ip).collect(),
                    file: file.to_owned(),
                    line: entry.place.line,
                },
            );
        } else {
            self.retain(id);
        }
    }

    /// Why an address cannot be had, if it cannot.
    fn taken(&self, claim: &Claim, id: &Id) -> Option<Fault> {
        let owner = self.owners.get(&claim.ip).filter(|owner| *owner != id)?;
        let at = self
            .after
            .get(owner)
            .map(|held| format!(" ({}:{})", held.file.display(), held.line));
        let reason = format!(
            "{} is the address of {owner}{} already",
            claim.ip,
            at.unwrap_or_default()
        );
        Some(claim.place.fault(reason, "give each object addresses of its own"))
    }

    fn place(&mut self, id: &Id, held: Held) {
        for ip in &held.ips {
            self.owners.insert(*ip, id.clone());
        }
        self.after.insert(id.clone(), held);
    }

    /// Leaves an object as it was, unless one of its addresses has gone to an object before it.
    fn retain(&mut self, id: &Id) {
        let Some(held) = self.before.get(id) else { return };
        if self.after.contains_key(id) {
            return;
        }
        for ip in &held.ips {
            if let MapEntry::Occupied(owner) = self.owners.entry(*ip) {
                let place = Place {
                    line: held.line,
                    column: 1,
                    field: String::new(),
                };
                let reason = format!(
                    "{ip}, an address of its last good version, is now the address of {}; it is not in use any more",
                    owner.get()
                );
                self.update.rejections.push(rejection(
                    &held.file,
                    Some(id.title()),
                    &place.fault(reason, "correct the object, or give back its address"),
                ));
                return;
            }
        }
        self.place(id, held.clone());
    }

    /// Leaves all objects of a file as they were, but for those that a document defines.
    fn retain_file(&mut self, file: &Path) {
        let before = self.before;
        for (id, _) in before.iter().filter(|(_, held)| held.file == file) {
            if !self.names.0.contains_key(id) {
                self.retain(id);
            }
        }
    }

    fn reject(&mut self, file: &Path, id: &Id, fault: &Fault) {
        self.update
            .rejections
            .push(rejection(file, Some(id.title()), fault));
    }
}

fn rejection(
    file: &Path,
    object: Option<(String, mesh_common::model::ObjectKey)>,
    Fault {
        place,
        reason,
        remedy,
    }: &Fault,
) -> Rejection {
    Rejection {
        file: file.to_owned(),
        line: place.line,
        column: place.column,
        object,
        field: (!place.field.is_empty()).then(|| place.field.clone()),
        reason: reason.clone(),
        remedy: remedy.clone(),
    }
}

fn changes(before: &BTreeMap<Id, Held>, after: &BTreeMap<Id, Held>) -> Vec<Change> {
    let gone = before
        .keys()
        .filter(|id| !after.contains_key(*id))
        .map(|id| match id.kind {
            Kind::Workload => Change::RemoveWorkload(id.key.clone()),
            Kind::Service => Change::RemoveService(id.key.clone()),
            Kind::AuthorizationPolicy => Change::RemoveAuthorizationPolicy(id.key.clone()),
            Kind::PeerAuthentication => Change::RemovePeerAuthentication(id.key.clone()),
        });
    let different = |id: &Id, held: &Held| before.get(id).is_none_or(|old| old.object != held.object);
    let put = after
        .iter()
        .filter(|(id, held)| different(id, held))
        .map(|(_, held)| match &*held.object {
            Object::Workload(workload) => Change::PutWorkload(workload.clone()),
            Object::Service(service) => Change::PutService(service.clone()),
            Object::AuthorizationPolicy(policy) => Change::PutAuthorizationPolicy(policy.clone()),
            Object::PeerAuthentication(policy) => Change::PutPeerAuthentication(policy.clone()),
        });
    gone.chain(put).collect()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
