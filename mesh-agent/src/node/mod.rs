//! The node as the agent sees it: network namespaces, cgroups and the pods enrolled here.

pub mod cgroup;
pub mod locate;
pub mod netns;
pub mod pod;

pub use netns::Netns;
pub use pod::{Captured, Pod, PodTable};
