//! Directories, rotations and what is not signed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use tempfile::TempDir;

use super::*;
use crate::identity::tests::kit::{HOUR, Hand, domain, id, meet, uri};
use crate::identity::{Clock, Expected, Identity, IssueError, Issuer as _, LeafKey, Request, TrustBundle};

const A: &str = "mesh/ns/a/sa/a";

fn place() -> (TempDir, CaDirectory) {
    let dir = tempfile::tempdir().unwrap();
    let ca = CaDirectory::new(dir.path().join("ca"));
    (dir, ca)
}

/// What the store would have from an issuer on `directory`, with the roots it saw at the same time.
fn identity(directory: &CaDirectory, hand: &Hand) -> Identity {
    let (id, key) = (id(A), LeafKey::generate().unwrap());
    let csr = key.request(&id).unwrap();
    let authority = directory.open(hand.now()).unwrap();
    let chain = authority.leaf(&csr, &id, HOUR, hand.now()).unwrap();
    let facts = Facts::of(&chain[0]).unwrap();
    let key = CertifiedKey::new(chain, key.signing_key().unwrap());
    let roots = directory.roots(hand.now()).unwrap();
    let bundle = TrustBundle::new(&roots, 1).unwrap();
    Identity::new(id, Arc::new(key), facts, Arc::new(bundle), hand.clock())
}

fn believe_each_other(a: &Identity, b: &Identity) -> bool {
    let fine = |client, server| {
        let met = meet(client, server, Expected::one_of([id(A)]));
        met.by_client.is_ok() && met.by_server.is_ok()
    };
    fine(a, b) && fine(b, a)
}

#[test]
fn files_are_for_the_owner_alone_and_never_overwritten() {
    let (_dir, ca) = place();
    let now = Hand::at_noon().now();
    ca.init(&domain("mesh"), HOUR, now).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(ca.path()), 0o700);
    assert_eq!(mode(&ca.key_file()), 0o600);
    let before = fs::read(ca.key_file()).unwrap();
    let error = ca.init(&domain("mesh"), HOUR, now).unwrap_err();
    assert!(matches!(error, DirectoryError::Exists(_)));
    let error = ca.intermediate("n", &ca, HOUR, now).unwrap_err();
    assert!(matches!(error, DirectoryError::Exists(_)));
    assert_eq!(fs::read(ca.key_file()).unwrap(), before);
    assert_eq!(
        fs::read_dir(ca.path()).unwrap().count(),
        2,
        "nothing else is left"
    );
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let (_dir, ca) = place();
    let now = Hand::at_noon().now();
    ca.init(&domain("mesh"), HOUR, now).unwrap();
    for (path, good, bad) in [
        (ca.key_file(), 0o600, 0o640),
        (ca.path().to_owned(), 0o700, 0o755),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
        let error = ca.open(now).err().unwrap();
        assert!(
            matches!(error, DirectoryError::Exposed { mode, wanted, .. } if mode == bad && wanted == good)
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).unwrap();
    }
    assert!(ca.open(now).is_ok());
}

#[test]
fn damaged_and_missing_directories_say_so() {
    let (_dir, ca) = place();
    let now = Hand::at_noon().now();
    assert!(matches!(ca.open(now), Err(DirectoryError::Missing(_))));
    assert!(matches!(ca.roots(now), Err(DirectoryError::Missing(_))));
    ca.init(&domain("mesh"), HOUR, now).unwrap();
    let (other_dir, other) = place();
    other.init(&domain("mesh"), HOUR, now).unwrap();
    let text = |ca: &CaDirectory| fs::read_to_string(ca.key_file()).unwrap();
    let end = "-----END PRIVATE KEY-----\n";
    let (key, _) = { text(&ca) }
        .split_once(end)
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let (_, foreign) = { text(&other) }
        .split_once(end)
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    fs::write(ca.key_file(), format!("{key}{end}{foreign}")).unwrap();
    let error = ca.open(now).err().unwrap();
    assert!(matches!(
        error,
        DirectoryError::Sign {
            source: SignError::Certificate("is not for its key"),
            ..
        }
    ));
    fs::write(ca.key_file(), "what?").unwrap();
    assert!(matches!(
        ca.open(now),
        Err(DirectoryError::Content {
            what: "a private key",
            ..
        })
    ));
    fs::write(ca.roots_file(), "").unwrap();
    assert!(matches!(ca.roots(now), Err(DirectoryError::Content { .. })));
    drop(other_dir);
}

#[test]
fn a_node_signs_without_the_root_key() {
    let (_dir, ca) = place();
    let (_dir2, node) = place();
    let hand = Hand::at_noon();
    ca.init(&domain("mesh"), 1000 * HOUR, hand.now()).unwrap();
    ca.intermediate("n1", &node, 100 * HOUR, hand.now()).unwrap();
    let opened = node.open(hand.now()).unwrap();
    assert!(!opened.is_root());
    assert_eq!(opened.trust_domain(), &domain("mesh"));
    let error = node.intermediate("n2", &CaDirectory::new("/nowhere"), HOUR, hand.now());
    assert!(matches!(
        error,
        Err(DirectoryError::Sign {
            source: SignError::NotARoot,
            ..
        })
    ));
    assert!(matches!(
        node.rotate(Rotation::Begin, HOUR, hand.now()),
        Err(DirectoryError::Sign {
            source: SignError::NotARoot,
            ..
        })
    ));
    assert!(believe_each_other(&identity(&ca, &hand), &identity(&node, &hand)));
}

#[test]
fn nothing_outlives_its_signer_and_the_expired_sign_nothing() {
    let hand = Hand::at_noon();
    let root = Authority::new_root(&domain("mesh"), 10 * HOUR, hand.now()).unwrap();
    let node = root.intermediate("n", 1000 * HOUR, hand.now()).unwrap();
    assert_eq!(node.facts().not_after, root.facts().not_after);
    hand.advance(11 * HOUR);
    let key = LeafKey::generate().unwrap();
    let csr = key.request(&id(A)).unwrap();
    let error = node.leaf(&csr, &id(A), HOUR, hand.now()).unwrap_err();
    assert!(matches!(error, SignError::SignerExpired { .. }), "{error}");
}

#[test]
fn only_what_was_asked_for_is_signed() {
    let now = Hand::at_noon().now();
    let root = Authority::new_root(&domain("mesh"), 10 * HOUR, now).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(&format!("spiffe://{A}"))];
        change(&mut params);
        params.serialize_request(&key).unwrap().into()
    };
    let sign = |csr: CertificateSigningRequestDer<'static>, name| root.leaf(&csr, &id(name), HOUR, now);
    assert!(sign(request(&|_| ()), A).is_ok());
    assert!(matches!(
        sign(request(&|_| ()), "mesh/ns/a/sa/b"),
        Err(SignError::Request(_))
    ));
    assert!(matches!(
        sign(request(&|_| ()), "moon/ns/a/sa/a"),
        Err(SignError::TrustDomain { .. })
    ));
    let greedy = request(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(sign(greedy, A), Err(SignError::Request(_))));
    let more = request(&|params| {
        params
            .subject_alt_names
            .push(SanType::DnsName("x".try_into().unwrap()))
    });
    assert!(matches!(sign(more, A), Err(SignError::Request(_))));
    assert!(matches!(
        root.leaf(&request(&|_| ()), &id(A), Duration::ZERO, now),
        Err(SignError::NoLifetime)
    ));
    let big = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(&format!("spiffe://{A}"))];
    let csr: CertificateSigningRequestDer<'_> = params.serialize_request(&big).unwrap().into();
    assert!(matches!(
        root.leaf(&csr, &id(A), HOUR, now),
        Err(SignError::Request(_))
    ));
    let mut broken = request(&|_| ()).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert!(root.leaf(&broken.into(), &id(A), HOUR, now).is_err());
}

#[test]
fn a_rotation_breaks_no_pair_at_any_step() {
    let (_dir, ca) = place();
    let (_dir2, node) = place();
    let (_dir3, fresh) = place();
    let hand = Hand::at_noon();
    ca.init(&domain("mesh"), 1000 * HOUR, hand.now()).unwrap();
    ca.intermediate("n1", &node, 100 * HOUR, hand.now()).unwrap();
    let (old_root, old_node) = (identity(&ca, &hand), identity(&node, &hand));
    for _ in 0..2 {
        ca.rotate(Rotation::Begin, 1000 * HOUR, hand.now()).unwrap();
        let rotated = identity(&ca, &hand);
        assert!(believe_each_other(&rotated, &identity(&ca, &hand)));
        // They have not heard of the new root; the bridge leads from it to theirs.
        assert!(believe_each_other(&rotated, &old_root));
        assert!(believe_each_other(&rotated, &old_node));
    }
    assert_eq!(ca.roots(hand.now()).unwrap().certificates.len(), 3);
    ca.intermediate("n2", &fresh, 100 * HOUR, hand.now()).unwrap();
    let new_node = identity(&fresh, &hand);
    assert!(believe_each_other(&new_node, &old_node));
    ca.rotate(Rotation::Finish, HOUR, hand.now()).unwrap();
    assert_eq!(ca.roots(hand.now()).unwrap().certificates.len(), 1);
    let after = identity(&ca, &hand);
    assert!(believe_each_other(&after, &new_node));
    assert!(!believe_each_other(&after, &old_node), "the old root is gone");
}

#[test]
fn an_old_root_goes_when_it_expires() {
    let (_dir, ca) = place();
    let hand = Hand::at_noon();
    ca.init(&domain("mesh"), 10 * HOUR, hand.now()).unwrap();
    hand.advance(9 * HOUR);
    ca.rotate(Rotation::Begin, 100 * HOUR, hand.now()).unwrap();
    assert_eq!(ca.roots(hand.now()).unwrap().certificates.len(), 2);
    assert_eq!(ca.open(hand.now()).unwrap().bridges.len(), 1);
    hand.advance(2 * HOUR);
    assert_eq!(ca.roots(hand.now()).unwrap().certificates.len(), 1);
    assert_eq!(ca.open(hand.now()).unwrap().bridges.len(), 0);
}

#[tokio::test]
async fn the_embedded_issuer_follows_its_directory() {
    let (_dir, directory) = place();
    let hand = Hand::at_noon();
    let clock: Clock = hand.clock();
    let issuer = EmbeddedCa::new(directory.clone(), clock);
    let key = LeafKey::generate().unwrap();
    let request = |name| Request {
        id: id(name),
        lifetime: HOUR,
        csr: key.request(&id(name)).unwrap(),
    };
    assert!(matches!(
        issuer.issue(request(A)).await,
        Err(IssueError::Unavailable { .. })
    ));
    directory.init(&domain("mesh"), 10 * HOUR, hand.now()).unwrap();
    let leaf = issuer.issue(request(A)).await.unwrap().remove(0);
    let facts = Facts::of(&leaf).unwrap();
    assert_eq!(facts.uris, [format!("spiffe://{A}")]);
    assert_eq!(facts.subject, "");
    assert_eq!(facts.not_after, hand.now() + HOUR);
    assert_eq!(facts.not_before, hand.now() - CLOCK_SKEW);
    assert!(matches!(
        issuer.issue(request("moon/ns/a/sa/a")).await,
        Err(IssueError::Refused { .. })
    ));
    directory.rotate(Rotation::Begin, HOUR, hand.now()).unwrap();
    assert_eq!(issuer.roots().await.unwrap().certificates.len(), 2);
}
