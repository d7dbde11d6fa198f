//! What docs/operations.md promises of a full disk, on the real binary and a real, small file system; one line of outcome.
//!
//! The file system is a `tmpfs` in a user and mount namespace of its own (`unshare`, of util-linux): it needs no privileges, and is gone with
//! the process that holds it. Where the system forbids such namespaces the test says so; where nothing forbids them it must run.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use firstseen::host_clock::monotonic;

use crate::rig::{Message, Rig, fleet, say};
use crate::support::kafka::broker;
use crate::support::process::Process;

/// A file system of 4 MiB, mounted where only processes that join it see it.
struct SmallDisk {
    holder: Child,
    mounted: PathBuf,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What the system has against namespaces of unprivileged users, as far as it says.
fn forbidden() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    for (path, forbids) in [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ] {
        if read(path).is_some_and(|value| value == forbids) {
            return Some(format!("{path} is {forbids}"));
        }
    }
    let filtered = read("/proc/self/status")?.lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
    filtered.then(|| "a container's system call filter".to_owned())
}

impl SmallDisk {
    /// Mounts it at this directory; or why the system does not let us.
    fn mount(at: &Path) -> Result<SmallDisk, String> {
        fs::create_dir_all(at).unwrap();
        // Mounts, says so, and stays until it is killed or its standard input closes.
        let script = r#"mount -t tmpfs -o size=4m,mode=700 tmpfs "$1" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare (util-linux): {error}"))?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() == "mounted" {
            return Ok(SmallDisk { holder, mounted: at.to_owned() });
        }
        let output = holder.wait_with_output().unwrap();
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// The command by which a process sees it.
    fn by(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--user", "--mount", "--preserve-credentials"].map(str::to_owned).into()
    }

    /// A file of it, as it is seen from outside.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.mounted.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside).join(name)
    }

    /// Takes all room that there is.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path("ballast")).unwrap();
        loop {
            match file.write(&[0; 1 << 12]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives it back.
    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

/// Waits until the service says that it can't write; gives how often that was tried.
fn stalled(disk: &SmallDisk, service: &mut Process) -> f64 {
    service.wait_for("it to say that the disk is full", |p| {
        // What it gives back itself (an old segment) is room, too.
        disk.fill();
        let (status, reason) = p.get("/readyz")?;
        let failures = p.metrics()?.sum("firstseen_state_write_failures_total");
        (status == 503 && reason.contains("state.dir can't be written") && failures > 2.0).then_some(failures)
    })
}

#[test]
fn answer_disk_full_on_a_real_disk() {
    let mut rig = Rig::shared("disk").set("state.snapshot_interval", "1s");
    let disk = match SmallDisk::mount(&rig.state()) {
        Ok(disk) => disk,
        Err(error) => match forbidden() {
            Some(reason) => {
                return say(&format!("answer, disk full on a real disk: NOT RUN: no small file system can be mounted ({error}): {reason}"));
            }
            None => panic!("no small file system can be mounted, and nothing forbids it: {error}"),
        },
    };
    rig.by = disk.by();
    let third = fleet().len() / 3;
    // More than waits between Kafka and the journal, so that consumption is seen to stop: messages in which nothing is.
    let filler = |at: &Message| -> Vec<Message> {
        let one = |n: i32| Message { partition: n % 4, timestamp: at.timestamp, arrival: at.arrival, bytes: br#"{"records":[]}"#.to_vec() };
        (0..20_000).map(one).collect()
    };

    rig.produce(broker(), &fleet()[..third]);
    let mut service = rig.start();
    service.caught_up(third as u64);
    disk.fill();
    rig.produce(broker(), &filler(&fleet()[third - 1]));
    rig.produce(broker(), &fleet()[third..2 * third]);
    let failures = stalled(&disk, &mut service);
    let seen = |p: &Process| (p.metrics().unwrap().sum("firstseen_messages_total"), rig.changes());
    let before = service.wait_for("consumption to stand still", |p| {
        let first = seen(p);
        std::thread::park_timeout(Duration::from_secs(1));
        (seen(p) == first).then_some(first)
    });
    assert!(before.0 < (third + 20_000) as f64, "it stops consuming: {}", before.0);
    let stood = monotonic();
    while stood.elapsed() < Duration::from_secs(2) {
        assert_eq!(service.get("/livez").unwrap().0, 200);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(seen(&service), before, "nothing is consumed or published");
    // What comes meanwhile shows as lag: the gauge does not stand still with the pipeline.
    let lag = |p: &Process| p.metrics().unwrap().sum("firstseen_consumer_lag");
    let behind = service.wait_for("the lag", |p| Some(lag(p)).filter(|lag| *lag > 0.0));
    rig.produce(broker(), &filler(&fleet()[2 * third - 1])[..5_000]);
    service.wait_for("the lag to grow", |p| (lag(p) >= behind + 5_000.0).then_some(()));
    assert_eq!(seen(&service), before, "nothing is consumed or published");
    disk.make_room();
    service.reached(fleet()[2 * third - 1].arrival);
    let log = service.log();
    assert!(log.contains("state.dir can't be written: No space left on device"), "{log}");
    assert!(log.contains("state.dir can be written again"), "{log}");

    // Full again, and killed; a start while it is full is refused, and the next one goes on.
    disk.fill();
    rig.produce(broker(), &filler(&fleet()[2 * third - 1]));
    rig.produce(broker(), &fleet()[2 * third..]);
    stalled(&disk, &mut service);
    service.kill();
    let mut refused = rig.start();
    assert_eq!(refused.end().code(), Some(1), "{}", refused.log());
    let log = refused.log();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("No space left on device"), "{last}");
    disk.make_room();
    let mut service = rig.start();
    service.reached(fleet().last().unwrap().arrival);
    service.drain();
    rig.holds_what_is_expected();
    say(&format!(
        "answer, disk full on a real disk: {failures} refusals (ENOSPC): unready, nothing consumed or published meanwhile, on by itself with room again; killed while full, a start refused with exit 1, then 0 lost, 0 doubled"
    ));
}
