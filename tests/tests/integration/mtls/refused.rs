//! Who does not prove what must be proved, or asks for too much, is refused, and log and flows say why.
//!
//! The client is `rogue`: the address of a workload, on a node without an agent, so that what it sends comes as it is.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Mesh, MeshBuilder, Pod, programs,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

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
            said["statuses"] == serde_json::json!([200]) && said["data"].to_string().contains("web"),
            "the right credentials are not served: {said}"
        );
        Ok(())
    }

    /// Who shows these is not heard, and it is told why.
    fn turned_away(&self, credentials: Option<&Credentials>, more: &[&str], reason: &str) -> Result<()> {
        let said = self.stream(credentials, more)?;
        ensure!(
            said["established"] == false || said["statuses"] == serde_json::json!([]),
            "served: {said}"
        );
        self.told(reason)
    }

    /// Log and flows give this reason.
    fn told(&self, reason: &str) -> Result<()> {
        told(self.agent, reason)
    }
}

/// Runs `hostile.py` in a pod; what it reports.
pub(super) fn hostile(mesh: &Mesh, pod: &str, args: &[&str]) -> Result<Value> {
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

/// Waits until log and flows of an agent give this reason for a refusal.
pub(super) fn told(agent: &Agent, reason: &str) -> Result<()> {
    let mut flows = Value::Null;
    wait_until(SOON, "a flow with the reason", || {
        flows = agent
            .ask(&["flows", "--kind", "refused", "--last", "4000"])
            .unwrap_or_default();
        flows.to_string().contains(reason)
    })
    .with_context(|| format!("{reason:?} is not in {flows}"))?;
    let log = agent.log();
    ensure!(log.contains(reason), "{reason:?} is not in the log");
    Ok(())
}

#[test]
fn the_wrong_trust_domain_is_refused() {
    siege("refuse-domain", |siege| {
        let odd = siege.forger.signed("spiffe://moon/ns/default/sa/rogue", |_| {})?;
        siege.turned_away(
            Some(&odd),
            &[],
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
        siege.turned_away(Some(&odd), &[], "or of its authority, expired at")
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_refused() {
    siege("refuse-early", |siege| {
        let odd = siege.forger.signed(ROGUE, |params| {
            params.not_before = (std::time::SystemTime::now() + HOUR / 2).into();
        })?;
        siege.turned_away(Some(&odd), &[], "or of its authority, is not valid before")
    });
}

#[test]
fn a_self_signed_certificate_is_refused() {
    siege("refuse-self", |siege| {
        let odd = siege.forger.self_signed(ROGUE)?;
        siege.turned_away(
            Some(&odd),
            &[],
            &format!("the certificate of {ROGUE} is self-signed"),
        )
    });
}

#[test]
fn no_certificate_is_refused() {
    siege("refuse-none", |siege| {
        siege.turned_away(None, &[], "the peer has no certificate")
    });
}

#[test]
fn tls_1_2_is_refused() {
    siege("refuse-tls12", |siege| {
        siege.turned_away(
            Some(&siege.good()?),
            &["--tls12"],
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
            let of_source = |flow: &Value| flow["path"]["client"].to_string().contains(&source.to_string());
            let mut flows = Value::Null;
            wait_until(SOON, "a flow", || {
                flows = siege
                    .agent
                    .ask(&["flows", "--kind", "refused", "--last", "100"])
                    .unwrap_or_default();
                flows["flows"].as_array().is_some_and(|all| {
                    all.iter()
                        .any(|flow| of_source(flow) && flow.to_string().contains("is STRICT"))
                })
            })
            .with_context(|| format!("{from}: {flows}"))?;
        }
        siege.told("denied: plaintext, and PeerAuthentication default/strict-web is STRICT")
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
            ensure!(said["statuses"] == serde_json::json!([503]), "{target}: {said}");
            siege.told(&format!(
                "a stream asks for {target}, which is no address of this pod's"
            ))?;
        }
        let said = siege.stream(Some(&good), &["--target", "web.default.svc"])?;
        ensure!(said["statuses"] == serde_json::json!([400]), "a name: {said}");
        siege.told("a stream is not a CONNECT to an address and a port")
    });
}

#[test]
fn headers_that_are_too_large_are_refused() {
    siege("refuse-headers", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--headers", "20000"])?;
        ensure!(said["statuses"] == serde_json::json!([431]), "{said}");
        siege.told("the headers of a stream have 20")?;
        // Larger ones are answered before anybody looks at them, and do not take up memory.
        let said = siege.stream(Some(&siege.good()?), &["--headers", "100000"])?;
        ensure!(said["statuses"] == serde_json::json!([431]), "{said}");
        Ok(())
    });
}

#[test]
fn headers_without_an_end_are_refused() {
    siege("refuse-endless", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--flood", "continuations"])?;
        ensure!(said["goaway_text"] == "too_many_continuations", "{said}");
        siege.told("too_many_continuations")
    });
}

#[test]
fn streams_that_are_opened_and_reset_without_pause_are_refused() {
    siege("refuse-resets", |siege| {
        let said = siege.stream(Some(&siege.good()?), &["--flood", "resets"])?;
        // ENHANCE_YOUR_CALM
        ensure!(said["goaway"] == 11, "{said}");
        siege.told("too_many_resets")
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
            "the handshake did not finish in time",
        )?;
        let flows = siege
            .agent
            .ask(&["flows", "--kind", "refused", "--last", "100"])?;
        let told = flows.to_string().matches("did not finish in time").count();
        ensure!(told == 7, "{told} stalled handshakes are told: {flows}");
        Ok(())
    });
}
