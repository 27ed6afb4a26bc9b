//! Follows the configuration: each update of its source goes to the store, and what is new about its mistakes to
//! the log.
//!
//! Invariant: a mistake that stands is logged once, however often what is around it changes.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use mesh_common::model::ObjectKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::enrol::Enrolment;
use crate::{
    config::{DirectorySource, Rejection, SourceError, Update},
    state::Store,
};

/// The configuration, from its directory into the store.
pub(super) struct Configuration {
    source: DirectorySource,
    applied: Applied,
}

impl Configuration {
    /// Reads the directory for the first time.
    pub(super) fn open(path: &Path, store: Arc<Store>) -> Result<Self, SourceError> {
        let (source, first) = DirectorySource::open(path)?;
        let mut applied = Applied {
            store,
            ignored: Vec::new(),
        };
        applied.update(first);
        Ok(Self { source, applied })
    }

    /// Takes in what changes until told to stop.
    pub(super) async fn follow(self, enrolment: Arc<Enrolment>, stop: CancellationToken) {
        let Self { source, mut applied } = self;
        let (sender, mut updates) = mpsc::channel(1);
        let watching = source.run(sender, stop);
        let applying = async {
            while let Some(update) = updates.recv().await {
                applied.update(update);
                enrolment.look_soon();
            }
        };
        tokio::join!(watching, applying);
    }
}

/// What has been taken in; the store knows what was rejected.
struct Applied {
    store: Arc<Store>,
    ignored: Vec<Rejection>,
}

impl Applied {
    fn update(&mut self, update: Update) {
        log(&self.store.rejections(), &self.ignored, &update);
        self.store.set_rejections(update.rejections);
        self.store.apply(&update.changes);
        self.ignored = update.ignored;
    }
}

/// Logs what an update says that was not said before.
fn log(rejected: &[Rejection], ignored: &[Rejection], update: &Update) {
    for rejection in fresh(rejected, &update.rejections) {
        tracing::warn!(%rejection, "configuration rejected; the last good version stays");
    }
    for remark in fresh(ignored, &update.ignored) {
        tracing::info!(%remark, "configuration accepted with a remark");
    }
    for (file, object) in mended(rejected, &update.rejections) {
        let object = object.map(|(kind, key)| format!("{kind} {key}"));
        tracing::info!(file = %file.display(), object, "configuration is good again");
    }
}

/// What was not there before, wherever in its file it stands.
fn fresh<'a>(before: &[Rejection], now: &'a [Rejection]) -> Vec<&'a Rejection> {
    let known: BTreeSet<_> = before.iter().map(matter).collect();
    let new = |rejection: &&Rejection| !known.contains(&matter(rejection));
    now.iter().filter(new).collect()
}

/// Of what there was something wrong, and is not any more.
fn mended<'a>(before: &'a [Rejection], now: &[Rejection]) -> BTreeSet<Subject<'a>> {
    let wrong: BTreeSet<_> = now.iter().map(subject).collect();
    let before = before.iter().map(subject);
    before.filter(|subject| !wrong.contains(subject)).collect()
}

type Subject<'a> = (&'a Path, Option<&'a (String, ObjectKey)>);

fn matter(rejection: &Rejection) -> (Subject<'_>, Option<&str>, &str) {
    let Rejection { field, reason, .. } = rejection;
    (subject(rejection), field.as_deref(), reason)
}

fn subject(rejection: &Rejection) -> Subject<'_> {
    (&rejection.file, rejection.object.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(name: &str, line: u32, reason: &str) -> Rejection {
        Rejection {
            file: "a.yaml".into(),
            line,
            column: 1,
            object: Some(("Workload".to_owned(), ObjectKey::new("shop", name))),
            field: None,
            reason: reason.to_owned(),
            remedy: String::new(),
        }
    }

    #[test]
    fn only_what_is_new_is_told_and_what_is_gone() {
        let before = [rejection("web", 1, "bad"), rejection("db", 9, "bad")];
        let names = |subjects: BTreeSet<Subject<'_>>| {
            let names = subjects.into_iter().filter_map(|(_, object)| object);
            names.map(|(_, key)| key.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(fresh(&[], &before), [&before[0], &before[1]]);
        assert!(names(mended(&[], &before)).is_empty());

        let moved = [rejection("web", 3, "bad"), rejection("db", 12, "bad")];
        assert!(fresh(&before, &moved).is_empty());
        assert!(names(mended(&before, &moved)).is_empty());

        // Wrong in another way is not good again.
        let now = [rejection("web", 1, "worse")];
        assert_eq!(fresh(&before, &now), [&now[0]]);
        assert_eq!(names(mended(&before, &now)), ["db"]);
    }
}
