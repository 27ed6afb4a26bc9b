//! `mesh-agent log`: changes what the running agent logs.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View},
    table::{Colour, Detail, plain},
};
use crate::admin::proto::{SetLogLevelReply, SetLogLevelRequest};

/// What `log` takes.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// error, warn, info, debug, trace, or directives like `info,mesh_agent::outbound=debug`
    #[arg(value_name = "LEVEL")]
    directives: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl LogArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = SetLogLevelRequest {
            directives: self.directives,
        };
        let reply = self
            .agent
            .call(async |mut agent| agent.set_log_level(request).await)?;
        self.output.show(&reply)
    }
}

impl View for SetLogLevelReply {
    fn text(&self, _: Detail, _: Colour) -> String {
        format!("Changed. Until now it was `{}`.\n", plain(&self.previous))
    }
}
