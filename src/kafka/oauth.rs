//! Tokens for SASL OAUTHBEARER: the client-credentials grant of OAuth 2.0 over HTTP(S), as Entra ID, Keycloak and others have it.
//!
//! librdkafka has a token client of its own only together with libcurl, which is not linked here; so its `sasl.oauthbearer.*` properties
//! for `method = oidc` are taken out of its configuration and mean the same to this client. Invariant: neither secret nor token stands
//! in an error or a log. librdkafka says when a token is due (at four fifths of its life, and ten seconds after a failure).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::client::OAuthToken;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::client::ClientError;
use crate::host_clock;

const METHOD: &str = "sasl.oauthbearer.method";
const CLIENT_ID: &str = "sasl.oauthbearer.client.id";
const CLIENT_SECRET: &str = "sasl.oauthbearer.client.secret";
const SCOPE: &str = "sasl.oauthbearer.scope";
const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
const CA: &str = "https.ca.location";

/// Properties that this client takes; librdkafka, built without libcurl, would refuse them.
const TAKEN: [&str; 6] = [METHOD, CLIENT_ID, CLIENT_SECRET, SCOPE, ENDPOINT, CA];

/// How long the token endpoint may take. A token is fetched on the thread that serves the consumer group, whose session is longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes. Tokens have a few kilobytes.
const LONGEST_ANSWER: u64 = 256 << 10;

/// Fetches tokens. `Debug` shows where from.
pub(super) struct TokenClient {
    agent: Agent,
    endpoint: String,
    client_id: String,
    secret: String,
    scope: Option<String>,
}

impl fmt::Debug for TokenClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenClient").field("endpoint", &self.shown()).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Seconds,
}

/// Some servers write the number as a text.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u32),
    Text(String),
}

#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}

/// Whether the property is this client's and not librdkafka's.
pub(super) fn takes(properties: &BTreeMap<String, String>, key: &str) -> bool {
    is_oidc(properties) && TAKEN.contains(&key)
}

fn is_oidc(properties: &BTreeMap<String, String>) -> bool {
    properties.get(METHOD).is_some_and(|m| m.eq_ignore_ascii_case("oidc"))
}

impl TokenClient {
    /// The client that the properties ask for, if they do.
    ///
    /// # Errors
    /// A property that it needs is missing or can't be used.
    pub(super) fn of(properties: &BTreeMap<String, String>) -> Result<Option<TokenClient>, ClientError> {
        if !is_oidc(properties) {
            return Ok(None);
        }
        let wrong = |key: &str, expected: &'static str| ClientError::Token { key: key.to_owned(), expected };
        let needed =
            |key: &'static str, expected| properties.get(key).filter(|v| !v.is_empty()).cloned().ok_or_else(|| wrong(key, expected));
        let endpoint = needed(ENDPOINT, "the URL of the token endpoint")?;
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if rest.is_none_or(|r| r.is_empty() || r.split('/').next().is_some_and(|host| host.contains('@'))) {
            return Err(wrong(ENDPOINT, "a URL that begins with https:// (or http://) and holds no password"));
        }
        let roots = match properties.get(CA) {
            Some(path) => RootCerts::from(read_certificates(path).ok_or_else(|| wrong(CA, "a readable file of PEM certificates"))?),
            None => RootCerts::PlatformVerifier,
        };
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).build();
        // A redirect could carry the secret elsewhere.
        let config = Agent::config_builder().tls_config(tls).timeout_global(Some(PATIENCE)).max_redirects(0).http_status_as_error(false);
        Ok(Some(TokenClient {
            agent: config.build().new_agent(),
            endpoint,
            client_id: needed(CLIENT_ID, "the client's id")?,
            secret: needed(CLIENT_SECRET, "the client's secret")?,
            scope: properties.get(SCOPE).filter(|s| !s.is_empty()).cloned(),
        }))
    }

    fn shown(&self) -> &str {
        self.endpoint.split(['?', '#']).next().unwrap_or_default()
    }

    /// Fetches a token; the error is one clear line.
    pub(super) fn fetch(&self) -> Result<OAuthToken, String> {
        let failed = |what: String| format!("no token from {}: {what}", self.shown());
        // RFC 6749, 2.3.1: both parts in form encoding.
        let credentials = format!("{}:{}", form_encoded(&self.client_id), form_encoded(&self.secret));
        let basic = format!("Basic {}", openssl::base64::encode_block(credentials.as_bytes()));
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let asked = host_clock::now();
        let request = self.agent.post(&self.endpoint).header("Authorization", basic).header("Accept", "application/json");
        let mut response = request.send_form(form).map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST_ANSWER)
            .read_to_string()
            .map_err(|error| failed(format!("its answer can't be read: {error}")))?;
        if !status.is_success() {
            // Only the error's code, of RFC 6749's letters: descriptions may repeat what was sent.
            let code = serde_json::from_str::<Refusal>(&text).map(|r| r.error).unwrap_or_default();
            let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
            return Err(failed(format!("it answered {} {code}; check {CLIENT_ID}, {CLIENT_SECRET} and {SCOPE}", status.as_u16())));
        }
        let answer: Answer =
            serde_json::from_str(&text).map_err(|_| failed("its answer is no JSON with access_token and expires_in".to_owned()))?;
        let seconds = match answer.expires_in {
            Seconds::Number(n) => Some(n),
            Seconds::Text(text) => text.parse().ok(),
        };
        let seconds = seconds.filter(|n| *n > 0).ok_or_else(|| failed("its token lives no time".to_owned()))?;
        Ok(OAuthToken {
            token: answer.access_token,
            principal_name: self.client_id.clone(),
            lifetime_ms: asked.0 / 10_000 + i64::from(seconds) * 1_000,
        })
    }
}

fn read_certificates(path: &str) -> Option<Vec<Certificate<'static>>> {
    let pem = std::fs::read(path).ok()?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    (!certificates.is_empty()).then_some(certificates)
}

fn form_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(byte as char),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn properties(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let base = [(METHOD, "oidc"), (CLIENT_ID, "a b"), (CLIENT_SECRET, "s:é"), (ENDPOINT, "http://127.0.0.1:1/token")];
        base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// A server that gives one answer; what it was asked comes back from the thread.
    fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
            while !asked.ends_with(b"client_credentials&scope=x%2Fy") && !asked.ends_with(b"client_credentials") {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0);
                asked.extend_from_slice(&buffer[..n]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, thread)
    }

    fn answer(status: &str, body: &str) -> &'static str {
        Box::leak(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_boxed_str())
    }

    fn fetched(answer: &'static str) -> (Result<OAuthToken, String>, String) {
        let (url, thread) = server(answer);
        let client = TokenClient::of(&properties(&[(ENDPOINT, &url), (SCOPE, "x/y")])).unwrap().unwrap();
        assert!(!format!("{client:?}").contains("s:é"));
        (client.fetch(), thread.join().unwrap())
    }

    #[test]
    fn a_token_is_asked_for_with_basic_credentials_and_lives_as_long_as_it_says() {
        for body in [r#"{"access_token":"abc","expires_in":3600,"token_type":"Bearer"}"#, r#"{"access_token":"abc","expires_in":"3600"}"#] {
            let (token, asked) = fetched(answer("200 OK", body));
            let token = token.unwrap();
            let left = token.lifetime_ms - host_clock::now().0 / 10_000;
            assert!((3_590_000..=3_600_000).contains(&left), "{left}");
            assert_eq!((token.token.as_str(), token.principal_name.as_str()), ("abc", "a b"));
            let basic = openssl::base64::encode_block(b"a+b:s%3A%C3%A9");
            assert!(asked.to_lowercase().contains(&format!("authorization: basic {basic}").to_lowercase()), "{asked}");
        }
    }

    #[test]
    fn refusals_and_nonsense_are_said_without_secrets() {
        let refusal = r#"{"error":"invalid_client","error_description":"s:\u00e9"}"#;
        for (status, body, words) in [
            ("401 Unauthorized", refusal, "it answered 401 invalid_client; check"),
            ("302 Found\r\nLocation: http://127.0.0.1:1/", "", "it answered 302"),
            ("200 OK", "{}", "no JSON with access_token"),
            ("200 OK", r#"{"access_token":"abc","expires_in":0}"#, "lives no time"),
        ] {
            let error = fetched(answer(status, body)).0.err().unwrap();
            assert!(error.contains(words) && !error.contains("s:é") && !error.contains("abc"), "{error}");
        }
        let error = fetched("nonsense\r\n\r\n").0.err().unwrap();
        assert!(error.contains("no token from http://127.0.0.1:"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (key, value) in
            [(ENDPOINT, "ftp://x"), (ENDPOINT, "https://user:pw@x/"), (CLIENT_SECRET, ""), (CLIENT_ID, ""), (CA, "/no/such")]
        {
            let error = TokenClient::of(&properties(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("pw"), "{error}");
        }
        let plain = [("sasl.mechanism".to_owned(), "PLAIN".to_owned())].into();
        assert!(TokenClient::of(&plain).unwrap().is_none() && !takes(&plain, CLIENT_ID));
    }
}
