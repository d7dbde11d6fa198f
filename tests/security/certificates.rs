//! Certificates for one run: an authority, servers' (good, expired, another host's) and a client's.

use std::fs;
use std::path::{Path, PathBuf};

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// Password of the client's key file.
pub(crate) const KEY_PASSWORD: &str = "planted-key-password";

/// A key and its certificate.
struct Pair {
    key: PKey<Private>,
    certificate: X509,
}

fn name(common: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", common).unwrap();
    name.build()
}

/// Valid from `from` to `until`, seconds since the epoch; signed by `by`, or by itself.
fn made(common: &str, host: Option<&str>, (from, until): (i64, i64), by: Option<&Pair>) -> Pair {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut builder: X509Builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap()).unwrap();
    builder.set_subject_name(&name(common)).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(until).unwrap()).unwrap();
    match by {
        None => {
            builder.set_issuer_name(&name(common)).unwrap();
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
            builder.sign(&key, MessageDigest::sha256()).unwrap();
        }
        Some(by) => {
            builder.set_issuer_name(by.certificate.subject_name()).unwrap();
            if let Some(host) = host {
                let names = SubjectAlternativeName::new().dns(host).build(&builder.x509v3_context(Some(&by.certificate), None)).unwrap();
                builder.append_extension(names).unwrap();
            }
            builder.sign(&by.key, MessageDigest::sha256()).unwrap();
        }
    }
    Pair { key, certificate: builder.build() }
}

/// Where the files are.
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes them all.
    pub(crate) fn make(dir: &Path) -> Files {
        let now = firstseen::host_clock::now().0 / 10_000_000;
        let (day, files) = (86_400, Files { dir: dir.to_owned() });
        let valid = (now - day, now + 30 * day);
        let authority = made("firstseen test authority", None, valid, None);
        let other = made("another authority", None, valid, None);
        let pem = |certificate: &X509| certificate.to_pem().unwrap();
        files.write("ca.pem", &pem(&authority.certificate));
        files.write("other-ca.pem", &pem(&other.certificate));
        for (file, host, validity) in
            [("server", "localhost", valid), ("expired", "localhost", (now - 2 * day, now - day)), ("elsewhere", "broker.example", valid)]
        {
            let Pair { key, certificate } = made(host, Some(host), validity, Some(&authority));
            let store = [key.private_key_to_pem_pkcs8().unwrap(), pem(&certificate), pem(&authority.certificate)].concat();
            files.write(&format!("{file}.pem"), &store);
        }
        let client = made("firstseen-mtls", None, valid, Some(&authority));
        files.write("client.pem", &pem(&client.certificate));
        let key = client.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), KEY_PASSWORD.as_bytes()).unwrap();
        files.write("client.key", &key);
        files
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.join(name), bytes).unwrap();
    }

    /// The path of a file.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}
