//! Which version of each touched object is in use now, and what there is to say about the documents that are not.
//!
//! Invariant: who shares an address with a touched object is settled with it; nobody else can come out differently.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::super::claims::{Party, settle};
use super::super::fault::Fault;
use super::super::object::{Claim, Entry, Id, Parsed};
use super::super::{Rejection, Update};
use super::{Definition, Directory, Held, ParsedDocument, Remarks, Slot, Touched};

/// What speaks for an object.
#[derive(Clone, Copy)]
enum Speaker<'a> {
    Document(&'a Definition),
    /// Its document may be in the part of a file that cannot be read now.
    Hidden,
}

/// What becomes of an object.
struct Verdict {
    id: Arc<Id>,
    held: Option<Held>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its document's version is in use.
    Accepted,
    /// A version before is in use, or none.
    Refused,
    /// As `Refused`, and its document is out of sight.
    Hidden,
    /// No document speaks for it.
    Gone,
}

impl Directory {
    /// Settles the touched objects again, and says what differs.
    pub(super) fn settle(&mut self, mut touched: Touched) -> Update {
        self.close(&mut touched);
        let verdicts = self.judge(&touched);
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for verdict in &verdicts {
            let before = self.objects.get(&verdict.id).and_then(|slot| slot.held.as_ref());
            match (before, &verdict.held) {
                (Some(_), None) => gone.push(verdict.id.removal()),
                (Some(before), Some(held)) if before.object == held.object => {}
                (_, Some(held)) => put.push(held.object.arrival()),
                (None, None) => {}
            }
        }
        let refused: HashSet<Arc<Id>> = verdicts
            .iter()
            .filter(|verdict| verdict.standing == Standing::Refused)
            .map(|verdict| Arc::clone(&verdict.id))
            .collect();
        for verdict in verdicts {
            self.hold(verdict);
        }
        for id in &touched {
            self.remark(id, refused.contains(id));
        }
        gone.append(&mut put);
        Update {
            changes: gone,
            ..self.remarks()
        }
    }

    /// Adds all that share an address with one that is in.
    fn close(&self, touched: &mut Touched) {
        let mut open: Vec<Arc<Id>> = touched.iter().cloned().collect();
        while let Some(id) = open.pop() {
            let Some(slot) = self.objects.get(&id) else {
                continue;
            };
            for ip in slot.addresses() {
                for other in self.claimants(ip) {
                    if !touched.contains(other) {
                        touched.insert(Arc::clone(other));
                        open.push(Arc::clone(other));
                    }
                }
            }
        }
    }

    /// The objects that have or want an address.
    fn claimants(&self, ip: IpAddr) -> &[Arc<Id>] {
        self.claims.get(&ip).map_or(&[], Vec::as_slice)
    }

    fn judge(&self, touched: &Touched) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(touched.len());
        let mut order = Vec::with_capacity(touched.len());
        for id in touched {
            let slot = self.objects.get(id);
            let held = slot.and_then(|slot| slot.held.as_ref());
            match slot.and_then(|slot| self.speaker(id, slot)) {
                Some(speaker) if held.is_some() || speaker.parsed().is_some() => {
                    order.push((id, speaker, held))
                }
                speaker => verdicts.push(Verdict {
                    id: Arc::clone(id),
                    held: None,
                    standing: speaker.map_or(Standing::Gone, |_| Standing::Refused),
                }),
            }
        }
        order.sort_by_key(|(_, speaker, held)| (held.is_none(), speaker.spot()));
        let parties: Vec<_> = order
            .iter()
            .map(|(_, speaker, held)| Party {
                holds: held.map_or(&[], |held| held.object.addresses()),
                wants: speaker.parsed().map(|parsed| parsed.object.addresses()),
            })
            .collect();
        let granted = settle(&parties);
        let judged = order
            .into_iter()
            .zip(granted)
            .map(|((id, speaker, held), granted)| {
                let id = Arc::clone(id);
                match (speaker, speaker.parsed(), held) {
                    (Speaker::Document(document), Some(parsed), _) if granted => Verdict {
                        id,
                        held: Some(document.hold(parsed)),
                        standing: Standing::Accepted,
                    },
                    (Speaker::Document(document), _, held) => Verdict {
                        id,
                        held: held.map(|held| document.keep(held)),
                        standing: Standing::Refused,
                    },
                    (Speaker::Hidden, _, held) => Verdict {
                        id,
                        held: held.cloned(),
                        standing: Standing::Hidden,
                    },
                }
            });
        verdicts.extend(judged);
        verdicts.sort_by(|a, b| a.id.cmp(&b.id));
        verdicts
    }

    /// Finds what speaks for an object: of one in use the document that it is from, of a new one the first.
    fn speaker<'a>(&'a self, id: &Id, slot: &'a Slot) -> Option<Speaker<'a>> {
        let mut best: Option<(_, &Definition)> = None;
        for definition in &slot.definitions {
            let likeness = slot.held.as_ref().map(|held| definition.likeness(held));
            if best.is_none_or(|(best, _)| likeness > best) {
                best = Some((likeness, definition));
            }
        }
        let best = best.map(|(_, definition)| definition);
        if let Some(held) = &slot.held
            && best.is_none_or(|best| best.file != held.file)
            && let Some(file) = self.files.get(&held.file)
            && (file.is_obscure() || file.is_near(id))
        {
            return Some(Speaker::Hidden);
        }
        best.map(Speaker::Document)
    }

    /// Carries out a verdict.
    fn hold(&mut self, Verdict { id, held, standing }: Verdict) {
        let before = self.objects.get_mut(&id).and_then(|slot| slot.held.take());
        if let Some(before) = &before {
            self.disclaim(&id, before.object.addresses());
            if let Some(file) = self.files.get_mut(&before.file) {
                file.hidden.remove(&id);
            }
        }
        if let Some(held) = held {
            self.claim(&id, held.object.addresses());
            if standing == Standing::Hidden
                && let Some(file) = self.files.get_mut(&held.file)
            {
                file.hidden.insert(Arc::clone(&id));
            }
            self.objects.entry(id).or_default().held = Some(held);
        } else if self
            .objects
            .get(&id)
            .is_some_and(|slot| slot.definitions.is_empty())
        {
            self.objects.remove(&id);
        }
    }

    /// Notes what is wrong with each document of an object.
    fn remark(&mut self, id: &Arc<Id>, refused: bool) {
        let Some(slot) = self.objects.get(id) else {
            return;
        };
        let speaker = self.speaker(id, slot);
        let mut all = Vec::with_capacity(slot.definitions.len());
        for definition in &slot.definitions {
            let (name, document, entry) = (&definition.file, &definition.document, definition.entry());
            let mut remarks = Remarks::of(name, document, entry);
            let reject = |fault: &Fault| rejection(name, document, entry, fault);
            match (speaker, &entry.result) {
                (Some(Speaker::Document(speaker)), Ok(parsed)) if speaker.is(definition) => {
                    if refused {
                        let faults = self.conflicts(id, parsed);
                        remarks.rejections.extend(faults.iter().map(reject));
                    } else {
                        remarks.ignored.extend(parsed.ignored.iter().map(reject));
                    }
                }
                (Some(Speaker::Document(speaker)), _) if speaker.is(definition) => {}
                (Some(speaker), _) => {
                    let fault = speaker.elsewhere(entry, slot.held.as_ref());
                    remarks.rejections.extend(fault.iter().map(reject));
                }
                (None, _) => {}
            }
            all.push((
                (Arc::clone(name), Some((document.line, definition.index))),
                remarks,
            ));
        }
        for (spot, remarks) in all {
            if remarks.is_empty() {
                self.remarks.remove(&spot);
            } else {
                self.remarks.insert(spot, remarks);
            }
        }
    }

    /// Which addresses others have.
    fn conflicts(&self, id: &Id, parsed: &Parsed) -> Vec<Fault> {
        let conflict = |claim: &Claim| {
            let mut others = self.claimants(claim.ip).iter().filter(|other| ***other != *id);
            let (owner, held) = others.find_map(|other| {
                let held = self.objects.get(other)?.held.as_ref()?;
                held.object
                    .addresses()
                    .contains(&claim.ip)
                    .then_some((other, held))
            })?;
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

impl Slot {
    /// The addresses that it has or that any of its documents wants.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let held = self.held.iter().flat_map(|held| held.object.addresses());
        held.chain(self.definitions.iter().flat_map(Definition::addresses))
            .copied()
    }
}

impl<'a> Speaker<'a> {
    /// Its object, if there is nothing wrong with it.
    fn parsed(self) -> Option<&'a Parsed> {
        match self {
            Self::Document(definition) => definition.entry().result.as_ref().ok(),
            Self::Hidden => None,
        }
    }

    /// What is out of sight goes first.
    fn spot(self) -> Option<(&'a Path, u32, u32)> {
        match self {
            Self::Document(definition) => Some(definition.spot()),
            Self::Hidden => None,
        }
    }

    /// What is wrong with an entry whose name this has.
    fn elsewhere(self, entry: &Entry, held: Option<&Held>) -> Option<Fault> {
        Some(match self {
            Self::Document(definition) => {
                let (file, column) = (definition.file.display(), definition.entry().place.column);
                entry.place.fault(
                    format!("already defined at {file}:{}:{column}", definition.line()),
                    "rename or remove one of the two",
                )
            }
            Self::Hidden => {
                let Held {
                    file, line, column, ..
                } = held?;
                entry.place.fault(
                    format!(
                        "already in use from {}:{line}:{column}, which cannot be read now",
                        file.display()
                    ),
                    "correct or remove that file's document, or rename this one",
                )
            }
        })
    }
}

impl Definition {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.document, &other.document) && self.index == other.index
    }

    /// How much it looks like the document that an object in use is from; the greater, the more.
    fn likeness(&self, held: &Held) -> (bool, bool, bool) {
        let entry = self.entry();
        let parsed = entry.result.as_ref();
        (
            self.file == held.file,
            parsed.is_ok_and(|parsed| parsed.object == held.object),
            (self.line(), entry.place.column) == (held.line, held.column),
        )
    }

    /// Its own version is in use.
    fn hold(&self, parsed: &Parsed) -> Held {
        Held {
            object: parsed.object.clone(),
            file: Arc::clone(&self.file),
            line: self.line(),
            column: self.entry().place.column,
        }
    }

    /// A version from before is in use, on its behalf.
    fn keep(&self, held: &Held) -> Held {
        Held {
            object: held.object.clone(),
            file: Arc::clone(&self.file),
            line: self.line(),
            column: self.entry().place.column,
        }
    }
}

impl Remarks {
    /// What is wrong with an entry by itself.
    pub(super) fn of(name: &Arc<Path>, document: &ParsedDocument, entry: &Entry) -> Self {
        let faults = entry.result.as_ref().err().into_iter().flatten();
        Self {
            rejections: faults
                .map(|fault| rejection(name, document, entry, fault))
                .collect(),
            ignored: Vec::new(),
        }
    }

    pub(super) fn unreadable(name: &Path, reason: &str) -> Self {
        Self {
            rejections: vec![Rejection {
                file: name.to_owned(),
                line: 0,
                column: 0,
                object: None,
                field: None,
                reason: format!("cannot be read: {reason}"),
                remedy: "make it a UTF-8 text that the agent may read; its objects stay as they were"
                    .to_owned(),
            }],
            ignored: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.rejections.is_empty() && self.ignored.is_empty()
    }
}

fn rejection(file: &Path, document: &ParsedDocument, entry: &Entry, fault: &Fault) -> Rejection {
    Rejection {
        file: file.to_owned(),
        line: document.line.saturating_add(fault.place.line),
        column: fault.place.column,
        object: entry.title(),
        field: (!fault.place.field.is_empty()).then(|| fault.place.field.clone()),
        reason: fault.reason.clone(),
        remedy: fault.remedy.clone(),
    }
}
