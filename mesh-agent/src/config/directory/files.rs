//! Files as they were last read, document by document.
//!
//! Invariant: a document whose text is known already is not parsed again, wherever in its file it stands now; and one that stands
//! where it stood is the same `Arc`, which says that nothing about it has to be looked at.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use super::super::document::{self, Document};
use super::super::object::{Entry, Id, Identity, entries};
use super::File;
use super::pool::Pool;

/// A file as it was last read.
#[derive(Debug, Default)]
pub(super) struct ParsedFile {
    /// Why it could not be read; it has no documents then.
    pub(super) unreadable: Option<String>,
    /// Those that say anything, in order.
    pub(super) documents: Vec<Arc<ParsedDocument>>,
    /// The objects in use whose documents are somewhere in a part of this file that cannot be read now.
    pub(super) hidden: BTreeSet<Arc<Id>>,
    /// Of the whole text, or of why there is none.
    hash: u64,
    /// How many of its entries could be anything.
    obscure: usize,
    /// The objects that entries of an unknown kind or version were probably meant to be.
    near: Vec<Id>,
}

/// A document, and how many lines of its file stand before it.
#[derive(Debug)]
pub(super) struct ParsedDocument {
    pub(super) line: u32,
    pub(super) entries: Arc<[Entry]>,
    hash: u64,
}

/// Parses the files that differ from the known ones; the others are left out.
pub(super) fn parse<'f, 'k>(
    files: &[&'f File],
    pool: &mut Pool,
    known: impl Fn(&File) -> Option<&'k ParsedFile>,
) -> Vec<(&'f File, ParsedFile)> {
    let drafts: Vec<_> = files
        .iter()
        .filter_map(|file| Some((*file, Draft::new(file, known(file))?)))
        .collect();
    let missing = drafts.iter().flat_map(|(_, draft)| &draft.pieces);
    let texts: Vec<&str> = missing.filter_map(|piece| piece.text()).collect();
    let mut fresh = all_entries(&texts).into_iter().map(|mut entries| {
        entries.iter_mut().for_each(|entry| pool.share(entry));
        entries
    });
    drafts
        .into_iter()
        .map(|(file, draft)| (file, draft.finish(&mut fresh)))
        .collect()
}

impl ParsedFile {
    /// Whether it could define any object: it cannot be read, or an entry of it could be anything.
    pub(super) fn is_obscure(&self) -> bool {
        self.unreadable.is_some() || self.obscure > 0
    }

    /// Whether it probably means to define this object.
    pub(super) fn is_near(&self, id: &Id) -> bool {
        self.near.contains(id)
    }
}

/// A file of which some documents are yet to be parsed.
struct Draft<'f> {
    unreadable: Option<String>,
    hash: u64,
    pieces: Vec<Piece<'f>>,
}

enum Piece<'f> {
    Standing(Arc<ParsedDocument>),
    Moved {
        line: u32,
        hash: u64,
        entries: Arc<[Entry]>,
    },
    New {
        line: u32,
        hash: u64,
        text: &'f str,
    },
}

impl<'f> Draft<'f> {
    /// `None` if the file is as it was.
    fn new(file: &'f File, known: Option<&ParsedFile>) -> Option<Self> {
        let hash = hash(&file.content);
        if known.is_some_and(|known| known.hash == hash) {
            return None;
        }
        let known = known.map_or(&[][..], |known| &known.documents);
        let (text, unreadable) = match &file.content {
            Ok(text) => (text.as_str(), None),
            Err(reason) => ("", Some(reason.clone())),
        };
        let standing: HashMap<_, _> = known
            .iter()
            .map(|known| ((known.line, known.hash), known))
            .collect();
        let moved: HashMap<_, _> = known.iter().map(|known| (known.hash, known)).collect();
        let piece = |Document {
                         skipped_lines: line,
                         text,
                     }| {
            let hash = self::hash(text);
            match (standing.get(&(line, hash)), moved.get(&hash)) {
                (Some(known), _) => Piece::Standing(Arc::clone(known)),
                (None, Some(known)) => Piece::Moved {
                    line,
                    hash,
                    entries: Arc::clone(&known.entries),
                },
                (None, None) => Piece::New { line, hash, text },
            }
        };
        Some(Self {
            unreadable,
            hash,
            pieces: document::split(text).into_iter().map(piece).collect(),
        })
    }

    /// Puts the file together; `fresh` has the entries of each new document.
    fn finish(self, fresh: &mut impl Iterator<Item = Vec<Entry>>) -> ParsedFile {
        let documents = self.pieces.into_iter().map(|piece| match piece {
            Piece::Standing(document) => document,
            Piece::Moved { line, hash, entries } => Arc::new(ParsedDocument { line, entries, hash }),
            Piece::New { line, hash, .. } => Arc::new(ParsedDocument {
                line,
                entries: fresh.next().unwrap_or_default().into(),
                hash,
            }),
        });
        let mut file = ParsedFile {
            unreadable: self.unreadable,
            documents: documents
                .filter(|document| !document.entries.is_empty())
                .collect(),
            hash: self.hash,
            ..ParsedFile::default()
        };
        for entry in file.documents.iter().flat_map(|document| document.entries.iter()) {
            match &entry.identity {
                Identity::Unknown => file.obscure += 1,
                Identity::Near(id) => file.near.push(id.clone()),
                Identity::Known(_) | Identity::Foreign => {}
            }
        }
        file
    }
}

impl<'f> Piece<'f> {
    /// What has to be parsed.
    fn text(&self) -> Option<&'f str> {
        match self {
            Self::New { text, .. } => Some(text),
            Self::Standing(_) | Self::Moved { .. } => None,
        }
    }
}

/// The entries of each text, by all cores when there is much to do.
fn all_entries(texts: &[&str]) -> Vec<Vec<Entry>> {
    let parse = |texts: &[&str]| texts.iter().map(|text| entries(text)).collect::<Vec<_>>();
    // Asking how many cores there are takes longer than a few documents do.
    if texts.len() < LEAST_SHARE {
        return parse(texts);
    }
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = texts.len().div_ceil(cores.min(MOST_THREADS));
    if share < LEAST_SHARE {
        return parse(texts);
    }
    thread::scope(|scope| {
        let shares: Vec<_> = texts
            .chunks(share)
            .map(|share| scope.spawn(move || parse(share)))
            .collect();
        let parsed = shares
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        parsed.collect()
    })
}

/// More threads than this are not worth their stacks.
const MOST_THREADS: usize = 8;

/// Documents for which a thread is worth its while: some ten milliseconds of work.
const LEAST_SHARE: usize = 200;

fn hash<T: Hash + ?Sized>(text: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
