//! What every client's callbacks do: log, count, fetch OAuth tokens, and remember what a broker refused.
//!
//! librdkafka retries connections by itself, with back-off, for ever; so nothing here fails. A refusal (credentials, a certificate) is
//! kept until whoever asked a question takes it: at the start it is the answer, while running it is said and tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::certificate;
use super::client::{ClientError, KafkaSettings};
use super::oauth::TokenClient;

/// Kinds of failed connections, as the metric's label has them.
pub const ERROR_KINDS: [&str; 3] = ["authentication", "tls", "network"];

/// Failed connections and log-ins since the start, by kind.
#[derive(Debug, Default)]
pub struct ConnectionErrors([AtomicU64; 3]);

impl ConnectionErrors {
    /// Kind and number, in the order of [`ERROR_KINDS`].
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ERROR_KINDS.into_iter().zip(&self.0).map(|(kind, n)| (kind, n.load(Ordering::Relaxed)))
    }

    fn count(&self, code: RDKafkaErrorCode) {
        let [authentication, tls, network] = &self.0;
        let counter = match code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => authentication,
            RDKafkaErrorCode::SSL => tls,
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve | RDKafkaErrorCode::OperationTimedOut => network,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A broker refused us, or we it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    Credentials(String),
    Certificate(String),
}

/// A client's context that logs, and remembers the last error that librdkafka told.
#[derive(Debug, Default)]
pub(super) struct Logged {
    last_error: Mutex<Option<String>>,
    refusal: Mutex<Option<Refusal>>,
    errors: Arc<ConnectionErrors>,
    tokens: Option<TokenClient>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logged {
    /// The context of a client with these settings.
    pub(super) fn of(settings: &KafkaSettings) -> Result<Logged, ClientError> {
        Ok(Logged { tokens: TokenClient::of(&settings.properties)?, ..Logged::default() })
    }

    /// The same, counting into `errors`.
    pub(super) fn counting(self, errors: Arc<ConnectionErrors>) -> Logged {
        Logged { errors, ..self }
    }

    pub(super) fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    pub(super) fn errors(&self) -> &Arc<ConnectionErrors> {
        &self.errors
    }

    /// Why a broker and we do not come together, if that was said since the last call.
    pub(super) fn take_refusal(&self, settings: &KafkaSettings) -> Option<ClientError> {
        Some(match lock(&self.refusal).take()? {
            Refusal::Credentials(reason) => ClientError::Credentials { reason },
            Refusal::Certificate(reason) => {
                let server = server(&reason).unwrap_or(&settings.bootstrap_servers).to_owned();
                let reason = certificate::fault(&server, settings).unwrap_or(reason);
                ClientError::Certificate { server, reason }
            }
        })
    }

    pub(super) fn remember(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
        let code = error.rdkafka_error_code();
        if let Some(code) = code {
            self.errors.count(code);
        }
        let reason = without_timing(reason);
        match code {
            // Under TLS 1.3 a broker refuses a client's certificate only behind the handshake.
            _ if reason.contains("SSL alert number") && reason.contains("certificate") => {
                let advice =
                    "the broker does not accept this client's certificate: set \"ssl.certificate.location\" and \"ssl.key.location\"";
                *lock(&self.refusal) = Some(Refusal::Certificate(format!("{reason}: {advice}")));
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                *lock(&self.refusal) = Some(Refusal::Credentials(reason.to_owned()));
            }
            Some(RDKafkaErrorCode::SSL) => *lock(&self.refusal) = Some(Refusal::Certificate(reason.to_owned())),
            _ => {}
        }
        let mut last = lock(&self.last_error);
        // That all brokers are down says nothing; why the last one went down does.
        if last.is_none() || code != Some(RDKafkaErrorCode::AllBrokersDown) {
            *last = Some(reason.to_owned());
        }
    }

    /// An OAuth token, when librdkafka asks for one.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        match &self.tokens {
            Some(client) => Ok(client.fetch()?),
            None => Err("OAUTHBEARER needs kafka.properties.\"sasl.oauthbearer.method\" = \"oidc\" and its client.id, client.secret and \
                         token.endpoint.url"
                .into()),
        }
    }
}

/// librdkafka's words without how long it took and how often it was.
fn without_timing(reason: &str) -> &str {
    reason.rsplit_once(" (after ").map_or(reason, |(words, _)| words)
}

/// `host:port` in librdkafka's `sasl_ssl://host:port/id: what happened`.
fn server(reason: &str) -> Option<&str> {
    reason.split_once("://")?.1.split(['/', ' ']).next().filter(|server| server.contains(':'))
}

/// librdkafka retries by itself, so its errors are warnings here.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // Properties pass to every client; that a consumer's does nothing in a producer is no news.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if facility != "CONFWARN" => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

impl ClientContext for Logged {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.remember(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.token()
    }
}

impl ConsumerContext for Logged {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_address_is_found_in_librdkafkas_words() {
        assert_eq!(server("sasl_ssl://broker.example:9093/bootstrap: SSL handshake failed: x"), Some("broker.example:9093"));
        assert_eq!(server("ssl://[::1]:9093/1: SSL"), Some("[::1]:9093"));
        assert_eq!(server("no address"), None);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let errors = ConnectionErrors::default();
        for code in [RDKafkaErrorCode::SSL, RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SSL, RDKafkaErrorCode::NotCoordinator] {
            errors.count(code);
        }
        assert_eq!(errors.counts().collect::<Vec<_>>(), [("authentication", 1), ("tls", 2), ("network", 0)]);
    }
}
