//! A blob's bytes in order, fetched in parts: several at once, in bounded memory, without a temporary file.
//!
//! Invariant: a download that nobody reads holds at most a part that is ready, one that waits to be handed over, and those for which it
//! got room among all downloads. One part at a time is always allowed, so no download waits for another.

use super::{AHEAD_OF_ONE, Object, ObjectError, PART};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A blob being fetched.
pub(in super::super) struct Download {
    parts: mpsc::Receiver<Result<bytes::Bytes, ObjectError>>,
    part: bytes::Bytes,
    /// Said once more to whoever goes on reading.
    failed: Option<ObjectError>,
}

impl Download {
    pub(super) fn begin(object: Object, from: u64) -> Download {
        let (send, parts) = mpsc::channel(1);
        let bucket = Arc::clone(&object.bucket);
        bucket.runtime.spawn(fetch(object, from, send));
        Download { parts, part: bytes::Bytes::new(), failed: None }
    }
}

async fn fetch(object: Object, from: u64, to: mpsc::Sender<Result<bytes::Bytes, ObjectError>>) {
    let (mut next, mut under_way) = (from, VecDeque::new());
    loop {
        while next < object.size && under_way.len() < AHEAD_OF_ONE {
            let room = if under_way.is_empty() { None } else { Arc::clone(&object.bucket.ahead).try_acquire_owned().ok() };
            if room.is_none() && !under_way.is_empty() {
                break;
            }
            let (begins, ends) = (next, (next + PART).min(object.size));
            let object = object.clone();
            under_way.push_back((tokio::spawn(async move { object.bucket.part(&object.path, begins, ends).await }), room));
            next = ends;
        }
        let Some((job, room)) = under_way.pop_front() else { return };
        // A job is never aborted; a panic in it is reported where it happens.
        let part = job.await.unwrap_or_else(|_| Err(ObjectError::Gone { name: object.name() }));
        let failed = part.is_err();
        if to.send(part).await.is_err() || failed {
            return;
        }
        drop(room);
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            if let Some(error) = &self.failed {
                return Err(io::Error::other(error.clone()));
            }
            match self.parts.blocking_recv() {
                Some(Ok(part)) => self.part = part,
                Some(Err(error)) => self.failed = Some(error),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.part.len());
        let (head, target) = (self.part.split_to(n), buffer.get_mut(..n));
        target.map_or(Ok(0), |target| {
            target.copy_from_slice(&head);
            Ok(n)
        })
    }
}
