//! What a start does when the brokers that it must ask are away: an outage that is passing is ridden out, a mistake is not.
//!
//! Which errors are an outage is [`ServiceError::is_an_outage`]'s to say: no broker answers, or one that must (a leader) has just gone.
//! A cluster that was never reached, and whose address may be wrong, ends the start; one that answered before is waited for.

use super::{ServiceError, Shared};
use crate::host_clock;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The rest after the first question that was not answered; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// The longest rest between two questions.
const LONGEST: Duration = Duration::from_secs(15);
/// How soon a stop is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Asks brokers at a start.
#[derive(Clone)]
pub(super) struct Asking {
    shared: Shared,
    /// The cluster is known to be the right one: it answered before, in this start or an earlier one.
    waits: bool,
    first: Duration,
}

impl Asking {
    /// `known` says that an earlier start had its answers.
    pub(super) fn new(shared: &Shared, known: bool) -> Asking {
        Asking { shared: shared.clone(), waits: known, first: FIRST }
    }

    /// The cluster has answered.
    pub(super) fn known(self) -> Asking {
        Asking { waits: true, ..self }
    }

    /// Asks until there is an answer, or a refusal. While brokers are away the service is not ready, and says why.
    ///
    /// # Errors
    /// The answer is an error; or a stop was asked for meanwhile.
    pub(super) fn ask<T>(&self, mut question: impl FnMut() -> Result<T, ServiceError>) -> Result<T, ServiceError> {
        let mut rest = self.first;
        let mut waited = false;
        loop {
            let error = match question() {
                Err(error) if self.waits && error.is_an_outage() => error,
                outcome => {
                    if waited {
                        tracing::info!("the brokers answer; the start goes on");
                        self.shared.health.go_on();
                    }
                    return outcome;
                }
            };
            waited = true;
            let seconds = rest.as_secs_f64();
            tracing::warn!(%error, seconds, "the start waits for the brokers, and asks again");
            self.shared.metrics.start_waited();
            self.shared.health.hold_up(format!("the start waits for the brokers: {error}"));
            let until = host_clock::monotonic() + rest;
            while host_clock::monotonic() < until {
                if self.shared.stop.load(Ordering::Acquire) {
                    return Err(ServiceError::Stopped);
                }
                std::thread::park_timeout(TICK.min(rest));
            }
            rest = (rest * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::client::ClientError;
    use crate::kafka::readback::ReadbackError;
    use rdkafka::error::RDKafkaErrorCode;

    fn unreachable() -> ServiceError {
        let (bootstrap_servers, reason) = ("b:1".to_owned(), "connection refused".to_owned());
        ClientError::Unreachable { bootstrap_servers, waited: Duration::from_secs(10), reason }.into()
    }

    fn stalled() -> ServiceError {
        let (topic, reason) = ("findings".to_owned(), "no leader".to_owned());
        ReadbackError::Stalled { topic, waited: Duration::from_secs(10), reason }.into()
    }

    fn asking(shared: &Shared, known: bool) -> Asking {
        Asking { first: Duration::ZERO, ..Asking::new(shared, known) }
    }

    #[test]
    fn an_outage_of_a_known_cluster_is_waited_for_and_told() {
        let shared = Shared::default();
        shared.health.set_ready();
        let mut errors = vec![
            unreachable(),
            stalled(),
            ReadbackError::Client(ClientError::Unreachable {
                bootstrap_servers: "b:1".to_owned(),
                waited: Duration::from_secs(10),
                reason: "x".to_owned(),
            })
            .into(),
        ];
        let mut unready = 0;
        let answer = asking(&shared, false).known().ask(|| {
            unready += usize::from(shared.health.not_ready().is_some_and(|reason| reason.contains("the start waits for the brokers")));
            errors.pop().map_or(Ok(7), Err)
        });
        assert_eq!((answer.unwrap(), unready), (7, 3));
        assert_eq!(shared.health.not_ready(), None, "it goes on");
        assert!(shared.metrics.text(host_clock::monotonic()).contains("firstseen_start_waits_total 3"));
    }

    #[test]
    fn a_cluster_that_never_answered_and_a_mistake_end_the_start() {
        let shared = Shared::default();
        assert!(asking(&shared, false).ask::<()>(|| Err(unreachable())).unwrap_err().is_an_outage());
        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
        for mistake in [
            ClientError::Credentials { reason: "x".to_owned() },
            ClientError::Forbidden { topic: "t".to_owned() },
            ClientError::Answer { topic: "t".to_owned(), code },
        ] {
            let mut asked = 0;
            let outcome = asking(&shared, true).ask::<()>(|| {
                asked += 1;
                Err(mistake.clone().into())
            });
            assert!(outcome.is_err() && asked == 1, "{mistake}");
        }
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let shared = Shared::default();
        shared.request_stop();
        let asking = Asking { first: Duration::from_secs(3600), ..Asking::new(&shared, true) };
        assert!(matches!(asking.ask::<()>(|| Err(unreachable())), Err(ServiceError::Stopped)));
    }
}
