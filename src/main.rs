//! `firstseen`: see `firstseen --help`.

use std::process::ExitCode;

/// Rows come and go by the million, some freed by other threads than made them: this allocator gives their pages back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    firstseen::commands::execute(firstseen::cli::parse())
}
