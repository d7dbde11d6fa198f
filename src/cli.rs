//! The command line: its arguments and the texts that teach them. It starts nothing; `main` does.

use crate::config::parse_span;
use crate::time::{Span, Ticks};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running (stderr says why, its last line what to do next)
  2  wrong usage or configuration (stderr names the flag or key)";

/// Finds, continuously and exactly, the first rare connection of a server.
///
/// firstseen reads Microsoft Defender's streaming events from Kafka and says, within a second of an event's arrival, when a server that
/// runs rare third-party software talks to a destination that it has never talked to and that almost nothing else in the fleet talks to:
/// how a supply-chain attack first shows on the wire.
///
/// Start with `firstseen demo`: it needs nothing.
#[derive(Debug, Parser)]
#[command(name = "firstseen", version, after_help = EXIT_CODES, arg_required_else_help = true, subcommand_required = true, max_term_width = 110)]
pub struct Cli {
    /// Log filter: a level, or target=level pairs. Without it: RUST_LOG, else info
    #[arg(long, global = true, value_name = "FILTER", display_order = 900)]
    pub log: Option<String>,
    /// Log more; -vv logs everything
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 901)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The service: Defender's messages in from Kafka, findings out to Kafka
    ///
    /// Goes on where it stopped, with all its state. SIGTERM or SIGINT drains, commits and exits 0.
    #[command(after_help = "Example:\n  firstseen check --config firstseen.toml && firstseen run --config firstseen.toml")]
    Run(Run),
    /// Watch an attack being found, on an embedded broker with a synthetic fleet
    ///
    /// Runs the service as `run` does. Exits 0 if the attack was found, 1 if not.
    #[command(after_help = "Example:\n  firstseen demo --for 2m --port 9464      # and meanwhile: curl localhost:9464/metrics")]
    Demo(Demo),
    /// What would have been found in files of Defender's messages, exactly
    ///
    /// Reads messages or bare records, one JSON object a line, .gz and .zst as they are, directories with all that is in them, and - for
    /// standard input. All input is merged by arrival.
    #[command(
        after_help = "Example:\n  firstseen backtest export/ --changes changes.ndjson\n  firstseen backtest export/ --report report.html --report report.json\n  zcat march.json.gz | firstseen backtest - --changes -"
    )]
    Backtest(Backtest),
    /// Load history into the state directory, so that `run` begins with a baseline
    ///
    /// Reads the Azure Storage export, Event Hubs Capture or what the portal exports, from directories or object stores (az://CONTAINER/PREFIX,
    /// s3://, gs://; credentials from their usual environment variables). It goes on where an earlier run of it stopped. `run` then starts
    /// reading its topics where history ended.
    #[command(
        after_help = "Example:\n  firstseen backfill az://insights-logs-advancedhunting-devicenetworkevents az://insights-logs-advancedhunting-deviceinfo --config firstseen.toml --from 2026-03-01"
    )]
    Backfill(Backfill),
    /// A synthetic fleet's Defender messages, the same for the same seed
    #[command(
        after_help = "Example:\n  firstseen generate --seed 1 --devices 500 --days 15 --attack --out fleet.ndjson.zst\n  firstseen generate --seed 1 --topic defender --config firstseen.toml"
    )]
    Generate(Generate),
    /// Say whether a configuration is good, and whether its brokers can be reached
    #[command(after_help = "Example:\n  firstseen check --config firstseen.toml --offline")]
    Check(Check),
    /// Read what the service could not, and feed back what was repaired
    #[command(
        subcommand,
        after_help = "Example:\n  firstseen dead-letters list --config firstseen.toml      # repair the values, then: dead-letters replay",
        arg_required_else_help = true
    )]
    DeadLetters(DeadLetters),
    /// Look into a state directory, also beside a running service: nothing is changed
    #[command(subcommand, after_help = "Example:\n  firstseen state verify --config firstseen.toml", arg_required_else_help = true)]
    State(State),
    /// Why a connection is, or is not, a finding now: each gate with its numbers, and what changes by itself
    ///
    /// Reads the newest snapshot of a state directory, also beside a running service. Nothing is guessed: every number is from the state.
    #[command(
        after_help = "Example:\n  firstseen explain --state /var/lib/firstseen --device srv-web-01.corp.example --ip 203.0.113.142 --port 443"
    )]
    Explain(Explain),
    /// Try suppression rules on findings before they are put in force
    #[command(
        subcommand,
        after_help = "Example:\n  firstseen suppress test rules.toml --changes changes.ndjson",
        arg_required_else_help = true
    )]
    Suppress(Suppress),
}

/// What to do with suppression rules.
#[derive(Debug, Subcommand)]
pub enum Suppress {
    /// What each rule would have hidden, which never match, and whether one would hide what must be seen; exits 1 then
    ///
    /// Findings come from `backtest --changes` or the findings topic, one change a line. A planted attack is one given with --must-show, or
    /// the one that `generate --attack` and `demo` plant.
    #[command(
        after_help = "Example:\n  firstseen suppress test rules.toml --changes changes.ndjson --must-show 16ee7cf2f112e250274f13612c456615"
    )]
    Test(SuppressTest),
}

/// Arguments of `suppress test`.
#[derive(Args, Debug)]
pub struct SuppressTest {
    /// Rules file, with a table for each rule
    #[arg(value_name = "RULES")]
    pub rules: PathBuf,
    /// Changes of findings, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub changes: PathBuf,
    /// A finding that no rule may hide; may be given several times
    #[arg(long, value_name = "FINDING_ID")]
    pub must_show: Vec<String>,
}

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which state directory.
    #[command(flatten)]
    pub dir: StateDir,
    /// Tenant id; needed only when the state holds several
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
    /// Device name, as in a finding's device.name
    #[arg(long, value_name = "NAME")]
    pub device: String,
    /// Remote address, as in a finding's remote.ip
    #[arg(long, value_name = "ADDRESS")]
    pub ip: String,
    /// Remote port; without it: the connections for which Defender gave none
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// Every dead letter as NDJSON on standard output: where it stood, reason, error, and its own bytes as text
    #[command(after_help = "Example:\n  firstseen dead-letters list --config firstseen.toml --reason bad_time | jq .error")]
    List(DeadLettersList),
    /// Write repaired lines of `list` to their input topic again; nothing, if one of them is still not readable
    #[command(after_help = "Example:\n  firstseen dead-letters replay --config firstseen.toml repaired.ndjson")]
    Replay(DeadLettersReplay),
}

/// Arguments of `dead-letters list`.
#[derive(Args, Debug)]
pub struct DeadLettersList {
    /// Configuration (TOML) with the brokers and the dead-letter topic
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only those of this reason
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
}

/// Arguments of `dead-letters replay`.
#[derive(Args, Debug)]
pub struct DeadLettersReplay {
    /// Configuration (TOML) with the brokers and the input topics
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Repaired lines; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What to do with a state directory.
#[derive(Debug, Subcommand)]
pub enum State {
    /// What is in it, as one JSON object: rows, sizes, clocks, positions, settings, format version
    #[command(after_help = "Example:\n  firstseen state inspect --state /var/lib/firstseen | jq .rows")]
    Inspect(StateDir),
    /// Whether every file is whole and obeys the invariants; names damaged files and the offset, and exits 1
    #[command(after_help = "Example:\n  firstseen state verify --state /var/lib/firstseen")]
    Verify(StateDir),
    /// Every row of the newest snapshot as NDJSON on standard output, in the order of the keys: equal states, equal bytes
    #[command(after_help = "Example:\n  firstseen state export --config firstseen.toml | zstd > state.ndjson.zst")]
    Export(StateDir),
}

/// Which state directory.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("of").required(true).args(["state", "config"]))]
pub struct StateDir {
    /// The directory
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Configuration (TOML) whose state.dir it is
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Take numbers of the query section that need what the stored state did not keep; findings say until when they may be wrong for it
    #[arg(long)]
    pub accept_partial_baseline: bool,
    /// Configuration (TOML); FIRSTSEEN_SECTION__KEY in the environment wins over it
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Port of the HTTP endpoint on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 9464)]
    pub port: u16,
    /// How long it may take: "60s", "2m"
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub for_: Duration,
}

/// Arguments of `backtest`.
#[derive(Args, Debug)]
pub struct Backtest {
    /// Files, directories, az://CONTAINER/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What of the input is wanted
    #[command(flatten)]
    pub selection: Select,
    /// Configuration (TOML); only its query, detection and limits sections count. Without it: the hunting query's numbers
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write each change of a finding here, one a line, as on the findings topic; - is standard output
    #[arg(long, value_name = "FILE")]
    pub changes: Option<PathBuf>,
    /// Write what could not be read here, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub dead_letters: Option<PathBuf>,
    /// Threads that decode. Without it: one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Write a report here: one page that needs no network (.html), or the same numbers (.json); may be given twice
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Findings that the report lists one by one: the most severe and newest
    #[arg(long, value_name = "N", default_value_t = 500, requires = "report", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub report_findings: u32,
    /// query.prevalence_below of the report's what-if grid, beside the configured one. Without it: 2,3,4,6,8,12
    #[arg(long, value_name = "N,N", value_delimiter = ',', requires = "report", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub what_if_prevalence: Vec<u32>,
    /// query.vendor_servers_below of the grid, beside the configured one. Without it: 2,4,6,10
    #[arg(long, value_name = "N,N", value_delimiter = ',', requires = "report", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub what_if_vendor_servers: Vec<u32>,
    /// query.lookback of the grid, beside the configured one. Without it: 5d,7d,14d, such as fit the other windows
    #[arg(long, value_name = "SPAN,SPAN", value_delimiter = ',', requires = "report", value_parser = span)]
    pub what_if_lookback: Vec<Span>,
}

/// What of the input is wanted.
#[derive(Args, Debug, Default)]
pub struct Select {
    /// Only what arrived at this instant or later: "2026-03-01", or with a time, "2026-03-01T12:00:00Z"
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub from: Option<Ticks>,
    /// Only what arrived before this instant
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub to: Option<Ticks>,
    /// Only this tenant; may be given several times. A single one is also the tenant of rows without envelope
    #[arg(long, value_name = "ID")]
    pub tenant: Vec<String>,
}

/// Arguments of `backfill`.
#[derive(Args, Debug)]
pub struct Backfill {
    /// Files, directories, az://CONTAINER/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Configuration (TOML) of the service that will run on this history
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What of the input is wanted
    #[command(flatten)]
    pub selection: Select,
    /// Write what could not be read here, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub dead_letters: Option<PathBuf>,
    /// Threads that decode. Without it: one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("into").required(true).args(["out", "topic", "export", "capture"]))]
pub struct Generate {
    /// The same seed gives the same messages
    #[arg(long, value_name = "N")]
    pub seed: u64,
    /// Write to this file, compressed if its name ends in .gz or .zst; - is standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write to this topic of the brokers in --config
    #[arg(long, value_name = "TOPIC", requires = "config")]
    pub topic: Option<String>,
    /// Write the containers of an Azure Storage export below this directory
    #[arg(long, value_name = "DIR")]
    pub export: Option<PathBuf>,
    /// Write the files of Event Hubs Capture below this directory
    #[arg(long, value_name = "DIR")]
    pub capture: Option<PathBuf>,
    /// Only messages that arrive at this instant or later: "2026-01-15", or with a time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub from: Option<Ticks>,
    /// Only messages that arrive before this instant
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub to: Option<Ticks>,
    /// Configuration (TOML) with the brokers for --topic
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Devices in the fleet
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub devices: u32,
    /// Days that the fleet lives through
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Network records a device and day, on average
    #[arg(long, value_name = "N", default_value_t = 15.0, value_parser = rate)]
    pub rate: f64,
    /// Put a supply-chain implant into one server that calls home on the last day
    #[arg(long)]
    pub attack: bool,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Configuration (TOML) to check
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Leave the brokers alone
    #[arg(long)]
    pub offline: bool,
}

/// Reads the process' arguments. Wrong usage ends the process with exit code 2, help with 0.
#[must_use]
pub fn parse() -> Cli {
    Cli::parse()
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_span(text).and_then(|span| u64::try_from(span.0).ok()) {
        Some(ticks) if ticks > 0 => Ok(Duration::from_nanos(ticks.saturating_mul(100))),
        _ => Err("expected a length of time such as \"60s\" or \"2m\"".into()),
    }
}

fn span(text: &str) -> Result<Span, String> {
    parse_span(text).filter(|span| *span > Span::ZERO).ok_or_else(|| "expected a length of time such as \"7d\" or \"36h\"".into())
}

/// A day (its beginning, in UTC) or an instant.
fn instant(text: &str) -> Result<Ticks, String> {
    let day = (text.len() == 10).then(|| format!("{text}T00:00:00Z"));
    Ticks::parse(day.as_deref().unwrap_or(text))
        .ok_or_else(|| "expected a day such as \"2026-03-01\", or an instant such as \"2026-03-01T12:00:00Z\"".into())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|r: &f64| r.is_finite() && *r > 0.0 && *r <= 1e6)
        .ok_or_else(|| "expected a number above 0, at most 1000000".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_an_example_that_parses() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = help.lines().find_map(|l| l.split("&& ").find_map(|p| p.trim().strip_prefix("firstseen ")));
            let example = example.unwrap_or_else(|| panic!("{} has no example", command.get_name()));
            let example = example.split(" #").next().unwrap().trim();
            read(&format!("firstseen {example}")).unwrap_or_else(|e| panic!("{example}: {e}"));
        }
        assert!(Cli::command().render_long_help().to_string().contains("2  wrong usage or configuration"));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for (line, kind) in [
            ("firstseen run", ErrorKind::MissingRequiredArgument),
            ("firstseen backtest", ErrorKind::MissingRequiredArgument),
            ("firstseen generate --seed 1", ErrorKind::MissingRequiredArgument),
            ("firstseen generate --seed 1 --topic x", ErrorKind::MissingRequiredArgument),
            ("firstseen generate --seed 1 --out x --topic y --config z", ErrorKind::ArgumentConflict),
            ("firstseen generate --seed 1 --out x --rate 0", ErrorKind::ValueValidation),
            ("firstseen demo --for soon", ErrorKind::ValueValidation),
            ("firstseen demo --for 0s", ErrorKind::ValueValidation),
            ("firstseen backtest x --threads 0", ErrorKind::ValueValidation),
            ("firstseen state", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("firstseen state verify", ErrorKind::MissingRequiredArgument),
            ("firstseen state export --state a --config b", ErrorKind::ArgumentConflict),
            ("firstseen explain --device d --ip 192.0.2.1", ErrorKind::MissingRequiredArgument),
            ("firstseen explain --state s --device d --ip 192.0.2.1 --port 65536", ErrorKind::ValueValidation),
            ("firstseen suppress test rules.toml", ErrorKind::MissingRequiredArgument),
            ("firstseen rum", ErrorKind::InvalidSubcommand),
        ] {
            let error = read(line).map(|cli| format!("{cli:?}")).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        }
        assert_eq!(read("firstseen --help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn values_arrive() {
        let Command::Demo(demo) = read("firstseen demo --for 1m30s --port 0 -vv").unwrap().command else { panic!("not demo") };
        assert_eq!((demo.port, demo.for_), (0, Duration::from_secs(90)));
        let cli = read("firstseen backtest a - --changes c --dead-letters d --threads 2 --log debug").unwrap();
        assert_eq!(cli.log.as_deref(), Some("debug"));
        let Command::Backtest(b) = cli.command else { panic!("not backtest") };
        assert_eq!((b.paths.len(), b.threads, b.dead_letters), (2, Some(2), Some(PathBuf::from("d"))));
    }
}
