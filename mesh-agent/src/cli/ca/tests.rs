//! The commands as a person types them, on directories of the test.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::UNIX_EPOCH};

use clap::Parser as _;

use super::super::{
    Cli,
    output::{Format, render},
    table::Colour,
};
use super::*;
use crate::identity::LeafKey;

fn run(line: &str) -> Result<(), Failure> {
    let words = ["mesh-agent", "ca"].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(words).unwrap().command.run()
}

fn told(line: &str) -> String {
    run(line).unwrap_err().message()
}

fn rows(path: &Path) -> Vec<serde_json::Value> {
    let shown = show::Shown::directory(&CaDirectory::new(path), std::time::SystemTime::now()).unwrap();
    let json = render(&shown, Format::Json, Colour::Off).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    value["certificates"].as_array().unwrap().clone()
}

#[test]
fn from_a_root_to_a_leaf_and_a_new_root() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    run(&format!("init --dir {at}/ca --trust-domain mesh.test")).unwrap();
    run(&format!(
        "intermediate --dir {at}/ca --node n1 --out {at}/n1 --ttl 30d"
    ))
    .unwrap();
    run(&format!(
        "issue --dir {at}/n1 -n shop -s cart --new-key {at}/key --out {at}/crt --ttl 90s"
    ))
    .unwrap();
    assert_eq!(
        fs::metadata(dir.path().join("key")).unwrap().mode() & 0o777,
        0o600
    );
    for format in ["table", "wide", "json", "yaml"] {
        run(&format!("show --dir {at}/n1 -o {format}")).unwrap();
        run(&format!("show --file {at}/crt -o {format}")).unwrap();
    }
    let node = rows(&dir.path().join("n1"));
    assert_eq!(node[0]["role"], "signer");
    assert_eq!(node[0]["isSelfIssued"], false);
    assert_eq!(node[1]["role"], "root");
    assert_eq!(node[1]["uris"][0], "spiffe://mesh.test");
    assert_eq!(node[1]["validity"], "valid");
    run(&format!("rotate-root --dir {at}/ca")).unwrap();
    assert_eq!(rows(&dir.path().join("ca")).len(), 3);
    run(&format!("rotate-root --dir {at}/ca --drop-old")).unwrap();
    assert_eq!(rows(&dir.path().join("ca")).len(), 2);
}

#[test]
fn a_request_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    run(&format!("init --dir {at}/ca --trust-domain mesh.test")).unwrap();
    let id = "spiffe://mesh.test/ns/shop/sa/cart".parse().unwrap();
    let csr = LeafKey::generate().unwrap().request(&id).unwrap();
    let text = crate::identity::pem::request(&csr);
    fs::write(dir.path().join("csr"), text).unwrap();
    let issue = format!("issue --dir {at}/ca --csr {at}/csr --out {at}/crt -n shop -s");
    assert!(told(&format!("{issue} web")).contains("does not name exactly the identity"));
    run(&format!("{issue} cart")).unwrap();
    assert!(told(&format!("{issue} cart")).contains("exists already"));
}

#[test]
fn what_goes_wrong_comes_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let init = format!("init --dir {at}/ca");
    assert!(told(&format!("show --dir {at}/ca")).contains("hint: make one with `mesh-agent ca init"));
    run(&init).unwrap();
    assert!(told(&init).contains("hint: choose another directory"));
    fs::set_permissions(
        dir.path().join("ca/authority.pem"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let message = told(&format!("rotate-root --dir {at}/ca"));
    assert!(
        message.contains("is open to others (mode 644)") && message.contains("chmod 600"),
        "{message}"
    );
}

#[test]
fn wrong_arguments_are_refused_at_the_edge() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    assert!(parse("mesh-agent ca init --dir d --trust-domain Upper").is_err());
    assert!(parse("mesh-agent ca init --dir d --ttl 0s").is_err());
    assert!(parse("mesh-agent ca issue --dir d -n a -s b --out o").is_err());
    assert!(parse("mesh-agent ca issue --dir d -n a -s b --out o --csr c --new-key k").is_err());
    assert!(parse("mesh-agent ca show").is_err());
    assert!(parse("mesh-agent ca rotate-root --dir d --drop-old --ttl 1h").is_err());
}

#[test]
fn looks_like_this() {
    let now = UNIX_EPOCH + Duration::from_secs(1_763_712_180);
    let dir = tempfile::tempdir().unwrap();
    let ca = CaDirectory::new(dir.path().join("ca"));
    ca.init(&"mesh.test".parse().unwrap(), Duration::from_secs(86_400), now)
        .unwrap();
    let text = render(
        &show::Shown::directory(&ca, now).unwrap(),
        Format::Table,
        Colour::Off,
    )
    .unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("   ").collect()).collect();
    assert_eq!(
        lines[0]
            .iter()
            .map(|cell| cell.trim())
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>(),
        ["ROLE", "NAME", "URI", "EXPIRES", "IN"]
    );
    assert!(
        text.contains("spiffe://mesh.test   2025-11-22T08:03:00Z   1d"),
        "{text}"
    );
}
