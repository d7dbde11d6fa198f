//! Lines of many files in the order of their arrival.
//!
//! Invariant: of each file only its next line is held, and no more than 128 files are open: those that are not due
//! are opened to look at their first line, closed, and opened again when their turn comes. With one file left there is
//! nothing to compare and nothing is looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::list::{self, Input};
use super::reader::{LineReader, Place, Step};
use super::{FileError, LINE_LIMIT, peek};
use crate::time::Ticks;

/// Files that overlap in time are open together, up to this many; of more, those due last are closed for the time being. Going
/// on in a closed one is a seek, but a compressed one must be decoded again up to its place: right, and slow.
const MOST_OPEN: usize = 128;
const ONE_FILE_BUFFER: usize = 1 << 20;
const MERGE_BUFFER: usize = 128 << 10;

/// A line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Index of the file; [`FileSource::path`] knows its name.
    pub file: u32,
    /// Number of the line in its file, from 1; blank lines count.
    pub number: u64,
    /// The line without its end (`\n` or `\r\n`). Never blank.
    pub bytes: Vec<u8>,
    /// A record without the `records` wrapper.
    pub bare: bool,
}

/// An open file and what waits in it.
#[derive(Debug)]
struct Open {
    reader: LineReader,
    /// Where `waiting` begins: reading goes on there if the file is closed meanwhile.
    before: Place,
    waiting: io::Result<Step>,
    line: Vec<u8>,
    bare: bool,
    /// Arrival of the last line that had one.
    arrival: Ticks,
}

#[derive(Debug)]
enum State {
    /// Not open; what comes next begins here.
    Closed(Place),
    Open(Box<Open>),
    Done,
}

/// Files, directories and standard input as one sequence of lines.
pub struct FileSource {
    inputs: Vec<Input>,
    states: Vec<State>,
    stdin: Option<Box<dyn Read + Send>>,
    line_limit: usize,
    most_open: usize,
    horizon: Ticks,
    started: bool,
    /// One entry for each file in which something waits: the least arrival goes first, then the lower index.
    due: BinaryHeap<Reverse<(Ticks, u32)>>,
    /// The only file left: read straight through.
    last: Option<u32>,
    /// Files that could not be opened when the first lines were looked at; the first of them stands last.
    errors: Vec<FileError>,
    /// Stored bytes of the files that are done.
    finished: u64,
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").field("inputs", &self.inputs).field("due", &self.due.len()).finish_non_exhaustive()
    }
}

impl FileSource {
    /// Finds the files (see [`list::inputs`]); `-` is standard input. Nothing is read yet.
    ///
    /// # Errors
    /// See [`list::inputs`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, FileError> {
        Self::with_stdin(paths, Box::new(io::stdin()))
    }

    /// The same with something else as standard input.
    ///
    /// # Errors
    /// See [`list::inputs`].
    pub fn with_stdin(paths: &[PathBuf], stdin: Box<dyn Read + Send>) -> Result<Self, FileError> {
        let inputs = list::inputs(paths)?;
        Ok(FileSource {
            states: inputs.iter().map(|_| State::Closed(Place::default())).collect(),
            inputs,
            stdin: Some(stdin),
            line_limit: LINE_LIMIT,
            most_open: MOST_OPEN,
            horizon: Ticks::MAX,
            started: false,
            due: BinaryHeap::new(),
            last: None,
            errors: Vec::new(),
            finished: 0,
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
        self.line_limit = bytes;
        self
    }

    /// Another limit of files that are open together than 128; at least two.
    #[must_use]
    pub fn most_open(mut self, files: usize) -> Self {
        self.most_open = files.max(2);
        self
    }

    /// The file with this index, as it was named; `-` is standard input.
    #[must_use]
    pub fn path(&self, file: u32) -> &Path {
        self.inputs.get(file as usize).map_or(Path::new("-"), |input| &input.path)
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

    /// The next line into a buffer that is used again; `None` at the end. After an error reading goes on: [`FileError`] says
    /// what is lost.
    pub fn read(&mut self, line: &mut Line) -> Option<Result<(), FileError>> {
        if !self.started {
            self.start();
        }
        if let Some(error) = self.errors.pop() {
            return Some(Err(error));
        }
        if let Some(file) = self.last {
            return self.read_last(file, line);
        }
        let Reverse((arrival, file)) = self.due.pop()?;
        if let Some(State::Closed(place)) = self.states.get(file as usize) {
            let place = *place;
            self.make_room();
            if let Err(error) = self.open_file(file, place, arrival) {
                return Some(Err(error));
            }
        }
        let result = self.take(file, line);
        if self.due.is_empty() && matches!(self.states.get(file as usize), Some(State::Open(_))) {
            self.last = Some(file);
        } else {
            self.advance(file);
        }
        Some(result)
    }

    /// Looks at each file's first line. A single file is only opened.
    fn start(&mut self) {
        self.started = true;
        let stay = self.inputs.len() <= self.most_open;
        for file in 0..u32::try_from(self.inputs.len()).expect("INV: fewer than 2³² paths fit in memory") {
            match self.open_file(file, Place::default(), Ticks::MIN) {
                Err(error) => self.errors.push(error),
                Ok(()) => {
                    self.enqueue(file);
                    let is_stdin = self.inputs.get(file as usize).is_some_and(Input::is_stdin);
                    if !stay && !is_stdin {
                        self.park(file);
                    }
                }
            }
        }
        self.errors.reverse();
    }

    /// Opens the file and reads what waits at `place`.
    fn open_file(&mut self, file: u32, place: Place, arrival: Ticks) -> Result<(), FileError> {
        let buffer = if self.inputs.len() == 1 { ONE_FILE_BUFFER } else { MERGE_BUFFER };
        let Some((input, state)) = self.inputs.get(file as usize).zip(self.states.get_mut(file as usize)) else { return Ok(()) };
        *state = State::Done;
        let reader = match self.stdin.take_if(|_| input.is_stdin()) {
            Some(stdin) => LineReader::new(stdin, self.line_limit, buffer),
            None => LineReader::open(&input.path, place, self.line_limit, buffer),
        };
        let reader = reader.map_err(|source| FileError::Open { path: input.path.clone(), source })?;
        let mut open = Open { reader, before: place, waiting: Ok(Step::End), line: Vec::new(), bare: false, arrival };
        open.step(self.horizon);
        *state = State::Open(Box::new(open));
        Ok(())
    }

    /// Puts the file in line for what waits in it, or closes it at its end.
    fn enqueue(&mut self, file: u32) {
        let Some(state) = self.states.get_mut(file as usize) else { return };
        let State::Open(open) = state else { return };
        if matches!(open.waiting, Ok(Step::End)) {
            self.finished += open.reader.taken();
            *state = State::Done;
        } else {
            self.due.push(Reverse((open.arrival, file)));
        }
    }

    fn advance(&mut self, file: u32) {
        if let Some(State::Open(open)) = self.states.get_mut(file as usize) {
            open.step(self.horizon);
        }
        self.enqueue(file);
    }

    /// Closes a file for the time being; its place in line stays.
    fn park(&mut self, file: u32) {
        if let Some(state) = self.states.get_mut(file as usize)
            && let State::Open(open) = state
        {
            *state = State::Closed(open.before);
        }
    }

    /// Where as many files are open as may be, closes the one that is due last.
    fn make_room(&mut self) {
        let is_open = |file: u32| {
            let stdin = self.inputs.get(file as usize).is_some_and(Input::is_stdin);
            !stdin && matches!(self.states.get(file as usize), Some(State::Open(_)))
        };
        let open = self.due.iter().filter(|Reverse((_, file))| is_open(*file));
        let (count, last) = open.fold((0, None), |(n, last), Reverse(due)| (n + 1, last.max(Some(*due))));
        if let Some((_, file)) = last.filter(|_| count >= self.most_open) {
            self.park(file);
        }
    }

    /// Hands out what waits in the file, which is open.
    fn take(&mut self, file: u32, line: &mut Line) -> Result<(), FileError> {
        let Some((state, input)) = self.states.get_mut(file as usize).zip(self.inputs.get(file as usize)) else { return Ok(()) };
        let State::Open(open) = state else { return Ok(()) };
        let number = open.reader.place.lines;
        match std::mem::replace(&mut open.waiting, Ok(Step::End)) {
            Ok(Step::Line) => {
                std::mem::swap(&mut line.bytes, &mut open.line);
                (line.file, line.number, line.bare) = (file, number, open.bare);
                Ok(())
            }
            Ok(Step::TooLong) => Err(FileError::LineTooLong { path: input.path.clone(), line: number, limit: self.line_limit }),
            Ok(Step::End) => Ok(()),
            Err(source) => {
                let path = input.path.clone();
                self.finished += open.reader.taken();
                *state = State::Done;
                Err(FileError::Damaged { path, line: number + 1, source })
            }
        }
    }

    /// The only file left: nothing to compare with.
    fn read_last(&mut self, file: u32, line: &mut Line) -> Option<Result<(), FileError>> {
        let Some(State::Open(open)) = self.states.get_mut(file as usize) else { return None };
        match open.reader.read(&mut line.bytes) {
            Ok(Step::Line) => {
                (line.file, line.number, line.bare) = (file, open.reader.place.lines, peek::is_bare(&line.bytes));
                Some(Ok(()))
            }
            other => {
                open.waiting = other;
                if matches!(open.waiting, Ok(Step::End)) {
                    self.enqueue(file);
                    return None;
                }
                Some(self.take(file, line))
            }
        }
    }
}

impl Open {
    /// Reads what comes next and when it arrived. Without a readable time the file's last one stands.
    fn step(&mut self, horizon: Ticks) {
        self.before = self.reader.place;
        self.waiting = self.reader.read(&mut self.line);
        if matches!(self.waiting, Ok(Step::Line)) {
            self.bare = peek::is_bare(&self.line);
            self.arrival = peek::arrival(&self.line, self.bare).filter(|at| *at <= horizon).unwrap_or(self.arrival);
        }
    }
}

impl Iterator for FileSource {
    type Item = Result<Line, FileError>;

    /// As [`FileSource::read`], into a line of its own.
    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Line::default();
        self.read(&mut line).map(|result| result.map(|()| line))
    }
}
