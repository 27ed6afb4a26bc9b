//! Full and resumed handshakes in a second: mutual TLS between two identities as the agent makes them.
//!
//! Both ends are in this one thread, and bytes pass between them in memory, so a figure is the cost of the
//! cryptography and of the verification at both ends together. `cargo xtask bench handshakes` runs it. Prints one line of
//! JSON.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_agent::identity::{
    CaDirectory, CertificateStore, Clock, EmbeddedCa, Expected, Identity, PeerIdentity, Settings, server_name,
};
use mesh_agent::upstream::tunnel::protocol;
use mesh_common::model::{ServiceAccountKey, TrustDomain, TunnelProtocol};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const SECONDS: f64 = 3.0;
const HOUR: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let [client, server] = identities()?;
    let alpn = protocol::offer(TunnelProtocol::Nodemesh);
    let resuming = client.client_config(Expected::OneOf(Arc::from([server.id().clone()])), alpn)?;
    let mut full = ClientConfig::clone(&resuming);
    full.resumption = Resumption::disabled();
    let servers = server.server_config(alpn)?;
    let full = rate(&Arc::new(full), &servers, &client, HandshakeKind::Full)?;
    // The first one brings the ticket that the second uses.
    shake(&resuming, &servers, &client)?;
    let resumed = rate(&resuming, &servers, &client, HandshakeKind::Resumed)?;
    println!("{}", json!({ "full": full, "resumed": resumed }));
    Ok(())
}

/// Handshakes in a second, all of this kind.
fn rate(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    identity: &Identity,
    kind: HandshakeKind,
) -> Result<f64> {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed().as_secs_f64() < SECONDS {
        let was = shake(client, server, identity)?;
        ensure!(was == Some(kind), "a handshake was {was:?}, not {kind:?}");
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// One handshake with its tickets; each side looks who the other is.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    identity: &Identity,
) -> Result<Option<HandshakeKind>> {
    let mut client = ClientConnection::new(Arc::clone(client), server_name([192, 0, 2, 1].into()))?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        feed(&wire, |wire| server.read_tls(wire))?;
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        feed(&wire, |wire| client.read_tls(wire))?;
        client.process_new_packets()?;
    }
    PeerIdentity::of(&client, identity.clock())?;
    PeerIdentity::of(&server, identity.clock())?;
    Ok(client.handshake_kind())
}

fn feed(mut wire: &[u8], mut read: impl FnMut(&mut dyn Read) -> std::io::Result<usize>) -> Result<()> {
    while !wire.is_empty() {
        ensure!(read(&mut wire)? > 0, "a side takes no more");
    }
    Ok(())
}

/// Two identities of one authority, as an agent obtains them.
fn identities() -> Result<[Arc<Identity>; 2]> {
    let directory = tempfile::tempdir().context("a directory for the authority")?;
    let clock = Clock::system();
    let domain: TrustDomain = "cluster.local".parse()?;
    let authority = CaDirectory::new(directory.path().join("ca"));
    authority.init(&domain, HOUR, clock.now())?;
    let issuer = Arc::new(EmbeddedCa::new(authority, clock.clone()));
    let store = Arc::new(CertificateStore::new(Settings::new(domain), issuer, clock));
    let accounts = ["client", "server"].map(|name| ServiceAccountKey::new("bench", name));
    store.want(BTreeSet::from(accounts.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    Ok(runtime.block_on(async {
        let stop = CancellationToken::new();
        let renewal = tokio::spawn(Arc::clone(&store).run(stop.clone()));
        let identities = [
            store.obtained(&accounts[0]).await,
            store.obtained(&accounts[1]).await,
        ];
        stop.cancel();
        // The task ends by its token; how is of no matter here.
        let _ = renewal.await;
        identities
    }))
}
