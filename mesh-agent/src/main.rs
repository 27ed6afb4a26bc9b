//! The program `mesh-agent`: the node agent and its command line in one.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mesh_agent::cli::main()
}
