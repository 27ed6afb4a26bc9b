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
        Change::PutRequestAuthentication(policy) => format!("+R {} {}", policy.key.name, policy.rules.len()),
        Change::RemoveRequestAuthentication(key) => format!("-R {}", key.name),
        Change::PutRoute(route) => format!("+{} {}", &route.kind.to_string()[..1], route.key.name),
        Change::RemoveRoute(kind, key) => format!("-{} {}", &kind.to_string()[..1], key.name),
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

/// That a workload may not have an address which another workload has.
fn taken(title: &str, ip: &str, owner: &str) -> String {
    format!(
        "{title}: spec.addresses[0]: {ip} is the address of Workload shop/{owner} already; \
         give each object addresses of its own"
    )
}

/// That a document may not have a name which another one has.
fn defined(title: &str, first: &str) -> String {
    format!("{title}: already defined at {first}; rename or remove one of the two")
}

/// That a document may not have a name which one that cannot be read may have.
fn hidden(title: &str, at: &str) -> String {
    format!(
        "{title}: already in use from {at}, which cannot be read now; \
         correct or remove that file's document, or rename this one"
    )
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
        // Another file's documents stay out as long as it may be here that the objects are defined.
        (
            &[file("a.yaml", "kind: [\n"), file("b.yaml", &good)],
            &[],
            &[
                "a.yaml:1:7: not valid YAML: unclosed bracket '['; correct the syntax of this document",
                &hidden("b.yaml:1:1: Workload shop/web", "a.yaml:1:1"),
                &hidden("b.yaml:6:1: Workload shop/db", "a.yaml:6:1"),
            ],
        ),
        (
            &[file("a.yaml", ""), file("b.yaml", &good)],
            &["+W web 10.1.0.1"],
            &[],
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
             known are v1 Service, nodemesh.io/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, \
         gateway.networking.k8s.io/v1 GRPCRoute, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication, \
         security.istio.io/v1 RequestAuthentication",
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
                "a.yaml:1:1: Service shop/web: apiVersion: missing; known are v1 Service, nodemesh.io/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, \
         gateway.networking.k8s.io/v1 GRPCRoute, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication, \
         security.istio.io/v1 RequestAuthentication",
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
fn a_last_good_version_holds_its_addresses() {
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
        (
            &[
                file("0.yaml", &workload("db", "10.1.0.1")),
                file("a.yaml", &broken),
            ],
            &[],
            &[
                &taken("0.yaml:4:35: Workload shop/db", "10.1.0.1", "web (a.yaml:1)"),
                unknown,
            ],
        ),
    ]);
}

#[test]
fn a_name_in_use_stays_with_its_document() {
    let old = file("m.yaml", &workload("web", "10.1.0.1"));
    let new = file("a.yaml", &workload("web", "10.1.0.2"));
    let refused = defined("a.yaml:1:1: Workload shop/web", "m.yaml:1:1");
    let broken = workload("web", "10.1.0.1").replace("node:", "nodes:");
    let in_one_file = |first: &str| documents(&[workload("web", first), workload("web", "10.1.0.1")]);
    check(&[
        (std::slice::from_ref(&old), &["+W web 10.1.0.1"], &[]),
        (&[new.clone(), old.clone()], &[], &[&refused]),
        // Also while its own document is edited or wrong.
        (
            &[new.clone(), file("m.yaml", &workload("web", "10.1.0.3"))],
            &["+W web 10.1.0.3"],
            &[&refused],
        ),
        (
            &[new.clone(), file("m.yaml", &broken)],
            &[],
            &[
                &refused,
                "m.yaml:4:9: Workload shop/web: spec.nodes: unknown field; did you mean node?",
            ],
        ),
        (
            &[
                new.clone(),
                file(
                    "m.yaml",
                    &workload("web", "10.1.0.3").replace("Workload", "Wrokload"),
                ),
            ],
            &[],
            &[
                &hidden("a.yaml:1:1: Workload shop/web", "m.yaml:1:1"),
                "m.yaml:2:7: Wrokload shop/web: kind: nodemesh.io/v1alpha1 Wrokload is not a known kind; did you mean Workload? \
             known are v1 Service, nodemesh.io/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, \
         gateway.networking.k8s.io/v1 GRPCRoute, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication, \
         security.istio.io/v1 RequestAuthentication",
            ],
        ),
        // The newcomer comes in when the other goes.
        (std::slice::from_ref(&new), &["+W web 10.1.0.2"], &[]),
        (
            &[new.clone(), old.clone()],
            &[],
            &[&defined("m.yaml:1:1: Workload shop/web", "a.yaml:1:1")],
        ),
    ]);
    check(&[
        (
            &[file("m.yaml", &workload("web", "10.1.0.1"))],
            &["+W web 10.1.0.1"],
            &[],
        ),
        (
            &[file("m.yaml", &in_one_file("10.1.0.2"))],
            &[],
            &[&defined("m.yaml:1:1: Workload shop/web", "m.yaml:6:1")],
        ),
        // Edited where it stands.
        (
            &[file(
                "m.yaml",
                &in_one_file("10.1.0.2").replace("10.1.0.1", "10.1.0.3"),
            )],
            &["+W web 10.1.0.3"],
            &[&defined("m.yaml:1:1: Workload shop/web", "m.yaml:6:1")],
        ),
    ]);
}

#[test]
fn an_address_in_use_stays_with_its_object() {
    let web = |ip| file("m.yaml", &workload("web", ip));
    let db = |ip| file("a.yaml", &workload("db", ip));
    let refused = taken("a.yaml:4:35: Workload shop/db", "10.1.0.1", "web (m.yaml:1)");
    check(&[
        (&[web("10.1.0.1")], &["+W web 10.1.0.1"], &[]),
        (&[db("10.1.0.1"), web("10.1.0.1")], &[], &[&refused]),
        // Also if its holder changes otherwise.
        (
            &[db("10.1.0.1"), web("10.1.0.1, 10.1.0.9")],
            &["+W web 10.1.0.1 10.1.0.9"],
            &[&refused],
        ),
        // Given up, or gone with its document: taken at the same load.
        (
            &[db("10.1.0.1"), web("10.1.0.9")],
            &["+W db 10.1.0.1", "+W web 10.1.0.9"],
            &[],
        ),
        // An edit to what another has is refused, and what was stays.
        (
            &[db("10.1.0.9"), web("10.1.0.9")],
            &[],
            &[&taken(
                "a.yaml:4:35: Workload shop/db",
                "10.1.0.9",
                "web (m.yaml:1)",
            )],
        ),
        (
            &[db("10.1.0.1"), web("10.1.0.1")],
            &[],
            &[&taken(
                "m.yaml:4:35: Workload shop/web",
                "10.1.0.1",
                "db (a.yaml:1)",
            )],
        ),
        (&[db("10.1.0.9")], &["-W web", "+W db 10.1.0.9"], &[]),
    ]);
}

#[test]
fn addresses_change_hands_in_one_load_if_all_hands_are_free() {
    let three = |ips: [&str; 3]| {
        ["a", "b", "c"]
            .into_iter()
            .zip(ips)
            .map(|(name, ip)| file(&format!("{name}.yaml"), &workload(name, ip)))
            .collect::<Vec<_>>()
    };
    let mut stuck = three(["10.1.0.2", "10.1.0.3", "10.1.0.1"]);
    stuck[2].content = Ok(workload("c", "nowhere"));
    let nowhere = Directory::new().load(&stuck[2..]);
    check(&[
        (
            &three(["10.1.0.1", "10.1.0.2", "10.1.0.3"]),
            &["+W a 10.1.0.1", "+W b 10.1.0.2", "+W c 10.1.0.3"],
            &[],
        ),
        // `c` keeps its address, so `b` has to as well, and then `a`.
        (
            &stuck,
            &[],
            &[
                &taken("a.yaml:4:35: Workload shop/a", "10.1.0.2", "b (b.yaml:1)"),
                &taken("b.yaml:4:35: Workload shop/b", "10.1.0.3", "c (c.yaml:1)"),
                &nowhere.rejections[0].to_string(),
            ],
        ),
        (
            &three(["10.1.0.2", "10.1.0.3", "10.1.0.1"]),
            &["+W a 10.1.0.2", "+W b 10.1.0.3", "+W c 10.1.0.1"],
            &[],
        ),
        // In use goes before new, for a free address too.
        (
            &[
                three(["10.1.0.2", "10.1.0.3", "10.1.0.4"]),
                vec![file("0.yaml", &workload("new", "10.1.0.4"))],
            ]
            .concat(),
            &["+W c 10.1.0.4"],
            &[&taken(
                "0.yaml:4:35: Workload shop/new",
                "10.1.0.4",
                "c (c.yaml:1)",
            )],
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
            &[],
            &[message, &hidden("b.yaml:1:1: Workload shop/db", "a.yaml:6:1")],
        ),
        (
            &[file("b.yaml", &workload("db", "10.1.0.3"))],
            &["-W web", "+W db 10.1.0.3"],
            &[],
        ),
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
             known are v1 Service, nodemesh.io/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, \
         gateway.networking.k8s.io/v1 GRPCRoute, \
         security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication, \
         security.istio.io/v1 RequestAuthentication",
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
