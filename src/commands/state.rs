//! `firstseen state`: what is in a state directory, for people and scripts. It only reads: a running service isn't disturbed.

use super::config;
use crate::cli::{State, StateDir};
use crate::state::disk::Directory;
use crate::state::inspect::{self, inspect, newest};
use anyhow::Context;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

pub(super) fn state(command: &State) -> anyhow::Result<ExitCode> {
    match command {
        State::Inspect(dir) => {
            let text = serde_json::to_string_pretty(&inspect(&open(dir)?)?)?;
            print(|out| writeln!(out, "{text}"))
        }
        State::Verify(dir) => verify(&open(dir)?),
        State::Export(dir) => {
            let (_, loaded) = newest(&open(dir)?)?;
            print(|out| {
                loaded.detector.export(|line| {
                    out.write_all(line)?;
                    out.write_all(b"\n")
                })
            })
        }
    }
}

pub(super) fn open(dir: &StateDir) -> anyhow::Result<Directory> {
    let path = match &dir.state {
        Some(path) => path.clone(),
        None => config(dir.config.as_deref())?.state.dir,
    };
    Ok(Directory::read_only(&path)?)
}

/// Writes to standard output. A reader that has seen enough ends it without an error.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("standard output can't be written")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(disk: &Directory) -> anyhow::Result<ExitCode> {
    let (mut files, mut damaged) = (0, 0);
    inspect::verify(disk, |verdict| {
        files += 1;
        if verdict.faults.is_empty() {
            println!("{}: good; {}", verdict.name, verdict.found);
        } else {
            damaged += 1;
        }
        for fault in &verdict.faults {
            eprintln!("error: {}: {fault}", verdict.name);
        }
    })?;
    anyhow::ensure!(
        damaged == 0,
        "{damaged} of {files} files are damaged; a start passes over a damaged snapshot when the one before it and its journal are good, and says what to do when not"
    );
    Ok(ExitCode::SUCCESS)
}
