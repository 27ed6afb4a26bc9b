//! What must hold as long as a connection lives.
//!
//! `serve` asks [`Terms`] again whenever the configuration or the roots change, and breaks the connection off when
//! they do not hold any more. Invariant: who is at the other end was proved once; the terms are about whether that is
//! still to be believed, and still permitted. A certificate that expires ends nothing, see SECURITY.md.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use mesh_common::model::{ObjectKey, ServiceAccountKey, Workload};

use tokio::sync::watch;

use super::{data_path::DataPath, journey::account_of};
use crate::{
    identity::{CertificateStore, Credentials},
    inbound::{Guard, Reading},
    state::{Snapshot, Store, WorkloadEntry},
    telemetry::{Cause, Connection, Direction},
};

/// What is known of the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Manner {
    /// Nobody looks at them.
    #[default]
    Unread,
    /// They are requests, each of which is judged by itself; or may be, and nothing of them went on yet.
    Requests,
    /// They were looked at, and are no requests.
    Bytes,
}

/// The terms of one connection.
#[derive(Default)]
pub(super) struct Terms<'a> {
    /// The policies of the destination, where this agent stands before it.
    guard: Option<&'a Guard>,
    manner: Manner,
    /// Set when the bytes turned out to be no requests.
    turned_out: OnceLock<()>,
    /// Told what they say.
    connection: Option<&'a Connection>,
    /// Who has proved to be whom.
    parties: Vec<Party>,
    /// By what, if not by the kernel.
    credentials: Option<Arc<Credentials>>,
}

/// A workload that must be there, with this service account.
pub(super) struct Party {
    place: Place,
    account: ServiceAccountKey,
}

enum Place {
    Address(IpAddr),
    Workload(ObjectKey),
}

impl<'a> Terms<'a> {
    /// The terms under which `connection` begins.
    pub(super) fn of(
        snapshot: &Snapshot,
        connection: &'a Connection,
        guard: Option<&'a Guard>,
        credentials: Option<Arc<Credentials>>,
    ) -> Self {
        let mut parties = Vec::new();
        if let Some(peer) = connection.peer() {
            parties.push(Party::workload(&connection.workload));
            let other = match connection.direction {
                Direction::Outbound => connection
                    .upstream()
                    .map(|addr| Party::address(addr.ip(), peer.account())),
                Direction::Inbound => Some(Party::address(connection.client.ip(), peer.account())),
                Direction::Local => guard.map(|guard| Party::workload(&guard.workload)),
            };
            // Whoever is let in from an address that is not its own workload's is not held to it later.
            parties.extend(other.filter(|party| party.check(snapshot).is_ok()));
        }
        Self {
            guard,
            connection: Some(connection),
            parties,
            credentials,
            ..Self::default()
        }
    }

    /// The same for a connection whose requests are judged one by one, if there are any.
    pub(super) fn for_requests(mut self) -> Self {
        self.manner = Manner::Requests;
        self
    }

    /// The connection carries no requests: from now on it is judged as TCP.
    pub(super) fn turn_out_bytes(&self) {
        // Said twice it means the same.
        let _ = self.turned_out.set(());
    }

    /// The terms of a tunnel itself, whose streams have terms of their own.
    pub(super) fn of_tunnel(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials: Some(credentials),
            ..Self::default()
        }
    }

    /// Whether they hold. What the policies say is recorded with the connection.
    pub(super) fn check(
        &self,
        snapshot: &Snapshot,
        certificates: Option<&CertificateStore>,
    ) -> Result<(), Cause> {
        if let Some(guard) = self.guard {
            self.ask(guard, snapshot)?;
        }
        for party in &self.parties {
            party.check(snapshot)?;
        }
        if let Some(credentials) = &self.credentials
            && let Some(bundle) = certificates.and_then(CertificateStore::bundle)
        {
            credentials
                .check(&bundle)
                .map_err(|refusal| Cause::of(refusal.label(), &refusal))?;
        }
        Ok(())
    }

    /// Asks the policies.
    fn ask(&self, guard: &Guard, snapshot: &Snapshot) -> Result<(), Cause> {
        let manner = match self.turned_out.get() {
            Some(()) => Manner::Bytes,
            None => self.manner,
        };
        if manner == Manner::Requests {
            return guard
                .check_before_requests(snapshot)
                .map_err(|denied| Cause::of(denied.word(), &denied));
        }
        let checked = guard.check(snapshot);
        if let Some(connection) = self.connection {
            connection.set_ruling(match &checked {
                Ok(ruling) => ruling.clone(),
                Err(denied) => denied.ruling(),
            });
        }
        checked.map_err(|denied| Cause::of(denied.word(), &denied))?;
        match manner {
            Manner::Unread => check_unread(guard, snapshot),
            Manner::Requests | Manner::Bytes => Ok(()),
        }
    }

    /// Waits until a change breaks them.
    pub(super) async fn broken(&self, path: &DataPath) -> Cause {
        if self.guard.is_none() && self.parties.is_empty() && self.credentials.is_none() {
            return std::future::pending().await;
        }
        let certificates = path.certificates.as_deref();
        let mut changes = Changes::of(&path.store, self.credentials.as_ref().and(certificates));
        loop {
            if let Err(cause) = self.check(&path.store.load(), certificates) {
                return cause;
            }
            changes.next().await;
        }
    }
}

/// Whether bytes may go on that nobody has looked at and that the policies allow as TCP.
pub(super) fn check_unread(guard: &Guard, snapshot: &Snapshot) -> Result<(), Cause> {
    let reading = guard.admit(snapshot).map(|admitted| admitted.reading);
    if reading == Ok(Reading::Tokens) {
        let text =
            "a RequestAuthentication came, and nobody knows whether these bytes are requests: connect again";
        return Err(Cause::new("requests-unread", text));
    }
    Ok(())
}

/// What may break terms: changes of the configuration and, where somebody proved who it is by a certificate, of the roots.
pub(super) struct Changes {
    versions: watch::Receiver<u64>,
    roots: Option<watch::Receiver<u64>>,
}

/// Which of them it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Configuration,
    Roots,
}

impl Changes {
    /// Those from now on.
    pub(super) fn of(store: &Store, certificates: Option<&CertificateStore>) -> Self {
        Self {
            versions: store.subscribe(),
            roots: certificates.map(CertificateStore::changes),
        }
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> Changed {
        let rooted = async {
            match &mut self.roots {
                Some(roots) => roots.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = self.versions.changed() => changed.map(|()| Changed::Configuration),
            changed = rooted => changed.map(|()| Changed::Roots),
        };
        match changed {
            Ok(changed) => changed,
            // Both stores outlive every connection.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Party {
    /// The workload at this address.
    pub(super) fn address(ip: IpAddr, account: ServiceAccountKey) -> Self {
        let place = Place::Address(ip);
        Self { place, account }
    }

    /// The workload of this name, as it is here.
    pub(super) fn workload(workload: &Workload) -> Self {
        Self {
            place: Place::Workload(workload.key.clone()),
            account: account_of(workload),
        }
    }

    /// Whether it is there.
    pub(super) fn check(&self, snapshot: &Snapshot) -> Result<(), Cause> {
        let (entry, place): (_, &dyn std::fmt::Display) = match &self.place {
            Place::Address(ip) => (snapshot.workload_at(*ip), ip),
            Place::Workload(key) => (snapshot.workload(key), key),
        };
        let account = |entry: &Arc<WorkloadEntry>| account_of(&entry.workload);
        let text = match entry.map(account) {
            Some(account) if account == self.account => return Ok(()),
            Some(account) => format!(
                "{place} is service account {account} now, not {} any more",
                self.account
            ),
            None => format!("{place} was service account {}, and is nobody now", self.account),
        };
        Err(Cause::new("identity-changed", text))
    }
}

#[cfg(test)]
mod tests;
