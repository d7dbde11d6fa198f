//! Every way to log in works from input to dead letter and through a restart; every wrong one is one clear line and exit code 1.

use crate::fortress::{CLIENT_SECRET, Deployment, Login, PASSWORD, fortress};

/// Serves a message from the input to the dead-letter topic, then once more after a restart.
fn serves(login: Login) {
    let deployment = Deployment::new(login);
    let check = deployment.check(&[]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    for n in 1..=2 {
        let mut service = deployment.start(&[]);
        service.caught_up(0);
        fortress().broker.produce(&deployment.input, [(0, 1_772_323_200_000 + n, &b"no json"[..])]);
        service.wait_for("a dead letter", |p| (p.metrics()?.sum("firstseen_dead_letters_total") >= 1.0).then_some(()));
        service.drain();
    }
    let mut settings = fortress().broker.settings("reader");
    settings.group_id = "reader".to_owned();
    let mut letters = 0;
    firstseen::kafka::readback::read_to_end(
        &settings,
        &deployment.dead_letters,
        &Default::default(),
        crate::support::kafka::PATIENCE,
        |_| {
            letters += 1;
        },
    )
    .unwrap();
    assert_eq!(letters, 2);
}

#[test]
fn sasl_plain_over_tls() {
    serves(Login::password("PLAIN", "plain", PASSWORD));
}

#[test]
fn scram_sha_512_over_tls() {
    serves(Login::password("SCRAM-SHA-512", "scram", PASSWORD));
}

#[test]
fn mutual_tls() {
    serves(Login::certificate());
}

#[test]
fn oauth_tokens_from_a_token_endpoint() {
    serves(Login::token(CLIENT_SECRET));
}

fn refused(login: Login, words: &[&str]) {
    let deployment = Deployment::without_outputs(login);
    let line = deployment.refused(1);
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
    let check = deployment.check(&[]);
    assert_eq!(check.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&check.stderr).contains(&line), "check says the same");
}

#[test]
fn wrong_passwords_are_one_line() {
    let words = ["Kafka refuses the credentials", "sasl.password"];
    refused(Login::password("PLAIN", "plain", "wrong"), &words);
    refused(Login::password("SCRAM-SHA-512", "scram", "wrong"), &words);
    refused(Login::token("wrong"), &["no token from http://127.0.0.1", "401 invalid_client", "sasl.oauthbearer.client.secret"]);
}

#[test]
fn wrong_certificates_are_one_line() {
    let plain = || Login::password("PLAIN", "plain", PASSWORD);
    let mut other = plain();
    other.set("ssl.ca.location", &fortress().files.path("other-ca.pem"));
    refused(other, &["no TLS with Kafka broker localhost:", "set kafka.properties.\"ssl.ca.location\" to the CA that signed it"]);
    refused(plain().without("ssl.ca.location"), &["no TLS with Kafka broker localhost:", "ssl.ca.location"]);
    refused(plain().at("EXPIRED"), &["certificate has expired", "renew it on the broker"]);
    refused(plain().at("ELSEWHERE"), &["ostname mismatch", "it was not issued for localhost"]);
    let bare = Login::certificate().without("ssl.certificate.location").without("ssl.key.location").without("ssl.key.password");
    refused(bare, &["no TLS with Kafka broker localhost:", "ssl.certificate.location"]);
}

#[test]
fn a_password_that_is_changed_while_running_is_told_counted_and_tried_again() {
    let user = "rotated";
    let broker = &fortress().broker;
    broker.set_scram(user, PASSWORD);
    broker.allow(&["--allow-principal", "User:rotated", "--operation", "All", "--topic", "*", "--group", "*"]);
    let deployment = Deployment::new(Login::password("SCRAM-SHA-512", user, PASSWORD));
    let mut service = deployment.start(&[]);
    service.caught_up(0);
    broker.set_scram(user, "another");
    service.wait_for("the refusal to be counted", |p| {
        (p.metrics()?.sum_of("firstseen_connection_errors_total", "kind=\"authentication\"") >= 2.0).then_some(())
    });
    service.wait_for("the refusal to be told", |p| p.log().contains("Kafka refuses the credentials").then_some(()));
    broker.set_scram(user, PASSWORD);
    broker.produce(&deployment.input, [(0, 1_772_323_200_000, &b"no json"[..])]);
    let metrics = service.caught_up(1);
    println!("{}", metrics.0.lines().filter(|l| l.starts_with("firstseen_connection_errors_total")).collect::<Vec<_>>().join("\n"));
    service.drain();
}
