//! A certificate authority, made by the agent's own CLI; nodes are told of it with [`Node::trust`].
//!
//! Its directory lies in that of the mesh and goes with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{Node, manifest::NAMESPACE};

/// An authority with a root of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    binary: PathBuf,
}

/// The files that prove to be a service account.
#[derive(Debug)]
pub struct Credentials {
    /// The certificate, and what leads from it to the root.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots of the authority, for who is at the other end.
    pub roots: PathBuf,
}

impl Authority {
    pub(crate) fn make(node: &Node, dir: PathBuf) -> Result<Self> {
        let authority = Self {
            dir,
            binary: node.agent_binary()?,
        };
        authority.command(&["init"])?;
        Ok(authority)
    }

    /// Makes a new root, which agents believe beside the old one.
    pub fn rotate_root(&self) -> Result<()> {
        self.command(&["rotate-root"])
    }

    /// Ends the belief in all roots but the newest.
    pub fn drop_old_roots(&self) -> Result<()> {
        self.command(&["rotate-root", "--drop-old"])
    }

    /// Another directory with the same authority in it, for a node that is to hear of changes by itself.
    pub fn twin(&self, name: &str) -> Result<Self> {
        let twin = Self {
            dir: self.dir.with_extension(name),
            binary: self.binary.clone(),
        };
        fs::create_dir_all(&twin.dir).with_context(|| format!("making {}", twin.dir.display()))?;
        twin.follow(self)?;
        Ok(twin)
    }

    /// Becomes what the other one is now.
    pub fn follow(&self, other: &Self) -> Result<()> {
        let mut from = other.dir.clone().into_os_string();
        from.push("/.");
        let output = Command::new("cp").arg("-a").arg(from).arg(&self.dir).output()?;
        ensure!(
            output.status.success(),
            "copying {}: {}",
            other.dir.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Issues a certificate with a new key for a service account of the namespace of all pods.
    pub fn issue(&self, account: &str) -> Result<Credentials> {
        let file = |suffix: &str| self.dir.with_extension(format!("{account}.{suffix}"));
        let credentials = Credentials {
            chain: file("pem"),
            key: file("key"),
            roots: self.dir.join("roots.pem"),
        };
        let (chain, key) = (path(&credentials.chain)?, path(&credentials.key)?);
        self.command(&[
            "issue",
            "--namespace",
            NAMESPACE,
            "--service-account",
            account,
            "--new-key",
            key,
            "--out",
            chain,
        ])?;
        Ok(credentials)
    }

    /// The directory that agents are given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the directory out of reach: whoever asks the authority gets no answer.
    pub fn hide(&self) -> Result<()> {
        fs::rename(&self.dir, self.hidden()).with_context(|| format!("hiding {}", self.dir.display()))
    }

    /// Puts the directory back.
    pub fn reveal(&self) -> Result<()> {
        fs::rename(self.hidden(), &self.dir).with_context(|| format!("revealing {}", self.dir.display()))
    }

    fn command(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(&self.binary)
            .arg("ca")
            .args(args)
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        ensure!(
            output.status.success(),
            "mesh-agent ca {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn hidden(&self) -> PathBuf {
        self.dir.with_extension("hidden")
    }
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is no text")
}
