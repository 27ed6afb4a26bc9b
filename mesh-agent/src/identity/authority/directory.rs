//! An authority on disk.
//!
//! `mesh-agent ca` makes and changes these directories, [`EmbeddedCa`](super::EmbeddedCa) reads them. In a directory
//! (mode 0700) lie `authority.pem` (mode 0600: the key, its certificate, and bridges from older roots) and `roots.pem`
//! (the roots to believe). Invariants: nothing is overwritten unless the operation is a rotation; each file is
//! replaced in one step; roots are published before anything is signed with them; a key that others may read is
//! refused.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mesh_common::model::TrustDomain;
use nix::fcntl::{Flock, FlockArg};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Authority, SignError};
use crate::identity::bundle::{BundleError, TrustBundle};
use crate::identity::certificate::{Facts, Unreadable};
use crate::identity::issuer::Roots;
use crate::identity::pem;

/// A directory with an authority in it.
#[derive(Clone, Debug)]
pub struct CaDirectory(PathBuf);

/// What a rotation does with the roots that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Make a new root, and go on believing the old ones.
    Begin,
    /// Stop believing every root but the newest.
    Finish,
}

/// Why a directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// There is an authority already.
    #[error("{} holds an authority already", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no authority", .0.display())]
    Missing(PathBuf),
    /// Others can read the key, or put another in its place.
    #[error("{} is open to others (mode {mode:o})", path.display())]
    Exposed {
        /// The directory or file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// A file does not hold what it should.
    #[error("{} does not hold {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The roots are not usable.
    #[error("the roots in {} cannot be used", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// Something is not signed.
    #[error("the authority in {} does not sign", path.display())]
    Sign {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignError,
    },
    /// The file system refuses.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
}

const AUTHORITY: &str = "authority.pem";
const ROOTS: &str = "roots.pem";
const DIRECTORY_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

impl CaDirectory {
    /// The authority in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file with the key.
    pub fn key_file(&self) -> PathBuf {
        self.0.join(AUTHORITY)
    }

    /// The file with the roots.
    pub fn roots_file(&self) -> PathBuf {
        self.0.join(ROOTS)
    }

    /// Makes a root, where there is none.
    pub fn init(
        &self,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Authority, DirectoryError> {
        let _lock = self.create()?;
        let root = Authority::new_root(trust_domain, lifetime, now).map_err(|source| self.sign(source))?;
        self.store(&root, std::slice::from_ref(root.certificate()))?;
        Ok(root)
    }

    /// Makes the intermediate of a node in a directory of its own, signed by the root in this one.
    pub fn intermediate(
        &self,
        node: &str,
        target: &Self,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Authority, DirectoryError> {
        let (root, roots) = (self.open(now)?, self.roots(now)?);
        let made = root
            .intermediate(node, lifetime, now)
            .map_err(|source| self.sign(source))?;
        let _lock = target.create()?;
        target.store(&made, &roots.certificates)?;
        Ok(made)
    }

    /// Begins or finishes a change of the root.
    pub fn rotate(
        &self,
        rotation: Rotation,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Authority, DirectoryError> {
        let _lock = self.lock()?;
        let old = self.open(now)?;
        let trusted = self.roots(now)?.certificates;
        if !old.is_root() {
            return Err(self.sign(SignError::NotARoot));
        }
        match rotation {
            Rotation::Begin => {
                let mut new = Authority::new_root(old.trust_domain(), lifetime, now)
                    .map_err(|source| self.sign(source))?;
                let bridge = old.bridge_to(&new, now).map_err(|source| self.sign(source))?;
                new.bridges.push(bridge);
                new.bridges.extend(old.bridges.iter().cloned());
                let mut roots = vec![new.certificate().clone()];
                roots.extend(trusted);
                self.store(&new, &roots)?;
                Ok(new)
            }
            Rotation::Finish => {
                let alone = Authority {
                    bridges: Vec::new(),
                    ..old
                };
                self.store(&alone, std::slice::from_ref(alone.certificate()))?;
                Ok(alone)
            }
        }
    }

    /// The authority; bridges that have expired are left out.
    pub fn open(&self, now: SystemTime) -> Result<Authority, DirectoryError> {
        let path = self.key_file();
        self.check_mode(&self.0, DIRECTORY_MODE)?;
        self.check_mode(&path, KEY_MODE)?;
        let text = Zeroizing::new(fs::read(&path).map_err(io_error("read", &path))?);
        let content = |what| DirectoryError::Content {
            path: path.clone(),
            what,
        };
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| content("a private key"))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        der.zeroize();
        let key = Zeroizing::new(key.map_err(|_| content("a P-256 key"))?);
        let mut chain = read_certificates(&text)
            .map_err(|_| content("readable certificates"))?
            .into_iter();
        let certificate = chain.next().ok_or_else(|| content("a certificate"))?;
        let bridges = chain
            .filter(|bridge| Facts::of(bridge).is_ok_and(|facts| facts.is_valid_at(now)))
            .collect();
        Authority::assemble(key, certificate, bridges).map_err(|source| self.sign(source))
    }

    /// The roots to believe; those that have expired are left out, unless all have.
    pub fn roots(&self, now: SystemTime) -> Result<Roots, DirectoryError> {
        let path = self.roots_file();
        let text = fs::read(&path).map_err(|error| self.missing_or("read", &path, error))?;
        let content = |what| DirectoryError::Content {
            path: path.clone(),
            what,
        };
        let all = read_certificates(&text).map_err(|_| content("readable certificates"))?;
        let facts: Vec<Facts> = all
            .iter()
            .map(Facts::of)
            .collect::<Result<_, Unreadable>>()
            .map_err(|_| content("readable certificates"))?;
        let trust_domain = facts
            .first()
            .and_then(|facts| facts.uris.first()?.strip_prefix("spiffe://")?.parse().ok())
            .ok_or_else(|| content("roots of a trust domain"))?;
        let valid: Vec<CertificateDer<'static>> = all
            .iter()
            .zip(&facts)
            .filter(|(_, facts)| now <= facts.not_after)
            .map(|(certificate, _)| certificate.clone())
            .collect();
        let roots = Roots {
            trust_domain,
            certificates: if valid.is_empty() { all } else { valid },
        };
        TrustBundle::new(&roots, 0).map_err(|source| DirectoryError::Bundle { path, source })?;
        Ok(roots)
    }

    /// Makes the directory, locked, if no authority is in it.
    fn create(&self) -> Result<Flock<File>, DirectoryError> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(&self.0)
            .map_err(io_error("create", &self.0))?;
        self.check_mode(&self.0, DIRECTORY_MODE)?;
        let lock = self.lock()?;
        if self.key_file().exists() || self.roots_file().exists() {
            return Err(DirectoryError::Exists(self.0.clone()));
        }
        Ok(lock)
    }

    fn lock(&self) -> Result<Flock<File>, DirectoryError> {
        let directory = File::open(&self.0).map_err(|error| self.missing_or("open", &self.0, error))?;
        Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io_error("lock", &self.0)(errno.into()))
    }

    fn store(&self, authority: &Authority, roots: &[CertificateDer<'static>]) -> Result<(), DirectoryError> {
        self.replace(ROOTS, PUBLIC_MODE, pem::certificates(roots).as_bytes())?;
        let mut text = Zeroizing::new(pem::encode(pem::PRIVATE_KEY, authority.key.serialized_der()));
        let chain = std::iter::once(&authority.certificate).chain(&authority.bridges);
        let certificates = pem::certificates(chain);
        // Growing would leave the key behind in freed memory.
        let mut whole = Zeroizing::new(String::with_capacity(text.len() + certificates.len()));
        whole.push_str(&text);
        whole.push_str(&certificates);
        text.zeroize();
        self.replace(AUTHORITY, KEY_MODE, whole.as_bytes())
    }

    /// Writes a file beside its place, then puts it there.
    fn replace(&self, name: &str, mode: u32, content: &[u8]) -> Result<(), DirectoryError> {
        let (path, beside) = (self.0.join(name), self.0.join(format!(".{name}.new")));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &beside)(error));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)
            .map_err(io_error("create", &beside))?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &beside))?;
        fs::rename(&beside, &path).map_err(io_error("replace", &path))?;
        File::open(&self.0)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("write", &self.0))
    }

    fn check_mode(&self, path: &Path, wanted: u32) -> Result<(), DirectoryError> {
        let metadata = fs::metadata(path).map_err(|error| self.missing_or("look at", path, error))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(DirectoryError::Exposed {
                path: path.to_owned(),
                mode,
                wanted,
            });
        }
        Ok(())
    }

    fn missing_or(&self, what: &'static str, path: &Path, error: io::Error) -> DirectoryError {
        if error.kind() == io::ErrorKind::NotFound {
            return DirectoryError::Missing(self.0.clone());
        }
        io_error(what, path)(error)
    }

    fn sign(&self, source: SignError) -> DirectoryError {
        DirectoryError::Sign {
            path: self.0.clone(),
            source,
        }
    }
}

fn read_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(text).collect()
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io {
        what,
        path: path.clone(),
        source,
    }
}
