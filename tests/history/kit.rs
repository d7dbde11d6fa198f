//! What the tests here share: a fleet, its exports, and the program's commands that load and show history.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use firstseen::fleet::{Attack, Fleet, FleetOptions, Message};
use firstseen::time::{Span, Ticks};

/// A small company over 15 days, with an attack on the last.
pub(crate) fn options() -> FleetOptions {
    let (start, span) = (FleetOptions::default().start, Span::days(15));
    FleetOptions {
        seed: 7,
        // Fewer than a destination keeps exactly: beyond that an estimate stands in the state, and it depends on when a row was tidied.
        devices: 60,
        span,
        records_per_device_day: 20.0,
        new_per_server_day: 3.0,
        attack: Some(Attack { at: start.plus(span).minus(Span::hours(3)) }),
        padding: false,
        ..FleetOptions::default()
    }
}

/// The end of the fleet's time.
pub(crate) fn end() -> Ticks {
    options().start.plus(options().span)
}

pub(crate) fn fleet() -> Vec<Message> {
    Fleet::new(&options()).collect()
}

/// What arrives before.
pub(crate) fn before(at: Ticks) -> impl Iterator<Item = Message> {
    Fleet::new(&options()).filter(move |message| message.arrival < at)
}

/// A state directory, and where else a test writes.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Place {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the storage account of this address.
    pub(crate) fn storage(self, address: &str) -> Place {
        self.with("AZURE_STORAGE_USE_EMULATOR", "true").with("AZURITE_BLOB_STORAGE_URL", address)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        let path = self.path("firstseen.toml");
        fs::write(&path, format!("[state]\ndir = \"{}\"\n", self.path("state").display())).unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstseen"));
        command.args(arguments).arg("--config").arg(self.config()).env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `backfill` that must succeed; what it said.
    pub(crate) fn backfill(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["backfill"], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{}: {said}", output.status);
        said
    }

    /// `backfill` that must fail with exit code 1; what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["backfill"], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// `state export`.
    pub(crate) fn export(&self) -> Vec<u8> {
        let output = self.run(&["state", "export"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Names and bytes of all files of the state directory.
    pub(crate) fn state_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path("state"))
            .unwrap()
            .map(Result::unwrap)
            .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The number before this word in what a command said.
pub(crate) fn number(said: &str, after: &str) -> u64 {
    let before = said.split(after).next().filter(|before| before.len() < said.len()).unwrap_or_else(|| panic!("no {after:?} in {said}"));
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}
