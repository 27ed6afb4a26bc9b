//! Envoy with a certificate of the mesh, as the client of HBONE tunnels or at their end.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Credentials, LivePod, Mesh, Process, programs, wait_until};
use serde_json::{Value, json};

use crate::checks::SOON;

/// The port of HBONE.
pub(super) const DOOR: u16 = 15008;

/// What it takes for one side of a tunnel's handshake.
pub(super) struct Tls<'a> {
    /// Who it is.
    pub(super) own: &'a Credentials,
    /// The service account that the peer must be.
    pub(super) peer: &'a str,
}

/// A running Envoy.
pub(super) struct Envoy(Process);

impl Envoy {
    /// Takes connections on ports of the pod and tunnels them to where the port leads, through `door`.
    pub(super) fn client(
        mesh: &Mesh,
        pod: &LivePod,
        tls: &Tls<'_>,
        door: SocketAddr,
        ways: &[(u16, SocketAddr)],
    ) -> Result<Self> {
        let listeners: Vec<Value> = ways
            .iter()
            .map(|(port, target)| entrance(*port, *target))
            .collect();
        let config = json!({
            "static_resources": {
                "listeners": listeners,
                "clusters": [{
                    "name": "door",
                    "type": "STATIC",
                    "connect_timeout": "10s",
                    "load_assignment": endpoint("door", door),
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": { "http2_protocol_options": {
                                // It asks whether we are still there.
                                "connection_keepalive": { "interval": "1s", "timeout": "10s" },
                            } },
                        },
                    },
                    "transport_socket": tls.socket("UpstreamTlsContext", &json!({})),
                }],
            },
        });
        Self::start(mesh, pod, &config)
    }

    /// Ends tunnels on port 15008 of the pod and connects to the applications that its streams ask for.
    pub(super) fn terminator(
        mesh: &Mesh,
        pod: &LivePod,
        tls: &Tls<'_>,
        applications: &[SocketAddr],
    ) -> Result<Self> {
        let names: Vec<String> = (0..applications.len())
            .map(|at| format!("application-{at}"))
            .collect();
        let hosts: Vec<Value> = applications
            .iter()
            .zip(&names)
            .map(|(application, name)| {
                json!({
                    "name": name,
                    "domains": [application.to_string()],
                    "routes": [{
                        "match": { "connect_matcher": {} },
                        "route": {
                            "cluster": name,
                            "timeout": "0s",
                            "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                        },
                    }],
                })
            })
            .collect();
        let clusters: Vec<Value> = applications
            .iter()
            .zip(&names)
            .map(|(application, name)| {
                json!({ "name": name, "type": "STATIC", "load_assignment": endpoint(name, *application) })
            })
            .collect();
        let tunnels = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "tunnels",
            "codec_type": "HTTP2",
            "http2_protocol_options": {
                "allow_connect": true,
                "connection_keepalive": { "interval": "1s", "timeout": "10s" },
            },
            "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
            "route_config": { "name": "streams", "virtual_hosts": hosts },
            "http_filters": [{
                "name": "router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
            "access_log": [log(&json!({
                "status": "%RESPONSE_CODE%",
                "method": "%REQ(:METHOD)%",
                "authority": "%REQ(:AUTHORITY)%",
                "scheme": "%REQ(:SCHEME)%",
                "path": "%REQ(:PATH)%",
                "forwarded": "%REQ(FORWARDED)%",
                "baggage": "%REQ(BAGGAGE)%",
                "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                "tls": "%DOWNSTREAM_TLS_VERSION%",
                "sni": "%REQUESTED_SERVER_NAME%",
            }))],
        });
        let config = json!({
            "static_resources": {
                "listeners": [{
                    "name": "door",
                    "address": everywhere(DOOR),
                    "filter_chains": [{
                        "transport_socket":
                            tls.socket("DownstreamTlsContext", &json!({ "require_client_certificate": true })),
                        "filters": [{ "name": "tunnels", "typed_config": tunnels }],
                    }],
                }],
                "clusters": clusters,
            },
        });
        Self::start(mesh, pod, &config)
    }

    fn start(mesh: &Mesh, pod: &LivePod, config: &Value) -> Result<Self> {
        let path = mesh.dir().join(format!("envoy-{}.json", pod.name()));
        fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
        let mut process = pod
            .command(programs::envoy()?)
            .arg("-c")
            .arg(&path)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "100",
            ])
            .spawn()?;
        let ready = wait_until(SOON, "Envoy to be ready", || {
            !process.is_running() || process.stderr().contains("starting main dispatch loop")
        });
        ensure!(
            ready.is_ok() && process.is_running(),
            "Envoy does not run: {}",
            process.stderr()
        );
        Ok(Self(process))
    }

    /// What it has logged about streams that are over and satisfy the condition; waits for one.
    pub(super) fn wait_logged(&mut self, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let matches = |line: &str| serde_json::from_str(line).is_ok_and(|entry| condition(&entry));
        let line = self.0.wait_line(SOON, matches)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Tls<'_> {
    fn socket(&self, context: &str, more: &Value) -> Value {
        let Self { own, peer } = self;
        let mut config = json!({
            "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}"),
            "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                "alpn_protocols": ["h2"],
                "tls_certificates": [{
                    "certificate_chain": { "filename": own.chain },
                    "private_key": { "filename": own.key },
                }],
                "validation_context": {
                    "trusted_ca": { "filename": own.roots },
                    "match_typed_subject_alt_names": [{
                        "san_type": "URI",
                        "matcher": { "exact": format!("spiffe://cluster.local/ns/default/sa/{peer}") },
                    }],
                },
            },
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        json!({ "name": "tls", "typed_config": config })
    }
}

/// A listener whose connections become streams to `target`.
fn entrance(port: u16, target: SocketAddr) -> Value {
    let tunnel = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "entrance",
        "cluster": "door",
        "max_connect_attempts": 1,
        "tunneling_config": {
            "hostname": target.to_string(),
            "propagate_response_headers": true,
            "headers_to_add": [
                { "header": { "key": "forwarded", "value": "for=\"%DOWNSTREAM_REMOTE_ADDRESS%\"" } },
                { "header": { "key": "baggage", "value": "k8s.namespace.name=default,k8s.pod.name=envoy" } },
            ],
        },
        "access_log": [log(&json!({
            "port": port,
            "answer": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
            "flags": "%RESPONSE_FLAGS%",
        }))],
    });
    json!({
        "name": format!("entrance-{port}"),
        "address": everywhere(port),
        "filter_chains": [{ "filters": [{ "name": "tunnel", "typed_config": tunnel }] }],
    })
}

fn everywhere(port: u16) -> Value {
    json!({ "socket_address": { "address": "::", "port_value": port, "ipv4_compat": true } })
}

fn endpoint(cluster: &str, to: SocketAddr) -> Value {
    let address = json!({ "socket_address": { "address": to.ip().to_string(), "port_value": to.port() } });
    json!({ "cluster_name": cluster, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

fn log(fields: &Value) -> Value {
    json!({
        "name": "log",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": { "json_format": fields },
        },
    })
}
