//! Tests of what files say together: identity, last good versions, names and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_common::model::ObjectKey;
use proptest::prelude::*;

use super::*;

fn file(name: &str, text: &str) -> File {
    File {
        name: name.into(),
        content: Ok(text.to_owned()),
    }
}

fn workload(name: &str, address: &str) -> String {
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ node: node-a, addresses: [{address}] }}\n"
    )
}

fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ clusterIP: {address}, ports: [{{ port: 80 }}] }}\n"
    )
}

fn documents(documents: &[String]) -> String {
    documents.join("---\n")
}

/// The changes in short: `+W` and `+S` with addresses, `-W` and `-S`.
fn changes(update: &Update) -> Vec<String> {
    let list = |ips: &[IpAddr]| ips.iter().map(|ip| format!(" {ip}")).collect::<String>();
    let short = |change: &Change| match change {
        Change::PutWorkload(workload) => format!("+W {}{}", workload.key.name, list(&workload.addresses)),
        Change::PutService(service) => format!("+S {}{}", service.key.name, list(&service.cluster_ips)),
        Change::RemoveWorkload(key) => format!("-W {}", key.name),
        Change::RemoveService(key) => format!("-S {}", key.name),
        Change::PutAuthorizationPolicy(policy) => format!("+A {} {}", policy.key.name, policy.action),
        Change::RemoveAuthorizationPolicy(key) => format!("-A {}", key.name),
        Change::PutPeerAuthentication(policy) => format!("+P {} {:?}", policy.key.name, policy.mode),
        Change::RemovePeerAuthentication(key) => format!("-P {}", key.name),
    };
    update.changes.iter().map(short).collect()
}

fn messages(update: &Update) -> Vec<String> {
    update.rejections.iter().map(ToString::to_string).collect()
}

/// Loads one step after the other and compares changes and rejections of each.
#[track_caller]
fn check(steps: &[(&[File], &[&str], &[&str])]) {
    let mut directory = Directory::new();
    for (number, (files, expected_changes, expected_messages)) in steps.iter().enumerate() {
        let update = directory.load(files);
        assert_eq!(changes(&update), *expected_changes, "changes of step {number}");
        assert_eq!(
            messages(&update),
            *expected_messages,
            "rejections of step {number}"
        );
    }
}

#[test]
fn objects_come_change_and_go_with_their_documents() {
    let web = |address| workload("web", address);
    check(&[
        (
            &[file(
                "a.yaml",
                &documents(&[web("10.1.0.1"), service("web", "10.96.0.1")]),
            )],
            &["+W web 10.1.0.1", "+S web 10.96.0.1"],
            &[],
        ),
        (
            &[file(
                "a.yaml",
                &documents(&[service("web", "10.96.0.1"), web("10.1.0.1")]),
            )],
            &[],
            &[],
        ),
        (
            &[file("a.yaml", &web("10.1.0.2"))],
            &["-S web", "+W web 10.1.0.2"],
            &[],
        ),
        (
            &[
                file("renamed.yaml", &web("10.1.0.2")),
                file("empty.yaml", "# nothing\n---\n"),
            ],
            &[],
            &[],
        ),
        (&[], &["-W web"], &[]),
    ]);
}

#[test]
fn a_broken_document_keeps_its_object_alone() {
    let broken = workload("web", "10.1.0.1").replace("node:", "nodes:");
    let message = "a.yaml:4:9: Workload shop/web: spec.nodes: unknown field; did you mean node?";
    check(&[
        (
            &[file(
                "a.yaml",
                &documents(&[workload("web", "10.1.0.1"), workload("db", "10.1.0.2")]),
            )],
            &["+W db 10.1.0.2", "+W web 10.1.0.1"],
            &[],
        ),
        // `db` is gone because the broken document is `web`'s.
        (&[file("a.yaml", &broken)], &["-W db"], &[message]),
        (&[file("a.yaml", &workload("web", "10.1.0.1"))], &[], &[]),
        (&[file("a.yaml", "")], &["-W web"], &[]),
        (&[file("a.yaml", &broken)], &[], &[message]),
    ]);
}

#[test]
fn a_document_that_could_be_anything_keeps_what_its_file_had() {
    let good = documents(&[workload("web", "10.1.0.1"), workload("db", "10.1.0.2")]);
    let syntax = documents(&[workload("web", "10.1.0.3"), "kind: [\n".to_owned()]);
    let nameless = documents(&[workload("web", "10.1.0.3"), workload("Db", "10.1.0.2")]);
    let other = file("b.yaml", &workload("cache", "10.1.0.9"));
    check(&[
        (
            &[file("a.yaml", &good), other.clone()],
            &["+W cache 10.1.0.9", "+W db 10.1.0.2", "+W web 10.1.0.1"],
            &[],
        ),
        (
            &[file("a.yaml", &syntax)],
            &["-W cache", "+W web 10.1.0.3"],
            &["a.yaml:6:7: not valid YAML: unclosed bracket '['; correct the syntax of this document"],
        ),
        (
            &[file("a.yaml", &nameless)],
            &[],
            &[
                "a.yaml:8:19: metadata.name: \"Db\" is not a DNS name; use lower-case letters, digits and inner hyphens",
            ],
        ),
        // Defined elsewhere now: nothing is left to keep.
        (
            &[file("a.yaml", "kind: [\n"), file("b.yaml", &good)],
            &["+W web 10.1.0.1"],
            &["a.yaml:1:7: not valid YAML: unclosed bracket '['; correct the syntax of this document"],
        ),
    ]);
}

#[test]
fn a_mistyped_kind_or_version_keeps_the_object_it_meant() {
    let good = documents(&[service("web", "10.96.0.1"), service("db", "10.96.0.2")]);
    let kind = service("web", "10.96.0.1").replace("Service", "Servcie");
    let version = service("web", "10.96.0.1").replace("v1", "v2");
    let missing = service("web", "10.96.0.1").replace("apiVersion: v1\n", "");
    let foreign = service("web", "10.96.0.1").replace("v1", "serving.knative.dev/v1");
    check(&[
        (
            &[file("a.yaml", &good)],
            &["+S db 10.96.0.2", "+S web 10.96.0.1"],
            &[],
        ),
        (
            &[file("a.yaml", &kind)],
            &["-S db"],
            &[
                "a.yaml:2:7: Servcie shop/web: kind: v1 Servcie is not a known kind; did you mean Service? \
             known are v1 Service, nodemesh.io/v1alpha1 Workload, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication",
            ],
        ),
        (
            &[file("a.yaml", &version)],
            &[],
            &["a.yaml:1:13: Service shop/web: apiVersion: v2 is not a known version of Service; use v1"],
        ),
        (
            &[file("a.yaml", &missing)],
            &[],
            &[
                "a.yaml:1:1: Service shop/web: apiVersion: missing; known are v1 Service, nodemesh.io/v1alpha1 Workload, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication",
            ],
        ),
        (
            &[file("a.yaml", &foreign)],
            &["-S web"],
            &[
                "a.yaml:1:13: Service shop/web: apiVersion: serving.knative.dev/v1 is not a known version of Service; \
             use v1",
            ],
        ),
    ]);
}

#[test]
fn the_first_of_two_definitions_counts() {
    let twice = [
        file("b.yaml", &workload("web", "10.1.0.2")),
        file("a.yaml", &workload("web", "10.1.0.1")),
    ];
    let thrice = documents(&[workload("web", "10.1.0.1"), workload("web", "10.1.0.1")]);
    let remedy = "rename or remove one of the two";
    check(&[
        (
            &twice,
            &["+W web 10.1.0.1"],
            &[&format!(
                "b.yaml:1:1: Workload shop/web: already defined at a.yaml:1:1; {remedy}"
            )],
        ),
        (
            &[file("a.yaml", &thrice)],
            &[],
            &[&format!(
                "a.yaml:6:1: Workload shop/web: already defined at a.yaml:1:1; {remedy}"
            )],
        ),
        (
            &[file("b.yaml", &workload("web", "10.1.0.2"))],
            &["+W web 10.1.0.2"],
            &[],
        ),
    ]);
}

#[test]
fn the_first_with_an_address_has_it() {
    let remedy = "give each object addresses of its own";
    check(&[
        (
            &[
                file("a.yaml", &workload("web", "10.1.0.1")),
                file(
                    "b.yaml",
                    &documents(&[workload("db", "\"::ffff:10.1.0.1\""), service("web", "10.1.0.1")]),
                ),
                file(
                    "c.yaml",
                    &documents(&[service("x", "10.96.0.1"), service("y", "10.96.0.1")]),
                ),
            ],
            &["+W web 10.1.0.1", "+S x 10.96.0.1"],
            &[
                &format!(
                    "b.yaml:4:35: Workload shop/db: spec.addresses[0]: 10.1.0.1 is the address of \
                     Workload shop/web (a.yaml:1) already; {remedy}"
                ),
                &format!(
                    "b.yaml:9:20: Service shop/web: spec.clusterIP: 10.1.0.1 is the address of \
                     Workload shop/web (a.yaml:1) already; {remedy}"
                ),
                &format!(
                    "c.yaml:9:20: Service shop/y: spec.clusterIP: 10.96.0.1 is the address of \
                     Service shop/x (c.yaml:1) already; {remedy}"
                ),
            ],
        ),
        // Addresses change hands in one edit.
        (
            &[file(
                "a.yaml",
                &documents(&[workload("web", "10.1.0.2"), workload("db", "10.1.0.1")]),
            )],
            &["-S x", "+W db 10.1.0.1", "+W web 10.1.0.2"],
            &[],
        ),
        (
            &[file(
                "a.yaml",
                &documents(&[workload("web", "10.1.0.1"), workload("db", "10.1.0.2")]),
            )],
            &["+W db 10.1.0.2", "+W web 10.1.0.1"],
            &[],
        ),
    ]);
}

#[test]
fn a_last_good_version_holds_its_addresses_against_later_objects() {
    let broken = workload("web", "10.1.0.1").replace("node:", "nodes:");
    let unknown = "a.yaml:4:9: Workload shop/web: spec.nodes: unknown field; did you mean node?";
    check(&[
        (
            &[file("a.yaml", &workload("web", "10.1.0.1"))],
            &["+W web 10.1.0.1"],
            &[],
        ),
        (
            &[
                file("a.yaml", &broken),
                file("b.yaml", &workload("db", "10.1.0.1")),
            ],
            &[],
            &[
                unknown,
                "b.yaml:4:35: Workload shop/db: spec.addresses[0]: 10.1.0.1 is the address of Workload shop/web \
             (a.yaml:1) already; give each object addresses of its own",
            ],
        ),
        // Against an earlier one it yields.
        (
            &[
                file("0.yaml", &workload("db", "10.1.0.1")),
                file("a.yaml", &broken),
            ],
            &["-W web", "+W db 10.1.0.1"],
            &[
                unknown,
                "a.yaml:1:1: Workload shop/web: 10.1.0.1, an address of its last good version, is now the address of \
             Workload shop/db; it is not in use any more; correct the object, or give back its address",
            ],
        ),
    ]);
}

#[test]
fn an_unreadable_file_keeps_its_objects() {
    let unreadable = File {
        name: "a.yaml".into(),
        content: Err("Permission denied".to_owned()),
    };
    let message = "a.yaml: cannot be read: Permission denied; make it a UTF-8 text that the agent may read; \
                   its objects stay as they were";
    let good = documents(&[workload("web", "10.1.0.1"), workload("db", "10.1.0.2")]);
    check(&[
        (
            &[file("a.yaml", &good)],
            &["+W db 10.1.0.2", "+W web 10.1.0.1"],
            &[],
        ),
        (std::slice::from_ref(&unreadable), &[], &[message]),
        (
            &[unreadable.clone(), file("b.yaml", &workload("db", "10.1.0.3"))],
            &["+W db 10.1.0.3"],
            &[message],
        ),
        (&[file("b.yaml", &workload("db", "10.1.0.3"))], &["-W web"], &[]),
    ]);
}

#[test]
fn items_of_a_list_are_objects_of_their_own() {
    let list = "\
apiVersion: v1
kind: List
metadata: { resourceVersion: \"\" }
items:
- apiVersion: v1
  kind: Service
  metadata: { name: web }
  spec: { clusterIP: 10.96.0.1, ports: [{ port: 80 }] }
- apiVersion: v1
  kind: Service
  metadata: { name: db }
  spec: { clusterIP: 10.96.0.2, ports: [{ port: 99999 }] }
- apiVersion: v1
  kind: Service
  metadata: { name: cache }
  spec: { clusterIP: 10.96.0.3, ports: [{ port: 6379 }] }
- just text
";
    check(&[(
        &[file("a.yaml", list)],
        &["+S cache 10.96.0.3", "+S web 10.96.0.1"],
        &[
            "a.yaml:12:49: Service default/db: spec.ports[0].port: 99999 is not a port; use 1 to 65535",
            "a.yaml:17:3: expected an object, found the text \"just text\"; begin with apiVersion and kind; \
         known are v1 Service, nodemesh.io/v1alpha1 Workload, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication",
        ],
    )]);
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\t{\"apiVersion\": \"v1\", \
                \"kind\": \"Service\", \"metadata\": {\"name\": \"web\"}, \"spec\": {\"clusterIP\": \"10.96.0.1\"}}]}";
    check(&[(&[file("a.json", json)], &["+S web 10.96.0.1"], &[])]);
    check(&[
        (
            &[file("a.yaml", "{apiVersion: v1, kind: List, items: 1}")],
            &[],
            &["a.yaml:1:37: items: expected a list, found the number 1; write `- item` lines below it"],
        ),
        (
            &[file("a.yaml", "{apiVersion: v1, kind: List}")],
            &[],
            &["a.yaml:1:1: items: missing; add this field"],
        ),
    ]);
}

#[test]
fn what_has_no_effect_is_told() {
    let text = service("dns", "10.96.0.10").replace("{ port: 80 }", "{ port: 53, protocol: UDP }");
    let update = Directory::new().load(&[file("a.yaml", &text)]);
    assert_eq!(changes(&update), ["+S dns 10.96.0.10"]);
    assert_eq!(messages(&update), [""; 0]);
    assert_eq!(
        update.ignored.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "a.yaml:4:62: Service shop/dns: spec.ports[0].protocol: UDP is not carried by the mesh; \
         this port is left to the network"
        ]
    );
}

/// A document of a random file, and whether it defines an object.
#[derive(Clone, Debug)]
enum Document {
    Good(u8, u8),
    Bad(u8),
    Noise,
}

fn any_document() -> impl Strategy<Value = Document> {
    prop_oneof![
        6 => (0u8..6, 0u8..6).prop_map(|(name, address)| Document::Good(name, address)),
        2 => (0u8..6).prop_map(Document::Bad),
        1 => Just(Document::Noise),
    ]
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let text = prop::collection::vec(any_document(), 0..4).prop_map(|list| {
        let text = list.into_iter().map(|document| match document {
            Document::Good(name, address) => {
                workload(&format!("w{name}"), &format!("10.1.0.{}", address + 1))
            }
            Document::Bad(name) => workload(&format!("w{name}"), "nowhere"),
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

proptest! {
    #[test]
    fn names_and_addresses_stay_distinct_and_changes_real(steps in prop::collection::vec(any_files(), 1..6)) {
        let mut directory = Directory::new();
        let mut mirror: BTreeMap<ObjectKey, mesh_common::model::Workload> = BTreeMap::new();
        for files in steps {
            let update = directory.load(&files);
            for change in update.changes {
                match change {
                    Change::PutWorkload(workload) => {
                        prop_assert_ne!(mirror.get(&workload.key), Some(&workload), "no real difference");
                        mirror.insert(workload.key.clone(), workload);
                    }
                    Change::RemoveWorkload(key) => prop_assert!(mirror.remove(&key).is_some()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let addresses: Vec<_> = mirror.values().flat_map(|workload| &workload.addresses).collect();
            let distinct: BTreeSet<_> = addresses.iter().collect();
            prop_assert_eq!(addresses.len(), distinct.len());

            let again = directory.load(&files);
            prop_assert_eq!(again.changes, [], "the same files again change nothing");

            let nothing_wrong = update.rejections.is_empty();
            if nothing_wrong {
                let fresh = Directory::new().load(&files);
                let put: Vec<_> = mirror.values().cloned().map(Change::PutWorkload).collect();
                prop_assert_eq!(fresh.changes, put, "good files mean the same whatever was before");
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
