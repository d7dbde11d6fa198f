//! Files to decoded batches, in order: one thread reads, some decode, whoever asks takes.
//!
//! Invariant: a block's positions are those after its last line, so that whoever has taken blocks up to it may store them beside
//! what came of them. Memory is bounded by the blocks that wait, [`DEPTH`] before and behind each decoder.

use super::{FileError, FileSource, Line};
use crate::defender::batch::Batch;
use crate::defender::decode::{Decoder, Limits};
use crate::stage;
use crate::state::history::FilePosition;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Lines of input that were decoded together.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    /// The lines, by the tags of the batch's messages.
    pub lines: Vec<Place>,
    /// Files that could not be read further, and lines that are too long.
    pub errors: Vec<FileError>,
    /// Files that were read in it, and where they stand after it.
    pub positions: Vec<(u32, FilePosition)>,
    /// Files with half a line at their end, so far.
    pub unfinished: u64,
}

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    end: usize,
    /// Its file.
    pub file: u32,
    /// Its number there, from 1.
    pub number: u64,
    bare: bool,
}

/// A block is closed at this many bytes.
const BLOCK: usize = 1 << 20;
/// What a line takes beside its bytes, at most, in bytes: a dead letter's row. A file may hold lines of one byte.
const LINE: usize = 256;
/// Blocks that wait before and behind each decoder.
const DEPTH: usize = 2;

/// How reading goes, for a progress bar.
#[derive(Clone, Debug, Default)]
pub struct Reading(Arc<AtomicU64>);

impl Reading {
    /// Stored bytes taken so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts reading and decoding.
///
/// # Errors
/// When a thread can't be started.
pub fn start(mut source: FileSource, threads: usize, limits: Limits) -> io::Result<(stage::Outlet<(Block, Batch)>, Reading)> {
    let make = move || {
        let mut decoder = Decoder::new();
        move |block: Block| {
            let (mut batch, mut start) = (Batch::with_room_for(block.bytes.len()), 0);
            for (tag, line) in block.lines.iter().enumerate() {
                let bytes = block.bytes.get(start..line.end).unwrap_or_default();
                if line.bare {
                    batch.push_bare(&mut decoder, tag as u64, bytes, &limits);
                } else {
                    batch.push_message(&mut decoder, tag as u64, bytes, &limits);
                }
                start = line.end;
            }
            // The batch keeps what it needs: the places go on, the bytes don't.
            (Block { bytes: Vec::new(), ..block }, batch)
        }
    };
    let (mut inlet, outlet) = stage::spawn("decode", threads, DEPTH, make)?;
    let reading = Reading::default();
    let read = Arc::clone(&reading.0);
    thread::Builder::new().name("read".to_owned()).spawn(move || {
        let (mut block, mut line) = (Block::default(), Line::default());
        loop {
            let more = match source.read(&mut line) {
                Some(Ok(())) => {
                    block.bytes.extend_from_slice(&line.bytes);
                    block.lines.push(Place { end: block.bytes.len(), file: line.file, number: line.number, bare: line.bare });
                    true
                }
                Some(Err(error)) => {
                    let is_final = error.is_final();
                    block.errors.push(error);
                    !is_final
                }
                None => false,
            };
            if !more || block.bytes.len() + LINE * block.lines.len() >= BLOCK {
                read.store(source.bytes_read(), Ordering::Relaxed);
                (block.positions, block.unfinished) = (source.take_moved(), source.unfinished());
                if !inlet.send(std::mem::take(&mut block)) || !more {
                    return;
                }
                block.bytes.reserve(BLOCK + (64 << 10));
            }
        }
    })?;
    Ok((outlet, reading))
}

/// As many decoding threads as the machine has room for beside the two that read and detect.
#[must_use]
pub fn threads(wanted: Option<u16>) -> usize {
    wanted.map_or_else(|| thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1)), usize::from).max(1)
}
