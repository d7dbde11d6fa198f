//! Digests and signatures for requests to object stores, by OpenSSL: one TLS and crypto library in the program.

use object_store::client::{CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm};
use object_store::{Error, Result};
use openssl::error::ErrorStack;
use openssl::hash::{Hasher, MessageDigest, hash};
use openssl::pkey::{PKey, Private};

/// OpenSSL as `object_store` asks for it.
#[derive(Debug)]
pub(super) struct OpenSsl;

fn failed(error: ErrorStack) -> Error {
    Error::Generic { store: "OpenSSL", source: Box::new(error) }
}

fn unknown(what: &dyn std::fmt::Debug) -> Error {
    Error::NotSupported { source: format!("{what:?} is not supported").into() }
}

impl CryptoProvider for OpenSsl {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Collected { key: None, input: Vec::new(), output: Vec::new() })),
            other => Err(unknown(&other)),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Collected { key: Some(secret.to_owned()), input: Vec::new(), output: Vec::new() })),
            other => Err(unknown(&other)),
        }
    }

    fn sign(&self, algorithm: SigningAlgorithm, pem: &[u8]) -> Result<Box<dyn Signer>> {
        match algorithm {
            SigningAlgorithm::RS256 => Ok(Box::new(Rsa(PKey::private_key_from_pem(pem).map_err(failed)?))),
            other => Err(unknown(&other)),
        }
    }
}

/// What is to be digested: canonical requests, a few hundred bytes.
struct Collected {
    key: Option<Vec<u8>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// SHA-256 works on blocks of this many bytes.
const BLOCK: usize = 64;

impl Collected {
    fn digest(&mut self) -> Result<&[u8]> {
        let sha256 = MessageDigest::sha256();
        self.output = match &self.key {
            None => hash(sha256, &self.input).map_err(failed)?.to_vec(),
            Some(key) => hmac(key, &self.input).map_err(failed)?,
        };
        Ok(&self.output)
    }
}

/// RFC 2104 over OpenSSL's SHA-256. OpenSSL's own form of it refuses an empty key, which is a valid one.
fn hmac(key: &[u8], input: &[u8]) -> std::result::Result<Vec<u8>, ErrorStack> {
    let sha256 = MessageDigest::sha256();
    let short = if key.len() > BLOCK { hash(sha256, key)?.to_vec() } else { key.to_owned() };
    let padded = |with: u8| (0..BLOCK).map(|at| short.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let round = |with: u8, of: &[u8]| {
        let mut hasher = Hasher::new(sha256)?;
        hasher.update(&padded(with))?;
        hasher.update(of)?;
        hasher.finish()
    };
    let inner = round(0x36, input)?;
    round(0x5c, &inner).map(|outer| outer.to_vec())
}

impl DigestContext for Collected {
    fn update(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.digest()
    }
}

impl HmacContext for Collected {
    fn update(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.digest()
    }
}

struct Rsa(PKey<Private>);

impl Signer for Rsa {
    fn sign(&self, string_to_sign: &[u8]) -> Result<Vec<u8>> {
        let mut signer = openssl::sign::Signer::new(MessageDigest::sha256(), &self.0).map_err(failed)?;
        signer.sign_oneshot_to_vec(string_to_sign).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn digests_are_the_standards() {
        let mut digest = OpenSsl.digest(DigestAlgorithm::Sha256).unwrap();
        digest.update(b"ab");
        digest.update(b"c");
        assert_eq!(hex(digest.finish().unwrap()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // RFC 4231, cases 2 and 6.
        for (key, data, expected) in [
            (b"Jefe".to_vec(), "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let mut hmac = OpenSsl.hmac(DigestAlgorithm::Sha256, &key).unwrap();
            hmac.update(data.as_bytes());
            assert_eq!(hex(hmac.finish().unwrap()), expected);
        }
    }

    #[test]
    fn a_signature_is_its_keys() {
        let key = openssl::rsa::Rsa::generate(2048).unwrap();
        let signature = OpenSsl.sign(SigningAlgorithm::RS256, &key.private_key_to_pem().unwrap()).unwrap().sign(b"text").unwrap();
        let public = PKey::from_rsa(key).unwrap();
        let mut verifier = openssl::sign::Verifier::new(MessageDigest::sha256(), &public).unwrap();
        assert!(verifier.verify_oneshot(&signature, b"text").unwrap());
        assert!(OpenSsl.sign(SigningAlgorithm::RS256, b"no key").is_err());
    }
}
