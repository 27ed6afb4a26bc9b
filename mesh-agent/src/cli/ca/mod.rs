//! `mesh-agent ca`: the embedded certificate authority, from its first root to the change of it.
//!
//! Each subcommand is one file; all work on directories and need no agent. Invariant: nothing is overwritten, and what
//! goes wrong is told with what to do about it (`failure`).

mod certificate;
mod failure;
mod init;
mod intermediate;
mod issue;
mod rotate;
mod show;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{failure::Failure, output::OutputArgs};
use crate::identity::CaDirectory;

/// What can be done with an authority.
#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a new root in an empty directory
    #[command(
        after_help = "Example:\n  mesh-agent ca init --dir /etc/nodemesh/ca --trust-domain cluster.local"
    )]
    Init(init::InitArgs),
    /// Make the authority of one node, which works without the root's key
    #[command(
        after_help = "Example:\n  mesh-agent ca intermediate --dir /etc/nodemesh/ca --node n1 --out ./n1-ca"
    )]
    Intermediate(intermediate::IntermediateArgs),
    /// Sign a certificate for a service account
    #[command(after_help = "Examples:\n  \
        mesh-agent ca issue --dir ./ca --namespace shop --service-account cart --csr cart.csr --out cart.pem\n  \
        mesh-agent ca issue --dir ./ca -n shop -s cart --new-key cart.key --out cart.pem --ttl 1h")]
    Issue(issue::IssueArgs),
    /// Show an authority and the roots to believe, or the certificates in a file
    #[command(after_help = "Examples:\n  mesh-agent ca show --dir /etc/nodemesh/ca\n  \
                            mesh-agent ca show --file cart.pem -o json")]
    Show(show::ShowArgs),
    /// Replace the root without an outage, in two steps
    #[command(after_help = "Example:\n  mesh-agent ca rotate-root --dir ./ca\n  \
                      # then give every node a new intermediate and roots.pem, and when all have them:\n  \
                      mesh-agent ca rotate-root --dir ./ca --drop-old")]
    RotateRoot(rotate::RotateArgs),
}

/// Which authority is meant.
#[derive(Args, Debug)]
struct DirArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl CaCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init(args) => args.run(),
            Self::Intermediate(args) => args.run(),
            Self::Issue(args) => args.run(),
            Self::Show(args) => args.run(),
            Self::RotateRoot(args) => args.run(),
        }
    }
}

impl DirArgs {
    fn directory(&self) -> CaDirectory {
        CaDirectory::new(&self.dir)
    }
}

/// A lifetime as people write it: `24h`, `90d`, `30s`; a second at least.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if lifetime < Duration::from_secs(1) {
        return Err("it is less than a second".to_owned());
    }
    Ok(lifetime)
}
