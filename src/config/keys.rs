//! The table of configuration keys: path, kind, default and meaning of each. The reader, the defaults, the environment's names and
//! the reference in `docs/configuration.md` all come from this one table, so they can't disagree.

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Non-empty text.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A whole number, bounds included.
    Integer(i64, i64),
    /// A length of time as text: `"14d"`, `"10m"`, `"250ms"`.
    Span,
    /// A list of non-empty texts.
    TextList,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `{ file = "…" }` or `{ env = "NAME" }`.
    Secret,
    /// A table of librdkafka properties.
    Properties,
    /// `"auto"`, `"none"` or a size with its unit.
    StateMemory,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Section and name: `kafka.preset`.
    pub(super) path: &'static str,
    /// What its value may be.
    pub(super) kind: Kind,
    /// The default, as TOML; empty when there is none.
    pub(super) default: &'static str,
    /// What it does, in a sentence of Markdown.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test that keeps docs/configuration.md true reads it"))]
    pub(super) meaning: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning }
}

/// Every key, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    key("kafka.bootstrap_servers", Kind::Text, r#""localhost:9092""#, "Brokers to start from: `host:port`, several separated by commas."),
    key(
        "kafka.preset",
        Kind::Choice(&["kafka", "event-hubs"]),
        r#""kafka""#,
        "`event-hubs` adds the client settings that Azure Event Hubs needs; `kafka.properties` wins over them.",
    ),
    key("kafka.properties", Kind::Properties, "{}", "librdkafka properties, passed through. Passwords and keys only as a secret."),
    key("input.topics", Kind::TextList, r#"["defender"]"#, "Topics with Defender's messages, all partitions of each."),
    key("input.group_id", Kind::Text, r#""firstseen""#, "Consumer group. On Event Hubs group ids span the namespace."),
    key("input.start", Kind::Choice(&["earliest", "latest"]), r#""earliest""#, "Where reading starts when nothing is stored yet."),
    key(
        "input.on_gap",
        Kind::Choice(&["continue", "stop"]),
        r#""continue""#,
        "When messages are gone before they were read: go on, and let findings say so (`baseline.gap`), or end.",
    ),
    key(
        "input.idle_advance",
        Kind::Boolean,
        "true",
        "The wall clock moves the arrival clock while the input is idle. `false` when old data is replayed.",
    ),
    key("input.idle_delay", Kind::Span, r#""10m""#, "How far behind the wall clock the arrival clock is held while the input is idle."),
    key("input.max_clock_skew", Kind::Span, r#""1h""#, "Records whose time runs further ahead than this are dead-lettered."),
    key(
        "input.handover_overlap",
        Kind::Span,
        r#""15m""#,
        "After `backfill`: how long before the end of history the live input is read again.",
    ),
    key("output.findings_topic", Kind::Text, r#""firstseen.findings""#, "Topic for changes of findings."),
    key("output.dead_letter_topic", Kind::Text, r#""firstseen.dead-letter""#, "Topic for records that can't be read."),
    key(
        "output.grouped_topic",
        Kind::Text,
        r#""firstseen.devices""#,
        "Compacted topic for records of devices, written with `query.group_by_device = true`.",
    ),
    key(
        "output.create_topics",
        Kind::Boolean,
        "true",
        "Create the two output topics when they are missing. Always `false` with the `event-hubs` preset: Event Hubs creates none over Kafka.",
    ),
    key(
        "output.format",
        Kind::Choice(&["firstseen", "ocsf", "ecs"]),
        r#""firstseen""#,
        "Form of the findings. `ocsf` and `ecs` are not available yet.",
    ),
    key(
        "output.suppressed",
        Kind::Choice(&["mark", "drop", "topic"]),
        r#""mark""#,
        "What becomes of a change that a suppression rule matches: written with `suppressed_by`; not written unless it ends a finding; or written to `output.suppressed_topic` instead.",
    ),
    key(
        "output.suppressed_topic",
        Kind::Text,
        r#""firstseen.suppressed""#,
        "Topic for suppressed changes, with `output.suppressed = \"topic\"`.",
    ),
    key(
        "output.update_interval",
        Kind::Span,
        r#""1m""#,
        "Least time, on the arrival clock, between an open finding's written changes and its next update; `\"0s\"` writes each.",
    ),
    key(
        "output.settle_delay",
        Kind::Span,
        r#""30s""#,
        "After a crash: how long changes that the dead process may have sent, and that no topic shows yet, are held back before they are written again. New changes don't wait.",
    ),
    key(
        "state.mode",
        Kind::Choice(&["standalone", "cluster"]),
        r#""standalone""#,
        "One process owns all partitions. `cluster` is not available yet.",
    ),
    key("state.dir", Kind::Text, r#""firstseen-state""#, "Directory of snapshots and order journal; one process at a time."),
    key(
        "state.snapshot_interval",
        Kind::Span,
        r#""1m""#,
        "Time of work between snapshots, at least `\"1s\"`. The input topic must keep more than this.",
    ),
    key(
        "http.listen",
        Kind::Text,
        r#""127.0.0.1:9464""#,
        "Address and port of the HTTP endpoint. Beyond loopback it needs `http.api_token`.",
    ),
    key("http.api_token", Kind::Secret, "", "Bearer token of `/api`. `/livez`, `/readyz` and `/metrics` stay open."),
    key(
        "limits.urls_per_destination",
        Kind::Integer(1, 100_000),
        "1000",
        "URLs kept for a destination; beyond it a finding says `urls_truncated`.",
    ),
    key(
        "limits.tracked_connections",
        Kind::Integer(100, 4_000_000_000),
        "",
        "Connections kept of all devices together; beyond it those that were silent longest are evicted ([operations](operations.md#a-limit-is-reached)).",
    ),
    key(
        "limits.state_memory",
        Kind::StateMemory,
        r#""auto""#,
        "Memory that the state is reckoned to take; beyond it as above. `auto` is half of the control group's limit, for `run` and `backfill`; none where it has none.",
    ),
    key(
        "limits.connections_per_device",
        Kind::Integer(100, 100_000_000),
        "250000",
        "Connections kept of one device; beyond it its own that were silent longest are evicted.",
    ),
    key("query.lookback", Kind::Span, r#""14d""#, "How long a connection, a server's DeviceInfo or a vendor counts."),
    key(
        "query.new_within",
        Kind::Span,
        r#""1d""#,
        "A connection is new while its first event is younger than this; shorter than `query.lookback`.",
    ),
    key("query.prevalence_window", Kind::Span, r#""5d""#, "Window of a destination's prevalence and URLs; at most `query.lookback`."),
    key("query.prevalence_below", Kind::Integer(1, 10_000), "6", "A destination is rare while fewer devices than this contacted it."),
    key(
        "query.vendor_servers_below",
        Kind::Integer(1, 10_000),
        "10",
        "A vendor is rare while its software was seen on fewer servers than this.",
    ),
    key(
        "query.group_by_device",
        Kind::Boolean,
        "false",
        "Also write the query's grouped form to `output.grouped_topic`: a record a device with its open findings.",
    ),
    key(
        "detection.report_late",
        Kind::Boolean,
        "true",
        "Report connections first seen in an event that arrived more than `query.new_within` late.",
    ),
    key("detection.warm_up", Kind::Span, r#""0d""#, "Hold a device's findings back until it has been observed this long; `\"0d\"` is off."),
    key(
        "detection.track_workstations",
        Kind::Boolean,
        "true",
        "Keep connections of workstations and macOS devices too, as the query needs when one becomes a server.",
    ),
    key(
        "detection.privileged_servers",
        Kind::TextList,
        "[]",
        "Device names, `*` and `?` allowed, case ignored, whose findings are one severity higher.",
    ),
    key(
        "detection.suppress_file",
        Kind::Text,
        "",
        "File with more `[[suppress]]` tables, read again when it changes ([suppression](suppression.md)).",
    ),
];

impl Kind {
    /// What a value of this kind looks like, for messages and the reference.
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Text => "text in quotes, not empty".into(),
            Kind::Boolean => "true or false".into(),
            Kind::Integer(low, high) => format!("a whole number from {low} to {high}"),
            Kind::Span => r#"a length of time such as "14d", "10m", "1s" or "250ms""#.into(),
            Kind::TextList => r#"a list of texts such as ["one", "two"]"#.into(),
            Kind::Choice(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
            Kind::StateMemory => r#""auto", "none" or a size such as "4GiB" or "512MiB""#.into(),
            Kind::Secret => r#"a secret: { file = "/path" } or { env = "NAME" }"#.into(),
            Kind::Properties => {
                r#"a table of librdkafka properties, each a text, number, boolean or secret ({ file = "/path" } or { env = "NAME" })"#
                    .into()
            }
        }
    }
}

/// The row of a key.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// The known name that is nearest to what was written, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|k| (distance(written, k), k)).min_by_key(|(d, _)| *d).filter(|(d, k)| *d <= 2 + k.len() / 5).map(|(_, k)| k)
}

/// The environment variable that overrides a key.
pub(super) fn variable(path: &str) -> String {
    format!("FIRSTSEEN_{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Levenshtein's edit distance over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(200).enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for ((y, above), pair) in b.iter().zip(row.iter().skip(1)).zip(row.iter()) {
            let left = next.last().copied().unwrap_or(0);
            next.push((pair + usize::from(x != *y)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// The reference table as it stands in `docs/configuration.md`.
#[cfg(test)]
pub(super) fn reference() -> String {
    let mut out = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for k in KEYS {
        let default = if k.default.is_empty() { "none".into() } else { format!("`{}`", k.default) };
        out.push_str(&format!("| `{}` | {} | {default} | {} |\n", k.path, k.kind.expected(), k.meaning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typing_errors_and_nothing_far_off() {
        let paths = || KEYS.iter().map(|k| k.path);
        assert_eq!(nearest("kafka.bootstrap_server", paths()), Some("kafka.bootstrap_servers"));
        assert_eq!(nearest("input.topic", paths()), Some("input.topics"));
        assert_eq!(nearest("something.else_entirely", paths()), None);
    }

    #[test]
    fn distance_is_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn the_reference_document_says_what_the_code_does() {
        let document = include_str!("../../docs/configuration.md");
        assert!(document.contains(&reference()), "docs/configuration.md must hold this table:\n{}", reference());
        let rows = document
            .lines()
            .filter(|l| l.starts_with("| `") && l.contains('.'))
            .filter(|l| find(l.split('`').nth(1).unwrap_or("")).is_none());
        assert_eq!(rows.collect::<Vec<_>>(), Vec::<&str>::new(), "keys in the document that the code does not know");
    }
}
