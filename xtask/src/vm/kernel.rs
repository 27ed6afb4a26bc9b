//! Stock kernels of Debian: which ones, where from, and the modules that tests need.
//!
//! Packages are fetched through a package database of our own below `target/vm/`, so that nothing of the machine's
//! changes, and unpacked, not installed. Invariant: a kernel that is there is used as it is; the network is asked only
//! for one that is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::repo::Repo;
use crate::setup::DEBIAN_KEYS;

/// A line of kernels.
pub(crate) struct Series {
    /// As `--kernel` takes it.
    pub(crate) name: &'static str,
    /// How the names of its packages begin.
    prefixes: &'static [&'static str],
    /// Where Debian keeps it.
    suites: &'static [&'static str],
    /// Which processor QEMU emulates for it.
    processor: &'static str,
    pub(crate) expects: Expects,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// The tests pass.
    Tests,
    /// The agent says that the kernel is too old, and does not run.
    Refusal,
}

/// Whether a kernel that is there will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    AsItIs,
    /// The newest of its series is fetched.
    Newest,
}

/// The kernels, oldest first. The floor is 5.18.
pub(crate) const SERIES: &[Series] = &[
    Series {
        name: "5.10",
        prefixes: &["linux-image-5.10."],
        suites: &["debian bullseye main", "debian-security bullseye-security main"],
        processor: NARROW,
        expects: Expects::Refusal,
    },
    Series {
        name: "6.1",
        prefixes: &["linux-image-6.1."],
        suites: &["debian bookworm main", "debian-security bookworm-security main"],
        processor: NARROW,
        expects: Expects::Tests,
    },
    Series {
        name: "6.12",
        prefixes: &["linux-image-6.12."],
        suites: &["debian trixie main"],
        processor: NARROW,
        expects: Expects::Tests,
    },
    Series {
        name: "6.18",
        prefixes: &["linux-image-6.18."],
        suites: &["debian trixie-backports main"],
        processor: NARROW,
        expects: Expects::Tests,
    },
    Series {
        name: "7.x",
        // From 6.19 on a kernel comes as two packages, one of them with the modules.
        prefixes: &["linux-binary-7."],
        suites: &["debian sid main", "debian trixie-backports main"],
        processor: WHOLE,
        expects: Expects::Tests,
    },
];

/// Everything but CMPXCHG16B: QEMU 7.2 leaves rubbish in the flags behind it, and Linux 6.12, which allocates memory by it,
/// panics sooner or later.
const NARROW: &str = "max,cx16=off";

/// Everything: without CMPXCHG16B, Linux 7 does not give BPF programs memory for the storage of sockets.
const WHOLE: &str = "max";

const SUFFIX: &str = "-cloud-amd64";

const MIRROR: &str = "http://deb.debian.org";

/// What test networks and test programs need that stock kernels have as modules.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "af_packet",
    "ipv6",
    "tcp_diag",
    "inet_diag",
    "tls",
];

/// A kernel, unpacked.
pub(crate) struct Kernel {
    /// `uname -r`.
    pub(crate) release: String,
    /// The processor that QEMU emulates for it.
    pub(crate) processor: &'static str,
    image: PathBuf,
    root: PathBuf,
}

impl Kernel {
    /// The newest kernel of the series, or the one that is there.
    pub(crate) fn fetch(repo: &Repo, series: &Series, freshness: Freshness) -> Result<Self> {
        let root = repo.vm_dir().join("kernels").join(series.name);
        if freshness == Freshness::Newest && root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        if !root.exists() {
            println!("  fetching a kernel {} from {MIRROR}", series.name);
            download(&repo.vm_dir(), series, &root).with_context(|| {
                format!(
                    "no kernel {} can be fetched; a machine without a way to {MIRROR} can use the directory {} of another one",
                    series.name,
                    root.display()
                )
            })?;
        }
        let (release, image) = find_image(&root)?;
        Ok(Self {
            release,
            processor: series.processor,
            image,
            root,
        })
    }

    /// The image to boot.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// The modules that are needed, in an order in which they can be loaded.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        let directory = self.modules_root();
        let table = directory.join("modules.dep");
        if !table.exists() {
            let base = directory
                .ancestors()
                .nth(3)
                .context("modules in a strange place")?;
            process::output_of(
                Command::new(process::find_program("depmod").context("no depmod: install kmod")?)
                    .args(["-b".as_ref(), base.as_os_str()])
                    .arg(&self.release),
            )?;
        }
        let text = fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
        Ok(order(&text, MODULES)
            .into_iter()
            .map(|module| directory.join(module))
            .collect())
    }

    /// Packages that follow the merged layout have `usr` before `lib`.
    fn modules_root(&self) -> PathBuf {
        let below = |lib: &str| self.root.join(lib).join("modules").join(&self.release);
        let merged = below("usr/lib");
        if merged.exists() { merged } else { below("lib") }
    }
}

/// The release of an unpacked kernel, and its image: `boot/vmlinuz-RELEASE`, from 6.19 on beside its modules.
fn find_image(root: &Path) -> Result<(String, PathBuf)> {
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
    };
    let boot = root.join("boot");
    if let Some(release) = names(&boot).find_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())) {
        let image = boot.join(format!("vmlinuz-{release}"));
        return Ok((release, image));
    }
    let modules = root.join("usr/lib/modules");
    names(&modules)
        .map(|release| (release.clone(), modules.join(release).join("vmlinuz")))
        .find(|(_, image)| image.exists())
        .with_context(|| format!("no kernel in {}; try --refresh", root.display()))
}

/// The wanted modules after those that they depend on, each once. What is not in the table is part of the kernel.
fn order(table: &str, wanted: &[&str]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut ordered = Vec::new();
    for name in wanted {
        let line = table.lines().find_map(|line| {
            let (module, needs) = line.split_once(':')?;
            (stem(module) == *name).then_some((module, needs))
        });
        let Some((module, needs)) = line else { continue };
        // Listed from the nearest to the farthest.
        let farthest_first = needs.split_whitespace().rev().chain([module]);
        ordered.extend(
            farthest_first
                .filter(|module| seen.insert((*module).to_owned()))
                .map(str::to_owned),
        );
    }
    ordered
}

/// The name of a module, which its file writes with hyphens or with underscores.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn download(directory: &Path, series: &Series, root: &Path) -> Result<()> {
    let apt = Apt::new(directory, series.suites)?;
    let listed = process::output_of(apt.command("apt-cache").args([
        "search",
        "--names-only",
        &format!("^linux-.*{}$", SUFFIX.replace('-', "\\-")),
    ]))?;
    let newest = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| series.prefixes.iter().any(|prefix| name.starts_with(prefix)))
        .max_by_key(|name| numbers(name))
        .with_context(|| {
            format!(
                "the lists of {} have no package {}*{SUFFIX}",
                series.suites.join(", "),
                series.prefixes.join(" or ")
            )
        })?;
    let mut packages = vec![newest.to_owned()];
    if let Some(release) = newest.strip_prefix("linux-binary-") {
        packages.push(format!("linux-modules-{release}"));
    }
    let files = directory.join("packages");
    fs::create_dir_all(&files)?;
    let unpacked = directory.join("kernels").join(format!("{}.new", series.name));
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    for package in &packages {
        process::run(
            apt.command("apt-get")
                .args(["--quiet", "download", package])
                .current_dir(&files),
        )?;
        let archive = fs::read_dir(&files)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| name.starts_with(&format!("{package}_")))
            })
            .with_context(|| format!("{package} did not arrive"))?;
        process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
        fs::remove_file(&archive)?;
    }
    // Whole or not at all: a later run takes what is there for complete.
    fs::rename(&unpacked, root).with_context(|| format!("cannot rename to {}", root.display()))
}

/// The numbers in a name, for comparison.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// A package database of our own.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new(directory: &Path, suites: &[&str]) -> Result<Self> {
        ensure!(
            Path::new(DEBIAN_KEYS).exists(),
            "no {DEBIAN_KEYS}: run `cargo xtask setup`"
        );
        let root = directory.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "dpkg"] {
            fs::create_dir_all(root.join(part))?;
        }
        fs::write(root.join("dpkg/status"), "")?;
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={DEBIAN_KEYS}] {MIRROR}/{suite}\n"))
            .collect();
        fs::write(root.join("sources.list"), sources)?;
        let place = root.display();
        let configuration = root.join("apt.conf");
        fs::write(
            &configuration,
            format!(
                "Dir::State \"{place}\";\nDir::State::Lists \"{place}/lists\";\n\
                 Dir::State::status \"{place}/dpkg/status\";\nDir::Cache \"{place}/cache\";\n\
                 Dir::Etc::SourceList \"{place}/sources.list\";\nDir::Etc::SourceParts \"/dev/null\";\n\
                 APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 APT::Update::Error-Mode \"any\";\n\
                 Acquire::http::Timeout \"30\";\nAcquire::Retries \"2\";\n"
            ),
        )?;
        let apt = Self { configuration };
        process::run(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.configuration)
            .env_remove("LD_LIBRARY_PATH");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let table = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
                     kernel/net/llc/llc.ko.xz:\n\
                     kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz\n\
                     kernel/net/ipv4/inet_diag.ko.xz:\n";
        assert_eq!(
            order(table, &["bridge", "tcp_diag", "inet_diag", "built_in"]),
            [
                "kernel/net/llc/llc.ko.xz",
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/net/ipv4/inet_diag.ko.xz",
                "kernel/net/ipv4/tcp_diag.ko.xz",
            ]
        );
    }

    #[test]
    fn the_newest_kernel_is_the_one_with_the_greatest_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        assert_eq!(names.iter().max_by_key(|name| numbers(name)), Some(&names[1]));
        assert!(numbers("linux-binary-7.3.4+deb13") > numbers("linux-binary-7.2.13+deb14"));
    }
}
