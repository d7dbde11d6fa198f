//! The random schedule whose outcome is exact: which faults come, and in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::{outputs_refuse, second_instance};
use super::input::Input;
use crate::rig::{Rig, fleet};
use crate::support::kafka::Broker;
use crate::support::numbers;
use crate::{kills, live, ready, seed};

/// What happens in a round, before the service is killed (a drain ends it by itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Killed while it restores, replays, or waits for the group.
    Early,
    /// Killed while it consumes.
    Kill,
    BrokerDies,
    BrokerStandsStill,
    SecondInstance,
    Drain,
    MorePartitions,
    OutputsRefuse,
}

/// Each kind of fault at least once, some in one round of twenty, the broker's death in one of ten; the rest plain kills. Shuffled.
fn rounds(kills: u64, random: &mut impl FnMut() -> u64) -> Vec<Fault> {
    let share = |of: u64| kills.div_ceil(of) as usize;
    let mut rounds = vec![Fault::BrokerDies; share(10)];
    for fault in [Fault::BrokerStandsStill, Fault::SecondInstance, Fault::MorePartitions, Fault::OutputsRefuse] {
        rounds.extend(vec![fault; share(20)]);
    }
    rounds.extend(vec![Fault::Early; share(4)]);
    rounds.resize(rounds.len().max(kills as usize), Fault::Kill);
    rounds.extend(vec![Fault::Drain; share(20)]);
    for at in (1..rounds.len()).rev() {
        rounds.swap(at, (random() % (at as u64 + 1)) as usize);
    }
    rounds
}

#[derive(Default, Debug)]
struct Done {
    kills: u64,
    kills_before_input: u64,
    drains: u64,
    broker_restarts: u64,
    broker_pauses: u64,
    second_instances: u64,
    partitions_added: u64,
    output_refusals: u64,
    ended_for_refusals: u64,
    replayed: u64,
}

#[test]
fn faults_at_random_moments_lose_nothing_and_double_nothing() {
    let broker = Broker::start();
    let rig = Rig::on(&broker, "chaos").set("state.snapshot_interval", "1s");
    let mut random = numbers(seed());
    let mut done = Done::default();
    let rounds = rounds(kills(), &mut random);
    let twice = rounds.iter().filter(|fault| matches!(fault, Fault::MorePartitions | Fault::OutputsRefuse)).count();
    let mut input = Input::in_pieces(rounds.len() + twice + 1);
    for (round, fault) in rounds.iter().enumerate() {
        input.write_next(&rig, &broker);
        let mut service = rig.start();
        if *fault == Fault::Early {
            live(&mut service, Duration::from_secs(3), &mut random);
            done.kills_before_input += 1;
        } else {
            ready(&mut service);
        }
        match fault {
            Fault::Early | Fault::Kill => {}
            Fault::BrokerDies => {
                broker.kill();
                live(&mut service, Duration::from_secs(2), &mut random);
                broker.resurrect();
                done.broker_restarts += 1;
            }
            Fault::BrokerStandsStill => {
                // Longer than the session lasts (2 s here), or shorter.
                broker.pause();
                live(&mut service, Duration::from_secs(4), &mut random);
                broker.resume();
                done.broker_pauses += 1;
            }
            Fault::SecondInstance => {
                second_instance(&rig, &mut service);
                done.second_instances += 1;
            }
            Fault::MorePartitions => {
                let last = input.grow(&rig, &broker);
                done.partitions_added += 1;
                // Seen while it runs, or only by the next one.
                if let Some(arrival) = last.filter(|_| random().is_multiple_of(2) || done.partitions_added == 1) {
                    service.reached(arrival);
                }
            }
            Fault::OutputsRefuse => {
                let (ended, goes_on) = outputs_refuse(&rig, &broker, &mut input, service, &mut random);
                service = goes_on;
                done.output_refusals += 1;
                done.ended_for_refusals += ended;
            }
            Fault::Drain => {
                service.drain();
                done.drains += 1;
                continue;
            }
        }
        live(&mut service, Duration::from_millis(400), &mut random);
        done.replayed += service.metrics().map_or(0.0, |m| m.sum("firstseen_replayed_messages_total")) as u64;
        service.kill();
        done.kills += 1;
        if rounds.len() > 20 && (round + 1) * 10 / rounds.len() != round * 10 / rounds.len() {
            println!("{done:?}");
        }
    }
    while input.write_next(&rig, &broker) {}
    // The last of them, with a broker that starts anew under it.
    let mut last = rig.start();
    ready(&mut last);
    broker.restart();
    done.broker_restarts += 1;
    last.reached(fleet().last().unwrap().arrival);
    last.drain();
    let changes = rig.changes();
    let contradictions = contradictions(&changes);
    rig.holds_what_is_expected();
    assert_eq!(contradictions, 0);
    let letters = input.dead_letters_are_there_once(&rig);
    crate::rig::say(&format!(
        "chaos, seed {}: {done:?}; {} changes and {letters} dead letters, 0 lost, 0 doubled, {contradictions} contradictory",
        seed(),
        changes.len()
    ));
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
