//! The program `mesh-agent`.

fn main() {}
