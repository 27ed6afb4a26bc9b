//! Connections that stay open until somebody lets them go: `traffic hold` in a pod.
//!
//! Each is used when it is opened and once more when it is let go, which tells whether it still works.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Mesh, Process, traffic};

/// Connections that stand. When this is dropped they are broken off.
#[derive(Debug)]
pub struct Held {
    client: Process,
    /// The file that the client waits for.
    release: PathBuf,
    standing: u64,
    errors: Value,
    patience: Duration,
}

/// How long opening them may take, and ending them.
const PATIENCE: Duration = Duration::from_secs(60);

impl Held {
    /// Opens so many connections from a pod to these addresses in turn; all must stand.
    pub fn open(mesh: &Mesh, from: &str, to: &[String], count: usize) -> Result<Self> {
        Self::open_with(mesh, from, to, count, &[], PATIENCE)
    }

    /// As [`Held::open`], with more arguments, and so much time to open them and to end them.
    pub fn open_with(
        mesh: &Mesh,
        from: &str,
        to: &[String],
        count: usize,
        args: &[&str],
        patience: Duration,
    ) -> Result<Self> {
        let held = Self::start(mesh, from, to, count, args, patience)?;
        ensure!(
            held.standing == count as u64,
            "{} of {count} connections stand: {}",
            held.standing,
            held.errors
        );
        Ok(held)
    }

    /// Tries to open so many, and holds those that stand.
    pub fn try_open(mesh: &Mesh, from: &str, to: &[String], count: usize) -> Result<Self> {
        Self::start(mesh, from, to, count, &[], PATIENCE)
    }

    fn start(
        mesh: &Mesh,
        from: &str,
        to: &[String],
        count: usize,
        args: &[&str],
        patience: Duration,
    ) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let release = mesh.dir().join(format!("release-{number}"));
        let (count, until) = (count.to_string(), release.display().to_string());
        let mut all = vec!["hold", "--count", &count, "--until", &until];
        all.extend(to.iter().flat_map(|to| ["--to", to]));
        all.extend(args);
        let mut client = traffic::start(mesh.pod(from), &all)?;
        let line = client.wait_line(patience, |line| line.contains("holding"))?;
        let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        Ok(Self {
            client,
            release,
            standing: said["holding"].as_u64().with_context(|| line.clone())?,
            errors: said["errors"].clone(),
            patience,
        })
    }

    /// How many stand.
    pub fn standing(&self) -> u64 {
        self.standing
    }

    /// What became of the others: how many ended with which error.
    pub fn errors(&self) -> &Value {
        &self.errors
    }

    /// Lets them go; each must have worked to its end.
    pub fn release(self) -> Result<()> {
        let standing = self.standing;
        let report = self.end()?;
        ensure!(report["good"] == standing, "connections broke: {report}");
        Ok(())
    }

    /// Lets them go; each must have been broken by then.
    pub fn release_broken(self) -> Result<()> {
        let report = self.end()?;
        ensure!(report["good"] == 0, "connections that still work: {report}");
        Ok(())
    }

    fn end(self) -> Result<Value> {
        fs::write(&self.release, "")?;
        self.client.wait(self.patience)?.ok()?.report()
    }
}
