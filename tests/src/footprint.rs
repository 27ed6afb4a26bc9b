//! What a mesh leaves on the machine, and its removal.
//!
//! A mesh registers before it makes anything, in memory for signals and in a file for the case that its process
//! is killed. The file names the owner by pid and start time, so a reused pid is no owner. Removal needs only the
//! id, takes whatever is there, and may be repeated.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use crate::{
    cgroup,
    layout::{Layout, STATE},
    network,
};

/// Meshes of this process that stand now, for the signal handler.
static STANDING: Mutex<Vec<Layout>> = Mutex::new(Vec::new());

/// Claims a fresh id for this process and makes the mesh's directory.
pub(crate) fn claim(name: &str) -> Result<Layout> {
    fs::create_dir_all(STATE).with_context(|| format!("creating {STATE}; the harness needs root"))?;
    clean_on_signals();
    for _ in 0..100 {
        let layout = Layout::new(&fresh_id())?;
        let record = json!({ "name": name, "pid": process::id(), "started": start_time(process::id()), "kept": false });
        if !publish(&owner_file(&layout.id), &record, Existing::Refuse)? {
            continue;
        }
        standing().push(layout.clone());
        for directory in [&layout.dir, &layout.output_dir()] {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        }
        return Ok(layout);
    }
    bail!("no free id for a mesh in {STATE}")
}

/// Leaves the mesh standing when this process ends.
pub(crate) fn keep(layout: &Layout, name: &str) -> Result<()> {
    standing().retain(|other| other.id != layout.id);
    let record = json!({ "name": name, "pid": process::id(), "kept": true });
    publish(&owner_file(&layout.id), &record, Existing::Replace).map(drop)
}

/// Removes everything a mesh made. One removal goes on at a time on this machine, so that two sweeps, or a sweep
/// and a signal, do not trip over each other.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    let lock = Path::new(STATE).join("lock");
    let lock = fs::File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
    lock.lock().context("waiting for other removals")?;
    cgroup::remove_tree(&layout.cgroup)?;
    let prefix = layout.netns_prefix();
    let names = match fs::read_dir("/run/netns") {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect(),
        Err(_) => Vec::new(),
    };
    network::remove(&names)?;
    for mount in mounts_below(&layout.dir)? {
        umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", mount.display()))?;
    }
    if layout.dir.exists() {
        fs::remove_dir_all(&layout.dir).with_context(|| format!("removing {}", layout.dir.display()))?;
    }
    let owner = owner_file(&layout.id);
    if owner.exists() {
        fs::remove_file(&owner).with_context(|| format!("removing {}", owner.display()))?;
    }
    standing().retain(|other| other.id != layout.id);
    Ok(())
}

/// Removes the meshes of processes that are gone, except kept ones. Returns their ids.
pub(crate) fn sweep() -> Result<Vec<String>> {
    remove_where(|record| record["kept"] != true && !owner_lives(record))
}

/// Removes the kept meshes of this name. Returns their ids.
pub(crate) fn take_down(name: &str) -> Result<Vec<String>> {
    remove_where(|record| record["kept"] == true && record["name"] == name)
}

fn remove_where(chosen: impl Fn(&Value) -> bool) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(STATE) else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Some(record) = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
        else {
            continue;
        };
        if chosen(&record) {
            let id = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            remove(&Layout::new(&id)?)?;
            removed.push(id);
        }
    }
    Ok(removed)
}

fn owner_lives(record: &Value) -> bool {
    record["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .is_some_and(|pid| {
            let started = start_time(pid);
            started.is_some() && record["started"].as_u64() == started
        })
}

fn clean_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let set = ctrlc::set_handler(|| {
            let meshes = standing().clone();
            for layout in meshes {
                if let Err(error) = remove(&layout) {
                    eprintln!("cleaning up mesh {}: {error:#}", layout.id);
                }
            }
            process::exit(130);
        });
        if let Err(error) = set {
            eprintln!("meshes will not be removed on signals: {error}");
        }
    });
}

enum Existing {
    Refuse,
    Replace,
}

/// Writes the record so that no reader ever sees half of it; `false` if another one stands there.
fn publish(path: &Path, record: &Value, existing: Existing) -> Result<bool> {
    let context = || format!("writing {}", path.display());
    let draft = path.with_extension(format!("{}.draft", process::id()));
    let mut file = fs::File::create(&draft).with_context(context)?;
    writeln!(file, "{record}").with_context(context)?;
    let published = match existing {
        Existing::Refuse => fs::hard_link(&draft, path).is_ok(),
        Existing::Replace => {
            fs::copy(&draft, path).with_context(context)?;
            true
        }
    };
    fs::remove_file(&draft).with_context(context)?;
    Ok(published)
}

fn fresh_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mut seed = u64::from(nanos)
        ^ (u64::from(process::id()) << 20)
        ^ u64::from(COUNT.fetch_add(1, Ordering::Relaxed));
    let mut id = String::new();
    for _ in 0..5 {
        seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        id.push(DIGITS[(seed % 36) as usize].into());
    }
    id
}

fn owner_file(id: &str) -> PathBuf {
    Path::new(STATE).join(format!("{id}.json"))
}

/// When a process started, in clock ticks since boot: field 22 of proc_pid_stat(5).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(directory))
        .collect();
    below.reverse();
    Ok(below)
}

fn standing() -> MutexGuard<'static, Vec<Layout>> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}
