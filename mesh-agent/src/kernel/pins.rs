//! Where the pins are: `<bpffs>/maps/NAME` and `<bpffs>/links/NAME`. The kernel reserves dots in such names.

use std::path::{Path, PathBuf};

/// Maps that outlive the agent, and that overlapping agents share. Rings and loads are each agent's own.
pub const SHARED_MAPS: [&str; 12] = [
    "CONFIG",
    "PODS",
    "AGENTS",
    "INBOUND",
    "LISTENER_SOCKETS",
    "LISTENERS",
    "OPEN_PORTS",
    "SOCKETS",
    "FLOWS",
    "HELD",
    "SOURCES",
    "PASSAGES",
];

const LOOKUP_PREFIX: &str = "sk_lookup-";
const AGENT_PREFIX: &str = "sock_ops-agent-";

/// The layout below one directory on a BPF file system.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The layout below `root`.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory of all pins.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the map pins.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// The directory of the link pins.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// A map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The pin of a program's link to a cgroup.
    pub fn cgroup_link(&self, hook: &str, place: &str) -> PathBuf {
        self.links().join(format!("{hook}-{place}"))
    }

    /// The pin of the link to an agent's own cgroup.
    pub fn agent_link(&self, cgroup_id: u64) -> PathBuf {
        self.links().join(format!("{AGENT_PREFIX}{cgroup_id}"))
    }

    /// Where a pin stands that is about to take the place of the one at `path`.
    pub fn beside(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push("-new");
        name.into()
    }

    /// The pins of all links to agents' cgroups.
    pub fn agent_links(&self) -> Vec<PathBuf> {
        self.link_names()
            .filter(|name| name.starts_with(AGENT_PREFIX))
            .map(|name| self.links().join(name))
            .collect()
    }

    /// The pin of a namespace's inbound link.
    pub fn lookup_link(&self, netns_cookie: u64) -> PathBuf {
        self.links().join(format!("{LOOKUP_PREFIX}{netns_cookie}"))
    }

    /// The cookies of all namespaces with a pinned inbound link.
    pub fn looked_up(&self) -> Vec<u64> {
        self.link_names()
            .filter_map(|name| name.strip_prefix(LOOKUP_PREFIX)?.parse().ok())
            .collect()
    }

    fn link_names(&self) -> impl Iterator<Item = String> {
        std::fs::read_dir(self.links())
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
    }
}
