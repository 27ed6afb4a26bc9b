//! What the files of a directory say together, and what of it may be used.
//!
//! `source` hands in the files that changed; out come the differences to the state before. Pure: no file system, no
//! clock, and the result depends only on the text and on the state before.
//!
//! What is in use goes before what is new: an object keeps its name and its addresses as long as its document is
//! there and claims them, wherever in the directory another document wants them too. Whatever is wrong with a
//! document, a claim to what others have included, keeps the object's last good version in place. A document
//! that could be any object keeps all those of its file that no document in that file defines. Only among new
//! objects, and among those edited to want the same free address, does order decide: files by name, documents by line.
//!
//! A change costs what it touches, not what there is: only documents whose text changed are parsed ([`files`]), and only the
//! objects that they define are settled again ([`settling`]), with those that share an address with one of them. Everything else
//! would come out as it did before.
//!
//! Invariant: the objects in use have distinct names and distinct addresses; and what is in use after several changes is what
//! would be in use had every object been settled again at each of them.

mod files;
mod pool;
mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_common::model::RouteKind;

use self::files::{ParsedDocument, ParsedFile, parse};
use self::pool::Pool;
use super::object::{Entry, Id, Identity, Kind, Object};
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
    files: BTreeMap<Arc<Path>, ParsedFile>,
    /// Every object that is in use or that a document defines.
    objects: HashMap<Arc<Id>, Slot>,
    /// Who has or wants an address: an object in use once, and once more for each of its documents.
    claims: HashMap<IpAddr, Vec<Arc<Id>>>,
    remarks: BTreeMap<Spot, Remarks>,
    pool: Pool,
}

/// One name, and who has it.
#[derive(Debug, Default)]
struct Slot {
    /// The object in use.
    held: Option<Held>,
    /// The documents that define it, in the order of files and lines.
    definitions: Vec<Definition>,
}

/// An object in use, and where its document stands.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    object: Object,
    file: Arc<Path>,
    line: u32,
    column: u32,
}

/// Where an object is defined.
#[derive(Clone, Debug)]
struct Definition {
    file: Arc<Path>,
    document: Arc<ParsedDocument>,
    index: u32,
}

/// A place in the order of files and lines: the file, then the line that its document begins after and the number in it.
/// Without the latter, the file itself.
type Spot = (Arc<Path>, Option<(u32, u32)>);

/// What there is to say about one entry.
#[derive(Debug, Default)]
struct Remarks {
    rejections: Vec<Rejection>,
    ignored: Vec<Rejection>,
}

/// The objects to settle again.
type Touched = BTreeSet<Arc<Id>>;

impl Directory {
    /// A directory that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the files that the directory has now; a file that is not among them is gone.
    pub fn load(&mut self, files: &[File]) -> Update {
        let gone = self.gone(files);
        self.take(files, &gone)
    }

    /// Takes in the files that are new or changed, and forgets those that are gone.
    pub fn take(&mut self, files: &[File], gone: &[PathBuf]) -> Update {
        self.take_touching(files, gone, Touched::new())
    }

    fn take_touching(&mut self, files: &[File], gone: &[PathBuf], mut touched: Touched) -> Update {
        for name in gone {
            self.forget(name, &mut touched);
        }
        let mut names = HashSet::new();
        let files: Vec<&File> = files.iter().filter(|file| names.insert(&file.name)).collect();
        for (file, parsed) in parse(&files, &mut self.pool, |file| self.files.get(&*file.name)) {
            self.replace(&file.name, parsed, &mut touched);
        }
        self.settle(touched)
    }

    /// The names of those that are not there any more.
    fn gone(&self, files: &[File]) -> Vec<PathBuf> {
        let there: HashSet<&Path> = files.iter().map(|file| file.name.as_path()).collect();
        let known = self.files.keys().map(|name| &**name);
        known
            .filter(|name| !there.contains(name))
            .map(Path::to_owned)
            .collect()
    }

    /// Everything that is wrong now, without any change.
    pub fn remarks(&self) -> Update {
        let remarks = self.remarks.values();
        Update {
            changes: Vec::new(),
            rejections: remarks
                .clone()
                .flat_map(|remarks| remarks.rejections.iter().cloned())
                .collect(),
            ignored: remarks
                .flat_map(|remarks| remarks.ignored.iter().cloned())
                .collect(),
        }
    }

    fn forget(&mut self, name: &Path, touched: &mut Touched) {
        let Some((name, file)) = self.files.remove_entry(name) else {
            return;
        };
        for document in &file.documents {
            self.remove_document(&name, document, touched);
        }
        touched.extend(file.hidden);
        self.remarks.remove(&(name, None));
    }

    /// Puts a file in the place of the one that had its name.
    fn replace(&mut self, name: &Path, mut file: ParsedFile, touched: &mut Touched) {
        let (name, before) = match self.files.remove_entry(name) {
            Some((name, before)) => (name, Some(before)),
            None => (Arc::from(name), None),
        };
        let standing: HashSet<*const ParsedDocument> = file.documents.iter().map(Arc::as_ptr).collect();
        let known = before.as_ref().map_or(&[][..], |before| &before.documents);
        let mut kept = HashSet::new();
        for document in known {
            if standing.contains(&Arc::as_ptr(document)) {
                kept.insert(Arc::as_ptr(document));
            } else {
                self.remove_document(&name, document, touched);
            }
        }
        for document in &file.documents {
            if !kept.contains(&Arc::as_ptr(document)) {
                self.add_document(&name, document, touched);
            }
        }
        match &file.unreadable {
            Some(reason) => {
                _ = self
                    .remarks
                    .insert((Arc::clone(&name), None), Remarks::unreadable(&name, reason))
            }
            None => _ = self.remarks.remove(&(Arc::clone(&name), None)),
        }
        if let Some(before) = before {
            // Whether they are hidden still is to be seen.
            touched.extend(before.hidden.iter().cloned());
            file.hidden = before.hidden;
        }
        self.files.insert(name, file);
    }

    fn add_document(&mut self, name: &Arc<Path>, document: &Arc<ParsedDocument>, touched: &mut Touched) {
        for (index, entry) in (0u32..).zip(document.entries.iter()) {
            match &entry.identity {
                Identity::Known(id) => {
                    let id = self.known(id);
                    let definition = Definition {
                        file: Arc::clone(name),
                        document: Arc::clone(document),
                        index,
                    };
                    self.claim(&id, definition.addresses());
                    let slot = self.objects.entry(Arc::clone(&id)).or_default();
                    let at = slot
                        .definitions
                        .partition_point(|known| known.spot() < definition.spot());
                    // Nearly always the only one.
                    slot.definitions.reserve_exact(1);
                    slot.definitions.insert(at, definition);
                    touched.insert(id);
                }
                identity => {
                    if let Identity::Near(id) = identity {
                        touched.insert(self.known(id));
                    }
                    let spot = (Arc::clone(name), Some((document.line, index)));
                    self.remarks.insert(spot, Remarks::of(name, document, entry));
                }
            }
        }
    }

    fn remove_document(&mut self, name: &Arc<Path>, document: &Arc<ParsedDocument>, touched: &mut Touched) {
        for (index, entry) in (0u32..).zip(document.entries.iter()) {
            self.remarks
                .remove(&(Arc::clone(name), Some((document.line, index))));
            match &entry.identity {
                Identity::Known(id) => {
                    let Some((id, _)) = self.objects.get_key_value(id) else {
                        continue;
                    };
                    let id = Arc::clone(id);
                    self.disclaim(&id, entry.addresses());
                    if let Some(slot) = self.objects.get_mut(&id) {
                        slot.definitions.retain(|known| {
                            !(Arc::ptr_eq(&known.document, document) && known.index == index)
                        });
                    }
                    touched.insert(id);
                }
                Identity::Near(id) => _ = touched.insert(self.known(id)),
                Identity::Foreign | Identity::Unknown => {}
            }
        }
    }

    /// The one copy of an id that is in use.
    fn known(&self, id: &Id) -> Arc<Id> {
        match self.objects.get_key_value(id) {
            Some((id, _)) => Arc::clone(id),
            None => Arc::new(id.clone()),
        }
    }

    fn claim(&mut self, id: &Arc<Id>, addresses: &[IpAddr]) {
        for ip in addresses {
            self.claims.entry(*ip).or_default().push(Arc::clone(id));
        }
    }

    fn disclaim(&mut self, id: &Arc<Id>, addresses: &[IpAddr]) {
        for ip in addresses {
            let Some(claimants) = self.claims.get_mut(ip) else {
                continue;
            };
            if let Some(at) = claimants.iter().position(|other| other == id) {
                claimants.swap_remove(at);
            }
            if claimants.is_empty() {
                self.claims.remove(ip);
            }
        }
    }
}

impl Definition {
    fn entry(&self) -> &Entry {
        &self.document.entries[self.index as usize]
    }

    fn addresses(&self) -> &[IpAddr] {
        self.entry().addresses()
    }

    fn spot(&self) -> (&Path, u32, u32) {
        (&self.file, self.document.line, self.index)
    }

    /// Its line in the file.
    fn line(&self) -> u32 {
        self.document.line.saturating_add(self.entry().place.line)
    }
}

impl Entry {
    /// The addresses that the object wants, if there is nothing wrong with it.
    fn addresses(&self) -> &[IpAddr] {
        self.result
            .as_ref()
            .map_or(&[], |parsed| parsed.object.addresses())
    }
}

impl Id {
    /// That the object is gone.
    fn removal(&self) -> Change {
        let key = self.key.clone();
        match self.kind {
            Kind::Workload => Change::RemoveWorkload(key),
            Kind::Service => Change::RemoveService(key),
            Kind::AuthorizationPolicy => Change::RemoveAuthorizationPolicy(key),
            Kind::PeerAuthentication => Change::RemovePeerAuthentication(key),
            Kind::RequestAuthentication => Change::RemoveRequestAuthentication(key),
            Kind::HttpRoute => Change::RemoveRoute(RouteKind::Http, key),
            Kind::GrpcRoute => Change::RemoveRoute(RouteKind::Grpc, key),
        }
    }
}

impl Object {
    /// That the object is new or different.
    fn arrival(&self) -> Change {
        match self {
            Self::Workload(workload) => Change::PutWorkload(Arc::clone(workload)),
            Self::Service(service) => Change::PutService(Arc::clone(service)),
            Self::AuthorizationPolicy(policy) => Change::PutAuthorizationPolicy(Arc::clone(policy)),
            Self::PeerAuthentication(policy) => Change::PutPeerAuthentication(Arc::clone(policy)),
            Self::RequestAuthentication(policy) => Change::PutRequestAuthentication(Arc::clone(policy)),
            Self::Route(route) => Change::PutRoute(Arc::clone(route)),
        }
    }
}

#[cfg(test)]
mod tests;
