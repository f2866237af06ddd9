//! An authority of the tests' own, which signs whatever it is asked to.

use std::fs;
use std::path::Path;

use carillon_link::tls::{Identity, Role};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A directory with an authority's certificate and those that it signed. They may be used at both ends as far as their
/// key usage goes: only the names in them part the roles.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// With a good certificate for each role.
    pub(crate) fn new() -> Authority {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(directory.path().join("ca.pem"), pem).unwrap();
        let authority = Authority { directory, issuer: Issuer::new(params, key) };
        for role in [Role::Router, Role::Gateway] {
            authority.renew(role);
        }
        authority
    }

    /// A new certificate and key for a role, in place of those that are there.
    pub(crate) fn renew(&self, role: Role) {
        let stem = role.certificate_file().trim_end_matches(".pem");
        self.certify(stem, "somebody", &[role.certificate_name()]);
    }

    /// Signs a certificate with these names, and puts it and its key into files of this name.
    pub(crate) fn certify(&self, stem: &str, common_name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(self.directory().join(format!("{stem}.pem")), pem).unwrap();
        fs::write(self.directory().join(format!("{stem}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn identity(&self, role: Role) -> Identity {
        Identity::load(self.directory(), role).unwrap()
    }
}
