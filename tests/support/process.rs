//! The real binary as a child process: its log, its HTTP endpoint, signals, and what it leaves behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::kafka::wait_for;
use firstseen::host_clock::monotonic;

/// A run of `firstseen run`; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// What `GET` gave: status and body.
pub(crate) type Answer = (u16, String);

impl Process {
    /// Starts `firstseen run` with this configuration; stderr goes to `log`, which is emptied.
    pub(crate) fn start(config: &Path, log: PathBuf, environment: &[(&str, &str)]) -> Process {
        Process::start_by(&[], config, log, environment)
    }

    /// The same by way of a command that becomes it (`exec`).
    pub(crate) fn start_by(by: &[String], config: &Path, log: PathBuf, environment: &[(&str, &str)]) -> Process {
        let stderr = File::create(&log).unwrap();
        let mut words = by.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_firstseen"), "run", "--config"]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .arg(config)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Process { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote to stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let mut status = None;
        let what = format!("the end of the process that logs to {}", log.display());
        wait_for(&what, || {
            status = self.ended();
            status
        })
    }

    /// Waits until it has died by SIGABRT: at the place that `FIRSTSEEN_CRASH_AT` names.
    pub(crate) fn crashed(&mut self) {
        let status = self.end();
        assert_eq!(status.signal(), Some(6), "{status}:\n{}", self.log());
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// SIGTERM; the exit code must be 0 within ten seconds.
    pub(crate) fn drain(&mut self) {
        let asked = monotonic();
        self.terminate();
        let status = self.end();
        let took = asked.elapsed();
        assert!(status.code() == Some(0) && took < Duration::from_secs(10), "{status} after {took:?}:\n{}", self.log());
    }

    /// Until `done` gives something; panics when the process ends before.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut done: impl FnMut(&mut Process) -> Option<T>) -> T {
        wait_for(&format!("{what}; the log is {}", self.log.display()), || {
            let found = done(self);
            if found.is_none()
                && let Some(status) = self.ended()
            {
                panic!("{status} while waiting for {what}:\n{}", self.log());
            }
            found
        })
    }

    /// The HTTP endpoint's address, as logged.
    pub(crate) fn address(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|l| [r#""message":"running""#, r#""message":"starting: "#].iter().any(|said| l.contains(said)))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["http"].as_str().unwrap().to_owned())
    }

    /// `GET path`; `None` while nobody listens.
    pub(crate) fn get(&self, path: &str) -> Option<Answer> {
        get(&self.address()?, path)
    }

    /// All metrics.
    pub(crate) fn metrics(&self) -> Option<Metrics> {
        let (status, text) = self.get("/metrics")?;
        assert_eq!(status, 200);
        Some(Metrics(text))
    }

    /// Waits until `/readyz` says 200 and everything that stands in the input is consumed; gives the metrics of that moment.
    pub(crate) fn caught_up(&mut self, messages: u64) -> Metrics {
        self.wait_for(&format!("{messages} messages to be consumed"), |p| {
            let metrics = p.metrics().filter(|m| m.sum("firstseen_messages_total") >= messages as f64)?;
            (p.get("/readyz")?.0 == 200).then_some(metrics)
        })
    }

    /// Waits until `/readyz` says 200 and the arrival clock has reached this instant (milliseconds); gives the metrics of that moment.
    pub(crate) fn reached(&mut self, arrival: i64) -> Metrics {
        self.wait_for(&format!("the arrival clock to reach {arrival}"), |p| {
            let metrics = p.metrics().filter(|m| m.sum("firstseen_arrival_clock_seconds") >= arrival as f64 / 1e3)?;
            (p.get("/readyz")?.0 == 200).then_some(metrics)
        })
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        memory(self.id(), "VmRSS:").unwrap()
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        memory(self.id(), "VmHWM:").unwrap()
    }
}

/// A line of `/proc/ID/status`, in bytes; `None` once the process is gone.
pub(crate) fn memory(id: u32, what: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with(what))?;
    Some(line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `GET path` from `address`; `None` when that is not answered.
pub(crate) fn get(address: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    // A small answer with its length, or one in chunks: the tests only look for lines in it.
    Some((status, body.to_owned()))
}

/// Metrics in Prometheus' text form.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// Sum of a metric's series whose labels hold `labels`.
    pub(crate) fn sum_of(&self, name: &str, labels: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        let of = |key: &str| key.split('{').next() == Some(name) && key.contains(labels);
        series.filter(|(key, _)| of(key)).map(|(_, value)| value.trim().parse::<f64>().unwrap()).sum()
    }

    /// Sum of a metric's series.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }
}
