//! What is explained is what happens: requests are asked about, then sent, by routes and policies and across nodes.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, Output, wait_until};
use serde_json::Value;

use crate::{
    checks::SOON,
    http::{curl, http_mesh, start},
};

/// Requests to `far` go by a route, and a policy of the other node denies some. Those to `near` have no route.
const CONFIG: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: far, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: far, port: 80}]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /api}}}]
  - matches: [{path: {value: /api}, headers: [{name: x-group, value: testers}]}]
    backendRefs: [{name: near, port: 80}]
  - matches: [{path: {value: /api}}, {path: {value: /admin}}]
    backendRefs: [{name: far, port: 80}]
  - matches: [{path: {value: /renamed}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /admin}}}]
    backendRefs: [{name: far, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /api}}}]
    backendRefs: [{name: far, port: 80}]
  - matches: [{path: {value: /empty}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  selector: {matchLabels: {app: far}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, /admin/*]}}]
  - to: [{operation: {methods: [DELETE]}}]
  - when: [{key: 'request.headers[x-bad]', values: ['*']}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: near}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  selector: {matchLabels: {app: near}}
  jwtRules:
  - {issuer: tests, jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'}
"#;

/// A request, and what becomes of it: the status, and who got it under which target.
struct Case {
    to: &'static str,
    method: &'static str,
    path: &'static str,
    header: &'static str,
    status: u64,
    arrives: Option<(&'static str, &'static str)>,
}

const fn case(
    to: &'static str,
    method: &'static str,
    path: &'static str,
    header: &'static str,
    status: u64,
    arrives: Option<(&'static str, &'static str)>,
) -> Case {
    Case {
        to,
        method,
        path,
        header,
        status,
        arrives,
    }
}

const CASES: [Case; 23] = [
    case("far", "GET", "/api/x?y=1", "", 200, Some(("far", "/api/x?y=1"))),
    case(
        "far",
        "GET",
        "/api/x",
        "X-Group: testers",
        200,
        Some(("near", "/api/x")),
    ),
    case("far", "POST", "/api/x", "X-Group: testers", 403, None),
    case("far", "GET", "/moved/x", "", 200, Some(("far", "/api/x"))),
    case("far", "GET", "/old/x", "", 301, None),
    case("far", "GET", "/", "", 404, None),
    case("far", "GET", "/apiary", "", 404, None),
    case("far", "GET", "/admin", "", 403, None),
    case("far", "GET", "/api/../admin/x", "", 403, None),
    case("far", "GET", "/api/%2e%2e/admin", "", 403, None),
    case("far", "GET", "/renamed/x", "", 403, None),
    case("far", "DELETE", "/api/x", "", 403, None),
    case("far", "GET", "/api", "X-Bad: yes", 403, None),
    case("far", "GET", "/empty", "", 503, None),
    case("far", "GET", "/gone", "", 500, None),
    case("near", "GET", "/", "Authorization: Bearer nonsense", 401, None),
    case("near", "POST", "/", "", 403, None),
    case("nobody", "GET", "/", "", 503, None),
    // The other port speaks bytes to the client's agent.
    case("near:81", "GET", "/x", "", 200, Some(("near", "/x"))),
    case("near:81", "POST", "/x", "", 403, None),
    case(
        "far:81",
        "GET",
        "/nothing/x",
        "",
        200,
        Some(("far", "/nothing/x")),
    ),
    case("far:81", "GET", "/admin/x", "", 403, None),
    case("far:81", "DELETE", "/", "", 403, None),
];

impl Case {
    /// What is dialled.
    fn at(&self, mesh: &Mesh) -> String {
        let (service, port) = self.to.split_once(':').unwrap_or((self.to, "80"));
        format!("{}:{port}", mesh.service(service).v4())
    }

    /// Sends the request: the status of the answer, and whoever gave it.
    fn sent(&self, mesh: &Mesh) -> Result<(u64, Value)> {
        let at = format!("http://{}{}", self.at(mesh), self.path);
        let mut args = vec!["--path-as-is", "-X", self.method, "-w", "\n%{http_code}"];
        if !self.header.is_empty() {
            args.extend(["-H", self.header]);
        }
        args.push(&at);
        let said = curl(mesh.pod("client"), &args)?.ok()?.stdout;
        let (body, status) = said.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, serde_json::from_str(body).unwrap_or_default()))
    }

    /// Asks the client's agent about it.
    fn explained(&self, mesh: &Mesh) -> Result<(Output, Value)> {
        let at = self.at(mesh);
        let mut args = vec!["explain", "default/client", &at, "-o", "json"];
        args.extend(["--method", self.method, "--path", self.path]);
        if !self.header.is_empty() {
            args.extend(["--header", self.header]);
        }
        let output = mesh.node("a").cli(&args)?;
        let reply = serde_json::from_str(&output.stdout).with_context(|| output.to_string())?;
        Ok((output, reply))
    }

    fn check(&self, mesh: &Mesh) -> Result<()> {
        let (output, reply) = self.explained(mesh)?;
        let way = &reply["ways"][0];
        let told = match (reply["status"].as_u64(), way["status"].as_u64()) {
            (Some(0), Some(0)) if way["allowed"] == true => 200,
            (Some(0), Some(status)) => status,
            (status, _) => status.unwrap_or_default(),
        };
        ensure!(told == self.status, "explained as {told}: {output}");
        let expected = i32::from(self.status >= 400);
        ensure!(output.status.code() == Some(expected), "{output}");
        let (status, body) = self.sent(mesh)?;
        ensure!(
            status == self.status,
            "answered with {status}, {body}; explained: {output}"
        );
        let Some((server, target)) = self.arrives else {
            return Ok(());
        };
        ensure!(
            body["server"] == server && body["target"] == target,
            "it arrived otherwise: {body}"
        );
        let workload = &way["endpoints"][0]["workload"];
        ensure!(
            *workload == format!("default/{server}") && way["request"]["path"] == target,
            "it is explained otherwise: {output}"
        );
        Ok(())
    }
}

#[test]
fn what_is_explained_of_requests_is_what_they_meet() {
    Mesh::scenario(http_mesh("explained"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        mesh.write_config("zz-explained.yaml", CONFIG)?;
        // One that only the other node's agent refuses, and one that only this one's does.
        for sentinel in [&CASES[7], &CASES[15]] {
            wait_until(SOON, "routes and policies to be in force", || {
                sentinel
                    .sent(mesh)
                    .is_ok_and(|(status, _)| status == sentinel.status)
            })?;
        }
        CASES.iter().try_for_each(|case| {
            let Case {
                to,
                method,
                path,
                header,
                ..
            } = case;
            case.check(mesh)
                .with_context(|| format!("{method} {path} {header} to {to}"))
        })?;
        // Without a request it is said what decides.
        let at = format!("{}:80", mesh.service("far").v4());
        let reply = mesh
            .node("a")
            .cli(&["explain", "default/client", &at])?
            .ok()?
            .stdout;
        ensure!(
            reply.contains("HTTPRoute default/far: path, header x-group"),
            "{reply}"
        );
        let listed = mesh.node("a").cli(&["policies", "-o", "wide"])?.ok()?.stdout;
        ensure!(listed.contains("tests: 1 in the policy"), "{listed}");
        mesh.remove_config("zz-explained.yaml")
    });
}
