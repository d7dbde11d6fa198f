//! Planted secrets are looked for in everything that the program says: logs at the finest level with librdkafka's own debugging on,
//! metrics, `check`, errors, `--help`, what others see of the process.

use std::fs;
use std::process::Command;

use crate::certificates::KEY_PASSWORD;
use crate::fortress::{API_TOKEN, CLIENT_SECRET, Deployment, Login, PASSWORD, fortress};

const PLANTED: [&str; 4] = [PASSWORD, CLIENT_SECRET, API_TOKEN, KEY_PASSWORD];

/// Also in the forms in which they go over the wire.
fn assert_clean(what: &str, text: &str) {
    for secret in PLANTED {
        let encoded = openssl::base64::encode_block(secret.as_bytes());
        assert!(!text.contains(secret) && !text.contains(encoded.trim_end_matches('=')), "{what} shows {secret}:\n{text}");
    }
    assert!(!text.contains(&openssl::base64::encode_block(format!("oauth:{CLIENT_SECRET}").as_bytes())), "{what}");
    assert!(!text.contains("eyJhbGciOiJub25lIn0"), "{what} shows a token:\n{text}");
}

#[test]
fn planted_secrets_show_nowhere() {
    for mut login in [
        Login::password("PLAIN", "plain", PASSWORD),
        Login::password("SCRAM-SHA-512", "scram", PASSWORD),
        Login::token(CLIENT_SECRET),
        Login::certificate(),
    ] {
        login.set("debug", "all");
        login.set("log_level", "7");
        let deployment = Deployment::new(login);
        let check = deployment.check(&["-vv"]);
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        assert_clean("check's output", &String::from_utf8_lossy(&check.stdout));
        assert_clean("check's log", &String::from_utf8_lossy(&check.stderr));

        let mut service = deployment.start(&[("RUST_LOG", "trace")]);
        fortress().broker.produce(&deployment.input, [(0, 1_772_323_200_000, &b"no json"[..])]);
        let metrics = service.caught_up(1);
        assert_clean("/metrics", &metrics.0);
        for path in ["/readyz", "/livez", "/api/v1/status", "/api/v1/findings", "/no-such-page"] {
            assert_clean(path, &service.get(path).unwrap().1);
        }
        let seen = |name: &str| String::from_utf8_lossy(&fs::read(format!("/proc/{}/{name}", service.id())).unwrap()).into_owned();
        assert_clean("the command line", &seen("cmdline"));
        assert_clean("the process's name", &seen("comm"));
        service.drain();
        let log = service.log();
        assert!(log.contains("librdkafka") && log.contains("TRACE"), "the log is as fine as it gets");
        println!("{} lines of log at the finest level hold no secret", log.lines().count());
        assert_clean("the log", &log);
        for entry in fs::read_dir(deployment.dir.path().join("state")).unwrap() {
            assert_clean("the state", &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()));
        }
    }
}

#[test]
fn refused_secrets_show_nowhere() {
    // The right secret for the wrong user, endpoint and key.
    let mut endpoint = Login::token(CLIENT_SECRET);
    endpoint.set("sasl.oauthbearer.client.id", "stranger");
    let mut key = Login::certificate();
    key.set("ssl.key.location", &fortress().files.path("other-ca.pem"));
    for mut login in [Login::password("PLAIN", "stranger", PASSWORD), Login::password("SCRAM-SHA-512", "stranger", PASSWORD), endpoint, key]
    {
        login.set("debug", "all");
        let deployment = Deployment::without_outputs(login);
        let mut process = deployment.start(&[("RUST_LOG", "trace")]);
        assert_eq!(process.end().code(), Some(1), "{}", process.log());
        assert_clean("the log of a failed start", &process.log());
    }
}

#[test]
fn what_can_be_printed_of_settings_holds_no_secret() {
    let deployment = Deployment::without_outputs(Login::password("PLAIN", "plain", PASSWORD));
    let variables = [("FIRSTSEEN_KAFKA__PROPERTIES__SASL_PASSWORD", PASSWORD), ("FIRSTSEEN_HTTP__API_TOKEN", API_TOKEN)];
    let config = firstseen::config::Config::parse("", variables.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
    assert_clean("the configuration", &format!("{config:?} {config:#?}"));
    let settings = firstseen::service::kafka_settings(&config);
    assert_eq!(settings.properties["sasl.password"], PASSWORD);
    assert_clean("the client's settings", &format!("{settings:?} {settings:#?}"));
    let help = Command::new(env!("CARGO_BIN_EXE_firstseen")).args(["run", "--help"]).envs(variables).output().unwrap();
    assert_clean("--help", &String::from_utf8_lossy(&help.stdout));
    // A wrong key beside secrets in the environment.
    let wrong = Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .args(["check", "--offline", "--config", "/no/such/file"])
        .envs(variables)
        .env("FIRSTSEEN_HTTP__API_TOKEM", API_TOKEN)
        .output()
        .unwrap();
    assert_clean("an error", &String::from_utf8_lossy(&wrong.stderr));
    drop(deployment);
}
