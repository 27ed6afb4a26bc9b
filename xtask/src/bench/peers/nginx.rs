//! A pair of nginx: HTTP/1.1 over mutual TLS between them, with kept connections.
//!
//! It knows no SPIFFE IDs: the authority of a certificate is checked, not whose it is, and the client's side takes any
//! certificate, since nginx would ask it for a host name. Of the policy it has the methods. HTTP/2 is only spoken with the
//! client, but for gRPC, which has HTTP/2 all the way.

use anyhow::Result;
use mesh_tests::{Mesh, Process};

use super::{CALLS, Ground, entrance, inbound, write};
use crate::bench::http::{Version, nginx_head, nginx_temporary};

/// Connections that a worker keeps open to the next one.
const KEPT: usize = 512;
/// The methods that the policy allows: GET includes HEAD.
const METHODS: &str = "limit_except GET { deny all; }";
const CALL_METHODS: &str = "limit_except POST { deny all; }";

pub(super) fn start(mesh: &Mesh, ground: &Ground<'_>) -> Result<Vec<Process>> {
    let pairs = [("a", "client", source(ground)), ("b", "web", destination(ground))];
    pairs
        .into_iter()
        .map(|(node, pod, servers)| {
            let dir = ground.dir.join(pod);
            std::fs::create_dir_all(&dir)?;
            let text = config(&dir.display().to_string(), ground.workers, &servers);
            let config = write(&dir, "nginx.conf", &text)?;
            let nginx = mesh.node(node).sidecar(mesh.pod(pod), "nginx");
            nginx.arg("-c").arg(config).spawn()
        })
        .collect()
}

fn config(dir: &str, workers: usize, servers: &str) -> String {
    format!(
        "{}worker_processes {workers};\nhttp {{\n  access_log off;\n  keepalive_timeout 2h;\n  keepalive_requests 1000000000;\n  \
         proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_max_temp_file_size 0;\n  {}\n{servers}}}\n",
        nginx_head(dir, 8192),
        nginx_temporary(dir),
    )
}

fn source(ground: &Ground<'_>) -> String {
    let (chain, key) = (ground.client.chain.display(), ground.client.key.display());
    let mut text = upstream("web", &format!("{}:{}", ground.web, inbound(Version::Http1)));
    text += &upstream("near", &format!("{}:{}", ground.near, Version::Http1.app_port()));
    text += &upstream("calls", &format!("{}:{}", ground.web, inbound(Version::Http2)));
    let calls = format!(
        "    location {CALLS} {{\n      grpc_pass grpcs://calls;\n      grpc_ssl_protocols TLSv1.3;\n      \
         grpc_ssl_certificate {chain};\n      grpc_ssl_certificate_key {key};\n    }}\n"
    );
    for (version, how, calls) in [
        (Version::Http1, "", ""),
        (Version::Http2, " http2", calls.as_str()),
    ] {
        let (web, near) = (entrance("web", version), entrance("near", version));
        text += &format!(
            "  server {{\n    listen 127.0.0.1:{web}{how} backlog=4096;\n    location / {{\n      proxy_pass https://web;\n      \
             proxy_ssl_protocols TLSv1.3;\n      proxy_ssl_certificate {chain};\n      proxy_ssl_certificate_key {key};\n    }}\n{calls}  }}\n  \
             server {{\n    listen 127.0.0.1:{near}{how} backlog=4096;\n    location / {{ {METHODS} proxy_pass http://near; }}\n  }}\n"
        );
    }
    text
}

fn destination(ground: &Ground<'_>) -> String {
    let server = ground.server;
    let (chain, key, roots) = (
        server.chain.display(),
        server.key.display(),
        server.roots.display(),
    );
    let tls = format!(
        "ssl_protocols TLSv1.3;\n    ssl_certificate {chain};\n    ssl_certificate_key {key};\n    \
         ssl_client_certificate {roots};\n    ssl_verify_client on;\n    ssl_verify_depth 3;\n    \
         ssl_session_cache shared:peers:1m;"
    );
    let (web, app) = (ground.web, |version: Version| {
        format!("127.0.0.1:{}", version.app_port())
    });
    upstream("app", &app(Version::Http1))
        + &upstream("calls", &app(Version::Http2))
        + &format!(
            "  server {{\n    listen {web}:{} ssl backlog=4096;\n    {tls}\n    \
             location / {{ {METHODS} proxy_pass http://app; }}\n  }}\n  \
             server {{\n    listen {web}:{} ssl http2 backlog=4096;\n    {tls}\n    \
             location / {{ {CALL_METHODS} grpc_pass grpc://calls; }}\n  }}\n",
            inbound(Version::Http1),
            inbound(Version::Http2),
        )
}

fn upstream(name: &str, at: &str) -> String {
    format!(
        "  upstream {name} {{\n    server {at};\n    keepalive {KEPT};\n    keepalive_requests 1000000000;\n  }}\n"
    )
}
