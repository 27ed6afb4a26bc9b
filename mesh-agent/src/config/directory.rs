//! What the files of a directory say together, and what of it may be used.
//!
//! `source` hands in the files' text; out come the differences to the state before. Pure: no file system, no
//! clock, and the result depends only on the text and on the state before.
//!
//! What is in use goes before what is new: an object keeps its name and its addresses as long as its document is
//! there and claims them, wherever in the directory another document wants them too. Whatever is wrong with a
//! document, a claim to what others have included, keeps the object's last good version in place. A document
//! that could be any object keeps all those of its file that no document in that file defines. Only among new
//! objects, and among those edited to want the same free address, does order decide: files by name, documents by line.
//!
//! Invariant: the objects in use have distinct names and distinct addresses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_common::model::ObjectKey;

use super::claims::{Party, settle};
use super::fault::Fault;
use super::object::{Claim, Entry, Id, Identity, Kind, Object, Parsed, entries};
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
    column: u32,
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
        let documents = Documents::find(&entries, &self.held);
        let standing = Standing::settle(&documents, &self.held);
        let mut update = Update::default();
        for (number, (file, entries)) in entries.iter().enumerate() {
            standing.report(number, file, entries, &documents, &mut update);
        }
        let after = standing.objects;
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

/// Which document speaks for which object.
struct Documents<'a>(BTreeMap<&'a Id, Document<'a>>);

/// The document that speaks for an object.
struct Document<'a> {
    file: &'a Path,
    line: u32,
    column: u32,
    /// Its number among all files and in its file; none if it only may be there, in a part that cannot be read.
    position: Option<(usize, usize)>,
    /// Its object, if there is nothing wrong with it.
    parsed: Option<&'a Parsed>,
}

impl<'a> Documents<'a> {
    /// Finds the document of each object: of one in use the document that it is from, of a new one the first.
    fn find(files: &'a [(&'a File, Arc<[Entry]>)], held: &'a BTreeMap<Id, Held>) -> Self {
        let mut found: BTreeMap<&Id, (_, Document<'_>)> = BTreeMap::new();
        let mut near: HashSet<(&Path, &Id)> = HashSet::new();
        let mut obscure: HashSet<&Path> = HashSet::new();
        for (number, (file, entries)) in files.iter().enumerate() {
            if file.content.is_err() {
                obscure.insert(&file.name);
            }
            for (index, entry) in entries.iter().enumerate() {
                match &entry.identity {
                    Identity::Known(id) => {
                        let document = Document::new(&file.name, entry, (number, index));
                        let likeness = held.get(id).map(|held| document.likeness(held));
                        if found.get(id).is_none_or(|(best, _)| likeness > *best) {
                            found.insert(id, (likeness, document));
                        }
                    }
                    Identity::Near(id) => _ = near.insert((&file.name, id)),
                    Identity::Unknown => _ = obscure.insert(&file.name),
                    Identity::Foreign => {}
                }
            }
        }
        let mut documents = Self(found.into_iter().map(|(id, (_, found))| (id, found)).collect());
        for (id, held) in held {
            let file = held.file.as_path();
            let here = documents.0.get(id).is_some_and(|found| found.file == file);
            if !here && (obscure.contains(file) || near.contains(&(file, id))) {
                documents.0.insert(id, Document::hidden(held));
            }
        }
        documents
    }
}

impl<'a> Document<'a> {
    fn new(file: &'a Path, entry: &'a Entry, position: (usize, usize)) -> Self {
        Self {
            file,
            line: entry.place.line,
            column: entry.place.column,
            position: Some(position),
            parsed: entry.result.as_ref().ok(),
        }
    }

    fn hidden(held: &'a Held) -> Self {
        Self {
            file: &held.file,
            line: held.line,
            column: held.column,
            position: None,
            parsed: None,
        }
    }

    /// How much it looks like the document that an object in use is from; the greater, the more.
    fn likeness(&self, held: &Held) -> (bool, bool, bool) {
        (
            self.file == held.file,
            self.parsed.is_some_and(|parsed| parsed.object == held.object),
            (self.line, self.column) == (held.line, held.column),
        )
    }

    fn hold(&self, object: &Arc<Object>, ips: Vec<IpAddr>) -> Held {
        Held {
            object: Arc::clone(object),
            ips,
            file: self.file.to_owned(),
            line: self.line,
            column: self.column,
        }
    }
}

/// The objects in use once all names and addresses are settled.
struct Standing {
    objects: BTreeMap<Id, Held>,
    /// The new versions that could not be taken.
    refused: HashSet<Id>,
    owners: HashMap<IpAddr, Id>,
}

impl Standing {
    fn settle(documents: &Documents<'_>, before: &BTreeMap<Id, Held>) -> Self {
        let mut order: Vec<_> = documents
            .0
            .iter()
            .map(|(id, document)| (*id, document, before.get(*id)))
            .filter(|(_, document, held)| held.is_some() || document.parsed.is_some())
            .collect();
        order.sort_by_key(|(_, document, held)| (held.is_none(), document.position));
        let ips = |parsed: &Parsed| parsed.claims.iter().map(|claim| claim.ip).collect();
        let parties: Vec<_> = order
            .iter()
            .map(|(_, document, held)| Party {
                holds: held.map_or(&[], |held| &held.ips),
                wants: document.parsed.map(ips),
            })
            .collect();
        let granted = settle(&parties);
        let mut standing = Self {
            objects: BTreeMap::new(),
            refused: HashSet::new(),
            owners: HashMap::new(),
        };
        for (number, (id, document, held)) in order.into_iter().enumerate() {
            let held = match (document.parsed, held) {
                (Some(parsed), _) if granted[number] => Some(document.hold(&parsed.object, ips(parsed))),
                (_, held) => {
                    standing.refused.insert(id.clone());
                    held.map(|held| document.hold(&held.object, held.ips.clone()))
                }
            };
            if let Some(held) = held {
                let owned = held.ips.iter().map(|ip| (*ip, id.clone()));
                standing.owners.extend(owned);
                standing.objects.insert(id.clone(), held);
            }
        }
        standing
    }

    /// Tells what is wrong with a file, in the order of its lines.
    fn report(
        &self,
        number: usize,
        file: &File,
        entries: &[Entry],
        documents: &Documents<'_>,
        update: &mut Update,
    ) {
        if let Err(reason) = &file.content {
            update.rejections.push(Rejection {
                file: file.name.clone(),
                line: 0,
                column: 0,
                object: None,
                field: None,
                reason: format!("cannot be read: {reason}"),
                remedy: "make it a UTF-8 text that the agent may read; its objects stay as they were"
                    .to_owned(),
            });
        }
        for (index, entry) in entries.iter().enumerate() {
            let reject = |fault: &Fault| rejection(&file.name, entry.title.clone(), fault);
            if let Err(faults) = &entry.result {
                update.rejections.extend(faults.iter().map(reject));
            }
            let Identity::Known(id) = &entry.identity else {
                continue;
            };
            match documents.0.get(id) {
                Some(document) if document.position != Some((number, index)) => {
                    let fault = elsewhere(entry, document);
                    update.rejections.push(reject(&fault));
                }
                _ => {
                    let Ok(parsed) = &entry.result else { continue };
                    if self.refused.contains(id) {
                        let faults = self.conflicts(id, parsed);
                        update.rejections.extend(faults.iter().map(reject));
                    } else {
                        update.ignored.extend(parsed.ignored.iter().map(reject));
                    }
                }
            }
        }
    }

    /// Which addresses others have.
    fn conflicts(&self, id: &Id, parsed: &Parsed) -> Vec<Fault> {
        let conflict = |claim: &Claim| {
            let owner = self.owners.get(&claim.ip).filter(|owner| *owner != id)?;
            let held = self.objects.get(owner)?;
            let reason = format!(
                "{} is the address of {owner} ({}:{}) already",
                claim.ip,
                held.file.display(),
                held.line
            );
            Some(claim.place.fault(reason, "give each object addresses of its own"))
        };
        parsed.claims.iter().filter_map(conflict).collect()
    }
}

/// What is wrong with an entry whose name another document has.
fn elsewhere(
    entry: &Entry,
    Document {
        file,
        line,
        column,
        position,
        ..
    }: &Document<'_>,
) -> Fault {
    let at = format!("{}:{line}:{column}", file.display());
    match position {
        Some(_) => entry.place.fault(
            format!("already defined at {at}"),
            "rename or remove one of the two",
        ),
        None => entry.place.fault(
            format!("already in use from {at}, which cannot be read now"),
            "correct or remove that file's document, or rename this one",
        ),
    }
}

fn rejection(
    file: &Path,
    object: Option<(String, ObjectKey)>,
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
            Kind::RequestAuthentication => Change::RemoveRequestAuthentication(id.key.clone()),
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
            Object::RequestAuthentication(policy) => Change::PutRequestAuthentication(policy.clone()),
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
