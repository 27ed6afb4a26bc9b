//! The file system of the test machines: the tests, the agent, and the programs that tests start, with their libraries.
//!
//! Packed once for all kernels as an archive that the kernel unpacks into memory; a kernel's modules and its task are a
//! second archive behind it. Everything has the path that it has on this machine, because the tests know where they were built.
//! Invariant: what is packed comes from this checkout and from the packages of `cargo xtask setup`, nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::programs::{self, Linkage};

use super::kernel::Kernel;
use super::transcript::Task;
use crate::process::{self, find_program};
use crate::repo::Repo;

/// What the tests start.
const PROGRAMS: &[&str] = &[
    "bpftool",
    "curl",
    "h2load",
    "ip",
    "mount",
    "nginx",
    "nsenter",
    "redis-cli",
    "redis-server",
    "setarch",
    "setpriv",
    "ss",
    "sysctl",
    "tcpdump",
    "unshare",
    "wrk",
];

/// Debian's own interpreter; another one on the path would have its library elsewhere.
const PYTHON: &str = "/usr/bin/python3";

/// Parts of Python's library that no test uses: beginnings of names.
const PYTHON_WITHOUT: &[&str] = &[
    "__pycache__",
    "config-",
    "test",
    "idlelib",
    "tkinter",
    "ensurepip",
    "pydoc_data",
    "lib2to3",
];

/// The first process of a test machine.
const INIT: &str = include_str!("init.sh");

/// The archive that all machines have in common.
pub(crate) struct Image {
    archive: PathBuf,
    directory: PathBuf,
    tests: Vec<String>,
}

/// How patient the tests of a machine are, and how much they do.
pub(crate) struct Pace {
    /// Deadlines are so many times longer.
    pub(crate) patience: u32,
    /// Loads are so many times smaller.
    pub(crate) divisor: u32,
    /// No test may take longer.
    pub(crate) limit: Duration,
}

impl Image {
    /// Builds the tests and packs everything; with an `object`, the agent loads that instead of its own kernel half.
    pub(crate) fn pack(repo: &Repo, agent: &Path, object: Option<&Path>) -> Result<Self> {
        let tests = integration_tests(repo)?;
        let names = names(&tests)?;
        let directory = repo.vm_dir();
        let root = directory.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        println!("  packing the file system of the machines");
        let staging = Staging { root };
        for place in [
            "dev",
            "proc",
            "sys",
            "tmp",
            "run",
            "etc",
            "root",
            "var/log/nginx",
            "var/lib/nginx",
            "modules",
        ] {
            fs::create_dir_all(staging.root.join(place))?;
        }
        staging.put("/bin/busybox", &program("busybox")?)?;
        symlink("busybox", staging.root.join("bin/sh"))?;
        for name in PROGRAMS {
            staging.program(&program(name)?)?;
        }
        staging.python()?;
        staging.stripped(agent)?;
        staging.stripped(&tests)?;
        staging.stripped(&programs::traffic()?)?;
        staging.stripped(&programs::web()?)?;
        for linkage in [Linkage::Glibc, Linkage::StaticMusl] {
            staging.program(&programs::peer(linkage)?)?;
        }
        staging.tree(&repo.root().join("tests/programs"), &[])?;
        staging.text(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n",
        )?;
        staging.text("etc/group", "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n")?;
        staging.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        let mut variables = format!("AGENT='{}'\nTESTS='{}'\n", agent.display(), tests.display());
        if let Some(object) = object {
            staging.put(object, object)?;
            variables += &format!("export NODEMESH_EBPF_OBJECT='{}'\n", object.display());
        }
        staging.text("init.env", &variables)?;
        staging.text("init", INIT)?;
        fs::set_permissions(staging.root.join("init"), fs::Permissions::from_mode(0o755))?;
        let archive = directory.join("base.cpio");
        pack(&staging.root, &archive)?;
        Ok(Self {
            archive,
            directory,
            tests: names,
        })
    }

    /// The names of all integration tests.
    pub(crate) fn tests(&self) -> &[String] {
        &self.tests
    }

    /// The archive with what one machine has of its own behind it: its kernel's modules, and its task.
    pub(crate) fn for_machine(
        &self,
        name: &str,
        kernel: &Kernel,
        task: &Task,
        pace: &Pace,
    ) -> Result<PathBuf> {
        let root = self.directory.join("machine");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(root.join("modules"))?;
        let (word, tests) = match task {
            Task::Tests(names) => ("tests", names.join("\n") + "\n"),
            Task::Refusal => ("refusal", String::new()),
        };
        fs::write(root.join("tests.list"), tests)?;
        fs::write(
            root.join("task.env"),
            format!(
                "TASK={word}\nPATIENCE={}\nDIVISOR={}\nLIMIT={}\n",
                pace.patience,
                pace.divisor,
                pace.limit.as_secs()
            ),
        )?;
        for (number, module) in kernel.modules()?.iter().enumerate() {
            let target = root.join(format!("modules/{number:02}.ko"));
            if module.extension().is_some_and(|extension| extension == "xz") {
                let unpacked = File::create(&target)?;
                let status = Command::new("xz")
                    .arg("-dc")
                    .arg(module)
                    .stdout(unpacked)
                    .status()?;
                ensure!(status.success(), "xz cannot unpack {}", module.display());
            } else {
                fs::copy(module, &target)?;
            }
        }
        let own = self.directory.join("machine.cpio");
        pack(&root, &own)?;
        let whole = self.directory.join(format!("initrd-{name}.cpio"));
        fs::copy(&self.archive, &whole)?;
        let mut end = File::options().append(true).open(&whole)?;
        end.write_all(&fs::read(&own)?)?;
        Ok(whole)
    }
}

/// A directory that is the root of the machines.
struct Staging {
    root: PathBuf,
}

impl Staging {
    /// Where an absolute path is in here.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.root.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(place)
    }

    fn put(&self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let place = self.place(path.as_ref())?;
        if !place.exists() {
            fs::copy(source, &place).with_context(|| format!("cannot copy {}", source.display()))?;
        }
        Ok(())
    }

    fn text(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.place(Path::new(path))?, text).with_context(|| format!("cannot write {path}"))
    }

    /// A program where it is, with the libraries that it is linked to.
    fn program(&self, path: &Path) -> Result<()> {
        self.put(path, path)?;
        for library in libraries(path) {
            self.put(&library, &library)?;
        }
        Ok(())
    }

    /// As [`Staging::program`], without what only a debugger reads: it would fill the machine's memory.
    fn stripped(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        process::output_of(Command::new("objcopy").arg("--strip-debug").arg(path).arg(&place))?;
        for library in libraries(path) {
            self.put(&library, &library)?;
        }
        Ok(())
    }

    /// A directory and what is in it, but what begins with one of these names; programs in it get their libraries.
    fn tree(&self, path: &Path, without: &[&str]) -> Result<()> {
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if without
                .iter()
                .any(|start| name.to_string_lossy().starts_with(start))
            {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                self.tree(&path, without)?;
            } else if path.extension().is_some_and(|extension| extension == "so") {
                self.program(&path)?;
            } else if path.is_file() {
                self.put(&path, &path)?;
            }
        }
        Ok(())
    }

    fn python(&self) -> Result<()> {
        let python = Path::new(PYTHON);
        let real = python
            .canonicalize()
            .with_context(|| format!("no {PYTHON}: install python3"))?;
        self.program(&real)?;
        self.put(python, &real)?;
        let version = real.file_name().context("python has no name")?;
        let library = Path::new("/usr/lib").join(version);
        self.tree(&library, PYTHON_WITHOUT)?;
        // Each machine would compile what it imports, which takes seconds where it is emulated.
        process::output_of(
            Command::new(python)
                .args(["-m", "compileall", "-q", "-j", "0"])
                .args(["--invalidation-mode", "unchecked-hash"])
                .args(["-s".as_ref(), self.root.as_os_str()])
                .arg(self.place(&library)?),
        )?;
        Ok(())
    }
}

fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("no {name} on this machine: run `cargo xtask setup`"))
}

/// The libraries that a program is linked to, none for a static one.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let listed = process::output_of(Command::new("ldd").arg(program)).unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// Builds the integration tests and says where they are.
fn integration_tests(repo: &Repo) -> Result<PathBuf> {
    println!("  building the tests");
    let mut cargo = repo.cargo();
    cargo.args([
        "test",
        "--locked",
        "--package",
        "mesh-tests",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ]);
    let messages = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !messages.status.success() {
        bail!("the tests do not compile; see `cargo test --package mesh-tests --no-run`");
    }
    String::from_utf8_lossy(&messages.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "integration")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo does not say where the integration tests are")
}

/// The names of all tests of a test program.
fn names(program: &Path) -> Result<Vec<String>> {
    let listed = process::output_of(Command::new(program).args(["--list", "--format", "terse"]))?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Packs a directory in the one format that kernels unpack.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let listed = process::output_of(Command::new("find").arg(".").current_dir(root))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=+0:+0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?)
        .spawn()
        .context("cannot start cpio: run `cargo xtask setup`")?;
    cpio.stdin
        .take()
        .context("cpio has no input")?
        .write_all(listed.as_bytes())?;
    ensure!(cpio.wait()?.success(), "cpio cannot pack {}", root.display());
    Ok(())
}
