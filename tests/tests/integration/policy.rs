//! Authorization: who may connect is what the policies say, at once and for connections that stand already.

use anyhow::{Result, ensure};
use mesh_tests::{
    Held, Mesh,
    traffic::{self, at},
    wait_until,
};

use crate::checks::{SOON, churn, failing::connect, standard};

const PORT: u16 = 7401;
const FILE: &str = "zz-policy.yaml";

/// A policy of the namespace of all test pods, in force for the pods with this label.
pub(crate) fn policy(name: &str, action: &str, app: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: {action}\n  rules: {rules}\n"
    )
}

/// A PeerAuthentication for the pods with this label: plaintext is refused.
pub(crate) fn strict(app: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: strict-{app}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  mtls: {{mode: STRICT}}\n"
    )
}

/// Whether a connection does not get through to the server. One that is denied is refused, or reset at once where
/// the port is known to be open.
fn is_refused(mesh: &Mesh, from: &str, to: &str) -> bool {
    churn::good(mesh, from, to, "near", 1).is_err()
}

/// Waits until connections are, or are not, refused.
fn wait_refused(mesh: &Mesh, from: &str, to: &str, refused: bool) -> Result<()> {
    wait_until(SOON, "the policy to take effect", || {
        is_refused(mesh, from, to) == refused
    })
}

#[test]
fn a_deny_policy_refuses_whom_it_names_on_this_node_and_lets_the_rest_in() {
    Mesh::scenario(standard("deny"), |mesh| {
        let _agents = mesh.start_agents()?;
        let near = at(mesh.pod("near").v4(), PORT);
        let _server = traffic::serve(mesh.pod("near"), "identity", PORT)?;
        churn::good(mesh, "client", &near, "near", 5)?;
        // The kernel proves who the client is: no certificate is needed on one node.
        let rules = "[{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
        mesh.write_config(FILE, &policy("no-client", "DENY", "near", rules))?;
        wait_refused(mesh, "client", &near, true)?;
        let said = connect(mesh.pod("client"), &near)?;
        ensure!(said["error"] == "ECONNREFUSED", "{said}");
        let flows = mesh.node("a").cli(&["flows", "--last", "50"])?.ok()?.stdout;
        ensure!(
            flows.contains("denied by DENY policy default/no-client, rule 0"),
            "{flows}"
        );
        let flows = mesh
            .node("a")
            .cli(&["flows", "--kind", "refused", "-o", "json"])?
            .ok()?;
        let flow: serde_json::Value = serde_json::from_str(flows.stdout.lines().last().unwrap_or_default())?;
        ensure!(
            flow["verdict"] == "denied by DENY policy default/no-client, rule 0"
                && flow["policy"] == "default/no-client",
            "{flow}"
        );
        // What is explained is what happens, and whom the policy concerns is listed.
        let explain = |source: &str| mesh.node("a").cli(&["explain", source, &near, "-o", "json"]);
        let client = explain("default/client")?;
        let told: serde_json::Value = serde_json::from_str(&client.stdout)?;
        let verdict = &told["ways"][0]["verdict"];
        ensure!(
            client.status.code() == Some(1) && verdict == "denied by DENY policy default/no-client, rule 0",
            "{client:?}"
        );
        explain(&mesh.pod("stranger").v4().to_string())?.ok()?;
        let listed = mesh.node("a").cli(&["policies", "-o", "json"])?.ok()?;
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout)?;
        let concerned = listed["policies"][0]["workloads"].as_array();
        ensure!(
            concerned.is_some_and(|names| names.iter().any(|name| name == "default/near")),
            "{listed}"
        );
        // From outside, in plaintext, nobody proved to be the client.
        churn::good(mesh, "stranger", &near, "near", 5)?;
        mesh.remove_config(FILE)?;
        wait_refused(mesh, "client", &near, false)
    });
}

#[test]
fn an_allow_policy_admits_only_whom_it_names_and_dry_run_changes_nothing() {
    Mesh::scenario(standard("allow"), |mesh| {
        let _agents = mesh.start_agents()?;
        let near = at(mesh.pod("near").v4(), PORT);
        let _server = traffic::serve(mesh.pod("near"), "identity", PORT)?;
        let rules = "[{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
        mesh.write_config(FILE, &policy("only-client", "ALLOW", "near", rules))?;
        wait_refused(mesh, "stranger", &near, true)?;
        churn::good(mesh, "client", &near, "near", 20)?;
        let dry = policy("only-client", "ALLOW", "near", rules).replace(
            "namespace: default}",
            "namespace: default, annotations: {istio.io/dry-run: \"true\"}}",
        );
        mesh.write_config(FILE, &dry)?;
        wait_refused(mesh, "stranger", &near, false)
    });
}

#[test]
fn a_policy_that_comes_later_closes_what_it_does_not_allow() {
    Mesh::scenario(standard("revoke"), |mesh| {
        let _agents = mesh.start_agents()?;
        let near = at(mesh.pod("near").v4(), PORT);
        let _server = traffic::serve(mesh.pod("near"), "echo", PORT)?;
        let _held = Held::open(mesh, "client", &[near], 10)?;
        let verdicts = || -> Result<Vec<String>> {
            let connections = mesh.node("a").cli(&["connections", "-o", "json"])?.ok()?;
            let listed: serde_json::Value = serde_json::from_str(&connections.stdout)?;
            let open = listed["connections"].as_array().into_iter().flatten();
            Ok(open
                .map(|one| one["verdict"].as_str().unwrap_or_default().to_owned())
                .collect())
        };
        let all_say = |said: &str| {
            verdicts().is_ok_and(|all| all.len() >= 10 && all.iter().all(|verdict| verdict == said))
        };
        // Those that go by themselves are told of a moment after they began.
        wait_until(SOON, "the connections to be told of", || {
            all_say("allowed: no ALLOW policy concerns the workload")
        })?;
        // One that lets them be is told of them too.
        mesh.write_config(FILE, &policy("everybody", "ALLOW", "near", "[{}]"))?;
        wait_until(SOON, "the connections to be judged again", || {
            all_say("allowed by ALLOW policy default/everybody, rule 0")
        })?;
        mesh.write_config(FILE, &policy("nobody", "DENY", "near", "[{}]"))?;
        wait_until(SOON, "the connections to be closed", || {
            verdicts().is_ok_and(|open| open.is_empty())
        })
    });
}

#[test]
fn strict_refuses_plaintext_and_the_kernel_is_proof_enough_on_one_node() {
    Mesh::scenario(standard("strict"), |mesh| {
        let _agents = mesh.start_agents()?;
        let near = at(mesh.pod("near").v4(), PORT);
        let _server = traffic::serve(mesh.pod("near"), "identity", PORT)?;
        churn::good(mesh, "stranger", &near, "near", 5)?;
        mesh.write_config(FILE, &strict("near"))?;
        wait_refused(mesh, "stranger", &near, true)?;
        churn::good(mesh, "client", &near, "near", 20)
    });
}
