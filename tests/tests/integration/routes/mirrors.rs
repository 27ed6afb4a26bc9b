//! "RequestMirror (percent or fraction); per rule and per backendRef."

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, traffic, wait_until};
use serde_json::Value;

use super::kit::{APP, apply, ask, asked, header_of, http, routed, routed_mesh, routed_with, to};
use crate::checks::SOON;

fn mirror(to: &str, share: &str) -> String {
    format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
}

/// Waits until an application has been asked so often, and returns all it was asked.
fn wait_asked(mesh: &Mesh, server: &str, count: usize) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    wait_until(SOON, "the copies to arrive", || {
        all = asked(mesh, server).unwrap_or_default();
        all.len() >= count
    })
    .with_context(|| format!("{server}: {} of {count}: {all:?}", all.len()))?;
    Ok(all)
}

/// A copy has head and body of the request, filters of the rule included; its answer is nobody's.
#[test]
fn a_copy_of_each_request_goes_to_the_mirror() {
    routed("mirror-whole", |mesh| {
        let set = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: '1'}]}}";
        let rules = [
            format!(
                "{{matches: [{{path: {{value: /rule}}}}], filters: [{set}, {}, {}], {}}}",
                mirror("v2", ""),
                mirror("near", ""),
                to("v1")
            ),
            format!(
                "{{matches: [{{path: {{value: /backend}}}}], backendRefs: [{{name: v1, port: 80, filters: [{}]}}, {{name: \
                 near, port: 80, weight: 0, filters: [{}]}}]}}",
                mirror("v2", ""),
                mirror("near", "")
            ),
        ];
        apply(
            mesh,
            &[http("default/r", "web", &format!("[{}]", rules.join(", ")))],
        )?;
        // Of the body the digest is compared.
        let large = "x".repeat(100_000);
        let file = mesh.dir().join("large");
        std::fs::write(&file, &large)?;
        let data = format!("@{}", file.display());
        for (number, args) in [
            vec![],
            vec!["-d", "small"],
            vec!["-d", &data],
            vec!["transfer-encoding: chunked", "-d", &data],
        ]
        .into_iter()
        .enumerate()
        {
            let path = format!("/rule/{number}");
            let reply = ask(mesh, "client", "web", &path, &args)?;
            let method = if args.is_empty() { "GET" } else { "POST" };
            ensure!(reply.said() == format!("200 v1 {method} {path}"), "{reply:?}");
            let main: Value = serde_json::from_str(&reply.body)?;
            for server in ["v2", "near"] {
                let copies = wait_asked(mesh, server, number + 1)?;
                let copy = &copies[number];
                for field in ["method", "target", "bytes", "sha256"] {
                    ensure!(copy[field] == main[field], "{server}: {field}: {copy} {main}");
                }
                ensure!(header_of(copy, "x-set").as_deref() == Some("1"), "{copy}");
                ensure!(header_of(copy, "host") == header_of(&main, "host"), "{copy}");
                ensure!(copy["client"] == mesh.pod("client").v4().to_string(), "{copy}");
            }
        }
        // A backend's mirror copies what goes to that backend.
        ask(mesh, "client", "web", "/backend/x", &[])?;
        let copies = wait_asked(mesh, "v2", 5)?;
        ensure!(copies[4]["target"] == "/backend/x", "{}", copies[4]);
        ensure!(asked(mesh, "near")?.len() == 4, "the lot never falls on it");
        counted(mesh, "answered", 9.0)
    });
}

/// So many of the client's copies came to this end.
fn counted(mesh: &Mesh, outcome: &str, count: f64) -> Result<()> {
    let labels = [("outcome", outcome), ("workload", "client")];
    let mut last = 0.0;
    wait_until(SOON, "the copies to be counted", || {
        let metrics = mesh.node("a").metrics();
        last = metrics
            .and_then(|metrics| metrics.sum("nodemesh_mirrored_requests_total", &labels))
            .unwrap_or(0.0);
        last == count
    })
    .with_context(|| format!("{last} copies are {outcome}, not {count}"))
}

/// A mirror that hangs, is not there or breaks off costs the request nothing.
#[test]
fn a_mirror_in_trouble_is_not_noticed() {
    let hanging = mesh_tests::Service::new("hanging")
        .selector("app", "v2")
        .port(80, 7830)
        .app_protocol("http");
    routed_with(routed_mesh("mirror-trouble").service(hanging), |mesh| {
        let _sink = traffic::serve_with(mesh.pod("v2"), "slow", 7830, &["--bytes", "100"])?;
        let filters = ["hanging", "nobody", "missing"]
            .map(|to| mirror(to, ""))
            .join(", ");
        apply(
            mesh,
            &[http(
                "default/r",
                "web",
                &format!("[{{filters: [{filters}], {}}}]", to("v1")),
            )],
        )?;
        // More than a mirror may be behind: it is given up, the request goes on.
        let file = mesh.dir().join("large");
        std::fs::write(&file, "x".repeat(30_000_000))?;
        let data = format!("@{}", file.display());
        for number in 0..3 {
            let path = format!("/{number}");
            let reply = ask(mesh, "client", "web", &path, &["--data-binary", &data])?;
            let main: Value = serde_json::from_str(&reply.body).with_context(|| format!("{reply:?}"))?;
            ensure!(main["bytes"] == 30_000_000 && main["server"] == "v1", "{main}");
        }
        let at = format!("{}:{APP}", mesh.pod("v1").v4());
        ensure!(
            !at.is_empty() && asked(mesh, "v1")?.len() == 3,
            "each request arrived once"
        );
        counted(mesh, "left-out", 6.0)?;
        counted(mesh, "failed", 3.0)
    });
}

/// A percentage and a fraction of the requests are copied, each request by its own lot.
///
/// The number of copies of 2,000 requests is binomial. For 25 % its mean is 500 and its standard deviation 19.4; by Hoeffding's
/// bound, P(|copies − mean| ≥ t) ≤ 2·exp(−2t²/2000), the probability to be off by 150 is below 4·10⁻¹⁰. The same bound holds
/// for the fraction of 1/2 (mean 1,000). 0 % copies nothing.
#[test]
fn a_percentage_of_the_requests_is_copied() {
    routed("mirror-percent", |mesh| {
        let filters = [
            mirror("v2", ", percent: 25"),
            mirror("near", ", fraction: {numerator: 2, denominator: 4}"),
            mirror("web", ", percent: 0"),
        ];
        apply(
            mesh,
            &[http(
                "default/r",
                "v1",
                &format!("[{{filters: [{}], {}}}]", filters.join(", "), to("v1")),
            )],
        )?;
        super::limits::spread(mesh, "v1", 2000)?;
        ensure!(asked(mesh, "v1")?.len() == 2000);
        for (server, mean) in [("v2", 500), ("near", 1000)] {
            let copies = settled(mesh, server)?;
            ensure!(
                copies.abs_diff(mean) < 150,
                "{server}: {copies} copies, not about {mean}"
            );
        }
        ensure!(asked(mesh, "web")?.is_empty());
        Ok(())
    });
}

/// How often an application was asked, once nothing more comes: two looks that agree after the last request was answered.
fn settled(mesh: &Mesh, server: &str) -> Result<usize> {
    let mut before = usize::MAX;
    wait_until(SOON, "the last copies", || {
        let now = asked(mesh, server).map_or(usize::MAX - 1, |all| all.len());
        std::mem::replace(&mut before, now) == now
    })?;
    Ok(before)
}
