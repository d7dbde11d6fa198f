//! `firstseen dead-letters`: what the service could not read, for people, and the way back in for what they repaired.

use super::{config, publish_all};
use crate::cli::{DeadLetters, DeadLettersList, DeadLettersReplay};
use crate::defender::batch::{Batch, Item};
use crate::defender::decode::{Decoder, Limits};
use crate::host_clock;
use crate::kafka::readback::{Record, read_to_end};
use crate::kafka::sink::Outgoing;
use crate::service::kafka_settings;
use crate::time::Span;
use anyhow::{Context, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A dead letter as a line of JSON.
#[derive(Debug, Deserialize, Serialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    /// Position in `records`; absent for a whole message.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<u32>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    error: String,
    /// Its own bytes; absent where they are no text, or were too large for the dead-letter topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Line {
    /// `None`: not a dead letter of this service.
    fn of(record: &Record<'_>) -> Option<Line> {
        let text = |name: &str| record.header(name).and_then(|v| std::str::from_utf8(v).ok());
        let value = std::str::from_utf8(record.payload).ok().filter(|_| record.header("value-omitted").is_none());
        Some(Line {
            topic: text("source-topic")?.to_owned(),
            partition: text("source-partition")?.parse().ok()?,
            offset: text("source-offset")?.parse().ok()?,
            record: text("source-record").and_then(|n| n.parse().ok()),
            reason: text("reason").unwrap_or_default().to_owned(),
            error: text("error").unwrap_or_default().to_owned(),
            value: value.map(str::to_owned),
        })
    }
}

pub(super) fn dead_letters(command: &DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        DeadLetters::List(args) => list(args),
        DeadLetters::Replay(args) => replay(args),
    }
}

fn list(args: &DeadLettersList) -> anyhow::Result<ExitCode> {
    let config = config(Some(&args.config))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut listed, mut written) = (0u64, Ok(()));
    read_to_end(&kafka_settings(&config), &config.output.dead_letter_topic, &BTreeMap::new(), PATIENCE, |record| {
        let Some(line) = Line::of(&record).filter(|line| args.reason.as_ref().is_none_or(|reason| *reason == line.reason)) else { return };
        listed += 1;
        if written.is_ok() {
            written = serde_json::to_writer(&mut out, &line).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
        }
    })?;
    match written.and_then(|()| out.flush()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("standard output can't be written")?,
    }
    eprintln!("{listed} dead letters");
    Ok(ExitCode::SUCCESS)
}

/// All or nothing: what can't be read now either is told by line, and nothing is written.
fn replay(args: &DeadLettersReplay) -> anyhow::Result<ExitCode> {
    let config = config(Some(&args.config))?;
    let input: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&args.file).with_context(|| format!("{} can't be read", args.file.display()))?))
    };
    let mut messages = Vec::new();
    for (number, text) in (1..).zip(input.lines()) {
        let text = text.with_context(|| format!("line {number} can't be read"))?;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text).with_context(|| format!("line {number} is no line of `dead-letters list`"))?;
        ensure!(
            config.input.topics.contains(&line.topic),
            "line {number}: topic {:?} is none of input.topics; nothing was written",
            line.topic
        );
        let value = line.value.ok_or_else(|| anyhow!("line {number} has no value; nothing was written"))?;
        let payload = if line.record.is_some() { format!("{{\"records\":[{value}]}}") } else { value };
        if let Some(error) = refused(payload.as_bytes(), config.input.max_clock_skew) {
            anyhow::bail!("line {number} is still not readable: {error}; repair its value, nothing was written");
        }
        let key = format!("{}/{}/{}", line.topic, line.partition, line.offset).into_bytes();
        messages.push(Outgoing { topic: line.topic, key, headers: Vec::new(), payload: payload.into_bytes(), token: 0 });
    }
    let written = messages.len();
    publish_all(&kafka_settings(&config), messages.into_iter())?;
    eprintln!("{written} messages written to the input");
    Ok(ExitCode::SUCCESS)
}

/// Why the service would refuse the message, or a record of it.
fn refused(payload: &[u8], max_clock_skew: Span) -> Option<String> {
    let (mut batch, mut decoder) = (Batch::new(), Decoder::new());
    let limits = Limits { independent_clock: Some(host_clock::now()), max_clock_skew };
    batch.push_message(&mut decoder, 0, payload, &limits);
    batch.items().find_map(|item| match item {
        Item::Dead { error, .. } => Some(error),
        Item::Message { .. } | Item::Record { .. } => None,
    })
}
