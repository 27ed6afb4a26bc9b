//! Tests of the kinds: what is accepted, what it becomes, and the exact words for what is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::{
    Locate, ObjectKey, Service, ServicePort, TargetPort, TunnelProtocol, Workload, WorkloadPort,
};

use crate::config::{Change, Directory, File};

mod policies;
mod routes;

/// Loads one file and returns its only object, or the rejections.
fn load(text: &str) -> Result<Change, Vec<String>> {
    let file = File {
        name: "shop.yaml".into(),
        content: Ok(text.to_owned()),
    };
    let mut update = Directory::new().load(&[file]);
    if update.rejections.is_empty() {
        assert_eq!(update.changes.len(), 1, "{update:?}");
        Ok(update.changes.remove(0))
    } else {
        assert_eq!(update.changes, [], "a rejected object is not used");
        Err(update.rejections.iter().map(ToString::to_string).collect())
    }
}

fn workload(text: &str) -> Workload {
    match load(text) {
        Ok(Change::PutWorkload(workload)) => Arc::unwrap_or_clone(workload),
        other => panic!("{other:?}"),
    }
}

fn service(text: &str) -> Service {
    match load(text) {
        Ok(Change::PutService(service)) => Arc::unwrap_or_clone(service),
        other => panic!("{other:?}"),
    }
}

/// A workload with these fields in its `spec`.
fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-1, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

/// A service with these fields in its `spec`.
fn service_with(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{{spec}}}\n")
}

#[track_caller]
fn rejected(text: &str, expected: &[&str]) {
    assert_eq!(load(text).unwrap_err(), expected, "{text}");
}

#[test]
fn a_full_workload() {
    let text = "
apiVersion: nodemesh.io/v1alpha1
kind: Workload
metadata: { name: web-1, namespace: shop, labels: { app: web, app.kubernetes.io/name: web } }
spec:
  serviceAccount: web
  node: node-a
  addresses: [10.1.0.10, \"fd00::10\"]
  ports: [{ name: http, port: 8080, appProtocol: http }, { port: 9090 }]
  ready: false
  locate: { netns: web-1 }
";
    let labels = [("app", "web"), ("app.kubernetes.io/name", "web")];
    assert_eq!(
        workload(text),
        Workload {
            key: ObjectKey::new("shop", "web-1"),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            service_account: "web".to_owned(),
            node: "node-a".to_owned(),
            addresses: vec!["10.1.0.10".parse().unwrap(), "fd00::10".parse().unwrap()],
            ports: vec![
                WorkloadPort {
                    name: Some("http".to_owned()),
                    port: 8080,
                    app_protocol: Some("http".to_owned())
                },
                WorkloadPort {
                    name: None,
                    port: 9090,
                    app_protocol: None
                },
            ],
            ready: false,
            policies: Vec::new(),
            tunnel: TunnelProtocol::default(),
            locate: Some(Locate::NetnsName("web-1".to_owned())),
        }
    );
}

#[test]
fn a_short_workload_gets_the_defaults() {
    let text = "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: web-1, labels: ~}\n\
                spec: {node: node-a, addresses: ['::ffff:10.1.0.10'], ports: null}\n";
    assert_eq!(
        workload(text),
        Workload {
            key: ObjectKey::new("default", "web-1"),
            labels: BTreeMap::new().into(),
            service_account: "default".to_owned(),
            node: "node-a".to_owned(),
            addresses: vec!["10.1.0.10".parse().unwrap()],
            ports: Vec::new(),
            ready: true,
            policies: Vec::new(),
            tunnel: TunnelProtocol::default(),
            locate: None,
        }
    );
}

#[test]
fn the_protocols_of_tunnels() {
    for (text, protocol) in [
        ("NODEMESH", TunnelProtocol::Nodemesh),
        ("HBONE", TunnelProtocol::Hbone),
    ] {
        let text = with_spec(&format!(
            "node: node-a, addresses: [10.1.0.1], tunnelProtocol: {text}"
        ));
        assert_eq!(workload(&text).tunnel, protocol);
    }
}

#[test]
fn the_ways_to_find_a_workload() {
    for (way, locate) in [
        ("netns: web-1", Locate::NetnsName("web-1".to_owned())),
        (
            "netnsPath: /run/netns/x",
            Locate::NetnsPath("/run/netns/x".into()),
        ),
        ("cgroup: /kubepods/podX", Locate::Cgroup("/kubepods/podX".into())),
        ("pid: 123", Locate::Pid(123)),
    ] {
        let text = with_spec(&format!("node: node-a, addresses: [10.1.0.1], locate: {{{way}}}"));
        assert_eq!(workload(&text).locate, Some(locate));
    }
}

#[test]
fn faults_of_a_workload() {
    let at = "Workload shop/web-1: spec";
    for (spec, expected) in [
        (
            "addresses: [10.1.0.1]",
            "1:7: W: spec.node: missing; name the node that the workload runs on",
        ),
        (
            "node: n",
            "4:7: W: spec.addresses: missing; list the workload's own addresses",
        ),
        (
            "node: n, addresses: []",
            "4:28: W: spec.addresses: empty; list at least one address of the workload",
        ),
    ]
    .map(|(spec, expected)| (spec, expected.replace("1:7: W", "4:7: W").replace("W: spec", at)))
    {
        rejected(&with_spec(spec), &[&format!("shop.yaml:{expected}")]);
    }
    let label = "use up to 15 lower-case letters, digits and single inner hyphens, with a letter";
    let name = "use lower-case letters, digits and inner hyphens";
    let one_way = "give one of netns, netnsPath, cgroup, pid";
    for (more, expected) in [
        ("ports: [{port: 70000}]", ".ports[0].port: 70000 is not a port; use 1 to 65535".to_owned()),
        ("ports: [{port: 0}]", ".ports[0].port: 0 is not a port; use 1 to 65535".to_owned()),
        ("ports: [{port: -1}]", ".ports[0].port: -1 is not a port; use 1 to 65535".to_owned()),
        (
            "ports: [{port: '80'}]",
            ".ports[0].port: expected a whole number, found the text \"80\"; write it in digits without quotes"
                .to_owned(),
        ),
        (
            "ports: [{port: 80.5}]",
            ".ports[0].port: expected a whole number, found the number 80.5; write it in digits without quotes"
                .to_owned(),
        ),
        ("ports: [{name: http}]", ".ports[0].port: missing; add this field".to_owned()),
        (
            "ports: {port: 80}",
            ".ports: expected a list, found a map; write `- item` lines below it".to_owned(),
        ),
        (
            "ports: [80]",
            ".ports[0]: expected a map of fields, found the number 80; write `field: value` lines below it"
                .to_owned(),
        ),
        (
            "ports: [{port: 80}, {port: 80}]",
            ".ports[1].port: 80 is the port of spec.ports[0].port already; use each port once".to_owned(),
        ),
        (
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            ".ports[1].name: a is the name of spec.ports[0].name already; use each name once".to_owned(),
        ),
        ("ports: [{port: 80, name: HTTP}]", format!(".ports[0].name: \"HTTP\" is not a port name; {label}")),
        ("serviceAccount: Web", format!(".serviceAccount: \"Web\" is not a DNS name; {name}")),
        (
            "serviceAccount: 1",
            ".serviceAccount: expected text, found the number 1; put it in quotes".to_owned(),
        ),
        (
            "ready: yes",
            ".ready: expected true or false, found the text \"yes\"; write true or false without quotes".to_owned(),
        ),
        (
            "tunnelProtocol: NONE",
            ".tunnelProtocol: \"NONE\" is not a tunnel protocol; \
             use NODEMESH or HBONE; for plaintext a PeerAuthentication with mode DISABLE"
                .to_owned(),
        ),
        ("locate: {}", format!(".locate: no way to find the workload; {one_way}")),
        ("locate: {pid: 1, netns: a}", format!(".locate: 2 ways to find the workload; {one_way}")),
        ("locate: {pid: 0}", ".locate.pid: 0 is not a process id; use 1 to 4194304".to_owned()),
        (
            "locate: {netns: a/b}",
            ".locate.netns: \"a/b\" is not the name of a network namespace; \
             use a name that `ip netns` lists, or netnsPath for a path"
                .to_owned(),
        ),
        (
            "locate: {netnsPath: run/x}",
            ".locate.netnsPath: \"run/x\" is not an absolute path; begin it with `/`".to_owned(),
        ),
        (
            "locate: {cgroup: /a/../b}",
            ".locate.cgroup: `..` leads out of the cgroup; write the path without `..`".to_owned(),
        ),
        ("locate: {nets: a}", ".locate.nets: unknown field; did you mean netns?".to_owned()),
        (
            "locate: {container: a}",
            ".locate.container: unknown field; known here: netns, netnsPath, cgroup, pid".to_owned(),
        ),
    ] {
        let text = with_spec(&format!("node: n, addresses: [10.1.0.1], {more}"));
        let [found] = &load(&text).unwrap_err()[..] else { panic!("{text}") };
        let (place, found) = found.split_once(": ").unwrap();
        assert_eq!(found, format!("{at}{expected}"), "{text}");
        let column: usize = place.strip_prefix("shop.yaml:4:").unwrap().parse().unwrap();
        assert!(column >= text.lines().nth(3).unwrap().find(more.split(':').next().unwrap()).unwrap(), "{place}");
    }
}

#[test]
fn faults_of_an_address() {
    for (address, reason) in [
        (
            "10.1.0",
            "10.1.0 is not an IP address; use one such as 10.1.0.10 or fd00::10",
        ),
        (
            "10.1.0.256",
            "10.1.0.256 is not an IP address; use one such as 10.1.0.10 or fd00::10",
        ),
        (
            "10.1.0.1/24",
            "10.1.0.1/24 is a network, not an address; use 10.1.0.1",
        ),
        (
            "0.0.0.0",
            "0.0.0.0 cannot be the address of one object in a mesh; use a unicast address",
        ),
        (
            "127.0.0.1",
            "127.0.0.1 cannot be the address of one object in a mesh; use a unicast address",
        ),
        (
            "'::ffff:127.0.0.1'",
            "::ffff:127.0.0.1 cannot be the address of one object in a mesh; use a unicast address",
        ),
        (
            "'ff02::1'",
            "ff02::1 cannot be the address of one object in a mesh; use a unicast address",
        ),
        (
            "255.255.255.255",
            "255.255.255.255 cannot be the address of one object in a mesh; use a unicast address",
        ),
    ] {
        rejected(
            &with_spec(&format!("node: n, addresses: [{address}]")),
            &[&format!(
                "shop.yaml:4:29: Workload shop/web-1: spec.addresses[0]: {reason}"
            )],
        );
    }
    rejected(
        &with_spec("node: n, addresses: [10.1.0.1, '::ffff:10.1.0.1']"),
        &[
            "shop.yaml:4:39: Workload shop/web-1: spec.addresses[1]: 10.1.0.1 is the address of spec.addresses[0] \
         already; use each address once",
        ],
    );
}

#[test]
fn everything_wrong_with_an_object_is_told_at_once() {
    rejected(
        "apiVersion: nodemesh.io/v1alpha1
kind: Workload
metadata:
  name: web-1
  namespace: shop
  labels:
    app: Web!
    -x: y
spec:
  node: Node
  addresses: [nowhere]
  ports:
  - port: 0
",
        &[
            "shop.yaml:8:9: Workload shop/web-1: metadata.labels.-x: \"-x\" is not a label name; \
             use up to 63 letters, digits and inner `-`, `_` or `.`",
            "shop.yaml:7:10: Workload shop/web-1: metadata.labels.app: \"Web!\" is not a label value; \
             use up to 63 letters, digits and inner `-`, `_` or `.`",
            "shop.yaml:10:9: Workload shop/web-1: spec.node: \"Node\" is not a DNS name; \
             use lower-case letters, digits and inner hyphens",
            "shop.yaml:11:15: Workload shop/web-1: spec.addresses[0]: nowhere is not an IP address; \
             use one such as 10.1.0.10 or fd00::10",
            "shop.yaml:13:11: Workload shop/web-1: spec.ports[0].port: 0 is not a port; use 1 to 65535",
        ],
    );
    rejected(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: web-1, nmspace: shop}\n\
         spec: {nod: a}\nstats: {}\n",
        &[
            "shop.yaml:5:1: Workload default/web-1: stats: unknown field; did you mean status?",
            "shop.yaml:3:25: Workload default/web-1: metadata.nmspace: unknown field; did you mean namespace?",
            "shop.yaml:4:8: Workload default/web-1: spec.nod: unknown field; did you mean node?",
        ],
    );
}

#[test]
fn faults_of_the_frame() {
    let known = "known are v1 Service, nodemesh.io/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, \
                 gateway.networking.k8s.io/v1 GRPCRoute, \
                 security.istio.io/v1 AuthorizationPolicy, security.istio.io/v1 PeerAuthentication, \
                 security.istio.io/v1 RequestAuthentication";
    let head = "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\n";
    for (text, expected) in [
        ("just text\n".to_owned(), format!("1:1: expected an object, found the text \"just text\"; begin with apiVersion and kind; {known}")),
        ("- a\n".to_owned(), format!("1:1: expected an object, found a list; begin with apiVersion and kind; {known}")),
        ("a: b\n".to_owned(), format!("1:1: kind: missing; {known}")),
        ("kind: 1\n".to_owned(), format!("1:7: kind: expected text, found the number 1; {known}")),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n".to_owned(),
            format!("2:7: Deployment default/web: kind: apps/v1 Deployment is not a known kind; {known}"),
        ),
        (head.to_owned(), "1:1: metadata: missing; add this field".to_owned()),
        (format!("{head}metadata: {{}}\nspec: {{}}\n"), "3:11: metadata.name: missing; add this field".to_owned()),
        (
            format!("{head}metadata: {{name: 1}}\nspec: {{}}\n"),
            "3:18: metadata.name: expected text, found the number 1; put it in quotes".to_owned(),
        ),
        (
            format!("{head}metadata: {{name: web}}\n"),
            "1:1: Workload default/web: spec: missing; add this field".to_owned(),
        ),
        (
            format!("{head}metadata: {{name: web, labels: {{v: 1.10}}}}\nspec: {{}}\n"),
            "3:35: Workload default/web: metadata.labels.v: expected text, found the number 1.1; put it in quotes"
                .to_owned(),
        ),
        (
            format!("{head}metadata: {{name: web, namespace: a.b}}\nspec: {{node: n, addresses: [10.1.0.1]}}\n"),
            "3:34: metadata.namespace: \"a.b\" is not a DNS label; use lower-case letters, digits and inner hyphens"
                .to_owned(),
        ),
    ] {
        rejected(&text, &[&format!("shop.yaml:{expected}")]);
    }
}

#[test]
fn a_service_as_the_cluster_has_it() {
    let text = r#"
apiVersion: v1
kind: Service
metadata:
  annotations: { kubectl.kubernetes.io/last-applied-configuration: "{}" }
  creationTimestamp: "2026-01-05T10:00:00Z"
  finalizers: [service.kubernetes.io/load-balancer-cleanup]
  generation: 1
  labels: { app: web }
  managedFields:
  - apiVersion: v1
    fieldsType: FieldsV1
    fieldsV1: { "f:spec": { "f:ports": { ".": {}, 'k:{"port":80,"protocol":"TCP"}': { ".": {} } } } }
    manager: kubectl
    operation: Update
    time: "2026-01-05T10:00:00Z"
  name: web
  namespace: shop
  ownerReferences: []
  resourceVersion: "4711"
  uid: 0d6ab0f5-3c54-4d6e-9c3e-51d6ad2c5f3a
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  externalIPs: [192.0.2.1]
  externalTrafficPolicy: Cluster
  healthCheckNodePort: 30001
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  loadBalancerClass: example.com/lb
  loadBalancerIP: 192.0.2.2
  loadBalancerSourceRanges: [192.0.2.0/24]
  ports:
  - { name: http, port: 80, protocol: TCP, targetPort: http, nodePort: 30000, appProtocol: kubernetes.io/h2c }
  - { name: admin, port: 9000 }
  - { name: dns, port: 9000, protocol: UDP }
  - { name: raw, port: 81, targetPort: 8081 }
  publishNotReadyAddresses: false
  selector: { app: web }
  sessionAffinity: None
  sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } }
  trafficDistribution: PreferClose
  type: LoadBalancer
status:
  conditions: []
  loadBalancer: { ingress: [{ ip: 192.0.2.2, ipMode: VIP }] }
"#;
    let port = |name: &str, port, target, app_protocol: Option<&str>| ServicePort {
        name: Some(name.to_owned()),
        port,
        target,
        app_protocol: app_protocol.map(str::to_owned),
    };
    assert_eq!(
        service(text),
        Service {
            key: ObjectKey::new("shop", "web"),
            cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()],
            ports: vec![
                port(
                    "http",
                    80,
                    TargetPort::Name("http".to_owned()),
                    Some("kubernetes.io/h2c")
                ),
                port("admin", 9000, TargetPort::Number(9000), None),
                port("raw", 81, TargetPort::Number(8081), None),
            ],
            selector: [("app".to_owned(), "web".to_owned())].into(),
        }
    );
}

#[test]
fn services_without_addresses() {
    for spec in [
        "clusterIP: None, ports: [{port: 80}]",
        "clusterIP: None, clusterIPs: [None], ports: [{port: 80}]",
        "clusterIP: '', ports: [{port: 80}]",
        "ports: [{port: 80}]",
        "type: ExternalName, externalName: example.com",
        "",
    ] {
        assert_eq!(
            service(&service_with(spec)).cluster_ips,
            [] as [std::net::IpAddr; 0],
            "{spec}"
        );
    }
}

#[test]
fn faults_of_a_service() {
    for (spec, place, expected) in [
        (
            "clusterIP: nowhere",
            "4:19",
            "clusterIP: nowhere is not an IP address; use one such as 10.1.0.10 or fd00::10",
        ),
        (
            "clusterIP: 10.96.0.2, clusterIPs: [10.96.0.1]",
            "4:19",
            "clusterIP: 10.96.0.2 is not the first of spec.clusterIPs; make both the same, or remove one of the fields",
        ),
        (
            "clusterIPs: [10.96.0.1, 10.96.0.1]",
            "4:32",
            "clusterIPs[1]: 10.96.0.1 is the address of spec.clusterIPs[0] already; use each address once",
        ),
        (
            "ports: [{port: 80}, {port: 81, name: a}]",
            "4:16",
            "ports[0].name: missing; name every port when there are several",
        ),
        (
            "ports: [{port: 80, name: a}, {port: 80, name: b}]",
            "4:44",
            "ports[1].port: 80/TCP is the port of spec.ports[0].port already; use each port once",
        ),
        (
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            "4:54",
            "ports[1].name: a is the name of spec.ports[0].name already; use each name once",
        ),
        (
            "ports: [{port: 80, protocol: ICMP}]",
            "4:37",
            "ports[0].protocol: \"ICMP\" is not a protocol; use TCP, UDP or SCTP",
        ),
        (
            "ports: [{port: 80, targetPort: 65536}]",
            "4:39",
            "ports[0].targetPort: 65536 is not a port; use 1 to 65535",
        ),
        (
            "ports: [{port: 80, targetPort: '8080'}]",
            "4:39",
            "ports[0].targetPort: \"8080\" is not a port name; use a port number without quotes, or the name of a workload's port",
        ),
        (
            "ports: [{port: 80, targetPort: [1]}]",
            "4:39",
            "ports[0].targetPort: expected a port number or a port name, found a list; write one instead",
        ),
        (
            "ports: [{prot: 80}]",
            "4:17",
            "ports[0].prot: unknown field; did you mean port?",
        ),
        (
            "selctor: {app: web}",
            "4:8",
            "selctor: unknown field; did you mean selector?",
        ),
        (
            "clusterips: [10.96.0.1]",
            "4:8",
            "clusterips: unknown field; did you mean clusterIPs?",
        ),
        (
            "selector: {app: 1}",
            "4:24",
            "selector.app: expected text, found the number 1; put it in quotes",
        ),
        (
            "replicas: 3",
            "4:8",
            "replicas: unknown field; known here: clusterIP, clusterIPs, ports, selector",
        ),
    ] {
        let text = service_with(spec);
        let found = load(&text).unwrap_err();
        assert_eq!(
            found[0],
            format!("shop.yaml:{place}: Service shop/web: spec.{expected}"),
            "{text}"
        );
    }
}
