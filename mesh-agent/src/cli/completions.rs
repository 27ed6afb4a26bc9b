//! `mesh-agent completions`: a script that teaches a shell this command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, failure::Failure, output};

/// What `completions` takes.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        // The generator panics when its writer fails, and a vector does not.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mesh-agent", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
