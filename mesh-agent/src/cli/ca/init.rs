//! `mesh-agent ca init`: the root of a new mesh.

use std::time::{Duration, SystemTime};

use clap::Args;
use mesh_common::model::TrustDomain;

use super::super::failure::Failure;
use super::{DirArgs, lifetime, show::Shown};

/// What `ca init` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct InitArgs {
    #[command(flatten)]
    at: DirArgs,
    /// The domain of all identities that come from this root
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// How long the root is valid
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = lifetime)]
    ttl: Duration,
}

impl InitArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (directory, now) = (self.at.directory(), SystemTime::now());
        directory.init(&self.trust_domain, self.ttl, now)?;
        self.at.output.show(&Shown::directory(&directory, now)?)
    }
}
