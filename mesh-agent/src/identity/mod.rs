//! Who workloads are: certificates, the authority behind them, and TLS between agents.
//!
//! An [`Issuer`] signs, [`EmbeddedCa`] is the first. The [`CertificateStore`] holds a current [`Identity`] for each
//! service account that has a workload on this node and renews it in time. An [`Identity`] gives TLS configurations;
//! a completed handshake gives a [`PeerIdentity`], a failed one a [`Refusal`].
//!
//! The keys of those who issue tokens to the senders of requests are fetched by [`jwks`].
//!
//! Invariant: a leaf's private key is made in memory and stays there.

pub mod authority;
mod bundle;
mod certificate;
mod clock;
mod credentials;
mod issuer;
pub mod jwks;
mod key;
mod memory;
pub mod pem;
mod refusal;
mod schedule;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod verify;

pub use authority::{CaDirectory, EmbeddedCa};
pub use bundle::{BundleError, Root, TrustBundle};
pub use certificate::{Facts, Unreadable};
pub use clock::Clock;
pub use credentials::Credentials;
pub use issuer::{IssueError, Issuer, Request, Roots};
pub use key::{KeyError, LeafKey};
pub use memory::forbid_core_dumps;
pub use refusal::{Claim, Expected, Refusal};
pub use schedule::{Schedule, Standing};
pub use store::{CertificateState, CertificateStore, LastError, Problem, Settings, Severity};
pub use tls::{Alpn, Identity, server_name};
pub use verify::PeerIdentity;
