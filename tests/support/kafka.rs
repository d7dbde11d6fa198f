//! A real Apache Kafka (KRaft, one node) for the tests of one binary: started at the first use, gone with the test process.
//!
//! The jars that `pom.xml` names are copied once to `target/kafka-libs`. Java and Maven have to be there: a broker test that passes
//! without a broker proves nothing, so their absence is a failure.

#[path = "topics.rs"]
mod topics;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use firstseen::kafka::client::{KafkaSettings, Preset};
use firstseen::kafka::cluster::Cluster;

/// How long anything that has to happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until `done` gives something; panics with `what` when that takes longer than [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = firstseen::host_clock::monotonic() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(firstseen::host_clock::monotonic() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Any 16 bytes in base64: one cluster is as good as another.
const CLUSTER_ID: &str = "Zmlyc3RzZWVudGVzdDAwMA";

/// The broker of this test binary.
pub(crate) fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// A running broker and what it takes to stop, pause and restart it.
pub(crate) struct Broker {
    dir: PathBuf,
    port: u16,
    /// Where its controller listens.
    pub(crate) controller: u16,
    /// Of the listeners beside the plain one, by name.
    ports: BTreeMap<&'static str, u16>,
    java_options: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// What a broker has beside its plain listener.
#[derive(Default)]
pub(crate) struct Extras {
    /// Names and protocols (`SASL_SSL`) of more listeners.
    pub(crate) listeners: Vec<(&'static str, &'static str)>,
    /// The controller of the cluster that it joins, as number 2: see [`Broker::controller`].
    pub(crate) joins: Option<u16>,
    /// More lines of its `server.properties`.
    pub(crate) properties: String,
    /// More arguments of the command that formats its storage.
    pub(crate) format: Vec<String>,
    /// Options of its Java machine.
    pub(crate) java: Vec<String>,
}

struct Process {
    java: u32,
    watcher: Child,
    /// The watcher kills the broker when this closes, which it also does when the test process is killed.
    lifeline: ChildStdin,
}

/// A fresh name, so that tests do not see each other's topics.
pub(crate) fn unique(name: &str) -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory holds the temporary one").to_owned()
}

fn run(what: &str, command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}: the broker tests need Java 17 and Maven"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{what}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Kafka's jars, copied there once. Tests that start brokers of their own come here at the same time: one copies, the others wait.
fn libs() -> PathBuf {
    let libs = target().join("kafka-libs");
    let complete = libs.join(".complete");
    let lock = File::create(target().join("kafka-libs.lock")).expect("target is writable");
    lock.lock().expect("the file system has locks");
    if !complete.exists() {
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("pom.xml");
        run(
            "copying Kafka's jars with Maven",
            Command::new("mvn")
                .args(["-q", "-B", "-f"])
                .arg(pom)
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", libs.display())),
        );
        File::create(complete).expect("target is writable");
    }
    libs
}

fn java(libs: &Path, main: &str) -> Command {
    let mut command = Command::new("java");
    command.arg("-Xmx1g").arg("-cp").arg(format!("{}/*", libs.display())).arg(main);
    command
}

impl Broker {
    /// A broker of its own for a test that kills or pauses it; gone when it is dropped.
    pub(crate) fn start() -> Broker {
        Broker::start_with(Extras::default())
    }

    /// The same with more listeners, or other settings.
    pub(crate) fn start_with(extras: Extras) -> Broker {
        let libs = libs();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique(&format!("kafka-{}", std::process::id())));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("target is writable");
        // All are held until all are known, so that they differ.
        let free: Vec<TcpListener> = (0..2 + extras.listeners.len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut numbers = free.iter().map(|l| l.local_addr().unwrap().port());
        let (port, controller) = (numbers.next().unwrap(), numbers.next().unwrap());
        let ports: BTreeMap<&'static str, u16> = extras.listeners.iter().map(|(name, _)| *name).zip(numbers).collect();
        drop(free);
        let addresses = |host: &str| ports.iter().map(|(name, port)| format!(",{name}://{host}:{port}")).collect::<String>();
        let protocols: String = extras.listeners.iter().map(|(name, protocol)| format!(",{name}:{protocol}")).collect();
        let (roles, node, controller, bound) = match extras.joins {
            None => ("broker,controller", 1, controller, format!(",CONTROLLER://127.0.0.1:{controller}{}", addresses("127.0.0.1"))),
            Some(first) => ("broker", 2, first, addresses("127.0.0.1")),
        };
        let properties = format!(
            "process.roles={roles}
node.id={node}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port}{bound}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={dir}/data
auto.create.topics.enable=false
log.retention.ms=-1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
{more}
",
            dir = dir.display(),
            advertised = addresses("localhost"),
            more = extras.properties,
        );
        let config = dir.join("server.properties");
        fs::write(&config, properties).expect("target is writable");
        let mut format = java(&libs, "kafka.tools.StorageTool");
        run("formatting Kafka's storage", format.args(["format", "-t", CLUSTER_ID, "-c"]).arg(&config).args(extras.format));
        let broker = Broker { dir, port, controller, ports, java_options: extras.java, process: Mutex::new(None) };
        broker.resurrect();
        broker
    }

    /// `host:port`.
    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of one of the other listeners.
    pub(crate) fn listener(&self, name: &str) -> String {
        format!("localhost:{}", self.ports[name])
    }

    /// Allows operations: `kafka-acls` with these arguments.
    pub(crate) fn allow(&self, arguments: &[&str]) {
        let mut tool = java(&libs(), "org.apache.kafka.tools.AclCommand");
        tool.args(["--bootstrap-server", &self.bootstrap(), "--add"]).args(arguments);
        run("allowing operations", &mut tool);
    }

    /// Gives a SCRAM user this password.
    pub(crate) fn set_scram(&self, user: &str, password: &str) {
        let mut tool = java(&libs(), "kafka.admin.ConfigCommand");
        tool.args(["--bootstrap-server", &self.bootstrap(), "--alter", "--entity-type", "users", "--entity-name", user]);
        tool.args(["--add-config", &format!("SCRAM-SHA-512=[password={password}]")]);
        run("setting a password", &mut tool);
    }

    /// Starts the broker that was killed, with its data.
    pub(crate) fn resurrect(&self) {
        let log = self.dir.join("broker.log");
        let script = r#"dir=$1; shift
"$@" >>"$dir/broker.log" 2>&1 &
echo $!
cat >/dev/null
kill -9 $! 2>/dev/null
wait
[ -e "$dir/keep" ] || rm -rf "$dir""#;
        let java = java(&libs(), "kafka.Kafka");
        let mut watcher = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.dir)
            .arg(java.get_program())
            .args(&self.java_options)
            .args(java.get_args())
            .arg(self.dir.join("server.properties"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let lifeline = watcher.stdin.take().expect("stdin is a pipe");
        let mut line = String::new();
        BufReader::new(watcher.stdout.take().expect("stdout is a pipe")).read_line(&mut line).expect("the shell tells the broker's id");
        let java = line.trim().parse().expect("a process id");
        *self.process.lock().unwrap() = Some(Process { java, watcher, lifeline });
        let _ = fs::remove_file(self.dir.join("keep"));
        let cluster = Cluster::new(&self.settings("harness"), Duration::from_millis(200)).unwrap();
        let tail = || fs::read_to_string(&log).unwrap_or_default();
        wait_for("the broker to answer", || {
            assert!(Path::new(&format!("/proc/{java}")).exists(), "the broker died:\n{}", tail());
            cluster.partitions("no-such-topic").ok()
        });
    }

    /// Kills the broker as a crash would (SIGKILL); its data stays.
    pub(crate) fn kill(&self) {
        File::create(self.dir.join("keep")).expect("target is writable");
        self.end();
    }

    fn end(&self) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        drop(process.lifeline);
        process.watcher.wait().expect("the watcher is our child");
    }

    /// Kills the broker and starts it again.
    pub(crate) fn restart(&self) {
        self.kill();
        self.resurrect();
    }

    /// Stops the broker in its tracks (SIGSTOP): connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets a paused broker go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let java = self.process.lock().unwrap().as_ref().expect("the broker runs").java;
        run("kill", Command::new("kill").args([signal, &java.to_string()]));
    }

    /// Settings of a client of this broker.
    pub(crate) fn settings(&self, group: &str) -> KafkaSettings {
        KafkaSettings {
            bootstrap_servers: self.bootstrap(),
            preset: Preset::Kafka,
            properties: [("session.timeout.ms", "6000"), ("topic.metadata.refresh.interval.ms", "500")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            group_id: group.to_owned(),
            client_id: "firstseen-test".to_owned(),
        }
    }

    /// What a client of this id may write, in bytes a second; `None` lifts the bound.
    pub(crate) fn write_quota(&self, client: &str, rate: Option<u32>) {
        let mut tool = java(&libs(), "kafka.admin.ConfigCommand");
        tool.args(["--bootstrap-server", &self.bootstrap(), "--alter", "--entity-type", "clients", "--entity-name", client]);
        match rate {
            Some(rate) => tool.args(["--add-config", &format!("producer_byte_rate={rate}")]),
            None => tool.args(["--delete-config", "producer_byte_rate"]),
        };
        run("setting a quota", &mut tool);
    }

    /// Waits until the broker has read what clients that are gone had sent: a request that lies in its socket is carried out all the
    /// same, at once as a rule, but late when a quota or a pause holds the connection.
    pub(crate) fn has_read_everything(&self) {
        const FIN_WAIT_1: &str = "04";
        const CLOSE_WAIT: &str = "08";
        let port = format!(":{:04X}", self.port);
        wait_for("the broker to read what it was sent", || {
            let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default()).concat();
            let half_closed = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                let (Some(local), Some(remote), Some(state)) = (fields.next(), fields.next(), fields.next()) else { return false };
                local.ends_with(&port) && state == CLOSE_WAIT || remote.ends_with(&port) && state == FIN_WAIT_1
            };
            (!sockets.lines().any(half_closed)).then_some(())
        });
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}
