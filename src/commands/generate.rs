//! `firstseen generate`: a synthetic fleet's messages into a file, a topic, or the files that Azure would write.

use super::{Usage, config, publish_all};
use crate::cli;
use crate::fleet::export::{capture, storage};
use crate::fleet::write::{Compression, write_to};
use crate::fleet::{Attack, Fleet, FleetOptions, Message};
use crate::kafka::sink::Outgoing;
use crate::service::kafka_settings;
use crate::time::{Span, Ticks};
use anyhow::Context;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn generate(args: &cli::Generate) -> anyhow::Result<ExitCode> {
    let mut options =
        FleetOptions { seed: args.seed, devices: args.devices, span: Span::days(i64::from(args.days)), ..FleetOptions::default() };
    options.records_per_device_day = args.rate;
    if args.attack {
        options.attack = Some(Attack { at: options.start.plus(options.span).minus(Span::minutes(10)) });
    }
    let fleet = Fleet::new(&options);
    if args.attack {
        let target =
            fleet.attack().ok_or_else(|| Usage("--attack: this fleet has no server with rare software; use more --devices".to_owned()))?;
        eprintln!(
            "attack: {} to {}:{} ({}), first at {}",
            target.device_name, target.remote_ip, target.remote_port, target.remote_url, target.at
        );
    }
    let (from, to) = (args.from.unwrap_or(Ticks::MIN), args.to.unwrap_or(Ticks::MAX));
    let mut counts = (0, 0);
    let wanted = fleet.filter(|message| (from..to).contains(&message.arrival));
    let counted = wanted.inspect(|message| counts = (counts.0 + 1, counts.1 + message.bytes.len() as u64));
    let (messages, bytes) = match args {
        cli::Generate { out: Some(path), .. } => into_file(path, counted)?,
        cli::Generate { topic: Some(topic), .. } => into_topic(topic, args.config.as_deref(), counted)?,
        cli::Generate { export: Some(directory), .. } => {
            storage(directory, counted).with_context(|| format!("--export {} can't be written", directory.display()))?;
            counts
        }
        cli::Generate { capture: Some(directory), .. } => {
            capture(directory, 4, counted).with_context(|| format!("--capture {} can't be written", directory.display()))?;
            counts
        }
        _ => return Err(Usage("--out, --topic, --export or --capture is needed".to_owned()).into()),
    };
    eprintln!("{messages} messages, {bytes} bytes");
    Ok(ExitCode::SUCCESS)
}

fn into_file(path: &Path, fleet: impl Iterator<Item = Message>) -> anyhow::Result<(u64, u64)> {
    let written = if path.as_os_str() == "-" {
        write_to(&mut BufWriter::new(io::stdout().lock()), fleet, Compression::None)?
    } else {
        let file = File::create(path).with_context(|| format!("--out {} can't be written", path.display()))?;
        write_to(&mut BufWriter::with_capacity(1 << 20, file), fleet, Compression::of(path))?
    };
    Ok((written.messages, written.bytes))
}

fn into_topic(topic: &str, config_path: Option<&Path>, fleet: impl Iterator<Item = Message>) -> anyhow::Result<(u64, u64)> {
    let config = config(config_path)?;
    let kafka = kafka_settings(&config);
    let (mut messages, mut bytes) = (0u64, 0u64);
    let all = fleet.map(|message| {
        bytes += message.bytes.len() as u64;
        messages += 1;
        Outgoing {
            topic: topic.to_owned(),
            // No useful key, as with Defender: messages go round the partitions.
            key: (messages - 1).to_le_bytes().to_vec(),
            headers: Vec::new(),
            payload: message.bytes,
            token: 0,
        }
    });
    publish_all(&kafka, all)?;
    Ok((messages, bytes))
}
