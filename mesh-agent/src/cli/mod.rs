//! The command line of `mesh-agent`.
//!
//! Each command is one file with the arguments it takes and what it prints. The inspection commands ask the running
//! agent over its admin socket; `bpf`, `check` and `uninstall` also work without one. Invariants: answers go to the
//! standard output, everything else to the standard error; exit codes are those of `failure`.

mod agent;
mod bpf;
mod ca;
mod certs;
mod check;
mod completions;
mod connections;
mod drain;
mod explain;
mod failure;
mod flows;
mod log;
mod output;
mod path;
mod policies;
mod routes;
mod run;
mod services;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod uninstall;
mod units;
mod version;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Parses the arguments of this process and does what they say.
pub fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Nodemesh: the node agent of a service mesh without sidecars
#[derive(Debug, Parser)]
#[command(
    name = "mesh-agent",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent runs.\n\
                        Start with `mesh-agent check`, then `mesh-agent run --help`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    #[command(after_help = "Example:\n  mesh-agent run --config /etc/nodemesh/mesh --node $(hostname)")]
    Run(Box<run::RunArgs>),
    /// Test whether this machine can run the agent, and say what to mend
    #[command(after_help = "Example:\n  mesh-agent check --config /etc/nodemesh/mesh")]
    Check(check::CheckArgs),
    /// Show how the agent is
    #[command(after_help = "Example:\n  mesh-agent status -o json | jq .state")]
    Status(status::StatusArgs),
    /// List the workloads of the mesh
    #[command(after_help = "Example:\n  mesh-agent workloads shop/ --local -o wide")]
    Workloads(workloads::WorkloadsArgs),
    /// List the certificates of this node's service accounts
    #[command(after_help = "Example:\n  mesh-agent certs -o wide")]
    Certs(certs::CertsArgs),
    /// List the services of the mesh and their endpoints
    #[command(after_help = "Example:\n  mesh-agent services shop/cart -o wide")]
    Services(services::ServicesArgs),
    /// List the routes of the mesh and what became of each
    #[command(after_help = "Example:\n  mesh-agent routes shop/web -o wide")]
    Routes(routes::RoutesArgs),
    /// List the policies and what they concern here
    #[command(after_help = "Example:\n  mesh-agent policies --workload shop/cart -o wide")]
    Policies(policies::PoliciesArgs),
    /// Say what would become of a connection or a request, and why, without sending anything
    #[command(after_help = explain::HELP)]
    Explain(explain::ExplainArgs),
    /// List the open connections
    #[command(after_help = "Example:\n  mesh-agent connections --workload shop/cart --direction outbound")]
    Connections(connections::ConnectionsArgs),
    /// Show what became of connections, the recent ones or as it happens
    #[command(after_help = "Example:\n  mesh-agent flows -f --kind refused --workload shop/cart")]
    Flows(flows::FlowsArgs),
    /// Show what is in the kernel, also when no agent runs
    #[command(subcommand, after_help = "Example:\n  mesh-agent bpf maps -o wide")]
    Bpf(bpf::BpfCommand),
    /// Make and change the embedded certificate authority
    #[command(
        subcommand,
        after_help = "Example:\n  mesh-agent ca init --dir /etc/nodemesh/ca"
    )]
    Ca(ca::CaCommand),
    /// Change what the running agent logs
    #[command(after_help = "Example:\n  mesh-agent log info,mesh_agent::outbound=debug")]
    Log(log::LogArgs),
    /// End the running agent when its connections have ended
    #[command(after_help = "Example:\n  mesh-agent drain --deadline 2m --wait")]
    Drain(drain::DrainArgs),
    /// Show which version this is and which one runs
    #[command(after_help = "Example:\n  mesh-agent version -o json")]
    Version(version::VersionArgs),
    /// Print a script that completes this command line in a shell
    #[command(after_help = "Example:\n  mesh-agent completions bash > /etc/bash_completion.d/mesh-agent")]
    Completions(completions::CompletionsArgs),
    /// Remove everything the agent left in the kernel and on this machine
    #[command(after_help = "Example:\n  mesh-agent drain --wait && mesh-agent uninstall")]
    Uninstall(uninstall::UninstallArgs),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Workloads(args) => args.run(),
            Self::Certs(args) => args.run(),
            Self::Services(args) => args.run(),
            Self::Routes(args) => args.run(),
            Self::Policies(args) => args.run(),
            Self::Explain(args) => args.run(),
            Self::Connections(args) => args.run(),
            Self::Flows(args) => args.run(),
            Self::Bpf(command) => command.run(),
            Self::Ca(command) => command.run(),
            Self::Log(args) => args.run(),
            Self::Drain(args) => args.run(),
            Self::Version(args) => args.run(),
            Self::Completions(args) => args.run(),
            Self::Uninstall(args) => args.run(),
        }
    }
}
