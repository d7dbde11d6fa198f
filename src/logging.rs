//! Logs: to stderr, as text on a terminal and as JSON lines otherwise. ERROR means that data was lost or that an operator must act, WARN
//! that something was recovered, INFO that an action was completed. Data never goes here.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::util::TryInitError;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be read.
    #[error(
        "{origin}: {filter:?} is not a log filter; expected a level (error, warn, info, debug, trace) or target=level pairs such as \"info,firstseen=debug\""
    )]
    Filter {
        /// `--log` or `RUST_LOG`.
        origin: &'static str,
        /// What was given.
        filter: String,
    },
    /// Logging had been set up before.
    #[error("logging is set up twice")]
    Twice(#[from] TryInitError),
}

/// Starts logging for the process. `log` is `--log`; without it `rust_log` (`RUST_LOG`) counts, and without both the number of `-v`:
/// none is INFO, one DEBUG, two TRACE.
///
/// # Errors
/// A filter that can't be read; a second call.
pub fn init(log: Option<&str>, rust_log: Option<&str>, verbose: u8) -> Result<(), LogError> {
    let registry = tracing_subscriber::registry().with(filter(log, rust_log, verbose)?);
    if std::io::stderr().is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init()?;
    } else {
        registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(())
}

fn filter(log: Option<&str>, rust_log: Option<&str>, verbose: u8) -> Result<EnvFilter, LogError> {
    let read = |origin: &'static str, text: &str| {
        EnvFilter::builder().parse(text).map_err(|_| LogError::Filter { origin, filter: text.to_owned() })
    };
    match (log, rust_log.filter(|t| !t.trim().is_empty()), verbose) {
        (Some(text), _, _) => read("--log", text),
        (None, Some(text), _) => read("RUST_LOG", text),
        (None, None, 0) => Ok(EnvFilter::new("info")),
        (None, None, 1) => Ok(EnvFilter::new("info,firstseen=debug")),
        (None, None, _) => Ok(EnvFilter::new("debug,firstseen=trace")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_environment_and_both_over_v() {
        let said = |log, rust_log, v| filter(log, rust_log, v).unwrap().to_string();
        assert_eq!(said(None, None, 0), "info");
        assert_eq!(said(Some("warn"), Some("trace"), 2), "warn");
        assert_eq!(said(None, Some("error"), 2), "error");
        assert!(said(None, Some(" "), 1).contains("firstseen=debug"));
        assert!(said(None, None, 2).contains("firstseen=trace"));
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_its_origin() {
        let text = filter(Some("firstseen=loud"), None, 0).unwrap_err().to_string();
        assert!(text.starts_with("--log: \"firstseen=loud\" is not a log filter; expected a level"), "{text}");
    }
}
