//! How near the limits are, for metrics and logs: a WARN at four fifths of each, and one when connections are evicted. Decides nothing.

use crate::detector::{Limit, Usage};
use crate::metrics::Metrics;

/// Reports for which a device's connections are remembered, and without evictions after which the next one is told again: ten minutes.
const CALM: u32 = 600;

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct LimitWatch {
    near: [bool; 3],
    evicted: [u64; 3],
    /// Reports since connections were evicted last, by limit.
    calm: [Option<u32>; 3],
    /// The most that a device had of late, its name, and for how many reports that stands.
    fullest: (u64, String, u32),
}

impl LimitWatch {
    /// Brings the metrics up to date; what is to be warned of, in words.
    pub(super) fn report(&mut self, usage: Usage, metrics: &Metrics) -> Vec<String> {
        let mut warnings = Vec::new();
        self.fullest.2 += 1;
        if usage.device.0 >= self.fullest.0 || self.fullest.2 > CALM {
            self.fullest = (usage.device.0, usage.device.1, 0);
        }
        let device = Some(usage.device.2).filter(|share| *share > 0);
        let used = [usage.connections, usage.memory, (self.fullest.0, device)];
        let states = self.near.iter_mut().zip(&mut self.evicted).zip(&mut self.calm).zip(usage.evicted);
        for ((limit, (used, most)), (((near, told), calm), evicted)) in Limit::ALL.into_iter().zip(used).zip(states) {
            let whose = if limit == Limit::ConnectionsPerDevice { Some(self.fullest.1.as_str()).filter(|n| !n.is_empty()) } else { None };
            let whose = whose.map_or_else(String::new, |name| format!(" of {name:?}"));
            if let Some(most) = most {
                metrics.set_limit_usage(limit, used as f64 / most.max(1) as f64);
                let is_near = used * 5 >= most * 4;
                if is_near && !*near {
                    warnings.push(format!("limits.{}{whose} is nearly reached: {used} of {most}; beyond it the connections that were silent longest are evicted, and findings that may be wrong for it carry baseline.evicted", limit.as_str()));
                }
                // Not again for each step over the line.
                *near = is_near || (*near && used * 10 >= most * 7);
            }
            let new = evicted.saturating_sub(*told);
            *told = evicted;
            metrics.connections_evicted(limit, new);
            *calm = calm.map(|reports| reports.saturating_add(1));
            if new > 0 {
                if calm.is_none_or(|reports| reports > CALM) {
                    let whose =
                        if limit == Limit::ConnectionsPerDevice { format!(" of {:?}", usage.device_evicted) } else { String::new() };
                    warnings.push(format!("limits.{} is reached: {new} connections{whose} were evicted; findings that may be wrong for it carry baseline.evicted. Raise the limit, or find out what opens so many", limit.as_str()));
                }
                *calm = Some(0);
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_clock::monotonic;

    #[test]
    fn each_limit_is_told_when_it_is_near_and_when_it_is_reached_and_not_every_second() {
        let (mut watch, metrics) = (LimitWatch::default(), Metrics::new(monotonic()));
        let usage = |connections: u64, device: u64, evicted: u64| Usage {
            connections: (connections, Some(1000)),
            memory: (5, None),
            device: (device, "scanner".into(), 100),
            evicted: [0, 0, evicted],
            device_evicted: "scanner".into(),
        };
        assert_eq!(watch.report(usage(799, 10, 0), &metrics), [""; 0]);
        let near = watch.report(usage(800, 80, 0), &metrics);
        assert!(near.len() == 2 && near[0].contains("limits.tracked_connections is nearly reached: 800 of 1000"), "{near:?}");
        assert!(near[1].contains("limits.connections_per_device of \"scanner\" is nearly reached: 80 of 100"), "{near:?}");
        assert_eq!(watch.report(usage(790, 0, 0), &metrics), [""; 0]);
        assert_eq!(watch.report(usage(800, 0, 0), &metrics), [""; 0], "it went no further than just below");
        let reached = watch.report(usage(800, 99, 12), &metrics);
        assert!(
            reached.len() == 1 && reached[0].contains("limits.connections_per_device is reached: 12 connections of \"scanner\""),
            "{reached:?}"
        );
        assert_eq!(watch.report(usage(650, 99, 30), &metrics), [""; 0]);
        assert_eq!(watch.report(usage(900, 99, 30), &metrics).len(), 1, "near again after it was far");
        let text = metrics.text(monotonic());
        assert!(text.contains("firstseen_evicted_connections_total{limit=\"connections_per_device\"} 30"), "{text}");
        assert!(text.contains("firstseen_limit_usage_ratio{limit=\"tracked_connections\"} 0.9"), "{text}");
        assert!(!text.contains("firstseen_limit_usage_ratio{limit=\"state_memory\"}"), "no limit, no ratio");
        for _ in 0..=CALM {
            watch.report(usage(900, 0, 30), &metrics);
        }
        assert_eq!(watch.report(usage(900, 0, 31), &metrics).len(), 1, "told again after a calm");
    }
}
