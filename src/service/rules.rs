//! The thread that looks at the rules file once a second. What changed rules mean is the task's; a file that is wrong changes nothing.

use super::start::spawn;
use super::{ServiceError, Shared};
use crate::config::Config;
use crate::host_clock;
use crate::suppress::Rules;
use crate::suppress::watch::{Look, Watch};
use crossbeam_channel::{Receiver, bounded};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Between two looks; a text must be the same in two to count.
const PERIOD: Duration = Duration::from_secs(1);

/// Starts watching the rules file, if there is one; changed rules come out.
pub(super) fn watch(config: &Config, shared: &Shared) -> Result<Option<Receiver<Rules>>, ServiceError> {
    let Some(path) = config.suppress.file.clone() else { return Ok(None) };
    let mut watch = Watch::new(path, config.suppress.own.clone(), config.suppress.rules.clone());
    let (changed, out) = bounded(1);
    let shared = shared.clone();
    spawn("rules", move || {
        while !shared.stop.load(Ordering::Acquire) {
            thread::park_timeout(PERIOD);
            match watch.look() {
                Look::Same => {}
                Look::New(rules) => {
                    warn_of_expired(&rules);
                    shared.metrics.rules_reloaded(true);
                    // The task is gone: so is the service.
                    if changed.send(rules).is_err() {
                        return;
                    }
                }
                Look::Refused(why) => {
                    shared.metrics.rules_reloaded(false);
                    for line in why.lines() {
                        tracing::warn!(
                            "{line}; the suppression rules before stay in force. Correct the file: it is read again when it changes"
                        );
                    }
                }
            }
        }
    })?;
    Ok(Some(out))
}

/// An expired rule is no mistake: a service must not fail to start because a day has passed. It matches nothing.
pub(super) fn warn_of_expired(rules: &Rules) {
    for rule in rules.expired(host_clock::now()) {
        tracing::warn!(rule = &*rule.name, owner = rule.owner, expires = ?rule.expires, "a suppression rule has expired: it matches nothing any more; renew or remove it");
    }
}
