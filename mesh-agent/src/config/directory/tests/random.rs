//! Random files: what holds of every load, whatever was before.

use std::collections::BTreeSet;

use mesh_common::model::ObjectKey;
use proptest::prelude::*;

use super::*;

/// A document of a random file, and whether it defines an object.
#[derive(Clone, Debug)]
enum Document {
    Good(u8, u8),
    Pair(u8, u8, u8),
    Bad(u8),
    Near(u8),
    Noise,
}

fn any_document() -> impl Strategy<Value = Document> {
    prop_oneof![
        6 => (0u8..6, 0u8..6).prop_map(|(name, address)| Document::Good(name, address)),
        2 => (0u8..6, 0u8..6, 0u8..6).prop_map(|(name, one, other)| Document::Pair(name, one, other)),
        2 => (0u8..6).prop_map(Document::Bad),
        1 => (0u8..6).prop_map(Document::Near),
        1 => Just(Document::Noise),
    ]
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let text = prop::collection::vec(any_document(), 0..4).prop_map(|list| {
        let text = list.into_iter().map(|document| match document {
            Document::Good(name, address) => {
                workload(&format!("w{name}"), &format!("10.1.0.{}", address + 1))
            }
            Document::Pair(name, one, other) => {
                let addresses = format!("10.1.0.{}, 10.1.0.{}", one + 1, (one + other % 5 + 1) % 6 + 1);
                workload(&format!("w{name}"), &addresses)
            }
            Document::Bad(name) => workload(&format!("w{name}"), "nowhere"),
            Document::Near(name) => {
                workload(&format!("w{name}"), "10.1.0.1").replace("kind: Workload", "kind: Workloads")
            }
            Document::Noise => "{ [\n".to_owned(),
        });
        documents(&text.collect::<Vec<_>>())
    });
    let content = prop_oneof![8 => text.prop_map(Ok), 1 => Just(Err("cannot".to_owned()))];
    prop::collection::vec(content, 0..4).prop_map(|contents| {
        let named = |(name, content)| File {
            name: format!("{name}.yaml").into(),
            content,
        };
        contents.into_iter().enumerate().map(named).collect()
    })
}

/// The names of the workloads that a random file defines.
fn names(file: &File) -> Vec<String> {
    let text = file.content.as_deref().unwrap_or_default();
    let name = |document: &str| Some(document.split_once("name: ")?.1.split_once(',')?.0.to_owned());
    let documents = text
        .split("---\n")
        .filter(|document| !document.contains("kind: Workloads"));
    documents.filter_map(name).collect()
}

/// The name in a change as [`changes`] writes it.
fn name_in(change: &str) -> String {
    change.split(' ').nth(1).unwrap_or_default().to_owned()
}

proptest! {
    #[test]
    fn names_and_addresses_stay_distinct_and_changes_real(steps in prop::collection::vec(any_files(), 1..6)) {
        let mut directory = Directory::new();
        let mut mirror: BTreeMap<ObjectKey, Arc<mesh_common::model::Workload>> = BTreeMap::new();
        for files in steps {
            let update = directory.load(&files);
            let defined: BTreeSet<_> = files.iter().flat_map(names).collect();
            for change in update.changes {
                match change {
                    Change::PutWorkload(workload) => {
                        prop_assert_ne!(mirror.get(&workload.key), Some(&workload), "no real difference");
                        mirror.insert(workload.key.clone(), workload);
                    }
                    Change::RemoveWorkload(key) => {
                        prop_assert!(mirror.remove(&key).is_some());
                        prop_assert!(!defined.contains(&*key.name), "{} is still defined", key);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let addresses: Vec<_> = mirror.values().flat_map(|workload| &workload.addresses).collect();
            let distinct: BTreeSet<_> = addresses.iter().collect();
            prop_assert_eq!(addresses.len(), distinct.len());

            let again = directory.load(&files);
            prop_assert_eq!(again.changes, [], "the same files again change nothing");

            prop_assert_eq!(&again.rejections, &update.rejections, "nor what is wrong with them");

            let nothing_wrong = update.rejections.is_empty();
            if nothing_wrong {
                let fresh = Directory::new().load(&files);
                let put: Vec<_> = mirror.values().cloned().map(Change::PutWorkload).collect();
                prop_assert_eq!(fresh.changes, put, "good files mean the same whatever was before");
            }
        }
    }

    #[test]
    fn settling_what_a_change_touches_is_settling_everything(
        steps in prop::collection::vec(any_files(), 1..7),
    ) {
        let (mut directory, mut thorough) = (Directory::new(), Directory::new());
        for files in steps {
            let everything = thorough.objects.keys().cloned().collect();
            let gone = thorough.gone(&files);
            let expected = thorough.take_touching(&files, &gone, everything);
            prop_assert_eq!(directory.load(&files), expected);
            prop_assert_eq!(directory.objects.len(), thorough.objects.len());
            for (id, slot) in &thorough.objects {
                prop_assert_eq!(&directory.objects[id].held, &slot.held);
            }
            let claims = |directory: &Directory| -> BTreeMap<IpAddr, BTreeSet<Arc<Id>>> {
                let claims = directory.claims.iter();
                claims.map(|(ip, ids)| (*ip, ids.iter().cloned().collect())).collect()
            };
            prop_assert_eq!(claims(&directory), claims(&thorough));
            let hidden = |directory: &Directory| -> Vec<BTreeSet<Arc<Id>>> {
                directory.files.values().map(|file| file.hidden.clone()).collect()
            };
            prop_assert_eq!(hidden(&directory), hidden(&thorough));
        }
    }

    #[test]
    fn an_added_file_disturbs_nothing(
        files in any_files(), added in any_files(), order in prop::sample::select(vec!["-", "0-", "1-", "z"]),
    ) {
        let mut directory = Directory::new();
        let before = directory.load(&files);
        let used: BTreeSet<_> = changes(&before).iter().map(|change| name_in(change)).collect();
        let added = added.into_iter().map(|file| File {
            name: format!("{order}{}", file.name.display()).into(),
            ..file
        });
        let all: Vec<_> = files.iter().cloned().chain(added).collect();
        for files in [all, files] {
            for change in changes(&directory.load(&files)) {
                prop_assert!(!used.contains(&name_in(&change)), "{}", change);
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}|([a-z: \\[\\]{}\\-\\n\"'#&*!|>%@`,?]{0,200})") {
        Directory::new().load(&[file("a.yaml", &text)]);
    }

    #[test]
    fn a_broken_document_reaches_no_other(noise in "[a-z: \\[\\]{}\\n\"'#&*!|>%,?]{0,80}") {
        let text = documents(&[workload("a", "10.1.0.1"), format!("{noise}\n"), workload("b", "10.1.0.2")]);
        let update = Directory::new().load(&[file("a.yaml", &text)]);
        let expected = ["+W a 10.1.0.1", "+W b 10.1.0.2"];
        prop_assert_eq!(changes(&update), expected, "{}", text);
    }
}
