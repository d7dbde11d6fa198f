//! Brokers that refuse writes to both output topics for a while, for want of replicas: the service waits, however long, and goes on by
//! itself; killed meanwhile, the next one does.

use std::time::Duration;

use firstseen::kafka::cluster::Cluster;

use crate::rig::{Rig, fleet};
use crate::support::kafka::{Broker, Extras, wait_for};
use crate::support::numbers;
use crate::{kills, live, ready, seed};

#[test]
fn writes_that_are_refused_for_want_of_replicas_are_waited_for() {
    let rounds = kills().div_ceil(20).max(2) as usize;
    let quick = "broker.session.timeout.ms=3000\nreplica.lag.time.max.ms=2000\n";
    let first = Broker::start_with(Extras { properties: quick.to_owned(), ..Extras::default() });
    // Input, group and positions are the first broker's: made before there is another.
    let warm = Rig::on(&first, "warm");
    let mut service = warm.start();
    ready(&mut service);
    service.drain();
    let rig = Rig::on(&first, "replicas").set("state.snapshot_interval", "1s");
    let second = Broker::start_with(Extras { properties: quick.to_owned(), joins: Some(first.controller), ..Extras::default() });
    for topic in [&rig.findings, &rig.dead_letters] {
        first.replicated_topic(topic, 4);
    }
    let cluster = Cluster::new(&first.settings("reader"), Duration::from_secs(2)).unwrap();
    let mut random = numbers(seed() + 300);
    let mut pieces = fleet().chunks(fleet().len().div_ceil(rounds + 1));
    let (mut killed, mut waited) = (0, 0);
    for round in 0..rounds {
        let piece = pieces.next().unwrap();
        // The next start finds partitions whose leader has just died, until the cluster has noticed.
        second.kill();
        rig.produce(&first, piece);
        let mut service = rig.start();
        // Consumed, and nothing of it can be written: neither acknowledged nor given up.
        service.reached(piece.last().unwrap().arrival);
        // What a round before had appended shows as soon as the cluster has noticed, and the first leads alone.
        wait_for("the first broker to lead", || {
            (0..4).all(|p| [&rig.findings, &rig.dead_letters].iter().all(|topic| cluster.ends(topic, p).is_ok())).then_some(())
        });
        let written = rig.changes().len();
        live(&mut service, Duration::from_secs(6), &mut random);
        assert_eq!((service.get("/livez").unwrap().0, rig.changes().len()), (200, written));
        if round.is_multiple_of(2) {
            second.resurrect();
            service.wait_for("changes to be written", |_| (rig.changes().len() > written).then_some(()));
            service.drain();
            waited += 1;
        } else {
            service.kill();
            killed += 1;
            second.resurrect();
        }
    }
    pieces.for_each(|piece| rig.produce(&first, piece));
    let mut service = rig.start();
    service.reached(fleet().last().unwrap().arrival);
    service.drain();
    rig.holds_what_is_expected();
    crate::rig::say(&format!(
        "chaos, writes refused for want of replicas: {rounds} times, {waited} waited for, {killed} killed meanwhile; 0 lost, 0 doubled"
    ));
}
