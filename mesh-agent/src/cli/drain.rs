//! `mesh-agent drain`: ends the running agent in order.

use std::time::Duration;

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{self, OutputArgs, View},
    table::{Colour, Detail},
    units,
};
use crate::admin::proto::{DrainReply, DrainRequest};

/// What `drain` takes.
#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// When to cut the connections that are still open (default: the agent's own --drain-timeout)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Return only when the agent has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How often to look whether the agent is still there, and how long after its deadline to give up.
const PAUSE: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(10);

impl DrainArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        // 0 stands for the agent's own limit, so "at once" is one millisecond.
        let deadline_ms = self.deadline.map_or(0, |time| {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let reply = self
            .agent
            .call(async |mut agent| agent.drain(DrainRequest { deadline_ms }).await)?;
        self.output.show(&reply)?;
        if self.wait {
            self.wait_for_end(Duration::from_millis(reply.deadline_ms))
        } else {
            Ok(())
        }
    }

    fn wait_for_end(&self, deadline: Duration) -> Result<(), Failure> {
        let run_dir = self.agent.run_dir();
        let limit = deadline.saturating_add(GRACE);
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            let holder = run_dir
                .holder()
                .map_err(|source| Failure::because("cannot see the agent's end", source))?;
            if holder.is_none() {
                output::note("The agent has ended.");
                return Ok(());
            }
            #[expect(clippy::disallowed_methods, reason = "a command serves nobody while it waits")]
            std::thread::sleep(PAUSE);
        }
        Err(Failure::Remedied {
            message: "the agent has not ended in time".to_owned(),
            remedy: "see its log, and `mesh-agent connections` for what keeps it".to_owned(),
        })
    }
}

impl View for DrainReply {
    fn text(&self, _: Detail, _: Colour) -> String {
        format!(
            "Draining: {} connections open, cut after {}.\n",
            self.connections,
            units::duration(self.deadline_ms.saturating_mul(1_000))
        )
    }
}
