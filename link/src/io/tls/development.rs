//! Certificates for development: an authority of one's own, made at the first start.
//!
//! All files are written into a draft directory, which then takes the final name in one rename: a directory
//! of certificates is there whole or not at all, and of several processes that start together one wins and
//! all use its files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};

use super::{AUTHORITY_FILE, Role, TlsError};

/// The file of the authority's key. Only development has one; elsewhere the key of an authority stays with
/// the authority.
const AUTHORITY_KEY_FILE: &str = "ca.key";
/// The authority signs no other names than those below this one.
const NAMES_BELOW: &str = "carillon.internal";
/// Drafts that crashed starts with the same process id may have left behind; with more of them the start
/// fails.
const DRAFTS_MAX: u32 = 16;

/// Makes `directory` with a new authority (`ca.pem`, `ca.key`) and a certificate and key for each role,
/// unless it holds an authority already. The certificates do not expire, so that no jump of the clock parts a
/// development system.
///
/// # Errors
/// The directory holds other things but no authority, or cannot be written.
pub fn ensure_development(directory: &Path) -> Result<(), TlsError> {
    let authority = directory.join(AUTHORITY_FILE);
    if authority.exists() {
        return Ok(());
    }
    let (parent, draft) = create_draft(directory)?;
    let made = write_all(&draft).and_then(|()| match fs::rename(&draft, directory) {
        Ok(()) => sync_directory(&parent),
        // Another process was faster (or the directory is somebody's, which the caller's next read will
        // tell).
        Err(_) if authority.exists() => Ok(()),
        Err(error) => Err(TlsError::file(directory)(error)),
    });
    // Gone after the rename; else it holds keys that nobody will use.
    let _ = fs::remove_dir_all(&draft);
    made
}

/// An empty directory next to `directory`, and the parent of both.
fn create_draft(directory: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let Some(name) = directory.file_name() else {
        return Err(TlsError::content(directory, "a directory with a name is needed"));
    };
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(TlsError::file(parent))?;
    for attempt in 1..=DRAFTS_MAX {
        let draft = parent.join(format!(".{}.{}.{attempt}", name.display(), std::process::id()));
        match DirBuilder::new().mode(0o700).create(&draft) {
            Ok(()) => return Ok((parent.into(), draft)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(TlsError::file(&draft)(error)),
        }
    }
    Err(TlsError::content(
        parent,
        format!("{DRAFTS_MAX} unfinished drafts of {} lie here", directory.display()),
    ))
}

fn write_all(draft: &Path) -> Result<(), TlsError> {
    let mut authority_params = named("Carillon development authority");
    authority_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority_params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(NAMES_BELOW.into())],
        excluded_subtrees: Vec::new(),
    });
    let authority_key = KeyPair::generate()?;
    let authority = authority_params.self_signed(&authority_key)?;
    write_private(&draft.join(AUTHORITY_FILE), &authority.pem())?;
    write_private(&draft.join(AUTHORITY_KEY_FILE), &authority_key.serialize_pem())?;
    let issuer = Issuer::from_params(&authority_params, &authority_key);

    for (role, usages) in [
        // Routers connect to each other.
        (Role::Router, vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]),
        (Role::Gateway, vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ] {
        let mut params = named(role.certificate_name());
        params.subject_alt_names =
            CertificateParams::new(vec![role.certificate_name().into()])?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        write_private(&draft.join(role.certificate_file()), &params.signed_by(&key, &issuer)?.pem())?;
        write_private(&draft.join(role.key_file()), &key.serialize_pem())?;
    }
    sync_directory(draft)
}

/// Parameters with a common name, and from the first to the last date there is.
fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn write_private(path: &Path, text: &str) -> Result<(), TlsError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(TlsError::file(path))
}

fn sync_directory(path: &Path) -> Result<(), TlsError> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(TlsError::file(path))
}
