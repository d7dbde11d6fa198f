//! Questions that only the task can answer, asked by others: why a connection is, or is not, a finding.
//!
//! No reader touches the core's state. A question waits in a short queue until the task, between two batches, answers it from its own
//! state; one at a time, so that answers never hold up the input. Whoever asks bounds their patience.

use crate::detector::Detector;
use crate::detector::explain::{Connection, Explanation};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::Duration;
use tokio::sync::oneshot;

/// Questions that may wait.
const WAITING: usize = 4;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Others wait already.
    #[error("too many questions wait already; ask again in a moment")]
    Busy,
    /// The task did not come to it: it starts, replays, or waits for its output.
    #[error("the pipeline did not come to the question in time; /readyz says why, or ask again")]
    Late,
}

/// A connection that somebody asks about.
#[derive(Debug)]
struct Question {
    tenant: String,
    device: String,
    ip: String,
    port: Option<u16>,
    reply: oneshot::Sender<Option<Explanation>>,
}

/// Where questions are asked and taken.
#[derive(Clone, Debug)]
pub struct Questions {
    ask: Sender<Question>,
    asked: Receiver<Question>,
}

impl Default for Questions {
    fn default() -> Self {
        let (ask, asked) = bounded(WAITING);
        Questions { ask, asked }
    }
}

impl Questions {
    /// Asks, and waits for the answer; `None` for a tenant never heard of.
    ///
    /// # Errors
    /// There is no answer, or not in time.
    pub async fn ask(&self, of: &Connection<'_>, within: Duration) -> Result<Option<Explanation>, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let (tenant, device, ip) = (of.tenant.to_owned(), of.device.to_owned(), of.ip.to_owned());
        self.ask.try_send(Question { tenant, device, ip, port: of.port, reply }).map_err(|_| NoAnswer::Busy)?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(NoAnswer::Late),
        }
    }

    /// Answers one question that waits, if any. Those whose asker has gone are passed over.
    pub fn answer_one(&self, detector: &Detector) {
        while let Ok(Question { tenant, device, ip, port, reply }) = self.asked.try_recv() {
            if !reply.is_closed() {
                // The asker may have gone just now.
                let _ = reply.send(detector.explain(&Connection { tenant: &tenant, device: &device, ip: &ip, port }, &[]));
                return;
            }
        }
    }
}
