//! Why a broker's certificate is refused. librdkafka only says that it could not be verified; OpenSSL, asked once more with the same
//! trust, says whether it has expired, is another host's, or is signed by nobody who is trusted.
//!
//! Nothing is sent over the connection made here, and it decides nothing: it only finds words for a failure that happened already.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use super::client::KafkaSettings;

const PATIENCE: Duration = Duration::from_secs(3);

/// What OpenSSL has against the certificate of the broker at `server` (`host:port`); `None` when it has nothing, or nobody answers.
pub(super) fn fault(server: &str, settings: &KafkaSettings) -> Option<String> {
    let property = |name: &str| settings.properties.get(name).map(String::as_str);
    let (host, _) = server.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut connector = SslConnector::builder(SslMethod::tls_client()).ok()?;
    connector.set_verify(SslVerifyMode::PEER);
    if let Some(path) = property("ssl.ca.location").filter(|path| *path != "probe") {
        connector.set_ca_file(path).ok()?;
    }
    let mut ssl = connector.build().configure().ok()?;
    ssl.set_verify_hostname(property("ssl.endpoint.identification.algorithm") != Some("none"));
    let address = server.to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    match ssl.connect(host, stream) {
        Err(HandshakeError::Failure(handshake)) => words(handshake.ssl().verify_result(), host),
        _ => None,
    }
}

fn words(result: X509VerifyResult, host: &str) -> Option<String> {
    const HOST: [i32; 2] = [openssl_codes::HOSTNAME_MISMATCH, openssl_codes::ADDRESS_MISMATCH];
    let reason = result.error_string();
    let advice = match result.as_raw() {
        0 => return None,
        openssl_codes::EXPIRED | openssl_codes::NOT_YET_VALID => "renew it on the broker, or correct the clock of this host".to_owned(),
        code if HOST.contains(&code) => format!(
            "it was not issued for {host}; use a name that it holds in kafka.bootstrap_servers and the brokers' advertised.listeners"
        ),
        _ => "set kafka.properties.\"ssl.ca.location\" to the CA that signed it".to_owned(),
    };
    Some(format!("{reason}: {advice}"))
}

/// Of OpenSSL's `x509_vfy.h`.
mod openssl_codes {
    pub(super) const NOT_YET_VALID: i32 = 9;
    pub(super) const EXPIRED: i32 = 10;
    pub(super) const HOSTNAME_MISMATCH: i32 = 62;
    pub(super) const ADDRESS_MISMATCH: i32 = 64;
}
