//! A throw-away authority, and a certificate for this machine from it: what `maypole demo --tls` shows. Their files are in a folder
//! that nobody else can read, and that goes with it. The authority's own key is in none of them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::config::CertificateFiles;
use crate::transport::pem;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than anybody looks at a demo.
const VALID_DAYS: u32 = 30;
/// Somebody's clock may be behind.
const BEFORE_DAYS: u32 = 1;
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The files. Dropped, they are gone.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes both, and writes their files.
    pub(super) fn make() -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("maypole-demo-{}-{}", process::id(), since.as_nanos());
        let folder = std::env::temp_dir().join(name);
        // It fails where somebody else has made it.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let made = Self { folder };
        let (ca, certificate, key) = certificates().map_err(io::Error::other)?;
        write(&made.ca(), &ca)?;
        let CertificateFiles { cert, key: key_file, .. } = made.certificate();
        write(&cert, &certificate)?;
        write(&key_file, &key)?;
        Ok(made)
    }

    /// The authority's certificate, for those who are to trust it.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What the server shows.
    pub(super) fn certificate(&self) -> CertificateFiles {
        let at = |name| self.folder.join(name);
        CertificateFiles { cert: at("localhost.pem"), key: at("localhost.key"), ocsp: None }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!("{} is left: {error}", self.folder.display());
        }
    }
}

/// The authority's certificate, one from it, and its key: each as PEM.
fn certificates() -> Result<(String, String, String), rcgen::Error> {
    let now = SystemTime::now();
    let (from, to) = (now - DAY * BEFORE_DAYS, now + DAY * VALID_DAYS);
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "maypole demo's authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (authority.not_before, authority.not_after) = (from.into(), to.into());
    let ca = authority.self_signed(&key)?;
    let issuer = Issuer::new(authority, key);

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(NAMES.map(str::to_owned))?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    (server.not_before, server.not_after) = (from.into(), to.into());
    let certificate = server.signed_by(&key, &issuer)?;
    let text = |der: &[u8]| pem::write("CERTIFICATE", der);
    Ok((text(ca.der()), text(certificate.der()), pem::write("PRIVATE KEY", &key.serialize_der())))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Tls;
    use crate::control::certificates::examine;

    #[test]
    fn its_files_are_good_and_private_and_go_with_it() {
        let made = Authority::make().unwrap();
        let files = made.certificate();
        for path in [&made.folder, &made.ca(), &files.cert, &files.key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
        let tls = Tls { certificates: vec![files], client_ca: Some(made.ca()), ..Tls::with_bind(Vec::new()) };
        assert_eq!(examine(&tls, SystemTime::now()), []);
        let folder = made.folder.clone();
        drop(made);
        assert!(!folder.exists());
    }
}
