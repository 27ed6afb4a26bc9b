//! Whose a name or an address is when several documents want it.

use super::*;

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
