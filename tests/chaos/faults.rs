//! Faults that take more than a signal.

use std::time::Duration;

use firstseen::host_clock::monotonic;

use super::input::Input;
use crate::rig::Rig;
use crate::support::kafka::Broker;
use crate::support::process::Process;
use crate::{lives, ready};

/// Another instance in the group: neither answers from a part of the data. Once it is gone, the first goes on.
pub(super) fn second_instance(rig: &Rig, service: &mut Process) {
    let other = tempfile::tempdir().unwrap();
    let mut second = rig.start_with(&[("FIRSTSEEN_STATE__DIR", &other.path().display().to_string())]);
    service.wait_for("one of two instances to be unready", |p| (p.get("/readyz")?.0 == 503).then_some(()));
    second.kill();
    ready(service);
}

/// Both output topics take nothing for a while, from the middle of its work on. Nothing is dropped: the service ends with exit code 1 at the
/// first message that is refused, and so does each that is started meanwhile. Gives how many ended, and the one that runs when there is
/// room again.
pub(super) fn outputs_refuse(
    rig: &Rig,
    broker: &Broker,
    input: &mut Input,
    mut service: Process,
    random: &mut impl FnMut() -> u64,
) -> (u64, Process) {
    let allow = |bytes: &str| {
        for topic in [&rig.findings, &rig.dead_letters] {
            broker.configure_topic(topic, "max.message.bytes", bytes);
        }
    };
    let refused = |service: &mut Process| {
        let (status, log) = (service.end(), service.log());
        let last = log.lines().last().unwrap_or_default();
        assert!(status.code() == Some(1) && last.starts_with("error: "), "{status}:\n{log}");
        assert!([&rig.findings, &rig.dead_letters].iter().any(|topic| last.contains(topic.as_str())), "{last}");
    };
    allow("1");
    let mut ended = 0;
    if lives(&mut service, Duration::from_secs(1), random) {
        service.kill();
    } else {
        refused(&mut service);
        ended += 1;
    }
    // Something to say, which may be nothing when the pieces are small.
    input.write_next(rig, broker);
    for _ in 0..1 + random() % 2 {
        let mut service = rig.start();
        let until = monotonic() + Duration::from_secs(6);
        while service.ended().is_none() && monotonic() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if service.ended().is_some() {
            refused(&mut service);
            ended += 1;
        }
    }
    let mut service = rig.start();
    lives(&mut service, Duration::from_secs(2), random);
    allow("1048588");
    if !lives(&mut service, Duration::from_millis(500), random) {
        refused(&mut service);
        ended += 1;
        service = rig.start();
    }
    (ended, service)
}
