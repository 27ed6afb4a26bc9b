//! What `/proc/self/fdinfo` says of an open BPF link (Linux 5.8): more than the loader's library tells.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Names and values, one a line in the kernel's text.
#[derive(Debug, Default)]
pub(super) struct FdInfo(BTreeMap<String, String>);

impl FdInfo {
    /// Reads it for an open object.
    pub(super) fn of(object: &impl AsFd) -> io::Result<Self> {
        let fd = object.as_fd().as_raw_fd();
        Ok(Self::parse(&fs::read_to_string(format!(
            "/proc/self/fdinfo/{fd}"
        ))?))
    }

    fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// A value as text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value as a number.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.text(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_text_of_a_cgroup_link() {
        let info = FdInfo::parse(
            "pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\t0011\nprog_id:\t42\ncgroup_id:\t1\nattach_type:\t10\n",
        );
        assert_eq!(info.text("link_type"), Some("cgroup"));
        assert_eq!(info.number::<u32>("prog_id"), Some(42));
        assert_eq!(info.number::<u32>("netns_ino"), None);
    }
}
