//! `mesh-agent version`: which build this is, and which one runs.

use clap::Args;
use serde::Serialize;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{self, OutputArgs, View},
    table::{Colour, Detail, plain},
};
use crate::admin::proto::{VersionReply, VersionRequest};

/// What `version` takes.
#[derive(Args, Debug)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Both builds.
#[derive(Debug, Serialize)]
struct Versions {
    client: Build,
    agent: Option<VersionReply>,
}

/// This build.
#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    abi: u32,
}

impl VersionArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let asked = self
            .agent
            .call(async |mut agent| agent.version(VersionRequest {}).await);
        let agent = match asked {
            Ok(reply) => Some(reply),
            Err(Failure::NotRunning { .. }) => None,
            // The client's own version is still an answer.
            Err(other) => {
                output::note(&other.message());
                None
            }
        };
        let client = Build {
            version: env!("CARGO_PKG_VERSION"),
            abi: mesh_common::kernel::ABI_VERSION,
        };
        self.output.show(&Versions { client, agent })
    }
}

impl View for Versions {
    fn text(&self, _: Detail, _: Colour) -> String {
        let agent = match &self.agent {
            Some(agent) => format!("{} (ABI {}, pid {})", plain(&agent.version), agent.abi, agent.pid),
            None => "none answers".to_owned(),
        };
        format!(
            "client   {} (ABI {})\nagent    {agent}\n",
            self.client.version, self.client.abi
        )
    }
}
