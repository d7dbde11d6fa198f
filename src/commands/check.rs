//! `firstseen check`: is the configuration good, and can its brokers be reached?

use super::config;
use crate::cli;
use crate::host_clock;
use crate::kafka::admin::Admin;
use crate::kafka::source::SourceError;
use crate::service::kafka_settings;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn check(args: &cli::Check) -> anyhow::Result<ExitCode> {
    let config = config(Some(&args.config))?;
    let kafka = kafka_settings(&config);
    kafka.check()?;
    println!("configuration: good");
    if !config.suppress.rules.is_empty() {
        println!("suppression: {} rules", config.suppress.rules.len());
    }
    for rule in config.suppress.rules.expired(host_clock::now()) {
        println!("warning: suppression rule {} of {} has expired: it matches nothing any more", rule.name, rule.owner);
    }
    if args.offline {
        return Ok(ExitCode::SUCCESS);
    }
    let admin = Admin::new(&kafka, Duration::from_secs(10))?;
    for topic in &config.input.topics {
        let partitions = admin.partitions(topic)?.ok_or_else(|| SourceError::MissingTopic { topic: topic.clone() })?;
        println!("input topic {topic}: {} partitions", partitions.len());
    }
    let suppression = config.suppression();
    let outputs = [
        ("output.findings_topic", Some(config.output.findings_topic.as_str())),
        ("output.dead_letter_topic", Some(config.output.dead_letter_topic.as_str())),
        ("output.suppressed_topic", suppression.topic()),
        ("output.grouped_topic", config.grouped_topic()),
    ];
    for (key, topic) in outputs.into_iter().filter_map(|(key, topic)| Some((key, topic?))) {
        match admin.partitions(topic)? {
            Some(partitions) => println!("{key} {topic}: {} partitions", partitions.len()),
            None if config.output.create_topics => println!("{key} {topic}: is not there, run will create it"),
            None => anyhow::bail!("{key}: topic \"{topic}\" does not exist: create it, or set output.create_topics = true"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
