//! What a link is attached to: which hook, and the path of the cgroup or namespace behind the kernel's number.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;

use crate::node::cgroup;

/// The most cgroups looked at for one number; a node with 1,000 pods has about 5,000.
const MAX_CGROUPS: usize = 50_000;

/// Where `ip netns` keeps named namespaces.
const NAMED_NETNS: &str = "/run/netns";

/// The hook of that number, in the words of its program's section.
pub(super) fn hook(attach_type: u32) -> String {
    let known = |hook: bpf_attach_type| attach_type == hook as u32;
    let names = [
        (bpf_attach_type::BPF_CGROUP_INET4_CONNECT, "connect4"),
        (bpf_attach_type::BPF_CGROUP_INET6_CONNECT, "connect6"),
        (bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME, "getpeername4"),
        (bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME, "getpeername6"),
        (bpf_attach_type::BPF_CGROUP_INET4_GETSOCKNAME, "getsockname4"),
        (bpf_attach_type::BPF_CGROUP_INET6_GETSOCKNAME, "getsockname6"),
        (bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG, "sendmsg4"),
        (bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG, "sendmsg6"),
        (bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG, "recvmsg4"),
        (bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG, "recvmsg6"),
        (bpf_attach_type::BPF_CGROUP_SOCK_OPS, "sock_ops"),
        (bpf_attach_type::BPF_SK_LOOKUP, "sk_lookup"),
    ];
    let name = names
        .into_iter()
        .find(|&(hook, _)| known(hook))
        .map(|(_, name)| name.to_owned());
    name.unwrap_or_else(|| attach_type.to_string())
}

/// The cgroup's path, if it still exists.
pub(super) fn cgroup_path(id: u64) -> Option<PathBuf> {
    let mount = cgroup::mount_point().ok()?;
    let mut waiting = VecDeque::from([mount]);
    for _ in 0..MAX_CGROUPS {
        let dir = waiting.pop_front()?;
        if fs::metadata(&dir).is_ok_and(|metadata| metadata.ino() == id) {
            return Some(dir);
        }
        waiting.extend(subdirectories(&dir));
    }
    None
}

/// The name of the namespace with that inode, if it has one.
pub(super) fn netns_path(inode: u64) -> Option<PathBuf> {
    let entries = fs::read_dir(NAMED_NETNS).ok()?.filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode))
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_have_names() {
        assert_eq!(hook(bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32), "connect4");
        assert_eq!(hook(9_999), "9999");
    }

    #[test]
    fn the_root_cgroup_is_found() {
        let mount = cgroup::mount_point().unwrap();
        let id = fs::metadata(&mount).unwrap().ino();
        assert_eq!(cgroup_path(id), Some(mount));
    }
}
