//! Builds the kernel half: `cargo xtask build-ebpf`.
//!
//! Takes a compiler from [`crate::toolchain`], runs cargo on the `mesh-ebpf` crate, and leaves the object where the
//! agent's build script finds it. Cargo itself knows when nothing has changed.
//!
//! Invariant: the object depends on the sources and the compiler alone, not on where the checkout, cargo's registry
//! or the library's sources lie, and the file is replaced only by different bytes.

mod wrapper;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::process::{find_program, run};
use crate::repo::{Repo, cargo_home};
use crate::toolchain::{self, Toolchain};

pub(crate) use self::wrapper::become_what_is_asked;

const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing: fail if the sources do not compile, or if the object in target/ebpf is missing or is not the
    /// one that they give
    #[arg(long)]
    check: bool,
}

/// Runs `cargo xtask build-ebpf`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    if options.check { check(repo) } else { build(repo) }
}

/// Builds the object and puts it where the agent's build script looks for it.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    let bytes = compile(repo)?;
    let object = repo.ebpf_object();
    if fs::read(&object).is_ok_and(|present| present == bytes) {
        println!("  {} is up to date ({} bytes)", object.display(), bytes.len());
        return Ok(());
    }
    let directory = object.parent().context("the object has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    // Written aside and renamed: a build of the agent at the same time never sees half an object.
    let aside = object.with_extension("o.new");
    fs::write(&aside, &bytes).with_context(|| format!("cannot write {}", aside.display()))?;
    fs::rename(&aside, &object).with_context(|| format!("cannot write {}", object.display()))?;
    println!("  wrote {} ({} bytes)", object.display(), bytes.len());
    Ok(())
}

/// Lints the kernel half, with its own compiler's clippy if there is one, else with the compiler alone.
pub(crate) fn lint(repo: &Repo) -> Result<()> {
    let toolchain = Toolchain::choose()?;
    let companions = ["cargo", "cargo-clippy", "clippy-driver"].map(|program| toolchain.companion(program));
    let mut cargo = if let [Some(cargo), Some(clippy), Some(_)] = companions {
        // Called by its path: through `cargo clippy` the search path could find another release's.
        let mut command = for_kernel(repo, &toolchain, Command::new(clippy))?;
        command.env("CARGO", cargo).arg("clippy");
        command
    } else {
        println!(
            "  {} came without clippy: warnings of the compiler alone",
            toolchain.rustc().display()
        );
        let mut command = cargo(repo, &toolchain)?;
        command.arg("rustc");
        command
    };
    run(cargo
        .args(BUILD_ARGUMENTS)
        .arg("--target-dir")
        .arg(repo.ebpf_target())
        .args(["--", "-D", "warnings"]))
}

fn check(repo: &Repo) -> Result<()> {
    let bytes = compile(repo)?;
    let object = repo.ebpf_object();
    match fs::read(&object) {
        Ok(present) if present == bytes => {
            println!("  {} is what the sources give", object.display());
            Ok(())
        }
        Ok(_) => bail!(
            "{} is out of date: run `cargo xtask build-ebpf`",
            object.display()
        ),
        Err(source) => bail!(
            "cannot read {}: {source}. Run `cargo xtask build-ebpf`",
            object.display()
        ),
    }
}

const BUILD_ARGUMENTS: [&str; 7] = [
    "--release",
    "--locked",
    "--target",
    TARGET,
    "-Z",
    "build-std=core",
    "--quiet",
];

/// Compiles into cargo's own directory and returns the object.
fn compile(repo: &Repo) -> Result<Vec<u8>> {
    let toolchain = Toolchain::choose()?;
    println!(
        "  kernel half by {} (LLVM {})",
        toolchain.rustc().display(),
        toolchain.llvm()?
    );
    if registries().is_empty() {
        // Nothing was downloaded yet: the flags name the directory that this makes.
        run(cargo(repo, &toolchain)?.args(["fetch", "--locked", "--quiet"]))?;
    }
    let mut cargo = cargo(repo, &toolchain)?;
    cargo
        .arg("build")
        .args(BUILD_ARGUMENTS)
        .arg("--target-dir")
        .arg(repo.ebpf_target());
    if let Err(failure) = run(&mut cargo) {
        return Err(match (toolchain.llvm().ok(), toolchain::linker_llvm()) {
            (Some(compiler), Some(linker)) if compiler > linker => failure.context(format!(
                "bpf-linker is built on LLVM {linker} and cannot read what a compiler on LLVM {compiler} writes: \
                 rebuild bpf-linker on a newer LLVM, or set {} to an older compiler",
                toolchain::CHOICE
            )),
            _ => failure,
        });
    }
    let built = repo.ebpf_target().join(TARGET).join("release/mesh-ebpf");
    fs::read(&built).with_context(|| format!("cargo left no object at {}", built.display()))
}

/// The cargo that came with the compiler, or ours.
fn cargo(repo: &Repo, toolchain: &Toolchain) -> Result<Command> {
    let cargo = toolchain
        .companion("cargo")
        .map_or_else(|| repo.cargo(), Command::new);
    for_kernel(repo, toolchain, cargo)
}

/// Sets a cargo up for the kernel's machine. The variables are set on this child alone: they would change what every
/// other build does.
fn for_kernel(repo: &Repo, toolchain: &Toolchain, mut cargo: Command) -> Result<Command> {
    let linker = find_program("bpf-linker").context(
        "bpf-linker is not installed: run `cargo xtask setup`, which builds it, or see CONTRIBUTING.md",
    )?;
    let stand_in = wrapper::install(&mut cargo, &linker)?;
    cargo
        .current_dir(repo.ebpf_crate())
        .env("RUSTC", toolchain.rustc())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(repo, toolchain, &stand_in))
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_BUILD_TARGET");
    // These name wrappers and directories of the outer build.
    for name in [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

/// The compiler's flags, separated as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn flags(repo: &Repo, toolchain: &Toolchain, linker: &Path) -> OsString {
    let mut flags: Vec<OsString> = vec![
        joined("-Clinker=", linker),
        "-Clink-arg=--btf".into(),
        "-Cdebuginfo=2".into(),
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH).into(),
    ];
    let moved = |from: &Path, to: &str| {
        let mut flag = joined("--remap-path-prefix=", from);
        flag.push("=");
        flag.push(to);
        flag
    };
    // The compiler tries the last one first.
    flags.push(moved(repo.root(), "/nodemesh"));
    flags.push(moved(toolchain.sources(), "/rust"));
    // Debian's is a link to a directory named after the release.
    flags.extend(
        toolchain
            .sources()
            .canonicalize()
            .ok()
            .map(|sources| moved(&sources, "/rust")),
    );
    flags.extend(registries().iter().map(|registry| moved(registry, "/registry")));
    flags.join("\x1f".as_ref())
}

/// The directories that hold the sources of the crates. Their names depend on which registry or mirror is in use.
fn registries() -> Vec<PathBuf> {
    let Some(home) = cargo_home() else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(home.join("registry/src")) else {
        return Vec::new();
    };
    let mut directories: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    directories.sort();
    directories
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(prefix);
    flag.push(path);
    flag
}
