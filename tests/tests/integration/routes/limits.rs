//! Weights, time limits, and what is not tried again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, Service, programs, traffic};
use serde_json::Value;

use super::kit::{apply, ask, ask_at, conditions, expect, http, routed, routed_mesh, routed_with, to};

/// Sends so many requests over a few connections and counts the answers: by server, or by status and cause of the mesh.
pub(super) fn spread(mesh: &Mesh, service: &str, count: usize) -> Result<BTreeMap<String, usize>> {
    let client = mesh
        .pod("client")
        .command("python3")
        .arg(programs::python("requests.py"));
    let address = mesh.service(service).v4().to_string();
    let client = client.args(["count", &address, &count.to_string()]);
    let output = client.deadline(Duration::from_secs(120)).run()?.ok()?;
    let counted: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))?;
    let pairs = counted.as_object().context("no counts")?.iter();
    Ok(pairs
        .filter_map(|(name, count)| Some((name.clone(), usize::try_from(count.as_u64()?).ok()?)))
        .collect())
}

/// "Weights: 0 gets nothing; all zero or no backends → 500."
#[test]
fn weights_of_zero_get_nothing_and_a_rule_without_backends_answers_500() {
    routed("weight-zero", |mesh| {
        let rule = |name: &str, backends: &str| {
            format!("{{matches: [{{path: {{value: /{name}}}}}], {}}}", to(backends))
        };
        let rules = [
            rule("", "v1=0 v2=1 near=0"),
            rule("zero", "v1=0 v2=0"),
            "{matches: [{path: {value: /none}}]}".to_owned(),
            rule("missing", "nowhere"),
            rule("nobody", "nobody"),
        ];
        let named = rules[1].replace("{matches", "{name: nothing-left, matches");
        let rules = [&rules[0], &named, &rules[2], &rules[3], &rules[4]].map(String::as_str);
        apply(
            mesh,
            &[http("default/r", "web", &format!("[{}]", rules.join(", ")))],
        )?;
        let counted = spread(mesh, "web", 500)?;
        ensure!(counted == BTreeMap::from([("v2".to_owned(), 500)]), "{counted:?}");
        let call: &[&str] = &["-X", "POST", "content-type: application/grpc"];
        expect(
            mesh,
            "web",
            &[
                ("/zero", &[], "500 mesh no-backend"),
                ("/zero", call, "200 mesh no-backend grpc 14"),
                ("/none", &[], "500 mesh no-backend"),
                ("/missing", &[], "500 mesh no-backend"),
                ("/nobody", &[], "503 mesh no-endpoint"),
            ],
        )?;
        let reply = ask(mesh, "client", "web", "/zero", &[])?;
        let reason = "HTTPRoute default/r, rule 1 (nothing-left): the rule has no backend with a weight\n";
        ensure!(reply.body.ends_with(reason), "{reply:?}");
        let reply = ask(mesh, "client", "web", "/missing", &[])?;
        let reason = "HTTPRoute default/r, rule 3: there is no service port default/nowhere:80\n";
        ensure!(reply.body.ends_with(reason), "{reply:?}");
        Ok(())
    });
}

/// "Weights", as shares of the requests, also that of a backend which is not there.
///
/// Of 5,000 requests each backend gets a binomial number. By Hoeffding's bound, P(|n − mean| ≥ t) ≤ 2·exp(−2t²/5000): to be off
/// by 250 has a probability below 3·10⁻¹¹ for each of the four, so below 2·10⁻¹⁰ for any of them.
#[test]
fn requests_are_spread_by_weight() {
    routed("weight-shares", |mesh| {
        let rule = format!("[{{{}}}]", to("v1=60 v2=25 near=10 nowhere=5"));
        apply(mesh, &[http("default/r", "web", &rule)])?;
        let counted = spread(mesh, "web", 5000)?;
        ensure!(
            counted.values().sum::<usize>() == 5000 && counted.len() == 4,
            "{counted:?}"
        );
        for (name, mean) in [("v1", 3000), ("v2", 1250), ("near", 500), ("500 no-backend", 250)] {
            let count = counted.get(name).copied().unwrap_or_default();
            ensure!(
                count.abs_diff(mean) < 250,
                "{name}: {count}, not about {mean}: {counted:?}"
            );
        }
        Ok(())
    });
}

/// "`timeouts.request` bounds everything including retries; `timeouts.backendRequest` bounds each try."
#[test]
fn time_limits_end_requests() {
    let service = |name: &str, port: u16| {
        Service::new(name)
            .selector("app", "v1")
            .port(80, port)
            .app_protocol("http")
    };
    let mesh = routed_mesh("route-timeouts")
        .service(service("mute", 7840))
        .service(service("slow", 7841));
    routed_with(mesh, |mesh| {
        // One takes connections and says nothing; one speaks HTTP/2 and sends a body for a minute.
        let _mute = traffic::serve(mesh.pod("v1"), "sink", 7840)?;
        let _slow = slow_h2(mesh)?;
        let rule = |name: &str, limits: &str, backend: &str| {
            format!(
                "{{matches: [{{path: {{value: /{name}}}}}], timeouts: {{{limits}}}, {}, filters: [{{type: URLRewrite, \
                 urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]}}",
                to(backend)
            )
        };
        let rules = [
            rule("request", "request: 400ms", "v1"),
            rule("attempt", "backendRequest: 400ms", "v1"),
            rule("both", "request: 10s, backendRequest: 400ms", "v1"),
            rule("none", "request: 0s", "v1"),
            rule("mute", "request: 400ms", "mute"),
            rule("slow", "request: 900ms", "slow"),
            rule("enough", "request: 10s", "v1"),
        ];
        apply(
            mesh,
            &[http("default/r", "web", &format!("[{}]", rules.join(", ")))],
        )?;
        let call: &[&str] = &["-X", "POST", "content-type: application/grpc"];
        let h2: &[&str] = &["--http2-prior-knowledge"];
        let h2_call: &[&str] = &[
            "--http2-prior-knowledge",
            "-X",
            "POST",
            "content-type: application/grpc",
        ];
        expect(
            mesh,
            "web",
            &[
                ("/request/sleep/3000", &[], "504 mesh timeout"),
                ("/attempt/sleep/3000", &[], "504 mesh try-timeout"),
                ("/both/sleep/3000", &[], "504 mesh try-timeout"),
                ("/request/sleep/3000", call, "200 mesh timeout grpc 4"),
                ("/attempt/sleep/3000", call, "200 mesh try-timeout grpc 4"),
                ("/mute/x", &[], "504 mesh timeout"),
                ("/mute/x", h2, "504 mesh timeout"),
                ("/mute/x", h2_call, "200 mesh timeout grpc 4"),
                ("/none/sleep/700", &[], "200"),
                ("/enough/sleep/700", &[], "200"),
                ("/enough/x", &[], "200 v1 GET /x"),
                ("/request/x", &[], "200 v1 GET /x"),
            ],
        )?;
        // The limit is for the body too. What was begun is broken off, visibly.
        let client = mesh.pod("client");
        let at = |path: &str| format!("http://{}{path}", mesh.service("web").v4());
        let cut = client.run("curl", &["-sS", &at("/request/drip/200")])?;
        ensure!(
            cut.status.code() == Some(56) || cut.status.code() == Some(18),
            "{cut}"
        );
        ensure!(!cut.stdout.is_empty() && cut.stdout.len() < 200, "{cut}");
        let whole = client.run("curl", &["-sS", &at("/enough/drip/20")])?.ok()?;
        ensure!(whole.stdout.len() == 20, "{whole}");
        let cut = client.run("curl", &["-sS", "--http2-prior-knowledge", &at("/slow/large")])?;
        ensure!(
            !cut.status.success() && !cut.stdout.is_empty(),
            "a reset stream: {:?}",
            cut.status
        );
        // To gRPC the end of the stream says why.
        let args = [
            "-sS",
            "-i",
            "--http2-prior-knowledge",
            "-X",
            "POST",
            "-H",
            "content-type: application/grpc",
        ];
        let call = client
            .run("curl", &[&args[..], &[&at("/slow/large")]].concat())?
            .ok()?
            .stdout;
        ensure!(call.starts_with("HTTP/2 200"), "{}", &call[..call.len().min(300)]);
        ensure!(
            call.contains("grpc-status: 4") && call.contains("took longer than the route's 900ms"),
            "{}",
            &call[call.len().saturating_sub(300)..]
        );
        // A request whose body does not come in time.
        let slow = format!(
            "(printf x; sleep 3) | curl -sS -o /dev/null -w %{{http_code}} -T - {}",
            at("/request/x")
        );
        let answered = client.run("sh", &["-c", &slow])?.ok()?;
        ensure!(answered.stdout == "504", "{answered}");
        Ok(())
    });
}

/// Starts an nginx in the pod of `v1` that sends `/large` over HTTP/2, a little of it each second.
fn slow_h2(mesh: &Mesh) -> Result<mesh_tests::Process> {
    let dir = mesh.dir().join("nginx");
    std::fs::create_dir_all(dir.join("www"))?;
    std::fs::write(dir.join("www/large"), "x".repeat(600_000))?;
    let dir = dir.display();
    // With server-side includes nobody knows the length, as with gRPC.
    let conf = format!(
        "daemon off; master_process off; user root; pid {dir}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; ssi on; ssi_types text/plain; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen 7841 http2; listen [::]:7841 http2; root {dir}/www; error_page 405 =200 $uri; limit_rate 10k; }} }}\n"
    );
    let file = mesh.dir().join("nginx.conf");
    std::fs::write(&file, conf)?;
    let file = file.display().to_string();
    let pod = mesh.pod("v1");
    let nginx = pod.spawn("nginx", &["-c", file.as_str()])?;
    mesh_tests::wait_until(crate::checks::SOON, "nginx", || {
        let args = ["-sS", "--http2-prior-knowledge", "http://127.0.0.1:7841/none"];
        pod.run("curl", &args).is_ok_and(|said| said.ok().is_ok())
    })?;
    Ok(nginx)
}

/// "`retry` (GEP-1731)" is read, does nothing yet, and the route's conditions say so.
#[test]
fn a_retry_is_reported_as_without_effect() {
    routed("route-retry", |mesh| {
        let rule = format!("[{{retry: {{codes: [503], attempts: 3}}, {}}}]", to("v1"));
        apply(mesh, &[http("default/r", "web", &rule)])?;
        let at = mesh.service("web").v4().to_string();
        let reply = ask_at(mesh, "client", &at, "/status/503", &[])?;
        ensure!(
            reply.said() == "503" && reply.header("nodemesh-error").is_none(),
            "{reply:?}"
        );
        let status = conditions(mesh, "default/r")?;
        let accepted = &status["conditions"][0];
        ensure!(
            accepted["status"] == true
                && accepted["message"]
                    == "spec.rules[0].retry without effect: requests are not tried again yet",
            "{status}"
        );
        Ok(())
    });
}
