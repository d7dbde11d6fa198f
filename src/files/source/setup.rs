//! A source before and beside its reading: what it is made of, where it goes on, how far it has come.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{FileSource, MOST_OPEN, State};
use crate::files::list;
use crate::files::object::Retry;
use crate::files::open::Options;
use crate::files::reader::Place;
use crate::files::window::Selection;
use crate::files::{FileError, LINE_LIMIT};
use crate::state::history::FilePosition;
use crate::time::Ticks;

impl FileSource {
    /// Finds the files (see [`list::inputs`]); `-` is standard input. Nothing is read yet.
    ///
    /// # Errors
    /// See [`list::inputs`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, FileError> {
        Self::select(paths, Selection::default(), Retry::default())
    }

    /// The same, only what is selected: other records are passed over, other files not looked at. A single tenant that is selected is that
    /// of rows without envelope.
    ///
    /// # Errors
    /// See [`list::inputs`].
    pub fn select(paths: &[PathBuf], selection: Selection, retry: Retry) -> Result<Self, FileError> {
        Self::of(paths, selection, retry, Box::new(io::stdin()))
    }

    /// The same with something else as standard input.
    ///
    /// # Errors
    /// See [`list::inputs`].
    pub fn with_stdin(paths: &[PathBuf], stdin: Box<dyn Read + Send>) -> Result<Self, FileError> {
        Self::of(paths, Selection::default(), Retry::default(), stdin)
    }

    fn of(paths: &[PathBuf], selection: Selection, retry: Retry, stdin: Box<dyn Read + Send>) -> Result<Self, FileError> {
        let inputs = list::inputs(paths, &selection, retry)?;
        let tenant = if let [only] = &selection.tenants[..] { only.clone() } else { String::new() };
        Ok(FileSource {
            states: inputs.iter().map(|_| State::Closed(Place::default())).collect(),
            positions: vec![FilePosition::default(); inputs.len()],
            inputs,
            stdin: Some(stdin),
            options: Options { line_limit: LINE_LIMIT, growing: false, tenant },
            most_open: MOST_OPEN,
            horizon: Ticks::MAX,
            selection,
            started: false,
            due: BinaryHeap::new(),
            last: None,
            errors: Vec::new(),
            finished: 0,
            moved: Vec::new(),
            upcoming: Vec::new(),
            ahead: HashMap::new(),
            unfinished: 0,
        })
    }

    /// Times after this instant order nothing: a single wrong one would hold its whole file back behind all others. Give the
    /// instant from which envelope times are refused.
    #[must_use]
    pub fn horizon(mut self, horizon: Ticks) -> Self {
        self.horizon = horizon;
        self
    }

    /// Another limit of line length than [`LINE_LIMIT`], in bytes.
    #[must_use]
    pub fn line_limit(mut self, bytes: usize) -> Self {
        self.options.line_limit = bytes;
        self
    }

    /// Another limit of files that are open together than 128; at least two.
    #[must_use]
    pub fn most_open(mut self, files: usize) -> Self {
        self.most_open = files.max(2);
        self
    }

    /// Files may still be being written: half a line at the end of one is left for the next time.
    #[must_use]
    pub fn growing(mut self) -> Self {
        self.options.growing = true;
        self
    }

    /// Goes on where an earlier run stopped, by the files' names. Files that were read to their end, and have not grown, are left out.
    ///
    /// # Errors
    /// A file is shorter than what was read of it.
    pub fn resume(mut self, positions: &BTreeMap<String, FilePosition>) -> Result<Self, FileError> {
        for ((input, state), at) in self.inputs.iter().zip(&mut self.states).zip(&mut self.positions) {
            let Some(position) = positions.get(&input.name) else { continue };
            if input.size.is_some_and(|size| size < position.ended) {
                return Err(FileError::Replaced { path: input.path.clone() });
            }
            *at = FilePosition { ended: 0, ..*position };
            *state = State::Closed(Place { lines: position.records, bytes: position.bytes });
            if position.ended > 0 && input.size == Some(position.ended) {
                *state = State::Done;
                self.finished += position.ended;
            } else if position.ended > 0 && position.bytes == 0 {
                // Rows that were sorted with others than now.
                (*at, *state) = (FilePosition::default(), State::Closed(Place::default()));
            }
        }
        Ok(self)
    }

    /// The file with this index, as it was named; `-` is standard input.
    #[must_use]
    pub fn path(&self, file: u32) -> &Path {
        self.inputs.get(file as usize).map_or(Path::new("-"), |input| &input.path)
    }

    /// What the file's position is stored under.
    #[must_use]
    pub fn name(&self, file: u32) -> &str {
        self.inputs.get(file as usize).map_or("-", |input| &input.name)
    }

    /// How many files there are, standard input included.
    #[must_use]
    pub fn files(&self) -> usize {
        self.inputs.len()
    }

    /// Bytes of all files as they are stored; `None` with standard input or pipes among them.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.inputs.iter().map(|input| input.size).sum()
    }

    /// Stored (compressed) bytes taken so far, for a progress bar; read-ahead counts.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        let open = |state: &State| if let State::Open(open) = state { open.reader.taken() } else { 0 };
        self.finished + self.states.iter().map(open).sum::<u64>()
    }

    /// Files whose last line is only half there, and was left.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Where files stand after what was handed out, those that moved since the last call.
    pub fn take_moved(&mut self) -> Vec<(u32, FilePosition)> {
        self.moved.sort_unstable();
        self.moved.dedup();
        let at = |file: u32| Some((file, *self.positions.get(file as usize)?));
        std::mem::take(&mut self.moved).into_iter().filter_map(at).collect()
    }
}
