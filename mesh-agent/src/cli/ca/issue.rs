//! `mesh-agent ca issue`: a certificate for a program that is no agent.
//!
//! Invariant: a key is written only when it is asked for, with mode 0600, and never over a file that is there.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use mesh_common::model::{ObjectKey, SpiffeId};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};

use super::super::failure::Failure;
use super::{DirArgs, failure::unsigned, lifetime, show::Shown};
use crate::identity::{LeafKey, pem};

/// What `ca issue` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct IssueArgs {
    #[command(flatten)]
    at: DirArgs,
    /// Namespace of the service account
    #[arg(long, short, value_name = "NAME")]
    namespace: String,
    /// The service account
    #[arg(long, short, value_name = "NAME")]
    service_account: String,
    /// A signing request in PEM, for a P-256 key and with the identity as its only name
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    csr: Option<PathBuf>,
    /// Make a key and write it here
    #[arg(long, value_name = "FILE", conflicts_with = "csr")]
    new_key: Option<PathBuf>,
    /// A new file for the certificate and those that lead from it to the root
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long it is valid; never longer than the authority
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    ttl: Duration,
}

const KEY_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

impl IssueArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = SystemTime::now();
        let authority = self.at.directory().open(now)?;
        let account = ObjectKey::new(self.namespace.as_str(), self.service_account.as_str());
        let id = SpiffeId::new(authority.trust_domain(), &account).map_err(|error| Failure::Remedied {
            message: error.to_string(),
            remedy: "give the namespace and the name of a service account".to_owned(),
        })?;
        let (csr, key) = match &self.csr {
            Some(path) => (read_request(path)?, None),
            None => {
                let key =
                    LeafKey::generate().map_err(|error| Failure::because("cannot make a key", error))?;
                let csr = key
                    .request(&id)
                    .map_err(|error| Failure::because("cannot make a request", error))?;
                (csr, Some(key))
            }
        };
        let chain = authority.leaf(&csr, &id, self.ttl, now).map_err(unsigned)?;
        if let (Some(path), Some(key)) = (&self.new_key, &key) {
            write_new(path, KEY_MODE, &key.to_pem())?;
        }
        write_new(&self.out, PUBLIC_MODE, &pem::certificates(&chain))?;
        self.at.output.show(&Shown::chain(&chain, now)?)
    }
}

fn read_request(path: &Path) -> Result<CertificateSigningRequestDer<'static>, Failure> {
    let text =
        fs::read(path).map_err(|error| Failure::because(format!("cannot read {}", path.display()), error))?;
    CertificateSigningRequestDer::from_pem_slice(&text).map_err(|error| Failure::Remedied {
        message: format!("{} holds no signing request: {error}", path.display()),
        remedy: "make one in PEM, with `openssl req -new` for example".to_owned(),
    })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Remedied {
            message: format!("{} exists already", path.display()),
            remedy: "name another file, or remove this one first".to_owned(),
        }),
        Err(error) => Err(Failure::because(
            format!("cannot write {}", path.display()),
            error,
        )),
    }
}
