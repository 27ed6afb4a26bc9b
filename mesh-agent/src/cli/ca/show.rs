//! `mesh-agent ca show`: an authority and the roots to believe, or the certificates in a file.

use std::{fs, path::PathBuf, time::SystemTime};

use clap::Args;
use mesh_common::model::TrustDomain;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;

use super::super::{
    failure::Failure,
    output::{OutputArgs, View},
    table::{Colour, Detail},
};
use super::certificate::{Role, Row, table};
use crate::identity::CaDirectory;

/// What `ca show` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct ShowArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR", required_unless_present = "file")]
    dir: Option<PathBuf>,
    /// A PEM file with certificates
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// An authority, or what a file holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    trust_domain: Option<TrustDomain>,
    certificates: Vec<Row>,
    #[serde(skip)]
    now: SystemTime,
}

impl ShowArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = SystemTime::now();
        let shown = match (&self.dir, &self.file) {
            (Some(dir), _) => Shown::directory(&CaDirectory::new(dir), now)?,
            (None, Some(file)) => Shown::file(file, now)?,
            // Clap wants one of them.
            (None, None) => return Ok(()),
        };
        self.output.show(&shown)
    }
}

impl Shown {
    /// The authority in a directory and its roots.
    pub(super) fn directory(directory: &CaDirectory, now: SystemTime) -> Result<Self, Failure> {
        let authority = directory.open(now)?;
        let mut certificates = vec![Row::new(Role::Signer, authority.facts().clone(), now)];
        for root in directory.roots(now)?.certificates {
            certificates.push(Row::read(Role::Root, &root, now)?);
        }
        Ok(Self {
            trust_domain: Some(authority.trust_domain().clone()),
            certificates,
            now,
        })
    }

    fn file(path: &PathBuf, now: SystemTime) -> Result<Self, Failure> {
        let text = fs::read(path)
            .map_err(|error| Failure::because(format!("cannot read {}", path.display()), error))?;
        let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| Failure::because("cannot read the file as PEM", error))?;
        let rows = chain.iter().map(|der| Row::read(Role::Certificate, der, now));
        Ok(Self {
            trust_domain: None,
            certificates: rows.collect::<Result<_, _>>()?,
            now,
        })
    }

    /// The certificates of a chain that was just made.
    pub(super) fn chain(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Self, Failure> {
        let rows = chain.iter().map(|der| Row::read(Role::Certificate, der, now));
        Ok(Self {
            trust_domain: None,
            certificates: rows.collect::<Result<_, _>>()?,
            now,
        })
    }
}

impl View for Shown {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        table(&self.certificates, self.now, detail, colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.certificates.is_empty().then_some("No certificates.")
    }
}
