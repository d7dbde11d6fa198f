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

/// What the task says.
#[derive(Debug)]
pub enum Answer {
    /// Why it is so.
    Explained(Box<Explanation>),
    /// Nothing was heard of the tenant, or of any.
    UnknownTenant,
    /// No tenant was named, and there are several.
    SeveralTenants,
}

/// A connection that somebody asks about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its tenant; `None`: the only one that there is.
    pub tenant: Option<String>,
    /// Device name.
    pub device: String,
    /// Remote address.
    pub ip: String,
    /// Remote port.
    pub port: Option<u16>,
}

#[derive(Debug)]
struct Question {
    of: Subject,
    reply: oneshot::Sender<Answer>,
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
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// There is no answer, or not in time.
    pub async fn ask(&self, of: Subject, within: Duration) -> Result<Answer, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.ask.try_send(Question { of, reply }).map_err(|_| NoAnswer::Busy)?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(NoAnswer::Late),
        }
    }

    /// Answers one question that waits, if any. Those whose asker has gone are passed over.
    pub fn answer_one(&self, detector: &Detector) {
        while let Ok(Question { of, reply }) = self.asked.try_recv() {
            if !reply.is_closed() {
                // The asker may have gone just now.
                let _ = reply.send(answer(&of, detector));
                return;
            }
        }
    }
}

fn answer(of: &Subject, detector: &Detector) -> Answer {
    let mut tenants = detector.clocks().map(|(tenant, _)| tenant);
    let tenant = match (&of.tenant, tenants.next(), tenants.next()) {
        (Some(tenant), _, _) => tenant,
        (None, Some(only), None) => only,
        (None, None, _) => return Answer::UnknownTenant,
        (None, Some(_), Some(_)) => return Answer::SeveralTenants,
    };
    let of = Connection { tenant, device: &of.device, ip: &of.ip, port: of.port };
    detector.explain(&of, &[]).map_or(Answer::UnknownTenant, |said| Answer::Explained(Box::new(said)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::{Body, Record};
    use crate::detector::Settings;
    use crate::time::Ticks;

    #[test]
    fn a_tenant_is_asked_for_only_when_there_are_several() {
        let mut detector = Detector::new(Settings::default());
        let of =
            |tenant: Option<&str>| Subject { tenant: tenant.map(str::to_owned), device: "d".into(), ip: "192.0.2.1".into(), port: None };
        assert!(matches!(answer(&of(None), &detector), Answer::UnknownTenant));
        for tenant in ["a", "b"] {
            let seen = answer(&of(None), &detector);
            assert!(matches!((tenant, seen), ("a", Answer::UnknownTenant) | ("b", Answer::Explained(_))));
            detector.record(&Record { arrival: Ticks(1), tenant, body: Body::Skipped("x") }, &mut Vec::new());
        }
        assert!(matches!(answer(&of(None), &detector), Answer::SeveralTenants));
        assert!(matches!(answer(&of(Some("b")), &detector), Answer::Explained(said) if said.tenant == "b"));
        assert!(matches!(answer(&of(Some("c")), &detector), Answer::UnknownTenant));
    }

    #[test]
    fn few_questions_wait_and_those_whose_asker_is_gone_are_passed_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let questions = Questions::default();
        let of = Subject { tenant: Some("a".into()), device: "d".into(), ip: "192.0.2.1".into(), port: None };
        for _ in 0..WAITING {
            assert!(matches!(runtime.block_on(questions.ask(of.clone(), Duration::ZERO)), Err(NoAnswer::Late)));
        }
        assert!(matches!(runtime.block_on(questions.ask(of.clone(), Duration::ZERO)), Err(NoAnswer::Busy)));
        questions.answer_one(&Detector::new(Settings::default()));
        assert!(questions.asked.is_empty());
    }
}
