//! Work spread over threads whose results come out in the order in which it went in.
//!
//! Jobs are dealt to the workers in turn and results collected in turn, over bounded channels: no sorting, no unbounded queue,
//! and a slow end makes the beginning wait.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::thread;
use std::time::Duration;

/// Where jobs go in.
#[derive(Debug)]
pub struct Inlet<J> {
    workers: Vec<Sender<J>>,
    next: usize,
}

/// Where results come out.
#[derive(Debug)]
pub struct Outlet<R> {
    workers: Vec<Receiver<R>>,
    next: usize,
}

/// Starts `workers` threads; `depth` jobs wait before each and as many results behind it. `make` gives each its function.
///
/// # Errors
/// When a thread can't be started.
pub fn spawn<J, R, F>(name: &str, workers: usize, depth: usize, make: impl Fn() -> F) -> io::Result<(Inlet<J>, Outlet<R>)>
where
    J: Send + 'static,
    R: Send + 'static,
    F: FnMut(J) -> R + Send + 'static,
{
    let (mut inlet, mut outlet) = (Inlet { workers: Vec::new(), next: 0 }, Outlet { workers: Vec::new(), next: 0 });
    for number in 0..workers.max(1) {
        let ((jobs_in, jobs), (results, results_out)) = (bounded::<J>(depth), bounded::<R>(depth));
        let mut work = make();
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            for job in jobs {
                // Nobody wants results any more: the stage is being taken down.
                if results.send(work(job)).is_err() {
                    return;
                }
            }
        })?;
        inlet.workers.push(jobs_in);
        outlet.workers.push(results_out);
    }
    Ok((inlet, outlet))
}

impl<J> Inlet<J> {
    /// Gives a job in; waits while the next worker is full. False when the other end is gone.
    pub fn send(&mut self, job: J) -> bool {
        let worker = self.next;
        self.next = (worker + 1) % self.workers.len();
        self.workers.get(worker).is_some_and(|to| to.send(job).is_ok())
    }
}

impl<R> Outlet<R> {
    /// The next result in order, or why there is none.
    ///
    /// # Errors
    /// Nothing came in time, or nothing will come any more.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<R, RecvTimeoutError> {
        let from = self.workers.get(self.next).ok_or(RecvTimeoutError::Disconnected)?;
        let result = from.recv_timeout(timeout)?;
        self.next = (self.next + 1) % self.workers.len();
        Ok(result)
    }

    /// The next result in order; `None` when the inlet is gone and everything has come out.
    pub fn recv(&mut self) -> Option<R> {
        let result = self.workers.get(self.next)?.recv().ok()?;
        self.next = (self.next + 1) % self.workers.len();
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_jobs() {
        for workers in 1..5 {
            let (mut inlet, mut outlet) =
                spawn("test", workers, 2, || |n: u64| (0..n % 7 * 1000).fold(n, |a, _| std::hint::black_box(a))).unwrap();
            let sender = thread::spawn(move || (0..500).all(|n| inlet.send(n)));
            let mut results = Vec::new();
            while let Some(n) = outlet.recv() {
                results.push(n);
            }
            assert!(sender.join().unwrap());
            assert_eq!(results, (0..500).collect::<Vec<_>>());
        }
    }
}
