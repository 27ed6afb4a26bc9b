//! `mesh-agent ca intermediate`: the authority of one node.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::super::failure::Failure;
use super::{DirArgs, lifetime, show::Shown};
use crate::identity::CaDirectory;

/// What `ca intermediate` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct IntermediateArgs {
    #[command(flatten)]
    at: DirArgs,
    /// Name of the node, for people who read the certificate
    #[arg(long, value_name = "NAME")]
    node: String,
    /// A new directory, to be moved to the node; it holds a key, but not the root's
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid; never longer than the root
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = lifetime)]
    ttl: Duration,
}

impl IntermediateArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (target, now) = (CaDirectory::new(&self.out), SystemTime::now());
        self.at
            .directory()
            .intermediate(&self.node, &target, self.ttl, now)?;
        self.at.output.show(&Shown::directory(&target, now)?)
    }
}
