//! `firstseen`: see `firstseen --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstseen::commands::execute(firstseen::cli::parse())
}
