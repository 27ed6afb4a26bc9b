//! Where things are in this checkout, and the `cargo` that acts on it.
//!
//! Owns every path another module of the entrance needs; nobody else spells one out.
//! Invariant: all paths are absolute, so a command works from any directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A checkout of the project.
pub(crate) struct Repo {
    root: PathBuf,
    target: PathBuf,
}

impl Repo {
    /// Finds the checkout this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let here = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = here
            .parent()
            .context("xtask is not inside a checkout")?
            .canonicalize()
            .with_context(|| format!("the checkout of {} is gone", here.display()))?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(target) => std::path::absolute(target).context("CARGO_TARGET_DIR is not a path")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The directory that holds the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The crate of the kernel half.
    pub(crate) fn ebpf_crate(&self) -> PathBuf {
        self.root.join("mesh-ebpf")
    }

    /// Where the kernel half is compiled.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf-build")
    }

    /// The crate of the fuzz targets.
    pub(crate) fn fuzz_crate(&self) -> PathBuf {
        self.root.join("fuzz")
    }

    /// Where the fuzz targets are compiled.
    pub(crate) fn fuzz_target(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// The kernel half's object. It is under the checkout's own `target/` whatever `CARGO_TARGET_DIR` says,
    /// because the agent's build script looks for it there.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.root.join("target/ebpf/mesh-ebpf.o")
    }

    /// What test machines are made of, kept between runs.
    pub(crate) fn vm_dir(&self) -> PathBuf {
        self.target.join("vm")
    }

    /// Programs that no package of the system provides, each in a directory of its own.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The agent as `cargo build --release` leaves it.
    pub(crate) fn release_agent(&self) -> PathBuf {
        self.target.join("release/mesh-agent")
    }

    /// The agent as `cargo build` leaves it.
    pub(crate) fn debug_agent(&self) -> PathBuf {
        self.target.join("debug/mesh-agent")
    }

    /// The `cargo` that runs this program, at the root of the checkout.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        // `cargo run` points these at xtask and its own toolchain; a child must not take them for its own.
        command
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("CARGO_MANIFEST_DIR")
            .env_remove("CARGO_MANIFEST_PATH");
        command
    }
}

/// Where cargo keeps its registry and installs programs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

/// Where rustup keeps its toolchains.
pub(crate) fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")))
}
