//! One refusal after the other, resumption, and roots that overlap.

use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, NamedGroup, ServerConnection, version::TLS13};

use super::kit::*;
use crate::identity::authority::Authority;
use crate::identity::{Expected, Identity, Refusal};

const A: &str = "mesh/ns/a/sa/client";
const B: &str = "mesh/ns/b/sa/server";

fn b() -> Expected {
    Expected::one_of([id(B)])
}

/// Both sides refuse an odd peer, for the same reason.
fn assert_refused_everywhere(mesh: &Mesh, odd: &Identity, label: &str) -> Refusal {
    let as_client = meet(odd, &mesh.identity(B), b()).by_server.unwrap_err();
    let as_server = meet(&mesh.identity(A), odd, Expected::OurDomain)
        .by_client
        .unwrap_err();
    assert_eq!(as_client.label(), label, "as a client: {as_client}");
    assert_eq!(as_server.label(), label, "as a server: {as_server}");
    as_client
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let met = meet(&mesh.identity(A), &mesh.identity(B), b());
    assert_eq!(met.by_server.unwrap().id(), &id(A));
    assert_eq!(met.by_client.unwrap().id(), &id(B));
    assert_eq!(met.alpn.as_deref(), Some(ALPN[0]));
    assert_eq!(met.group, Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn the_client_hello_names_nobody() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let hello = meet(&mesh.identity(A), &mesh.identity(B), b()).first_flight;
    let extensions = extensions_of(&hello);
    assert!(!extensions.contains(&0), "server_name was sent: {extensions:?}");
    assert!(extensions.contains(&43), "supported_versions was not sent");
}

/// The types of the extensions of a ClientHello in its first record.
fn extensions_of(record: &[u8]) -> Vec<u16> {
    let number = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(record[at]);
    at += 2 + usize::from(number(at));
    at += 1 + usize::from(record[at]);
    let end = at + 2 + usize::from(number(at));
    at += 2;
    let mut types = Vec::new();
    while at < end {
        types.push(number(at));
        at += 4 + usize::from(number(at + 2));
    }
    types
}

#[test]
fn the_client_demands_whom_it_expects() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let (client, server) = (mesh.identity(A), mesh.identity(B));
    let refusal = meet(&client, &server, Expected::one_of([id("mesh/ns/b/sa/other")]))
        .by_client
        .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the peer is spiffe://mesh/ns/b/sa/server, but spiffe://mesh/ns/b/sa/other should be there"
    );
    assert!(meet(&client, &server, Expected::one_of([])).by_client.is_err());
    let several = Expected::one_of([id("mesh/ns/z/sa/z"), id(B), id("mesh/ns/a/sa/a")]);
    assert!(meet(&client, &server, several).by_client.is_ok());
}

#[test]
fn wrong_trust_domain() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    // Our own root would have to be tricked into this.
    let odd = mesh.odd_identity(|params| params.subject_alt_names = vec![uri("spiffe://moon/ns/a/sa/b")]);
    let refusal = assert_refused_everywhere(&mesh, &odd, "trust-domain");
    assert_eq!(
        refusal.to_string(),
        "spiffe://moon/ns/a/sa/b is not in our trust domain mesh"
    );
}

#[test]
fn no_or_several_or_strange_identities() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let dns = || SanType::DnsName("server.b.svc".try_into().unwrap());
    let none = mesh.odd_identity(|params| params.subject_alt_names = vec![dns()]);
    assert_refused_everywhere(&mesh, &none, "no-identity");
    let nothing = mesh.odd_identity(|params| params.subject_alt_names.clear());
    assert_refused_everywhere(&mesh, &nothing, "no-identity");
    let two = [A, B].map(|name| uri(&format!("spiffe://{name}")));
    let several = mesh.odd_identity(|params| params.subject_alt_names = two.to_vec());
    assert_refused_everywhere(&mesh, &several, "several-identities");
    let strange = mesh.odd_identity(|params| params.subject_alt_names = vec![uri("https://b/\x1b[31m")]);
    let refusal = assert_refused_everywhere(&mesh, &strange, "not-an-identity");
    assert!(!refusal.to_string().contains('\x1b'), "{refusal:?}");
}

#[test]
fn dns_names_beside_the_identity_do_not_matter() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let dns = SanType::DnsName("anything".try_into().unwrap());
    let odd = mesh.odd_identity(|params| params.subject_alt_names.push(dns));
    let met = meet(&odd, &mesh.identity(B), b());
    assert_eq!(met.by_server.unwrap().id(), &id("mesh/ns/a/sa/odd"));
}

#[test]
fn expired_and_not_yet_valid() {
    let hand = Hand::at_noon();
    let mesh = Mesh::new("mesh", &hand);
    let short = mesh.identity_for(A, Duration::from_secs(10), mesh.bundle());
    hand.advance(Duration::from_secs(10));
    assert!(meet(&short, &mesh.identity(B), b()).by_server.is_ok());
    hand.advance(Duration::from_secs(1));
    let refusal = assert_refused_everywhere(&mesh, &short, "expired");
    assert_eq!(
        refusal.to_string(),
        "the certificate of spiffe://mesh/ns/a/sa/client, or of its authority, expired at 2023-11-14T22:13:30Z"
    );
    let early = mesh.odd_identity(|params| params.not_before = (hand.now() + HOUR / 2).into());
    assert_refused_everywhere(&mesh, &early, "not-yet-valid");
}

#[test]
fn a_clock_a_little_behind_believes_a_fresh_certificate() {
    let (hand, behind) = (Hand::at_noon(), Hand::at_noon());
    let mesh = Mesh::new("mesh", &hand);
    hand.advance(Duration::from_secs(240));
    let fresh = mesh.identity(A);
    let other = Mesh { hand: behind, ..mesh };
    let server = other.identity(B);
    assert!(meet(&fresh, &server, b()).by_server.is_ok());
}

#[test]
fn expired_authorities_prove_nothing() {
    let hand = Hand::at_noon();
    let root = Authority::new_root(&domain("mesh"), 10 * HOUR, hand.now()).unwrap();
    let node = root.intermediate("n", 500 * HOUR, hand.now()).unwrap();
    let mesh = Mesh {
        hand: hand.clone(),
        root,
        node,
    };
    let (client, server) = (mesh.identity(A), mesh.identity(B));
    assert!(meet(&client, &server, b()).by_server.is_ok());
    hand.advance(11 * HOUR);
    let refusal = meet(&client, &server, b()).by_client.unwrap_err();
    assert!(matches!(refusal.label(), "expired" | "unknown-root"), "{refusal}");
}

#[test]
fn self_signed_and_unknown_roots() {
    let hand = Hand::at_noon();
    let mesh = Mesh::new("mesh", &hand);
    let key = KeyPair::generate().unwrap();
    let params = mesh.odd_params(|_| ());
    let own = params.self_signed(&key).unwrap().into();
    let refusal = assert_refused_everywhere(&mesh, &mesh.present(&key, vec![own]), "self-signed");
    assert!(refusal.to_string().contains("spiffe://mesh/ns/a/sa/odd"));
    // Same trust domain, same names, another root.
    let stranger = Mesh::new("mesh", &hand).identity(A);
    assert_eq!(
        meet(&stranger, &mesh.identity(B), b())
            .by_client
            .unwrap_err()
            .label(),
        "unknown-root"
    );
    let foreign = Mesh::new("mesh", &hand);
    let trusting = foreign.identity_for(A, HOUR, bundle(&[&mesh.root], 1));
    assert_refused_everywhere(&mesh, &trusting, "unknown-root");
}

#[test]
fn wrong_purpose() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let only = |usage| mesh.odd_identity(|params| params.extended_key_usages = vec![usage]);
    let server_only = only(ExtendedKeyUsagePurpose::ServerAuth);
    let met = meet(&server_only, &mesh.identity(B), b());
    assert_eq!(met.by_server.unwrap_err().label(), "purpose");
    let client_only = only(ExtendedKeyUsagePurpose::ClientAuth);
    let met = meet(&mesh.identity(A), &client_only, Expected::OurDomain);
    assert_eq!(met.by_client.unwrap_err().label(), "purpose");
    let authority = mesh.odd_identity(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert_refused_everywhere(&mesh, &authority, "purpose");
}

#[test]
fn an_intermediate_cannot_make_authorities() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    assert!(mesh.node.intermediate("n2", HOUR, mesh.hand.now()).is_err());
    let key = KeyPair::generate().unwrap();
    let params = mesh.odd_params(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "usurper");
    });
    let usurper = mesh.node.sign_anything(&params, &key).remove(0);
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = mesh.odd_params(|_| ()).signed_by(&leaf_key, &issuer).unwrap();
    let chain = vec![leaf.into(), usurper, mesh.node.certificate().clone()];
    assert_refused_everywhere(&mesh, &mesh.present(&leaf_key, chain), "chain");
}

#[test]
fn a_client_without_a_certificate() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(mesh.root.certificate().clone()).unwrap();
    let verifying = mesh.identity(A).client_config(b(), ALPN).unwrap();
    let mut anonymous = ClientConfig::clone(&verifying);
    anonymous.client_auth_cert_resolver = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
        .client_auth_cert_resolver;
    let server = mesh.identity(B);
    let met = shake(
        anonymous.into(),
        server.server_config(ALPN).unwrap(),
        server.clock(),
    );
    assert_eq!(met.by_server.unwrap_err().label(), "no-certificate");
    assert_eq!(met.by_client.unwrap_err().label(), "refused-by-peer");
}

#[test]
fn other_protocols() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let server = mesh.identity(B);
    let client = mesh.identity(A).client_config(b(), &[b"h3"]).unwrap();
    let met = shake(client, server.server_config(ALPN).unwrap(), server.clock());
    assert_eq!(met.by_server.unwrap_err().label(), "alpn");
    assert_eq!(met.by_client.unwrap_err().label(), "alpn");
}

#[test]
fn tls_1_2() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let mut server = ServerConnection::new(mesh.identity(B).server_config(ALPN).unwrap()).unwrap();
    // TLS 1.2 with one cipher suite, one group and one signature scheme.
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..],
        &[0, 13, 0, 4, 0, 2, 4, 3],
        &[0, 11, 0, 2, 1, 0],
        &[0, 23, 0, 0],
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    server.read_tls(&mut &*record).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert_eq!(Refusal::of(&error).label(), "protocol", "{error}");
}

#[test]
fn a_second_connection_resumes_and_still_knows_who() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let (client, server) = (mesh.identity(A), mesh.identity(B));
    for round in 0..4 {
        let met = meet(&client, &server, b());
        assert_eq!(met.resumed, round > 0, "round {round}");
        assert_eq!(met.by_server.unwrap().id(), &id(A));
        assert_eq!(met.by_client.unwrap().id(), &id(B));
    }
}

#[test]
fn tickets_belong_to_one_identity_one_expectation_and_one_bundle() {
    let mesh = Mesh::new("mesh", &Hand::at_noon());
    let (client, server) = (mesh.identity(A), mesh.identity(B));
    meet(&client, &server, b());
    assert!(meet(&client, &server, b()).resumed);
    let other = mesh.identity("mesh/ns/a/sa/other");
    assert!(!meet(&other, &server, b()).resumed, "another identity");
    assert!(!meet(&mesh.identity(A), &server, b()).resumed, "a renewed client");
    assert!(!meet(&client, &mesh.identity(B), b()).resumed, "a renewed server");
    let wider = Expected::one_of([id(B), id("mesh/ns/b/sa/b")]);
    assert!(!meet(&client, &server, wider).resumed, "another expectation");
    let newer = bundle(&[&mesh.root], 2);
    assert!(
        !meet(&client.with_bundle(newer.clone()), &server, b()).resumed,
        "the client's roots"
    );
    assert!(
        !meet(&client, &server.with_bundle(newer), b()).resumed,
        "the server's roots"
    );
}

#[test]
fn a_resumed_peer_that_expired_meanwhile_is_refused() {
    let hand = Hand::at_noon();
    let mesh = Mesh::new("mesh", &hand);
    let client = mesh.identity_for(A, Duration::from_secs(60), mesh.bundle());
    let server = mesh.identity(B);
    assert!(meet(&client, &server, b()).by_server.is_ok());
    hand.advance(Duration::from_secs(61));
    let met = meet(&client, &server, b());
    assert!(met.resumed);
    assert_eq!(met.by_server.unwrap_err().label(), "expired");
}

#[test]
fn roots_overlap() {
    let hand = Hand::at_noon();
    let (old, new) = (Mesh::new("mesh", &hand), Mesh::new("mesh", &hand));
    let both = bundle(&[&new.root, &old.root], 2);
    let behind = old.identity(B);
    let (from_old, from_new) = (
        old.identity_for(A, HOUR, both.clone()),
        new.identity_for(A, HOUR, both.clone()),
    );
    let server_old = old.identity_for(B, HOUR, both.clone());
    let server_new = new.identity_for(B, HOUR, both);
    for client in [&from_old, &from_new] {
        for server in [&server_old, &server_new] {
            let met = meet(client, server, b());
            assert!(met.by_client.is_ok() && met.by_server.is_ok(), "{met:?}");
        }
    }
    // Who has heard of the new root only, or of the old one only, refuses the other.
    assert!(meet(&from_new, &behind, b()).by_server.is_err());
    let done = from_new.with_bundle(bundle(&[&new.root], 3));
    assert_eq!(
        meet(&done, &server_old, b()).by_client.unwrap_err().label(),
        "unknown-root"
    );
}

#[test]
fn what_was_proved_counts_as_long_as_its_root_is_believed() {
    let hand = Hand::at_noon();
    let (old, new) = (Mesh::new("mesh", &hand), Mesh::new("mesh", &hand));
    let client = old.identity_for(A, HOUR, old.bundle());
    let server = old.identity(B);
    let [by_client, by_server] = credentials(&client, &server, b());
    assert_eq!(by_server.until(), client.facts().not_after);
    let both = bundle(&[&new.root, &old.root], 2);
    // An expired certificate says nothing about who was there when the connection was made.
    hand.advance(2 * HOUR);
    for credentials in [&by_client, &by_server] {
        assert!(credentials.check(&both).is_ok());
    }
    let dropped = bundle(&[&new.root], 3);
    for credentials in [&by_client, &by_server] {
        assert_eq!(credentials.check(&dropped).unwrap_err().label(), "unknown-root");
        assert!(
            credentials.check(&both).is_ok(),
            "each version is judged for itself"
        );
    }
}

#[test]
fn our_own_root_must_be_believed_as_well() {
    let hand = Hand::at_noon();
    let (old, new) = (Mesh::new("mesh", &hand), Mesh::new("mesh", &hand));
    let both = bundle(&[&new.root, &old.root], 1);
    let client = old.identity_for(A, HOUR, both.clone());
    let server = new.identity_for(B, HOUR, both);
    let [by_client, _] = credentials(&client, &server, b());
    assert!(
        by_client.check(&bundle(&[&new.root], 2)).is_err(),
        "the client's own"
    );
    assert!(by_client.check(&bundle(&[&old.root], 3)).is_err(), "the server's");
}
