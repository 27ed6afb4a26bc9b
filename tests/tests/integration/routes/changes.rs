//! Routes that change while requests are under way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, programs};
use serde_json::Value;

use super::kit::{apply, routed};
use crate::checks::SOON;

/// Versions of the configuration, each of which changes every one of [`LED`].
const VERSIONS: usize = 250;
/// Services whose routes change: with [`VERSIONS`] 1,000 updates of routes.
const LED: [&str; 4] = ["web", "v1", "v2", "near"];

/// Version `version` of one service's route, and of its backend: the route writes the version into request and answer, and
/// the backend selects another server than in the version before.
fn version_of(service: &str, version: usize) -> [String; 2] {
    let set = format!("set: [{{name: x-version, value: '{version}'}}]");
    let rule = format!(
        "[{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{set}}}}}, {{type: ResponseHeaderModifier, \
         responseHeaderModifier: {{{set}}}}}], backendRefs: [{{name: turning-{service}, port: 80}}]}}]"
    );
    let server = 1 + version % 2;
    let port = super::kit::APP;
    let backend = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: turning-{service}, namespace: default}}\nspec:\n  selector: \
         {{app: v{server}}}\n  ports: [{{name: http, port: 80, targetPort: {port}, appProtocol: http}}]\n"
    );
    [
        super::kit::http(&format!("default/of-{service}"), service, &rule),
        backend,
    ]
}

fn write(mesh: &Mesh, version: usize) -> Result<()> {
    let documents: Vec<_> = LED
        .iter()
        .flat_map(|service| version_of(service, version))
        .collect();
    let text: String = documents.iter().map(|one| format!("---\n{one}")).collect();
    // The source's agent leads; the other one need not know.
    mesh.node("a").write_config("zz-routes.yaml", &text)
}

/// A thousand updates of routes under load: no request fails, and none sees a part of a change. The next version is written when
/// requests to every service have seen the one before.
#[test]
fn a_thousand_updates_of_routes_cost_no_request() {
    routed("route-updates", |mesh| {
        apply(mesh, &[])?;
        write(mesh, 0)?;
        let addresses = LED.map(|service| mesh.service(service).v4().to_string());
        // Until the first version is in force, answers have no version in them.
        mesh_tests::wait_until(SOON, "the first version", || {
            LED.iter().all(|service| {
                super::kit::ask(mesh, "client", service, "/x", &[])
                    .is_ok_and(|reply| reply.header("x-version").as_deref() == Some("0"))
            })
        })?;
        let client = mesh
            .pod("client")
            .command("python3")
            .arg(programs::python("requests.py"));
        let last = (VERSIONS - 1).to_string();
        let client = client
            .args(["follow", &last])
            .args(&addresses)
            .deadline(Duration::from_secs(300));
        let mut client = client.spawn()?;
        let begun = Instant::now();
        for version in 0..VERSIONS {
            if version > 0 {
                write(mesh, version)?;
            }
            for (at, service) in LED.iter().enumerate() {
                let line = format!("{{\"at\": {at}, \"version\": {version}}}");
                client
                    .wait_line(SOON, |said| said == line)
                    .with_context(|| format!("version {version} at {service}"))?;
            }
        }
        let took = begun.elapsed();
        let report: Value = serde_json::from_str(
            client
                .wait(SOON)?
                .ok()?
                .stdout
                .lines()
                .last()
                .context("a report")?,
        )?;
        eprintln!("{} updates of routes in {took:?}: {report}", VERSIONS * LED.len());
        ensure!(report["failed"] == serde_json::json!([]), "{report}");
        ensure!(report["torn"] == serde_json::json!([]), "{report}");
        ensure!(
            report["versions"] == VERSIONS * LED.len(),
            "every version was seen: {report}"
        );
        Ok(())
    });
}
