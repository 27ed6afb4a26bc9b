//! Requests that arrive as bytes in a tunnel of HBONE, and what is told of those that policies only watch.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{Agent, Mesh, wait_until};
use serde_json::json;

use super::{
    apply, ask, authentication, dry, inline,
    issuers::bearer,
    judged, policy, start,
    tokens::{Key, claims, seconds},
};
use crate::checks::SOON;

/// The destination on the other node, by its service that declares nothing.
const BYTES: (&str, u16) = ("plain-far", 81);

/// From now on `far` is reached by HBONE. Both agents know when the source says that it dials the port of HBONE.
fn by_hbone(mesh: &Mesh) -> Result<()> {
    let file = "workload-far.yaml";
    let yaml = std::fs::read_to_string(mesh.node("a").config_dir().join(file))?;
    let hbone = yaml.replace("spec:\n", "spec:\n  tunnelProtocol: HBONE\n");
    ensure!(hbone != yaml, "{yaml}");
    mesh.write_config(file, &hbone)?;
    let mut said = String::new();
    wait_until(SOON, "the way to change", || {
        let explained = mesh
            .node("a")
            .cli(&["explain", "default/client", "default/plain-far:81"]);
        said = explained.map_or_else(|error| format!("{error:#}"), |output| output.stdout);
        said.contains("HBONE")
    })
    .context(said)
}

#[test]
fn tokens_of_requests_in_hbone_are_judged_by_the_destination() {
    Mesh::scenario(judged("l7-hbone"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        by_hbone(mesh)?;
        let key = Key::ec("one");
        let stranger = Key::ec("one");
        let text = authentication("tokens", &inline(&[&key]), "")
            + &policy(
                "amy",
                "ALLOW",
                "[{from: [{source: {requestPrincipals: ['*/amy']}}], to: [{operation: {paths: ['/amy*']}}]}, \
                 {to: [{operation: {paths: [/open]}}]}]",
            );
        apply(mesh, "amy", &text)?;
        let good = bearer(&key.sign(&claims(&json!({}))));
        let bob = bearer(&key.sign(&claims(&json!({"sub": "bob"}))));
        let old = bearer(&key.sign(&claims(&json!({"exp": seconds(-3600)}))));
        let forged = bearer(&stranger.sign(&claims(&json!({}))));
        let unsigned = bearer(&key.unsigned("none", &claims(&json!({}))));
        for (path, token, status) in [
            ("/amy", Some(&good), 200),
            ("/amy/x", Some(&good), 200),
            ("/other", Some(&good), 403),
            ("/amy", Some(&bob), 403),
            ("/amy", None, 403),
            ("/open", None, 200),
            ("/open", Some(&old), 401),
            ("/amy", Some(&forged), 401),
            ("/amy", Some(&unsigned), 401),
        ] {
            let args: Vec<&str> = token.iter().flat_map(|token| ["-H", token.as_str()]).collect();
            let said = ask(mesh, "client", BYTES, path, &args)?;
            ensure!(
                said.starts_with(&format!("{status} ")),
                "{path} {token:?}: not {status} but {said}"
            );
            let by_mesh = said
                .to_ascii_lowercase()
                .contains("nodemesh-error: side=destination");
            ensure!(by_mesh == (status != 200), "{said}");
        }
        // Nothing went another way meanwhile.
        let flows = mesh.node("b").cli(&["flows", "--last", "200", "-o", "json"])?;
        ensure!(
            flows.ok()?.stdout.contains("\"status\":401"),
            "the destination tells nothing"
        );
        Ok(())
    });
}

/// Waits for a line of the log with all of these words.
fn logged(agent: &Agent, words: &[&str]) -> Result<()> {
    wait_until(SOON, "the line of the log", || {
        agent
            .log()
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    })
    .with_context(|| format!("{words:?} in no line of {}", agent.log()))
}

#[test]
fn what_audit_and_dry_run_say_of_a_request_is_a_line_of_the_log() {
    Mesh::scenario(judged("l7-watched"), |mesh| {
        let (agents, _servers) = start(mesh)?;
        let text = policy(
            "watched",
            "AUDIT",
            "[{to: [{operation: {paths: ['/audited*']}}]}]",
        ) + &dry(&policy(
            "tried",
            "DENY",
            "[{to: [{operation: {paths: ['/tried*'], methods: [GET]}}]}]",
        ));
        apply(mesh, "watched", &text)?;
        for (at, (service, port), suffix) in [
            (1, ("far", 80), ""),
            (1, BYTES, ""),
            (0, ("near", 80), "-too"),
            (0, ("plain-near", 81), "-too"),
        ] {
            let agent = &agents[at];
            for (path, words) in [
                (
                    "audited",
                    vec!["a policy that decides nothing matches a request", "rule=0"],
                ),
                (
                    "tried",
                    vec!["would fare otherwise if the policies in dry run were enforced"],
                ),
            ] {
                let path = format!("/{path}/{service}");
                let said = ask(mesh, "client", (service, port), &path, &[])?;
                ensure!(said.starts_with("200 "), "{path}: {said}");
                let name = match path.starts_with("/audited") {
                    true => format!("policy=default/watched{suffix}"),
                    false => format!("default/tried{suffix}"),
                };
                let mut words = words;
                words.extend([path.as_str(), name.as_str(), "method=\"GET\""]);
                logged(agent, &words)?;
            }
            // What neither concerns is told of by nobody.
            let path = format!("/quiet/{service}");
            ask(mesh, "client", (service, port), &path, &[])?;
            ensure!(!agent.log().contains(&path), "{}", agent.log());
        }
        Ok(())
    });
}
