//! The permissions that docs/security.md lists are enough, and each that is missing is one clear line.

use crate::fortress::{Deployment, LIMITED, Login, PASSWORD, fortress};

/// A deployment of each user's own, and all that each may do: what the document lists, but for what the user's name says.
fn deployments() -> Vec<(&'static str, Deployment)> {
    let all: Vec<_> = LIMITED
        .iter()
        .map(|user| {
            let login = Login::password("PLAIN", user, PASSWORD);
            let creates = *user == "creator";
            let mut deployment = if creates { Deployment::without_outputs(login) } else { Deployment::new(login) };
            deployment.create_topics = creates;
            (*user, deployment)
        })
        .collect();
    let broker = &fortress().broker;
    let allow = |operation: &str, but: &str, flag: &str, names: fn(&Deployment) -> Vec<&str>| {
        let mut arguments = vec!["--operation", operation];
        let users: Vec<String> = LIMITED.iter().filter(|user| **user != but).map(|user| format!("User:{user}")).collect();
        users.iter().for_each(|user| arguments.extend(["--allow-principal", user]));
        all.iter().flat_map(|(_, d)| names(d)).for_each(|name| arguments.extend([flag, name]));
        broker.allow(&arguments);
    };
    allow("Describe", "", "--topic", |d| vec![&d.input]);
    allow("Read", "no-read", "--topic", |d| vec![&d.input]);
    allow("Read", "no-group", "--group", |d| vec![&d.group]);
    allow("Write", "no-write", "--topic", |d| vec![&d.findings, &d.dead_letters]);
    allow("Read", "no-readback", "--topic", |d| vec![&d.findings, &d.dead_letters]);
    broker.allow(&[
        "--allow-principal",
        "User:creator",
        "--operation",
        "Create",
        "--topic",
        &all[1].1.findings,
        "--topic",
        &all[1].1.dead_letters,
    ]);
    all
}

#[test]
fn just_what_is_documented_is_enough_and_each_that_is_missing_is_told() {
    for (user, deployment) in deployments() {
        let produce = || fortress().broker.produce(&deployment.input, [(0, 1_772_323_200_000, &b"no json"[..])]);
        match user {
            "just-enough" | "creator" => {
                for _ in 0..2 {
                    let mut service = deployment.start(&[]);
                    service.caught_up(0);
                    produce();
                    service.wait_for("a dead letter", |p| (p.metrics()?.sum("firstseen_dead_letters_total") >= 1.0).then_some(()));
                    service.drain();
                    assert!(!service.log().contains("uthorization"), "{}", service.log());
                }
            }
            "no-read" | "no-group" => {
                produce();
                let name = if user == "no-read" { &deployment.input } else { &deployment.group };
                let mut service = deployment.start(&[]);
                let line = service.wait_for("the missing permission to be told", |p| {
                    let log = p.log();
                    let line = log.lines().find(|l| l.contains("Kafka refuses"))?;
                    Some(line.to_owned())
                });
                println!("{user}: {line}");
                assert!(line.contains(name.as_str()) && line.contains("allow READ on it") && line.contains("WARN"), "{line}");
                service.wait_for("unreadiness", |p| (p.get("/readyz")?.0 == 503).then_some(()));
                service.drain();
            }
            "no-write" => {
                produce();
                let line = deployment.refused(1);
                assert!(line.contains("allow WRITE on the output topics (output.findings_topic, output.dead_letter_topic)"), "{line}");
            }
            _ => {
                let line = deployment.refused(1);
                assert!(line.contains(&deployment.findings) && line.contains("allow READ"), "{line}");
            }
        }
    }
}

#[test]
fn a_topic_that_may_not_be_seen_is_named() {
    let mut hidden = Deployment::new(Login::password("PLAIN", "just-enough", PASSWORD));
    let line = hidden.refused(1);
    assert!(line.contains(&format!("Kafka refuses access to topic \"{}\"", hidden.input)), "{line}");
    // May not create what is not there.
    hidden.login = Login::password("PLAIN", "plain", PASSWORD);
    hidden.findings = "no-such-topic".to_owned();
    let line = hidden.refused(1);
    assert!(line.contains("topic \"no-such-topic\" does not exist"), "{line}");
}
