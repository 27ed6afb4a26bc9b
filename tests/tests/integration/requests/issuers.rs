//! Tokens: whose are good, and where the keys come from.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{
    Mesh, Process,
    traffic::{self, at},
    wait_until,
};
use serde_json::{Value, json};

use super::{
    ECHO, ISSUING, WAYS, apply, ask, asks, authentication, check, inline, judged, policy, start,
    tokens::{ISSUER, Key, claims, key_set, seconds},
};
use crate::checks::SOON;

#[test]
fn tokens_are_good_only_as_their_issuer_made_them() {
    Mesh::scenario(judged("jwt"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let (rsa, ec, foreign) = (Key::rsa("one"), Key::ec("two"), Key::rsa("one"));
        let with = |changes: Value| bearer(&rsa.sign(&claims(&changes)));
        let good = with(json!({}));
        let mut bad = vec![
            with(json!({"exp": seconds(-3600)})),
            with(json!({"nbf": seconds(3600)})),
            with(json!({"aud": "bank"})),
            with(json!({"aud": []})),
            with(json!({"iss": "https://other.example"})),
            bearer(&foreign.sign(&claims(&json!({})))),
            bearer(&rsa.sign_as("three", &claims(&json!({})))),
            bearer(&ec.sign_as("one", &claims(&json!({})))),
            bearer("abc"),
        ];
        for algorithm in ["none", "None", "NONE", "HS256", "RS256", "ES256", ""] {
            bad.push(bearer(&rsa.unsigned(algorithm, &claims(&json!({})))));
        }
        for secret in rsa.public.iter().chain(&ec.public) {
            bad.push(bearer(&rsa.confuse(secret, &claims(&json!({})))));
        }
        let keys = inline(&[&rsa, &ec]);
        let outputs = ", outputClaimToHeaders: [{header: x-jwt-user, claim: sub}, {header: x-jwt-level, claim: realm.level}]";
        // Alone it only refuses bad tokens.
        apply(mesh, "alone", &authentication("alone", &keys, outputs))?;
        for way in WAYS {
            for token in &bad {
                let said = ask(mesh, "client", way, "/", &["-H", token])?;
                ensure!(said.starts_with("401"), "{way:?} {token}: {said}");
            }
            let two = bearer(&ec.sign(&claims(&json!({}))));
            ensure!(
                ask(mesh, "client", way, "/", &["-H", &two])?.starts_with("200"),
                "{two}"
            );
            let forged = [
                "-H",
                "X-Jwt-User: root",
                "-H",
                "x_jwt_user: root",
                "-H",
                "x-jwt-level: 9",
            ];
            let said = ask(mesh, "client", way, "/", &forged)?;
            ensure!(
                said.starts_with("200") && !said.contains("root") && !said.contains("level"),
                "{said}"
            );
            let mut all = forged.to_vec();
            all.extend(["-H", good.as_str()]);
            let said = ask(mesh, "client", way, "/", &all)?;
            ensure!(said.starts_with("200") && !said.contains("root"), "{said}");
            ensure!(
                said.contains("[\"x-jwt-user\", \"amy\"]") && said.contains("[\"x-jwt-level\", \"3\"]"),
                "{said}"
            );
            ensure!(
                !said.contains("\"authorization\""),
                "the token is taken out: {said}"
            );
        }
        // What is no token is nobody's business, and what is no HTTP neither.
        for to in ["near", "far"] {
            let echo = at(mesh.pod(to).v4(), ECHO);
            let report = traffic::report(
                mesh.pod("client"),
                &["half-close", "--to", &echo, "--bytes", "100000"],
            )?;
            ensure!(
                report["intact"] == true && report["received"] == 100_000,
                "{report}"
            );
        }
        apply(
            mesh,
            "forwards",
            &authentication("forwards", &keys, ", forwardOriginalToken: true"),
        )?;
        for way in WAYS {
            let said = ask(mesh, "client", way, "/", &["-H", good.as_str()])?;
            ensure!(
                said.starts_with("200") && said.contains("\"authorization\""),
                "{said}"
            );
        }
        // With a policy that wants one, or something of it.
        let required =
            |name: &str, rules: &str| authentication("tokens", &keys, "") + &policy(name, "ALLOW", rules);
        let guest = with(json!({"sub": "bob", "group": "guests", "azp": "tool", "realm": {"level": 1}}));
        let (good, guest) = (["-H", good.as_str()], ["-H", guest.as_str()]);
        let amy = format!("{ISSUER}/amy");
        for (name, rules, guest_status) in [
            (
                "some",
                "[{from: [{source: {requestPrincipals: ['*']}}]}]".to_owned(),
                200,
            ),
            (
                "amy",
                format!("[{{from: [{{source: {{requestPrincipals: ['{amy}']}}}}]}}]"),
                403,
            ),
            (
                "not-bob",
                format!("[{{from: [{{source: {{notRequestPrincipals: ['{ISSUER}/bob']}}}}]}}]"),
                403,
            ),
            (
                "principal",
                format!("[{{when: [{{key: request.auth.principal, values: ['{amy}']}}]}}]"),
                403,
            ),
            (
                "audience",
                "[{when: [{key: request.auth.audiences, values: [shop]}]}]".to_owned(),
                200,
            ),
            (
                "presenter",
                "[{when: [{key: request.auth.presenter, values: [app]}]}]".to_owned(),
                403,
            ),
            (
                "claim",
                "[{when: [{key: 'request.auth.claims[group]', values: [staff]}]}]".to_owned(),
                403,
            ),
            (
                "nested",
                "[{when: [{key: 'request.auth.claims[realm][level]', values: ['3']}]}]".to_owned(),
                403,
            ),
        ] {
            check(
                mesh,
                name,
                &required(name, &rules),
                &[
                    asks("/", &good, 200),
                    asks("/", &guest, guest_status),
                    asks("/", &[], 403),
                    asks("/", &["-H", &bad[0]], 401),
                ],
            )?;
        }
        // The keys change with the configuration: the old one is worth nothing at once.
        let new = Key::rsa("four");
        apply(mesh, "rotated", &authentication("rotated", &inline(&[&new]), ""))?;
        for way in WAYS {
            let fresh = bearer(&new.sign(&claims(&json!({}))));
            ensure!(ask(mesh, "client", way, "/", &["-H", &fresh])?.starts_with("200"));
            ensure!(ask(mesh, "client", way, "/", &good)?.starts_with("401"));
        }
        Ok(())
    });
}

/// A header with a token.
pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn keys_come_from_their_issuer_and_without_them_nothing_is_let_in() {
    Mesh::scenario(judged("jwt-url"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let (old, new) = (Key::ec("old"), Key::ec("new"));
        let (before, after) = (
            bearer(&old.sign(&claims(&json!({})))),
            bearer(&new.sign(&claims(&json!({})))),
        );
        let dir = mesh.dir().join("issuer");
        fs::create_dir_all(&dir)?;
        let issuer = mesh.pod("issuer");
        let url = format!(
            "jwksUri: 'http://{}/keys.json', timeout: 2s",
            at(issuer.v4(), ISSUING)
        );
        let text = authentication("fetched", &url, "");
        apply(mesh, "fetched", &text)?;
        // Nobody is there.
        for way in WAYS {
            let said = ask(mesh, "client", way, "/", &["-H", &before])?;
            ensure!(
                said.starts_with("503") && said.contains("cause=unavailable"),
                "{said}"
            );
            ensure!(
                ask(mesh, "client", way, "/", &[])?.starts_with("200"),
                "without a token"
            );
        }
        fs::write(dir.join("keys.json"), key_set(&[&old]))?;
        let serve = || -> Result<Process> {
            let server = issuer
                .command("python3")
                .args(["-m", "http.server", "--directory"]);
            server
                .arg(&dir)
                .args(["--bind", "::", &ISSUING.to_string()])
                .spawn()
        };
        let server = serve()?;
        let becomes = |token: &str, status: &str| -> Result<()> {
            for way in WAYS {
                let mut last = String::new();
                wait_until(SOON * 3, "the keys to be fetched", || {
                    let said = ask(mesh, "client", way, "/", &["-H", token]);
                    last = said.unwrap_or_else(|error| format!("{error:#}"));
                    last.starts_with(status)
                })
                .with_context(|| format!("{way:?}: {last}"))?;
            }
            Ok(())
        };
        becomes(&before, "200")?;
        for way in WAYS {
            ensure!(ask(mesh, "client", way, "/", &["-H", &after])?.starts_with("401"));
        }
        // A key that is missed is looked for, though not at once again.
        fs::write(dir.join("keys.json"), key_set(&[&new]))?;
        becomes(&after, "200")?;
        becomes(&before, "401")?;
        // What is known stays when the issuer goes.
        server.kill();
        becomes(&after, "200")?;
        becomes(&before, "401")
    });
}
