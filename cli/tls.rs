//! Certificates for workers and the daemon: an authority of one's own in the home, which signs the daemon's certificate
//! and those of workers. Who has certificates already puts them under the same names.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use sealflow_engine::durable;

use crate::exit::{CliError, Kind};

/// Who signs.
pub(crate) const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// What the daemon shows.
pub(crate) const DAEMON: &str = "daemon.pem";
/// The key of it.
pub(crate) const DAEMON_KEY: &str = "daemon.key";

/// How long certificates are valid.
pub(crate) const VALID: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) fn read(folder: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|error| {
        let text = format!("cannot read {}: {error}", path.display());
        CliError::new(Kind::Config, text)
            .hint("make it: sealflow executor cert init HOST")
            .into()
    })
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    durable::write_secret(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn params(
    name: &str,
    hosts: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = std::time::SystemTime::now().into();
    params.not_after = (std::time::SystemTime::now() + VALID).into();
    params.extended_key_usages = vec![purpose];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// Makes the authority if there is none, and the daemon's certificate for these hosts.
pub(crate) fn init(folder: &Path, hosts: Vec<String>) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !folder.join(CA).exists() {
        let key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.distinguished_name.push(DnType::CommonName, "sealflow");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.not_before = std::time::SystemTime::now().into();
        ca.not_after = (std::time::SystemTime::now() + VALID * 10).into();
        let certificate = ca.self_signed(&key)?;
        write(folder, CA_KEY, &key.serialize_pem())?;
        write(folder, CA, &certificate.pem())?;
    }
    let key = KeyPair::generate()?;
    let params = params("sealflow daemon", hosts, ExtendedKeyUsagePurpose::ServerAuth)?;
    let certificate = params.signed_by(&key, &issuer(folder)?)?;
    write(folder, DAEMON_KEY, &key.serialize_pem())?;
    write(folder, DAEMON, &certificate.pem())
}

fn issuer(folder: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let text = |name| -> anyhow::Result<String> { Ok(String::from_utf8(read(folder, name)?)?) };
    let key = KeyPair::from_pem(&text(CA_KEY)?)?;
    Ok(Issuer::from_ca_cert_pem(&text(CA)?, key)?)
}

/// A certificate for a worker.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

/// Signs a certificate for a worker.
pub(crate) fn issue(folder: &Path, worker: &str) -> anyhow::Result<Issued> {
    let key = KeyPair::generate()?;
    let params = params(
        worker,
        vec![worker.to_owned()],
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    let certificate = params.signed_by(&key, &issuer(folder)?)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().to_vec(),
    })
}
