//! Rules as people write them: `[[suppress]]` tables in TOML. Every mistake of every rule is told, by the rule's number and key; a rule
//! that could hide more than it says is refused.

use super::address::Networks;
use super::domain::Domains;
use super::expression::Expression;
use super::pattern::{Names, Processes};
use super::{Rule, Rules};
use crate::time::{Span, Ticks};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use toml::{Table, Value};

/// Rules in force at once, at most.
const MOST: usize = 1000;

const KEYS: [&str; 11] = ["name", "reason", "owner", "expires", "domain_suffix", "cidr", "vendor", "device", "port", "process", "cel"];

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMistake {
    /// `suppress[3].cidr`: the rule's number from 1 on, the key.
    pub key: String,
    /// What was given and what was expected.
    pub message: String,
}

impl fmt::Display for RuleMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Rules {
    /// Reads what stands under `suppress` in a configuration or a rules file.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(value: &Value) -> Result<Rules, Vec<RuleMistake>> {
        Rules::default().and(value)
    }

    /// These rules and, after them, those under `suppress`; a rule without a name is `rule-N`, counted over both.
    ///
    /// # Errors
    /// All mistakes.
    pub fn and(&self, value: &Value) -> Result<Rules, Vec<RuleMistake>> {
        let whole = |message: String| vec![RuleMistake { key: "suppress".to_owned(), message }];
        let tables = value.as_array().ok_or_else(|| whole("expected [[suppress]] tables".to_owned()))?;
        if self.len() + tables.len() > MOST {
            return Err(whole(format!("{} rules, expected at most {MOST} in all", self.len() + tables.len())));
        }
        let mut names: BTreeSet<Arc<str>> = self.iter().map(|rule| Arc::clone(&rule.name)).collect();
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for (number, value) in (1..).zip(tables) {
            let mut reader = RuleReader { number, mistakes: &mut mistakes };
            let Some(table) = value.as_table() else {
                reader.mistake("", "expected a table: [[suppress]]".to_owned());
                continue;
            };
            let Some(rule) = reader.rule(table, self.len() + number) else { continue };
            if names.insert(Arc::clone(&rule.name)) {
                rules.push(Arc::new(rule));
            } else {
                reader.mistake("name", format!("{:?} is another rule's name; expected each name once", rule.name));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Rules(Arc::new(self.0.iter().cloned().chain(rules).collect())))
    }

    /// These rules and, after them, those of a rules file's text.
    ///
    /// # Errors
    /// All mistakes.
    pub fn and_file(&self, text: &str) -> Result<Rules, Vec<RuleMistake>> {
        let text = text.trim_start_matches('\u{feff}');
        let mut table = text.parse::<Table>().map_err(|e| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or("");
            let (line, column) = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or("").chars().count() + 1);
            vec![RuleMistake { key: format!("line {line}, column {column}"), message: format!("not TOML: {}", e.message()) }]
        })?;
        let rules = table.remove("suppress").unwrap_or_else(|| Value::Array(Vec::new()));
        let unknown =
            table.into_iter().map(|(key, _)| RuleMistake { key, message: "unknown key; expected [[suppress]] tables alone".to_owned() });
        let mut mistakes: Vec<RuleMistake> = unknown.collect();
        match self.and(&rules) {
            Ok(rules) if mistakes.is_empty() => Ok(rules),
            Ok(_) => Err(mistakes),
            Err(more) => {
                mistakes.extend(more);
                Err(mistakes)
            }
        }
    }
}

struct RuleReader<'a> {
    number: usize,
    mistakes: &'a mut Vec<RuleMistake>,
}

impl RuleReader<'_> {
    fn mistake(&mut self, key: &str, message: String) {
        let dot = if key.is_empty() { "" } else { "." };
        self.mistakes.push(RuleMistake { key: format!("suppress[{}]{dot}{key}", self.number), message });
    }

    fn rule(&mut self, table: &Table, number: usize) -> Option<Rule> {
        let before = self.mistakes.len();
        for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            let near = crate::config::nearest(key, KEYS.into_iter());
            let advice = near.map_or_else(|| KEYS.join(", "), str::to_owned);
            self.mistake(key, format!("unknown key; expected {advice}"));
        }
        let rule = Rule {
            name: self.name(table, number).into(),
            reason: self.required(table, "reason", "why what it matches needs no attention"),
            owner: self.required(table, "owner", "who answers for it"),
            expires: self.expires(table),
            source: table.clone(),
            domains: self.texts(table, "domain_suffix").and_then(|t| self.good("domain_suffix", Domains::read(&t))),
            networks: self.texts(table, "cidr").and_then(|t| self.good("cidr", Networks::read(&t))),
            vendors: self.texts(table, "vendor"),
            devices: self.texts(table, "device").and_then(|t| self.good("device", Names::read(&t))),
            ports: self.ports(table),
            processes: self.texts(table, "process").and_then(|t| self.good("process", Processes::read(&t))),
            expression: self.text(table, "cel").and_then(|t| self.good("cel", Expression::read(&t, &example()))),
        };
        let matchers = ["domain_suffix", "cidr", "vendor", "device", "port", "process", "cel"];
        if !matchers.iter().any(|key| table.contains_key(*key)) {
            self.mistake("", format!("matches every finding; expected at least one of {}", matchers.join(", ")));
        }
        (self.mistakes.len() == before).then_some(rule)
    }

    fn good<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.mistake(key, message)).ok()
    }

    fn name(&mut self, table: &Table, number: usize) -> String {
        let Some(name) = self.text(table, "name") else { return format!("rule-{number}") };
        let good = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        if name.len() > 64 || !name.bytes().all(good) {
            self.mistake("name", format!("given {name:?}, expected at most 64 of a-z, A-Z, 0-9, '.', '_' and '-'"));
        }
        name
    }

    fn required(&mut self, table: &Table, key: &str, what: &str) -> String {
        if !table.contains_key(key) {
            self.mistake(key, format!("is missing; expected a text: {what}"));
        }
        self.text(table, key).unwrap_or_default()
    }

    fn text(&mut self, table: &Table, key: &str) -> Option<String> {
        let value = table.get(key)?;
        let text = value.as_str().filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.mistake(key, "expected text in quotes, not empty".to_owned());
        }
        text.map(str::to_owned)
    }

    /// A text or a list of texts.
    fn texts(&mut self, table: &Table, key: &str) -> Option<Vec<String>> {
        let item = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned);
        let texts = match table.get(key)? {
            Value::Array(items) => items.iter().map(item).collect::<Option<Vec<String>>>(),
            value => item(value).map(|text| vec![text]),
        };
        let texts = texts.filter(|texts| !texts.is_empty() && texts.len() <= MOST);
        if texts.is_none() {
            self.mistake(key, format!("expected a text, or a list of at most {MOST} texts, none of them empty"));
        }
        texts
    }

    fn ports(&mut self, table: &Table) -> Option<Vec<u16>> {
        let item = |value: &Value| value.as_integer().and_then(|n| u16::try_from(n).ok());
        let ports = match table.get("port")? {
            Value::Array(items) => items.iter().map(item).collect::<Option<Vec<u16>>>(),
            value => item(value).map(|port| vec![port]),
        };
        let ports = ports.filter(|ports| !ports.is_empty());
        if ports.is_none() {
            self.mistake("port", "expected a number from 0 to 65535, or a list of such".to_owned());
        }
        ports
    }

    /// A date is its whole day, in UTC.
    fn expires(&mut self, table: &Table) -> Option<Ticks> {
        let text = match table.get("expires")? {
            Value::Datetime(at) => at.to_string(),
            Value::String(text) => text.clone(),
            _ => String::new(),
        };
        let day = || Ticks::parse(&format!("{text}T00:00:00Z")).map(|midnight| midnight.plus(Span::days(1)));
        let at = if text.len() == 10 { day() } else { Ticks::parse(&text) };
        if at.is_none() {
            self.mistake("expires", "expected a date such as 2027-03-31, or an instant such as 2027-03-31T18:00:00Z".to_owned());
        }
        at
    }
}

/// A finding that has every field, for checking expressions.
pub(super) fn example() -> serde_json::Value {
    serde_json::json!({
        "schema": crate::finding::json::SCHEMA,
        "finding_id": "16ee7cf2f112e250274f13612c456615",
        "revision": 2,
        "change": "updated",
        "at": "2026-03-01T10:24:11.5Z",
        "tenant_id": "72f988bf-0000-4000-8000-2d7cd011db47",
        "device": {
            "name": "srv-sql-03.corp.example", "id": "8ca1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3", "os_platform": "WindowsServer2019",
            "device_type": "Server", "privileged": false
        },
        "remote": { "ip": "203.0.113.7", "port": 443, "urls": ["update.acme.example"], "urls_truncated": true },
        "first_seen": "2026-03-01T10:20:30.1234567Z",
        "last_seen": "2026-03-01T10:24:11.5Z",
        "count": 2,
        "prevalence": { "devices": 1, "window": "5d", "threshold": 6 },
        "vendors": [{ "company": "Acme Backup", "servers": 3 }],
        "baseline": {
            "previous_seen": "2026-02-01T10:20:30Z", "observed_since": "2026-01-01T00:00:00Z",
            "device_since": "2026-01-02T00:00:00Z", "gap": "2026-01-02T00:00:00Z", "evicted": "2026-01-02T00:00:00Z", "partial_until": "2026-01-02T00:00:00Z",
            "lookback": "14d"
        },
        "late": false,
        "suppressed_by": "another-rule",
        "severity": "medium",
        "attack": crate::finding::json::ATTACK,
        "reason": "srv-sql-03.corp.example (server, Windows Server 2019) ran backupd.exe by Acme Backup.",
        "event": {
            "action": "ConnectionSuccess", "file_name": "backupd.exe", "folder_path": "c:\\program files\\acme\\backupd.exe",
            "command_line": "\"backupd.exe\" --service", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "account": "nt authority\\system", "company": "Acme Backup", "product": "Acme Backup Agent",
            "report_id": 638_412_345_678_901_234_i64
        }
    })
}
