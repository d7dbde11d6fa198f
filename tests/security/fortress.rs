//! One broker that demands everything, for all tests of this binary: log-ins of every kind, certificates good and bad, permissions.
//! Its plain listener is the tests' own and may do everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::certificates::{Files, KEY_PASSWORD};
use crate::support::kafka::{Broker, Extras, unique};
use crate::support::process::Process;

/// Passwords that must show nowhere.
pub(crate) const PASSWORD: &str = "planted-sasl-password";
pub(crate) const CLIENT_SECRET: &str = "planted-client-secret";
pub(crate) const API_TOKEN: &str = "planted-api-token";

/// Users that PLAIN knows beside `plain`, who may do everything: what each may do is in `permissions`.
pub(crate) const LIMITED: [&str; 6] = ["just-enough", "creator", "no-read", "no-group", "no-write", "no-readback"];

pub(crate) struct Fortress {
    pub(crate) broker: Broker,
    pub(crate) files: Files,
    pub(crate) token_endpoint: String,
    _dir: tempfile::TempDir,
}

pub(crate) fn fortress() -> &'static Fortress {
    static FORTRESS: OnceLock<Fortress> = OnceLock::new();
    FORTRESS.get_or_init(Fortress::start)
}

impl Fortress {
    fn start() -> Fortress {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::make(dir.path());
        let users: String = LIMITED.iter().map(|user| format!(" user_{user}=\"{PASSWORD}\"")).collect();
        let module = "org.apache.kafka.common.security";
        let mut properties = format!(
            r#"ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.mtls.ssl.client.auth=required
listener.name.sasl.scram-sha-512.connections.max.reauth.ms=2000
listener.name.expired.ssl.keystore.location={expired}
listener.name.elsewhere.ssl.keystore.location={elsewhere}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:plain;User:scram;User:oauth;User:CN=firstseen-mtls
"#,
            server = files.path("server.pem"),
            ca = files.path("ca.pem"),
            expired = files.path("expired.pem"),
            elsewhere = files.path("elsewhere.pem"),
        );
        for listener in ["sasl", "expired", "elsewhere"] {
            properties += &format!(
                r#"listener.name.{listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_plain="{PASSWORD}"{users};
listener.name.{listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.{listener}.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
"#
            );
        }
        let broker = Broker::start_with(Extras {
            listeners: vec![("SASL", "SASL_SSL"), ("MTLS", "SSL"), ("EXPIRED", "SASL_SSL"), ("ELSEWHERE", "SASL_SSL")],
            properties,
            format: vec!["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name=scram,password={PASSWORD}]")],
            ..Extras::default()
        });
        Fortress { broker, files, token_endpoint: token_endpoint(), _dir: dir }
    }
}

/// A token endpoint as RFC 6749 has it: the client `oauth` with its secret gets a token in the name of `oauth`. (The broker takes
/// unsigned tokens; whether a signature is good is the broker's to judge, not the client's.)
fn token_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/oauth2/token", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
            while !asked.ends_with(b"grant_type=client_credentials&scope=kafka") {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => asked.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let good = openssl::base64::encode_block(format!("oauth:{CLIENT_SECRET}").as_bytes());
            let (status, body) = if String::from_utf8_lossy(&asked).contains(&format!("Basic {good}")) {
                ("200 OK", format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600}}"#, token()))
            } else {
                ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned())
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    url
}

fn token() -> String {
    let now = firstseen::host_clock::now().0 / 10_000_000;
    let part = |json: String| {
        openssl::base64::encode_block(json.as_bytes()).replace('\n', "").trim_end_matches('=').replace('+', "-").replace('/', "_")
    };
    let claims = format!(r#"{{"sub":"oauth","scope":"kafka","iat":{now},"exp":{}}}"#, now + 3600);
    format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(claims))
}

/// How a deployment logs in: a listener and lines of `[kafka.properties]`.
pub(crate) struct Login {
    listener: &'static str,
    lines: BTreeMap<&'static str, String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Login {
    fn on(listener: &'static str, protocol: &str) -> Login {
        let mut login = Login { listener, lines: BTreeMap::new(), environment: Vec::new() };
        login.set("security.protocol", protocol);
        login.set("ssl.ca.location", &fortress().files.path("ca.pem"));
        login
    }

    /// `mechanism` with a name and a password.
    pub(crate) fn password(mechanism: &str, user: &str, password: &str) -> Login {
        let mut login = Login::on("SASL", "SASL_SSL");
        login.set("sasl.mechanism", mechanism);
        login.set("sasl.username", user);
        login.secret("sasl.password", "SASL_PASSWORD", password);
        login
    }

    /// A client certificate.
    pub(crate) fn certificate() -> Login {
        let mut login = Login::on("MTLS", "SSL");
        login.set("ssl.certificate.location", &fortress().files.path("client.pem"));
        login.set("ssl.key.location", &fortress().files.path("client.key"));
        login.secret("ssl.key.password", "KEY_PASSWORD", KEY_PASSWORD);
        login
    }

    /// A token.
    pub(crate) fn token(secret: &str) -> Login {
        let mut login = Login::on("SASL", "SASL_SSL");
        login.set("sasl.mechanism", "OAUTHBEARER");
        login.set("sasl.oauthbearer.method", "oidc");
        login.set("sasl.oauthbearer.client.id", "oauth");
        login.set("sasl.oauthbearer.scope", "kafka");
        login.set("sasl.oauthbearer.token.endpoint.url", &fortress().token_endpoint);
        login.secret("sasl.oauthbearer.client.secret", "CLIENT_SECRET", secret);
        login
    }

    /// The same on another listener.
    pub(crate) fn at(mut self, listener: &'static str) -> Login {
        self.listener = listener;
        self
    }

    pub(crate) fn set(&mut self, key: &'static str, value: &str) {
        self.lines.insert(key, format!("{value:?}"));
    }

    pub(crate) fn without(mut self, key: &str) -> Login {
        self.lines.remove(key);
        self
    }

    fn secret(&mut self, key: &'static str, variable: &'static str, value: &str) {
        self.lines.insert(key, format!("{{ env = \"{variable}\" }}"));
        self.environment.push((variable, value.to_owned()));
    }
}

/// One deployment.
pub(crate) struct Deployment {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) input: String,
    pub(crate) findings: String,
    pub(crate) dead_letters: String,
    pub(crate) group: String,
    pub(crate) login: Login,
    pub(crate) create_topics: bool,
}

impl Deployment {
    /// With all its topics there.
    pub(crate) fn new(login: Login) -> Deployment {
        let broker = &fortress().broker;
        let mut deployment = Deployment::without_outputs(login);
        deployment.findings = broker.topic("findings", 1);
        deployment.dead_letters = broker.topic("dead", 1);
        deployment
    }

    /// With its input topic only.
    pub(crate) fn without_outputs(login: Login) -> Deployment {
        Deployment {
            dir: tempfile::tempdir().unwrap(),
            input: fortress().broker.topic("input", 1),
            findings: unique("findings"),
            dead_letters: unique("dead"),
            group: unique("group"),
            login,
            create_topics: false,
        }
    }

    fn config(&self) -> PathBuf {
        let lines: String = self.login.lines.iter().map(|(key, value)| format!("{key:?} = {value}\n")).collect();
        let text = format!(
            r#"[kafka]
bootstrap_servers = "{bootstrap}"
[kafka.properties]
"session.timeout.ms" = "2000"
"heartbeat.interval.ms" = "400"
"reconnect.backoff.max.ms" = "500"
{lines}
[input]
topics = ["{input}"]
group_id = "{group}"
idle_advance = false
[output]
findings_topic = "{findings}"
dead_letter_topic = "{dead}"
create_topics = {create}
[state]
dir = "{state}"
[http]
listen = "127.0.0.1:0"
api_token = {{ env = "API_TOKEN" }}
"#,
            bootstrap = fortress().broker.listener(self.login.listener),
            input = self.input,
            group = self.group,
            findings = self.findings,
            dead = self.dead_letters,
            create = self.create_topics,
            state = self.dir.path().join("state").display(),
        );
        let path = self.dir.path().join("firstseen.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        let mut all: Vec<(&str, &str)> = self.login.environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        all.push(("API_TOKEN", API_TOKEN));
        all
    }

    /// `firstseen run`.
    pub(crate) fn start(&self, more: &[(&str, &str)]) -> Process {
        let mut environment = self.environment();
        environment.extend_from_slice(more);
        Process::start(&self.config(), self.dir.path().join("log"), &environment)
    }

    /// `firstseen check`.
    pub(crate) fn check(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_firstseen"))
            .arg("check")
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env_remove("RUST_LOG")
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Starts it, expects it to end with `code`, and gives the one line that says why.
    pub(crate) fn refused(&self, code: i32) -> String {
        let mut process = self.start(&[]);
        let status = process.end();
        let log = process.log();
        assert_eq!(status.code(), Some(code), "{log}");
        let errors: Vec<&str> = log.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{log}");
        assert_eq!(log.lines().last(), errors.last().copied(), "{log}");
        println!("{}", errors[0]);
        errors[0].to_owned()
    }
}
