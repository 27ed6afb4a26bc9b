//! `mesh-agent ca rotate-root`: a new root beside the old one, then the end of the old one.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::super::{failure::Failure, output};
use super::{DirArgs, lifetime, show::Shown};
use crate::identity::authority::Rotation;

/// What `ca rotate-root` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct RotateArgs {
    #[command(flatten)]
    at: DirArgs,
    /// Believe the newest root only; what older ones signed is refused from now on
    #[arg(long)]
    drop_old: bool,
    /// How long the new root is valid
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "3650d",
        value_parser = lifetime,
        conflicts_with = "drop_old"
    )]
    ttl: Duration,
}

impl RotateArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (directory, now) = (self.at.directory(), SystemTime::now());
        let rotation = if self.drop_old {
            Rotation::Finish
        } else {
            Rotation::Begin
        };
        directory.rotate(rotation, self.ttl, now)?;
        self.at.output.show(&Shown::directory(&directory, now)?)?;
        if rotation == Rotation::Begin {
            output::note(
                "Both roots are believed now. Make new intermediates for all nodes; when every node has its own and \
                 its certificates are renewed, finish with `mesh-agent ca rotate-root --drop-old`.",
            );
        }
        Ok(())
    }
}
