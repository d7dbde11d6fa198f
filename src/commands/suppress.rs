//! `firstseen suppress test`: rules tried on findings that were written, before they are put in force. Whether a rule matches is
//! [`crate::suppress`]'s to say, here as in the service.

use super::Usage;
use super::state::print;
use crate::cli::{Suppress, SuppressTest};
use crate::suppress::{Facts, Rules};
use crate::time::Ticks;
use anyhow::Context;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

/// Where the attack calls home that `generate --attack` and `demo` plant.
const PLANTED: &str = ".appsync-api.eu-west-1.telemetry-sync.example";
/// Longest line that is read, in bytes: far more than a finding with all its names has.
const LONGEST: u64 = 64 << 20;

pub(super) fn suppress(command: &Suppress) -> anyhow::Result<ExitCode> {
    let Suppress::Test(args) = command;
    let rules = rules(&args.rules)?;
    let input: Box<dyn BufRead> = if args.changes.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(&args.changes).with_context(|| format!("--changes {}: can't be read", args.changes.display()))?;
        Box::new(BufReader::with_capacity(1 << 18, file))
    };
    let trial = trial(&rules, input, args).with_context(|| format!("--changes {}", args.changes.display()))?;
    let (text, shows_all) = report(&rules, &trial);
    print(|out| write!(out, "{text}"))?;
    Ok(ExitCode::from(u8::from(!shows_all)))
}

fn rules(path: &Path) -> Result<Rules, Usage> {
    let text = std::fs::read_to_string(path).map_err(|e| Usage(format!("{}: can't be read: {e}", path.display())))?;
    Rules::default()
        .and_file(&text)
        .map_err(|mistakes| Usage(mistakes.iter().map(|m| format!("{}: {m}", path.display())).collect::<Vec<_>>().join("\n")))
}

/// What is read of a line; the whole of it is an expression's to ask.
#[derive(Deserialize)]
struct Line {
    finding_id: String,
    change: String,
    at: String,
    device: Device,
    remote: Remote,
    event: Event,
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Remote {
    #[serde(default)]
    ip: String,
    port: Option<u16>,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    urls_truncated: bool,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    company: String,
    #[serde(default)]
    folder_path: String,
    #[serde(default)]
    sha256: String,
}

/// What one rule would have done.
#[derive(Default)]
struct Hits {
    changes: u64,
    findings: BTreeSet<String>,
    first: Option<Ticks>,
    last: Option<Ticks>,
}

#[derive(Default)]
struct Trial {
    changes: u64,
    /// Of each finding: what it says, and how many of the changes that leave it open no rule matches.
    findings: BTreeMap<String, (String, u64)>,
    suppressed: u64,
    hits: Vec<Hits>,
    last: Option<Ticks>,
    /// Findings that must be shown, and whether they were there.
    must_show: BTreeMap<String, bool>,
    /// (finding, rule) of those that a rule would hide, once each.
    hidden: BTreeSet<(String, usize)>,
}

fn trial(rules: &Rules, mut input: impl BufRead, args: &SuppressTest) -> anyhow::Result<Trial> {
    let mut trial = Trial { hits: (0..rules.len()).map(|_| Hits::default()).collect(), ..Trial::default() };
    trial.must_show = args.must_show.iter().map(|id| (id.to_ascii_lowercase(), false)).collect();
    let mut text = String::new();
    for number in 1u64.. {
        text.clear();
        let n = input.by_ref().take(LONGEST).read_line(&mut text).with_context(|| format!("line {number}"))?;
        if n == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("line {number} is no JSON"))?;
        let expected = || format!("line {number} is no change of a finding, as backtest --changes and the findings topic have them");
        let line = Line::deserialize(&value).with_context(expected)?;
        let at = Ticks::parse(&line.at).with_context(expected)?;
        trial.change(rules, &line, at, &value);
    }
    Ok(trial)
}

impl Trial {
    fn change(&mut self, rules: &Rules, line: &Line, at: Ticks, value: &serde_json::Value) {
        let make_json = || value.clone();
        let facts = Facts::new(at, &make_json)
            .device(&line.device.name)
            .remote(&line.remote.ip, line.remote.port, &line.remote.urls, line.remote.urls_truncated)
            .process(&line.event.company, &line.event.folder_path, &line.event.sha256);
        self.changes += 1;
        self.last = self.last.max(Some(at));
        if line.remote.urls.iter().any(|url| url.ends_with(PLANTED)) {
            self.must_show.insert(line.finding_id.clone(), true);
        }
        if let Some(there) = self.must_show.get_mut(&line.finding_id) {
            *there = true;
        }
        let leaves_open = matches!(line.change.as_str(), "opened" | "updated");
        let mut matched = false;
        for (n, _) in rules.iter().enumerate().filter(|(_, rule)| rule.matches(&facts)) {
            matched = true;
            if let Some(hits) = self.hits.get_mut(n) {
                hits.changes += 1;
                hits.findings.insert(line.finding_id.clone());
                hits.first = Some(hits.first.map_or(at, |first| first.min(at)));
                hits.last = hits.last.max(Some(at));
            }
            if leaves_open && self.must_show.contains_key(&line.finding_id) {
                self.hidden.insert((line.finding_id.clone(), n));
            }
        }
        self.suppressed += u64::from(matched);
        let (_, shown) = self.findings.entry(line.finding_id.clone()).or_insert_with(|| (what(line), 0));
        *shown += u64::from(leaves_open && !matched);
    }
}

fn what(line: &Line) -> String {
    let port = line.remote.port.map_or_else(String::new, |port| format!(" port {port}"));
    crate::finding::reason::shown(&format!("{} to {}{port}", line.device.name, line.remote.ip))
}

/// The text, and whether everything that must be shown is.
fn report(rules: &Rules, trial: &Trial) -> (String, bool) {
    let mut out = String::new();
    let hidden = trial.findings.values().filter(|(_, shown)| *shown == 0).count();
    let _ = writeln!(out, "{} rules on {} changes of {} findings", rules.len(), trial.changes, trial.findings.len());
    let _ = writeln!(out, "suppressed: {} changes; {hidden} findings would not be seen at all", trial.suppressed);
    let width = rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    for (rule, hits) in rules.iter().zip(&trial.hits) {
        let expired = match (rule.expires, trial.last) {
            (Some(expires), Some(last)) if expires <= last => format!("; expired {expires}"),
            _ => String::new(),
        };
        let _ = match (hits.first, hits.last) {
            (Some(first), Some(last)) => writeln!(
                out,
                "  {:width$}  {} changes of {} findings, from {first} to {last}{expired}",
                rule.name,
                hits.changes,
                hits.findings.len()
            ),
            _ => writeln!(out, "  {:width$}  never matches{expired}", rule.name),
        };
    }
    let names: Vec<&str> = rules.iter().map(|rule| &*rule.name).collect();
    for (finding, rule) in &trial.hidden {
        let what = trial.findings.get(finding).map_or("", |(what, _)| what);
        let _ = writeln!(out, "warning: {} would hide {finding} ({what}), which must be shown", names.get(*rule).unwrap_or(&"?"));
    }
    for (finding, _) in trial.must_show.iter().filter(|(_, there)| !**there) {
        let _ = writeln!(out, "warning: {finding}, which must be shown, is not among the findings");
    }
    (out, trial.hidden.is_empty() && trial.must_show.values().all(|there| *there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Settings;
    use crate::finding::json::tests::example;
    use crate::finding::json::to_json;
    use crate::finding::severity::Privileged;
    use crate::finding::{Change, ChangeKind, FindingId};
    use crate::fleet::{Attack, Fleet, FleetOptions};

    fn tried(rules: &str, changes: &[Change], must_show: &[&str]) -> (String, bool) {
        let lines: String = changes.iter().map(|c| to_json(c, &Settings::default(), &Privileged::none()) + "\n").collect();
        let rules = Rules::default().and_file(rules).unwrap();
        let args =
            SuppressTest { rules: "r".into(), changes: "c".into(), must_show: must_show.iter().map(|id| (*id).to_owned()).collect() };
        report(&rules, &trial(&rules, lines.as_bytes(), &args).unwrap())
    }

    fn rule(name: &str, matcher: &str) -> String {
        format!("[[suppress]]\nname = \"{name}\"\nreason = \"r\"\nowner = \"o\"\n{matcher}\n")
    }

    fn second(kind: ChangeKind) -> Change {
        let mut second =
            Change { id: FindingId([2; 16]), kind, revision: 2, urls: vec!["other.example".into()], remote_port: Some(22), ..example() };
        second.event.folder_path = String::new();
        second
    }

    #[test]
    fn it_says_what_each_rule_would_hide_and_which_never_match() {
        let rules = [
            rule("acme", "domain_suffix = \"acme.example\"\nexpires = 2027-01-01"),
            rule("https", "port = 443"),
            rule("path", "process = '/opt/*'"),
            rule("old", "cel = \"finding.count > 0\"\nexpires = 2020-01-01"),
        ]
        .join("");
        let (text, good) = tried(&rules, &[example(), second(ChangeKind::Opened), second(ChangeKind::Closed)], &[]);
        let expected = "\
4 rules on 3 changes of 2 findings
suppressed: 1 changes; 1 findings would not be seen at all
  acme   1 changes of 1 findings, from 2026-03-01T10:24:11.5Z to 2026-03-01T10:24:11.5Z
  https  1 changes of 1 findings, from 2026-03-01T10:24:11.5Z to 2026-03-01T10:24:11.5Z
  path   never matches
  old    never matches; expired 2020-01-02T00:00:00Z
";
        assert_eq!((text.as_str(), good), (expected, true));
    }

    #[test]
    fn a_rule_that_hides_what_must_be_shown_is_told_and_fails() {
        let id = example().id.to_string();
        let (text, good) = tried(&rule("https", "port = 443"), &[example()], &[&id.to_uppercase()]);
        assert!(
            !good && text.contains(&format!("warning: https would hide {id} (srv-sql-03.corp.example to 203.0.113.7 port 443)")),
            "{text}"
        );
        let (text, good) = tried(&rule("ssh", "port = 22"), &[example()], &[&id]);
        assert!(good && !text.contains("warning"), "{text}");
        let (text, good) = tried(&rule("ssh", "port = 22"), &[example()], &["00"]);
        assert!(!good && text.contains("00, which must be shown, is not among the findings"), "{text}");
    }

    #[test]
    fn the_attack_of_the_synthetic_fleet_is_known_as_planted() {
        let options = FleetOptions::default();
        let options = FleetOptions { attack: Some(Attack { at: options.start }), ..options };
        let target = Fleet::new(&options).attack().unwrap().clone();
        assert!(target.remote_url.ends_with(PLANTED), "{target:?}");
        let attack = Change { urls: vec![target.remote_url], ..example() };
        let (text, good) = tried(&rule("https", "port = 443"), &[attack], &[]);
        assert!(!good && text.contains("warning: https would hide"), "{text}");
    }

    #[test]
    fn lines_that_are_no_findings_are_told_by_number() {
        let args = SuppressTest { rules: "r".into(), changes: "c".into(), must_show: vec![] };
        for (text, word) in [("\n{}", "line 2 is no change"), ("x", "line 1 is no JSON"), ("[1]", "line 1 is no change")] {
            let error = trial(&Rules::default(), text.as_bytes(), &args).map(|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
