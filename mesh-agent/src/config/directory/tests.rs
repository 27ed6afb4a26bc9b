//! Tests of what files say together: identity, last good versions, names and addresses.

use std::net::IpAddr;

use super::*;

mod names;
mod random;

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
