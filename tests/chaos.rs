//! Real faults at random moments, one after the other, on one deployment: the service killed, the broker killed, paused and restarted,
//! a second instance started by mistake. What stands on the findings topic at the end is what `backtest` finds, each change once.
//!
//! `make chaos KILLS=200` does as many as asked; `CHAOS_SEED` chooses other moments.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

#[path = "service/rig.rs"]
#[allow(dead_code, reason = "the service's tests use more of it")]
mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use firstseen::host_clock::monotonic;

use rig::{Rig, fleet};
use support::kafka::Broker;
use support::numbers;
use support::process::Process;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number, not {text:?}")))
}

/// Lets the process live for a random time: a kill is to come at any moment, the unlikely ones too.
fn live(process: &mut Process, longest: Duration, random: &mut impl FnMut() -> u64) {
    let until = monotonic() + longest.mul_f64((random() % 1000) as f64 / 1000.0);
    while monotonic() < until {
        assert!(process.ended().is_none(), "it ended by itself:\n{}", process.log());
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[derive(Default, Debug)]
struct Done {
    kills: u64,
    kills_before_input: u64,
    drains: u64,
    broker_restarts: u64,
    broker_pauses: u64,
    second_instances: u64,
    replayed: u64,
}

#[test]
fn faults_at_random_moments_lose_nothing_and_double_nothing() {
    let (kills, seed) = (number("CHAOS_KILLS", 8), number("CHAOS_SEED", 1));
    let broker = Broker::start();
    let rig = Rig::on(&broker, "chaos").set("state.snapshot_interval", "1s");
    let mut random = numbers(seed);
    let mut done = Done::default();
    let chunk = fleet().len().div_ceil(kills as usize + 1);
    let mut rounds = fleet().chunks(chunk);
    while done.kills < kills {
        // While nobody consumes: of what comes while it is consumed, the order is that of its coming, not the file's.
        if let Some(messages) = rounds.next() {
            rig.produce(&broker, messages);
        }
        let mut service = rig.start();
        // Some are killed while they restore, replay, or wait for the group; most once they have something to consume.
        let early = random().is_multiple_of(3);
        if early {
            live(&mut service, Duration::from_secs(3), &mut random);
            done.kills_before_input += 1;
        } else {
            service.wait_for("readiness", |p| (p.get("/readyz")?.0 == 200).then_some(()));
            // Each kind of fault beside the kill comes once in so many rounds.
            match random() % 20 {
                0 | 4 => {
                    broker.kill();
                    live(&mut service, Duration::from_secs(2), &mut random);
                    broker.resurrect();
                    done.broker_restarts += 1;
                }
                1 => {
                    // Longer than the session lasts (2 s here), or shorter.
                    broker.pause();
                    live(&mut service, Duration::from_secs(4), &mut random);
                    broker.resume();
                    done.broker_pauses += 1;
                }
                2 => {
                    second_instance(&rig, &mut service);
                    done.second_instances += 1;
                }
                3 => {
                    service.drain();
                    done.drains += 1;
                    continue;
                }
                _ => {}
            }
            live(&mut service, Duration::from_millis(400), &mut random);
        }
        done.replayed += service.metrics().map_or(0.0, |m| m.sum("firstseen_replayed_messages_total")) as u64;
        service.kill();
        done.kills += 1;
        if done.kills * 10 / kills != (done.kills - 1) * 10 / kills {
            println!("{done:?}");
        }
    }
    rounds.for_each(|messages| rig.produce(&broker, messages));
    // The last of them, with a broker that starts anew under it.
    let mut last = rig.start();
    last.wait_for("readiness", |p| (p.get("/readyz")?.0 == 200).then_some(()));
    broker.restart();
    done.broker_restarts += 1;
    last.reached(fleet().last().unwrap().arrival);
    last.drain();
    let changes = rig.changes();
    let contradictions = contradictions(&changes);
    rig.holds_what_is_expected();
    assert_eq!(contradictions, 0);
    println!("seed {seed}: {done:?}; {} changes, 0 lost, 0 doubled, {contradictions} contradictory", changes.len());
}

/// Another instance in the group: neither answers from a part of the data. Once it is gone, the first goes on.
fn second_instance(rig: &Rig, service: &mut Process) {
    let other = tempfile::tempdir().unwrap();
    let mut second = rig.start_with(&[("FIRSTSEEN_STATE__DIR", &other.path().display().to_string())]);
    service.wait_for("one of two instances to be unready", |p| (p.get("/readyz")?.0 == 503).then_some(()));
    second.kill();
    service.wait_for("readiness", |p| (p.get("/readyz")?.0 == 200).then_some(()));
}

/// Changes that do not follow from the one before: an opening of what is open, any other of what is not.
fn contradictions(changes: &[String]) -> usize {
    let mut open: BTreeMap<String, bool> = BTreeMap::new();
    let mut found = 0;
    for line in changes {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let was = open.entry(value["finding_id"].as_str().unwrap().to_owned()).or_default();
        let opens = value["change"] == "opened";
        found += usize::from(opens == *was);
        *was = matches!(value["change"].as_str(), Some("opened" | "updated"));
    }
    found
}
