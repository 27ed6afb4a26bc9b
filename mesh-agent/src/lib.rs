//! The node agent of Nodemesh, as a library; the program `mesh-agent` is its command line.

pub mod admin;
