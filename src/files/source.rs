//! Lines of many files in the order of their arrival.
//!
//! Invariants: of each file only its next line is held, and no more than 128 files are open: those that are not due
//! are opened to look at their first line, closed, and opened again when their turn comes. A file whose path says when it begins is
//! opened no earlier than that. The order follows from names and bytes alone: begun again from stored positions, what comes is what
//! would have come. With one file left there is nothing to compare and nothing is looked at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read};

use super::list::Input;
use super::object::Download;
use super::open::{Options, Reader};
use super::reader::{Place, Step};
use super::window::Selection;
use super::{FileError, peek, rows};
use crate::state::history::FilePosition;
use crate::time::Ticks;

mod setup;

/// Files that overlap in time are open together, up to this many; of more, those due last are closed for the time being. Going
/// on in a closed one is a seek, but a compressed one must be decoded again up to its place: right, and slow.
const MOST_OPEN: usize = 128;
const ONE_FILE_BUFFER: usize = 1 << 20;
const MERGE_BUFFER: usize = 128 << 10;
/// Blobs that are due next and whose download is begun.
const FETCHED_AHEAD: usize = 8;

/// A line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Index of the file; [`FileSource::path`] knows its name.
    pub file: u32,
    /// Number of the line in its file, from 1; blank lines count. Of Avro and rows: of the message or row.
    pub number: u64,
    /// The line without its end (`\n` or `\r\n`). Never blank; a message of Capture may be empty.
    pub bytes: Vec<u8>,
    /// A record without the `records` wrapper.
    pub bare: bool,
}

/// An open file and what waits in it.
#[derive(Debug)]
struct Open {
    reader: Reader,
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

/// Files, directories, containers and standard input as one sequence of lines.
pub struct FileSource {
    inputs: Vec<Input>,
    states: Vec<State>,
    stdin: Option<Box<dyn Read + Send>>,
    options: Options,
    most_open: usize,
    horizon: Ticks,
    selection: Selection,
    started: bool,
    /// One entry for each file in which something waits: the least arrival goes first, then the lower index.
    due: BinaryHeap<Reverse<(Ticks, u32)>>,
    /// The only file left: read straight through.
    last: Option<u32>,
    /// Files that could not be opened when the first lines were looked at; the first of them stands last.
    errors: Vec<FileError>,
    /// Stored bytes of the files that are done.
    finished: u64,
    /// Where files stand after what was handed out, and those that moved since they were asked for.
    positions: Vec<FilePosition>,
    moved: Vec<u32>,
    /// Blobs in the order of their beginnings, and downloads begun.
    upcoming: Vec<u32>,
    ahead: HashMap<u32, Download>,
    unfinished: u64,
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").field("inputs", &self.inputs).field("due", &self.due.len()).finish_non_exhaustive()
    }
}

impl FileSource {
    /// The next line into a buffer that is used again; `None` at the end. After an error reading goes on: [`FileError`] says
    /// what is lost.
    pub fn read(&mut self, line: &mut Line) -> Option<Result<(), FileError>> {
        if !self.started {
            self.start();
        }
        loop {
            if let Some(error) = self.errors.pop() {
                return Some(Err(error));
            }
            if let Some(file) = self.last {
                return self.read_last(file, line);
            }
            let Reverse((_, file)) = self.due.pop()?;
            if let Some(State::Closed(place)) = self.states.get(file as usize) {
                let place = *place;
                self.make_room();
                if let Err(error) = self.open_file(file, place) {
                    return Some(Err(error));
                }
                // What waits in it says when it is due.
                self.enqueue(file);
                continue;
            }
            let passed_over = self.is_passed_over(file);
            let result = self.take(file, line);
            if self.due.is_empty() && !self.selection.has_range() && matches!(self.states.get(file as usize), Some(State::Open(_))) {
                self.last = Some(file);
            } else {
                self.advance(file);
            }
            if !passed_over {
                return Some(result);
            }
        }
    }

    /// Looks at each file's first line, unless its path says when it begins. A single file is only opened.
    fn start(&mut self) {
        self.started = true;
        let stay = self.inputs.len() <= self.most_open;
        for file in 0..u32::try_from(self.inputs.len()).expect("INV: fewer than 2³² paths fit in memory") {
            let Some((input, State::Closed(place))) = self.inputs.get(file as usize).zip(self.states.get(file as usize)) else { continue };
            let (place, begins, is_stdin) = (*place, input.begins, input.is_stdin());
            if place == Place::default() && begins != Ticks::MIN {
                self.due.push(Reverse((begins, file)));
                if input.object.is_some() {
                    self.upcoming.push(file);
                }
                continue;
            }
            match self.open_file(file, place) {
                Err(error) => self.errors.push(error),
                Ok(()) => {
                    self.enqueue(file);
                    let all_held =
                        matches!(self.states.get(file as usize), Some(State::Open(open)) if matches!(open.reader, Reader::Rows(_)));
                    if !is_stdin && (!stay || all_held) {
                        self.park(file);
                    }
                }
            }
        }
        self.errors.reverse();
        let begins = |file: &u32| self.inputs.get(*file as usize).map(|input| input.begins);
        self.upcoming.sort_by_key(|file| Reverse((begins(file), *file)));
        self.fetch_ahead();
    }

    /// Begins the downloads of the blobs that are due next.
    fn fetch_ahead(&mut self) {
        while self.ahead.len() < FETCHED_AHEAD
            && let Some(file) = self.upcoming.pop()
        {
            if let Some(object) = self.inputs.get(file as usize).and_then(|input| input.object.as_ref()) {
                self.ahead.insert(file, object.read(0));
            }
        }
    }

    /// Opens the file and reads what waits at `place`.
    fn open_file(&mut self, file: u32, place: Place) -> Result<(), FileError> {
        let buffer = if self.inputs.len() == 1 { ONE_FILE_BUFFER } else { MERGE_BUFFER };
        let begun = self.ahead.remove(&file);
        if self.inputs.get(file as usize).is_some_and(|input| input.object.is_some()) {
            self.fetch_ahead();
        }
        let Some((input, state)) = self.inputs.get(file as usize).zip(self.states.get_mut(file as usize)) else { return Ok(()) };
        *state = State::Done;
        let reader = match self.stdin.take_if(|_| input.is_stdin()) {
            Some(stdin) => Reader::of_stream(input, stdin, &self.options, buffer),
            None => Reader::open(input, place, &self.options, buffer, begun),
        };
        let reader = reader.map_err(|source| FileError::opening(&input.path, source))?;
        if matches!(reader, Reader::Rows(_)) && self.options.tenant.is_empty() && self.options.growing {
            return Err(FileError::NoTenant { path: input.path.clone() });
        }
        let arrival = self.positions.get(file as usize).map_or(Ticks::MIN, |at| at.arrival);
        let mut open = Open { reader, before: place, waiting: Ok(Step::End), line: Vec::new(), bare: false, arrival };
        open.step(self.horizon, &self.options.tenant);
        *state = State::Open(Box::new(open));
        Ok(())
    }

    /// Puts the file in line for what waits in it, or closes it at its end.
    fn enqueue(&mut self, file: u32) {
        let Some(state) = self.states.get_mut(file as usize) else { return };
        let State::Open(open) = state else { return };
        match open.waiting {
            Ok(Step::End | Step::Unfinished) => {
                self.unfinished += u64::from(matches!(open.waiting, Ok(Step::Unfinished)));
                let (place, size) = (open.reader.place(), self.inputs.get(file as usize).and_then(|input| input.size));
                self.finished += open.reader.taken();
                *state = State::Done;
                self.moved_to(file, place, None, size.unwrap_or(0));
            }
            // The rest is for another run.
            Ok(Step::Line) if open.arrival >= self.selection.to && self.selection.to != Ticks::MAX => {
                self.finished += open.reader.taken();
                *state = State::Done;
            }
            _ => self.due.push(Reverse((open.arrival, file))),
        }
    }

    fn moved_to(&mut self, file: u32, place: Place, arrival: Option<Ticks>, ended: u64) {
        if let Some(at) = self.positions.get_mut(file as usize) {
            *at = FilePosition { bytes: place.bytes, records: place.lines, arrival: arrival.unwrap_or(at.arrival), ended };
            if self.moved.last() != Some(&file) {
                self.moved.push(file);
            }
        }
    }

    fn advance(&mut self, file: u32) {
        if let Some(State::Open(open)) = self.states.get_mut(file as usize) {
            open.step(self.horizon, &self.options.tenant);
        }
        self.enqueue(file);
    }

    /// Whether what waits in the file arrived before what is selected.
    fn is_passed_over(&self, file: u32) -> bool {
        let Some(State::Open(open)) = self.states.get(file as usize) else { return false };
        matches!(open.waiting, Ok(Step::Line)) && open.arrival < self.selection.from
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
        let (place, arrival) = (open.reader.place(), open.arrival);
        let result = match std::mem::replace(&mut open.waiting, Ok(Step::End)) {
            Ok(Step::Line) => {
                std::mem::swap(&mut line.bytes, &mut open.line);
                (line.file, line.number, line.bare) = (file, place.lines, open.bare);
                Ok(())
            }
            Ok(Step::TooLong) => {
                Err(FileError::LineTooLong { path: input.path.clone(), line: place.lines, limit: self.options.line_limit })
            }
            Ok(Step::End | Step::Unfinished) => return Ok(()),
            Err(source) => {
                let path = input.path.clone();
                self.finished += open.reader.taken();
                *state = State::Done;
                return Err(FileError::reading(path, place.lines + 1, source));
            }
        };
        self.moved_to(file, place, Some(arrival), 0);
        result
    }

    /// The only file left: nothing to compare with.
    fn read_last(&mut self, file: u32, line: &mut Line) -> Option<Result<(), FileError>> {
        let Some(State::Open(open)) = self.states.get_mut(file as usize) else { return None };
        match open.reader.read(&mut line.bytes) {
            Ok(Step::Line) => {
                let (place, bare) = (open.reader.place(), form(&mut line.bytes, &mut open.line, &self.options.tenant));
                (line.file, line.number, line.bare) = (file, place.lines, bare);
                self.moved_to(file, place, None, 0);
                Some(Ok(()))
            }
            other => {
                open.waiting = other;
                if matches!(open.waiting, Ok(Step::End | Step::Unfinished)) {
                    self.enqueue(file);
                    return None;
                }
                Some(self.take(file, line))
            }
        }
    }
}

/// Whether the line is a bare record; a row without envelope is made one.
fn form(line: &mut Vec<u8>, scratch: &mut Vec<u8>, tenant: &str) -> bool {
    match peek::form(line) {
        peek::Form::Message => false,
        peek::Form::Bare => true,
        peek::Form::Row => {
            scratch.clear();
            rows::wrap(line, tenant, scratch);
            std::mem::swap(line, scratch);
            true
        }
    }
}

impl Open {
    /// Reads what comes next and when it arrived. Without a readable time the file's last one stands.
    fn step(&mut self, horizon: Ticks, tenant: &str) {
        self.before = self.reader.place();
        self.waiting = self.reader.read(&mut self.line);
        if matches!(self.waiting, Ok(Step::Line)) {
            self.bare = form(&mut self.line, &mut Vec::new(), tenant);
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
