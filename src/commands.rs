//! The commands, a file each. They wire parts together, speak to people and choose exit codes; they decide nothing else.

mod backfill;
mod backtest;
mod check;
mod dead_letters;
mod demo;
mod explain;
mod generate;
mod run;
mod state;
mod suppress;

use crate::cli::{Cli, Command, Select};
use crate::config::{Config, ConfigErrors, environment};
use crate::files::window::Selection;
use crate::kafka::client::{ClientError, KafkaSettings};
use crate::kafka::sink::{Outgoing, PublishError, Sink, SinkLimits};
use crate::logging;
use crate::service::ServiceError;
use crate::time::Ticks;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Wrong usage or configuration, as opposed to a failure while running.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl From<ConfigErrors> for Usage {
    fn from(errors: ConfigErrors) -> Usage {
        Usage(errors.to_string())
    }
}

/// Loads a configuration; what is wrong with it is wrong usage.
fn config(path: Option<&Path>) -> Result<Config, Usage> {
    Ok(Config::load(path, environment())?)
}

/// What of the input is wanted, as the arguments say.
fn selection(args: &Select) -> Result<Selection, Usage> {
    let selection = Selection { from: args.from.unwrap_or(Ticks::MIN), to: args.to.unwrap_or(Ticks::MAX), tenants: args.tenant.clone() };
    if selection.from >= selection.to {
        return Err(Usage(format!("--from {} is not before --to {}", selection.from, selection.to)));
    }
    Ok(selection)
}

/// Writes messages to a topic; returns once all are acknowledged.
fn publish_all(kafka: &KafkaSettings, messages: impl Iterator<Item = Outgoing>) -> anyhow::Result<()> {
    let sink = Sink::new(kafka, SinkLimits::default())?;
    for (token, message) in (0..).zip(messages) {
        let mut next = Box::new(Outgoing { token, ..message });
        loop {
            match sink.publish(*next) {
                Ok(()) => break,
                Err(PublishError::Full(back)) => {
                    next = back;
                    if let Ok(delivery) = sink.deliveries().recv_timeout(Duration::from_secs(30)) {
                        delivery.result?;
                    }
                }
                Err(PublishError::Refused(_, error)) => return Err(error.into()),
            }
        }
        while let Ok(delivery) = sink.deliveries().try_recv() {
            delivery.result?;
        }
    }
    sink.flush(Duration::from_secs(60))?;
    while let Ok(delivery) = sink.deliveries().try_recv() {
        delivery.result?;
    }
    Ok(())
}

/// Runs the command and gives its exit code: 0 done, 1 failed, 2 wrong usage or configuration.
#[must_use]
pub fn execute(cli: Cli) -> ExitCode {
    let filter = std::env::var("RUST_LOG").ok();
    if let Err(error) = logging::init(cli.log.as_deref(), filter.as_deref(), cli.verbose) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Backfill(args) => backfill::backfill(&args),
        Command::Backtest(args) => backtest::backtest(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Check(args) => check::check(&args),
        Command::DeadLetters(command) => dead_letters::dead_letters(&command),
        Command::State(command) => state::state(&command),
        Command::Explain(args) => explain::explain(&args),
        Command::Suppress(command) => suppress::suppress(&command),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                eprintln!("error: {line}");
            }
            let reserved = matches!(error.downcast_ref(), Some(ServiceError::Client(ClientError::Reserved { .. })))
                || matches!(error.downcast_ref(), Some(ClientError::Reserved { .. }));
            ExitCode::from(if error.is::<Usage>() || reserved { 2 } else { 1 })
        }
    }
}
