//! Which compiler builds the kernel half.
//!
//! The standard library for the kernel's machine is not shipped compiled, so the compiler must own the sources of
//! its very own release. [`crate::ebpf`] asks for one here; [`crate::setup`] asks whether one must be installed.
//!
//! Invariant: an explicit choice is taken or refused, never replaced by another one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find_program, is_program, output_of};
use crate::repo::rustup_home;

/// Names the compiler to use for the kernel half.
pub(crate) const CHOICE: &str = "MESH_EBPF_RUSTC";

/// Debian's compiler, beside rustup's on the same machine.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The LLVM of the linker that `cargo xtask setup` builds.
pub(crate) const SETUP_LLVM: u32 = 22;

/// A compiler that owns the sources of its library.
pub(crate) struct Toolchain {
    rustc: PathBuf,
    sources: PathBuf,
}

impl Toolchain {
    /// Chooses: `$MESH_EBPF_RUSTC`, else rustup's nightly, else Debian's compiler.
    pub(crate) fn choose() -> Result<Self> {
        if let Some(rustc) = env::var_os(CHOICE) {
            return Self::at(Path::new(&rustc))
                .with_context(|| format!("{CHOICE} cannot build the kernel half"));
        }
        match Self::usable_nightly().or_else(Self::debian) {
            Some(toolchain) => Ok(toolchain),
            None => bail!(
                "no Rust compiler with its library's sources was found to build the kernel half. Either\n  \
                 - run `rustup toolchain install nightly --component rust-src`, or\n  \
                 - on Debian, run `apt-get install rustc-web cargo-web rust-web-src` (`cargo xtask setup` does it), or\n  \
                 - set {CHOICE} to a rustc that has lib/rustlib/src/rust under its sysroot"
            ),
        }
    }

    /// Whether a person brought a compiler along, so that Debian's need not be installed.
    pub(crate) fn brought_along() -> bool {
        env::var_os(CHOICE).is_some() || Self::usable_nightly().is_some()
    }

    /// Debian's compiler, if it is there with its sources.
    pub(crate) fn debian() -> Option<Self> {
        Self::at(Path::new(DEBIAN_RUSTC)).ok()
    }

    /// The compiler.
    pub(crate) fn rustc(&self) -> &Path {
        &self.rustc
    }

    /// The directory of the library's sources.
    pub(crate) fn sources(&self) -> &Path {
        &self.sources
    }

    /// A program that came with this compiler, such as `cargo`, or `None` if it came without.
    pub(crate) fn companion(&self, program: &str) -> Option<PathBuf> {
        Some(self.rustc.with_file_name(program)).filter(|file| is_program(file))
    }

    /// The major version of the LLVM inside the compiler.
    pub(crate) fn llvm(&self) -> Result<u32> {
        let version = output_of(Command::new(&self.rustc).arg("-vV").env_remove("LD_LIBRARY_PATH"))?;
        llvm_in_version(&version).with_context(|| format!("{} does not name its LLVM", self.rustc.display()))
    }

    fn at(rustc: &Path) -> Result<Self> {
        if !is_program(rustc) {
            bail!("{} is not a program", rustc.display());
        }
        let sysroot = output_of(
            Command::new(rustc)
                .args(["--print", "sysroot"])
                .env_remove("LD_LIBRARY_PATH"),
        )?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        if !sources.join("library/core").is_dir() {
            bail!(
                "{} has no library sources in {}",
                rustc.display(),
                sources.display()
            );
        }
        Ok(Self {
            rustc: rustc.to_owned(),
            sources,
        })
    }

    /// rustup's nightly with rust-src, unless its output is too new for the linker: the one that is installed, or
    /// else the one that would be.
    fn usable_nightly() -> Option<Self> {
        let toolchain = Self::at(&nightly_rustc(&rustup_home()?.join("toolchains"))?).ok()?;
        let linker = if find_program("bpf-linker").is_some() {
            linker_llvm()
        } else {
            Some(SETUP_LLVM)
        };
        match (toolchain.llvm().ok(), linker) {
            (Some(compiler), Some(linker)) if compiler > linker => None,
            _ => Some(toolchain),
        }
    }
}

/// The major version of the LLVM that the installed bpf-linker loads, or `None` if there is no linker or it has
/// its LLVM inside. A linker older than the compiler cannot read what the compiler writes.
pub(crate) fn linker_llvm() -> Option<u32> {
    let libraries = output_of(Command::new("ldd").arg(find_program("bpf-linker")?)).ok()?;
    llvm_in_libraries(&libraries)
}

/// The rustc of the nightly toolchain: the plain one before dated ones, the latest date first.
/// Only those with library sources count. Looks at directories, since asking rustup takes longer.
fn nightly_rustc(toolchains: &Path) -> Option<PathBuf> {
    let mut nightlies: Vec<PathBuf> = fs::read_dir(toolchains)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("nightly-"))
        })
        .filter(|path| path.join("lib/rustlib/src/rust/library/core").is_dir())
        .collect();
    let dated = |path: &PathBuf| path.to_string_lossy().contains("nightly-2");
    nightlies.sort_by(|a, b| dated(a).cmp(&dated(b)).then_with(|| b.cmp(a)));
    nightlies.first().map(|toolchain| toolchain.join("bin/rustc"))
}

/// `22` of `LLVM version: 22.1.8`.
fn llvm_in_version(version: &str) -> Option<u32> {
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// `22` of `libLLVM.so.22.1 => …` or of `libLLVM-22.so.1 => …`.
fn llvm_in_libraries(libraries: &str) -> Option<u32> {
    let name = libraries
        .lines()
        .find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    name.split(|c: char| !c.is_ascii_digit())
        .find(|part| !part.is_empty())?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_versions_are_read_from_both_sides() {
        assert_eq!(llvm_in_version("rustc 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_in_version("rustc 1.96.0\n"), None);
        assert_eq!(
            llvm_in_libraries("\tlibz.so.1 => x\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)\n"),
            Some(22)
        );
        assert_eq!(llvm_in_libraries("\tlibLLVM-21.so.1 => not found\n"), Some(21));
        assert_eq!(llvm_in_libraries("\tstatically linked\n"), None);
    }

    #[test]
    fn the_plain_nightly_wins_then_the_latest_and_only_with_sources() {
        let directory = tempfile::tempdir().unwrap();
        let add = |name: &str| {
            fs::create_dir_all(
                directory
                    .path()
                    .join(name)
                    .join("lib/rustlib/src/rust/library/core"),
            )
            .unwrap();
        };
        fs::create_dir_all(directory.path().join("nightly-x86_64/bin")).unwrap();
        add("stable-x86_64");
        assert_eq!(nightly_rustc(directory.path()), None);
        add("nightly-2026-01-02-x86_64");
        add("nightly-2026-03-04-x86_64");
        let rustc = |name: &str| Some(directory.path().join(name).join("bin/rustc"));
        assert_eq!(
            nightly_rustc(directory.path()),
            rustc("nightly-2026-03-04-x86_64")
        );
        add("nightly-x86_64");
        assert_eq!(nightly_rustc(directory.path()), rustc("nightly-x86_64"));
    }
}
