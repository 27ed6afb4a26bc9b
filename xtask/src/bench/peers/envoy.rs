//! A pair of Envoys: HTTP/2 over mutual TLS between them, and the same policy as the agents have.

use std::path::Path;

use anyhow::Result;
use mesh_tests::{Credentials, Mesh, Process, programs};
use serde_json::{Value, json};

use super::{CALLS, Ground, entrance, inbound, spiffe, write};
use crate::bench::http::Version;

const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];
const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn start(mesh: &Mesh, ground: &Ground<'_>) -> Result<Vec<Process>> {
    let pairs = [("a", "client", source(ground)), ("b", "web", destination(ground))];
    pairs
        .into_iter()
        .map(|(node, pod, (listeners, clusters))| {
            let config = json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
            let config = write(&ground.dir, &format!("{pod}.json"), &config.to_string())?;
            let envoy = mesh.node(node).sidecar(mesh.pod(pod), programs::envoy()?);
            envoy
                .arg("-c")
                .arg(config)
                .args(["--concurrency", &ground.workers.to_string()])
                .args(["--disable-hot-restart", "--log-level", "warning"])
                .spawn()
        })
        .collect()
}

/// Beside the client: to `web` under mTLS, to `near` straight and with the policy here.
fn source(ground: &Ground<'_>) -> (Vec<Value>, Vec<Value>) {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for version in VERSIONS {
        let (to_web, to_near) = (name("web", version), name("near", version));
        let (web, near) = (entrance("web", version), entrance("near", version));
        listeners.push(listener("127.0.0.1", web, &to_web, None, None));
        listeners.push(listener(
            "127.0.0.1",
            near,
            &to_near,
            Some(&json!({ "any": true })),
            None,
        ));
        let tls = tls("Upstream", ground.client, &spiffe("web"));
        clusters.push(cluster(
            &to_web,
            &ground.web.to_string(),
            inbound(version),
            Version::Http2,
            Some(&tls),
        ));
        clusters.push(cluster(
            &to_near,
            &ground.near.to_string(),
            version.app_port(),
            version,
            None,
        ));
    }
    (listeners, clusters)
}

/// Beside the server.
fn destination(ground: &Ground<'_>) -> (Vec<Value>, Vec<Value>) {
    let principal = json!({ "authenticated": { "principal_name": { "exact": spiffe("client") } } });
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for version in VERSIONS {
        let app = name("app", version);
        let tls = tls("Downstream", ground.server, &spiffe("client"));
        let at = ground.web.to_string();
        listeners.push(listener(
            &at,
            inbound(version),
            &app,
            Some(&principal),
            Some(&tls),
        ));
        clusters.push(cluster(&app, "127.0.0.1", version.app_port(), version, None));
    }
    (listeners, clusters)
}

fn name(pod: &str, version: Version) -> String {
    format!("{pod}-{}", version.app_port())
}

fn address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn listener(host: &str, port: u16, to: &str, principal: Option<&Value>, tls: Option<&Value>) -> Value {
    let router = json!({ "name": "router", "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") } });
    let filters: Vec<Value> = principal.map(rbac).into_iter().chain([router]).collect();
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": to,
        "generate_request_id": false,
        "route_config": { "virtual_hosts": [{
            "name": to,
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": to, "timeout": "0s" } }],
        }] },
        "http_filters": filters,
    });
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({ "name": format!("{host}-{port}"), "address": address(host, port), "filter_chains": [chain] })
}

/// The methods and paths of the policy that agents have.
fn rbac(principal: &Value) -> Value {
    let method =
        |method: &str| json!({ "header": { "name": ":method", "string_match": { "exact": method } } });
    let path = |path: &str| json!({ "url_path": { "path": { "exact": path } } });
    let calls = json!({ "url_path": { "path": { "prefix": CALLS } } });
    let permission = json!({ "and_rules": { "rules": [
        { "or_rules": { "rules": [method("GET"), method("HEAD"), method("POST")] } },
        { "or_rules": { "rules": [path("/"), path("/big"), calls] } },
    ] } });
    json!({
        "name": "rbac",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
            "rules": { "action": "ALLOW", "policies": {
                "client": { "permissions": [permission], "principals": [principal] },
            } },
        },
    })
}

fn cluster(name: &str, host: &str, port: u16, version: Version, tls: Option<&Value>) -> Value {
    let protocol = match version {
        Version::Http1 => json!({ "http_protocol_options": {} }),
        Version::Http2 => json!({ "http2_protocol_options": {} }),
    };
    let endpoint = json!({ "endpoint": { "address": address(host, port) } });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": protocol,
            },
        },
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

/// `side` as Envoy calls it: Upstream or Downstream.
fn tls(side: &str, own: &Credentials, expected: &str) -> Value {
    let file = |path: &Path| json!({ "filename": path.display().to_string() });
    let mut config = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{side}TlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificates": [{ "certificate_chain": file(&own.chain), "private_key": file(&own.key) }],
            "validation_context": {
                "trusted_ca": file(&own.roots),
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": expected } }],
            },
        },
    });
    if side == "Downstream" {
        config["require_client_certificate"] = json!(true);
    }
    json!({ "name": "tls", "typed_config": config })
}
