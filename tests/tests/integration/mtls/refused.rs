//! Who does not prove what must be proved, or asks for too much, is refused; log, flows and metrics say why.
//!
//! The client is `rogue`: the address of a workload, on a node without an agent, so that what it sends comes as it is.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Mesh, MeshBuilder, Pod, programs,
    traffic::{self, at},
    wait_until,
};
use serde_json::{Value, json};

use super::{
    credentials::wait_issued,
    forged::{Credentials, Forger, HOUR},
};
use crate::{
    checks::{SOON, churn},
    policy::strict,
};

const PORT: u16 = 7001;
const ROGUE: &str = "spiffe://cluster.local/ns/default/sa/rogue";

/// `web` is served by an agent; `rogue` is a workload without one, `stranger` is none.
pub(super) fn besieged(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("web").label("app", "web"))
        .pod("b", Pod::new("rogue"))
        .outside("b", "stranger")
}

/// The mesh, its one agent, and who signs what no authority would.
struct Siege<'m> {
    mesh: &'m Mesh,
    agent: &'m Agent,
    forger: &'m Forger,
}

fn siege(name: &str, body: impl FnOnce(&Siege<'_>) -> Result<()>) {
    Mesh::scenario(besieged(name), |mesh| {
        let authority = mesh.secure(&[])?;
        let agent = mesh.node("a").start_agent()?;
        wait_issued(&agent, "web", 1)?;
        let _server = traffic::serve(mesh.pod("web"), "identity", PORT)?;
        let forger = Forger::with(&authority, mesh)?;
        let siege = Siege {
            mesh,
            agent: &agent,
            forger: &forger,
        };
        body(&siege)?;
        // Whatever was tried, the right credentials go on being served.
        siege.served()
    });
}

impl Siege<'_> {
    /// Runs `hostile.py` in `rogue`.
    fn hostile(&self, args: &[&str]) -> Result<Value> {
        hostile(self.mesh, "rogue", args)
    }

    /// A stream to `web` with these credentials and more arguments.
    fn stream(&self, credentials: Option<&Credentials>, more: &[&str]) -> Result<Value> {
        let to = at(self.mesh.pod("web").v4(), PORT);
        let credentials = credentials.map(Credentials::args).unwrap_or_default();
        let mut args = vec!["stream", &to];
        args.extend(
            credentials
                .iter()
                .map(String::as_str)
                .filter(|arg| !arg.is_empty()),
        );
        args.extend(more);
        self.hostile(&args)
    }

    fn good(&self) -> Result<Credentials> {
        self.forger.signed(ROGUE, |_| {})
    }

    fn served(&self) -> Result<()> {
        let said = self.stream(Some(&self.good()?), &[])?;
        ensure!(
            said["statuses"] == json!([200]) && said["data"].to_string().contains("web"),
            "the right credentials are not served: {said}"
        );
        Ok(())
    }

    /// Who shows these is not heard, and it is told why.
    fn turned_away(
        &self,
        credentials: Option<&Credentials>,
        more: &[&str],
        word: &str,
        reason: &str,
    ) -> Result<()> {
        let said = self.stream(credentials, more)?;
        ensure!(
            said["established"] == false || said["statuses"] == json!([]),
            "served: {said}"
        );
        self.told(word, reason)
    }

    /// Log, flows and metrics give this reason.
    fn told(&self, word: &str, reason: &str) -> Result<()> {
        told(self.mesh, self.agent, word, reason)
    }
}

/// Runs `hostile.py` in a pod; what it reports.
pub(crate) fn hostile(mesh: &Mesh, pod: &str, args: &[&str]) -> Result<Value> {
    let program = programs::python("hostile.py").display().to_string();
    mesh.pod(pod)
        .command("python3")
        .arg(program)
        .args(args)
        .run()?
        .ok()?
        .report()
        .with_context(|| format!("hostile.py {}", args.join(" ")))
}

/// Waits until log, flows and metrics of the agent of node `a` give this reason for a refusal.
pub(super) fn told(mesh: &Mesh, agent: &Agent, word: &str, reason: &str) -> Result<()> {
    let mut flows = String::new();
    wait_until(SOON, "a flow with the reason", || {
        flows = super::refusals(agent).unwrap_or_default();
        flows.contains(reason)
    })
    .with_context(|| format!("{reason:?} is not in {flows}"))?;
    ensure!(agent.log().contains(reason), "{reason:?} is not in the log");
    let labels = [("reason", word), ("workload", "web"), ("direction", "inbound")];
    let metrics = mesh.node("a").metrics()?;
    ensure!(
        metrics.sum("nodemesh_connections_refused_total", &labels)? >= 1.0,
        "{word:?} is not counted"
    );
    Ok(())
}

#[test]
fn the_wrong_trust_domain_is_refused() {
    siege("refuse-domain", |siege| {
        let odd = siege.forger.signed("spiffe://moon/ns/default/sa/rogue", |_| {})?;
        siege.turned_away(
            Some(&odd),
            &[],
            "trust-domain",
            "spiffe://moon/ns/default/sa/rogue is not in our trust domain cluster.local",
        )
    });
}

#[test]
fn another_service_account_than_the_address_has_is_refused() {
    siege("refuse-account", |siege| {
        let odd = siege
            .forger
            .signed("spiffe://cluster.local/ns/default/sa/web", |_| {})?;
        siege.turned_away(
            Some(&odd),
            &[],
            "unexpected-identity",
            "the certificate names spiffe://cluster.local/ns/default/sa/web, but the workload at",
        )
    });
}

#[test]
fn an_expired_certificate_is_refused() {
    siege("refuse-expired", |siege| {
        let odd = siege.forger.signed(ROGUE, |params| {
            params.not_after = (std::time::SystemTime::now() - HOUR / 2).into();
        })?;
        siege.turned_away(Some(&odd), &[], "expired", "or of its authority, expired at")
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_refused() {
    siege("refuse-early", |siege| {
        let odd = siege.forger.signed(ROGUE, |params| {
            params.not_before = (std::time::SystemTime::now() + HOUR / 2).into();
        })?;
        siege.turned_away(
            Some(&odd),
            &[],
            "not-yet-valid",
            "or of its authority, is not valid before",
        )
    });
}

#[test]
fn a_self_signed_certificate_is_refused() {
    siege("refuse-self", |siege| {
        let odd = siege.forger.self_signed(ROGUE)?;
        siege.turned_away(
            Some(&odd),
            &[],
            "self-signed",
            &format!("the certificate of {ROGUE} is self-signed"),
        )
    });
}

#[test]
fn no_certificate_is_refused() {
    siege("refuse-none", |siege| {
        siege.turned_away(None, &[], "no-certificate", "the peer has no certificate")
    });
}

#[test]
fn tls_1_2_is_refused() {
    siege("refuse-tls12", |siege| {
        siege.turned_away(
            Some(&siege.good()?),
            &["--tls12"],
            "protocol",
            "the peer does not speak TLS 1.3 as we do",
        )
    });
}

#[test]
fn plaintext_under_strict_is_refused() {
    siege("refuse-plain", |siege| {
        let (mesh, web) = (siege.mesh, at(siege.mesh.pod("web").v4(), PORT));
        churn::good(mesh, "stranger", &web, "web", 3)?;
        churn::good(mesh, "rogue", &web, "web", 3)?;
        mesh.write_config("zz-strict.yaml", &strict("web"))?;
        for from in ["stranger", "rogue"] {
            let source = mesh.pod(from).v4();
            wait_until(SOON, "plaintext to be refused", || {
                churn::good(mesh, from, &web, "web", 1).is_err()
            })?;
            let mut flows = String::new();
            wait_until(SOON, "a flow", || {
                flows = super::refusals(siege.agent).unwrap_or_default();
                flows.lines().any(|flow| {
                    flow.contains(&format!("\"client\":\"{source}:")) && flow.contains("is STRICT")
                })
            })
            .with_context(|| format!("{from}: {flows}"))?;
        }
        siege.told(
            "plaintext",
            "denied: plaintext, and PeerAuthentication default/strict-web is STRICT",
        )
    });
}

#[test]
fn a_stream_to_an_address_that_is_not_the_pods_is_refused() {
    siege("refuse-target", |siege| {
        let good = siege.good()?;
        for target in [
            at(siege.mesh.pod("stranger").v4(), PORT),
            at([127, 0, 0, 1], PORT),
        ] {
            let said = siege.stream(Some(&good), &["--target", &target])?;
            ensure!(said["statuses"] == json!([503]), "{target}: {said}");
            siege.told(
                "unknown-target",
                &format!("a stream asks for {target}, which is no address of this pod's"),
            )?;
        }
        let said = siege.stream(Some(&good), &["--target", "web.default.svc"])?;
        ensure!(said["statuses"] == json!([400]), "a name: {said}");
        siege.told(
            "bad-request",
            "a stream is not a CONNECT to an address and a port",
        )
    });
}

#[test]
fn headers_that_are_too_large_are_refused() {
    siege("refuse-headers", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--headers", "20000"])?;
        ensure!(said["statuses"] == json!([431]), "{said}");
        siege.told("headers-too-large", "the headers of a stream have 20")?;
        // Larger ones are answered before anybody looks at them, and do not take up memory.
        let said = siege.stream(Some(&siege.good()?), &["--headers", "100000"])?;
        ensure!(said["statuses"] == json!([431]), "{said}");
        Ok(())
    });
}

#[test]
fn headers_without_an_end_are_refused() {
    siege("refuse-endless", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--flood", "continuations"])?;
        ensure!(said["goaway_text"] == "too_many_continuations", "{said}");
        siege.told("http2", "detected excessive load generating behavior")
    });
}

#[test]
fn streams_that_are_opened_and_reset_without_pause_are_refused() {
    siege("refuse-resets", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--flood", "resets"])?;
        // ENHANCE_YOUR_CALM
        ensure!(said["goaway"] == 11, "{said}");
        siege.told("http2", "detected excessive load generating behavior")
    });
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    siege("refuse-stalled", |siege| {
        for address in siege.mesh.pod("web").addresses() {
            // In the middle of a record's head, of a message, and before HTTP/2 begins.
            for bytes in ["1", "7", "60"] {
                let said = siege.hostile(&["stall", &at(address, PORT), bytes])?;
                ensure!(said["end"] == "eof" || said["end"] == "ECONNRESET", "{said}");
            }
        }
        siege.turned_away(
            Some(&siege.good()?),
            &["--flood", "silence"],
            "handshake-timed-out",
            "the handshake did not finish in time",
        )?;
        let flows = super::refusals(siege.agent)?;
        let told = flows.matches("did not finish in time").count();
        ensure!(told == 7, "{told} stalled handshakes are told: {flows}");
        Ok(())
    });
}
