//! The settings as part of the state: what it was kept by stands in each snapshot, so that a journal is replayed by the numbers that
//! were in force, and what a change of them would need is known before anything is done.

use super::wire::{Get, Put, WireError};
use super::{Limits, Settings};
use crate::time::Span;

/// In the place of a limit: there is none.
const NO_LIMIT: i64 = -1;

impl Settings {
    /// Configuration key and value of each, in the order of the state format; lengths of time in ticks.
    fn numbers(&self) -> [(&'static str, i64); 14] {
        let limit = |limit: Option<u64>| limit.map_or(NO_LIMIT, |n| i64::try_from(n).unwrap_or(i64::MAX));
        [
            ("query.lookback", self.lookback.0),
            ("query.new_within", self.new_within.0),
            ("query.prevalence_window", self.prevalence_window.0),
            ("query.prevalence_below", i64::from(self.prevalence_below)),
            ("query.vendor_servers_below", i64::from(self.vendor_servers_below)),
            ("input.max_clock_skew", self.max_clock_skew.0),
            ("output.update_interval", self.update_interval.0),
            ("limits.urls_per_destination", self.urls_per_destination as i64),
            ("detection.report_late", i64::from(self.report_late)),
            ("detection.warm_up", self.warm_up.0),
            ("detection.track_workstations", i64::from(self.track_workstations)),
            ("limits.tracked_connections", limit(self.limits.tracked_connections)),
            ("limits.state_memory", limit(self.limits.state_memory)),
            ("limits.connections_per_device", i64::from(self.limits.connections_per_device)),
        ]
    }

    /// Configuration key and value of each, as the configuration writes them.
    #[must_use]
    pub fn described(&self) -> Vec<(&'static str, String)> {
        let text = |(key, value): (&'static str, i64)| {
            let text = match key {
                "detection.report_late" | "detection.track_workstations" => (value != 0).to_string(),
                _ if key.starts_with("limits") && value == NO_LIMIT => "none".to_owned(),
                _ if key.ends_with("below") || key.starts_with("limits") => value.to_string(),
                _ => Span(value).to_string(),
            };
            (key, text)
        };
        self.numbers().into_iter().map(text).collect()
    }

    /// As bytes of the state format.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.numbers().into_iter().for_each(|(_, value)| out.put_u64(value as u64));
        out
    }

    /// The reverse of [`Settings::encode`].
    ///
    /// # Errors
    /// When the bytes are not what it writes.
    pub fn decode(bytes: &[u8]) -> Result<Settings, WireError> {
        let mut get = Get(bytes);
        let mut number = || get.u64().map(|v| v as i64);
        let limit = |v: i64| u64::try_from(v).ok();
        let count = |v: i64| u32::try_from(v).map_err(|_| WireError::Invalid("setting"));
        let settings = Settings {
            lookback: Span(number()?),
            new_within: Span(number()?),
            prevalence_window: Span(number()?),
            prevalence_below: count(number()?)?,
            vendor_servers_below: count(number()?)?,
            max_clock_skew: Span(number()?),
            update_interval: Span(number()?),
            urls_per_destination: usize::try_from(number()?).map_err(|_| WireError::Invalid("setting"))?,
            report_late: number()? != 0,
            warm_up: Span(number()?),
            track_workstations: number()? != 0,
            limits: Limits {
                tracked_connections: limit(number()?),
                state_memory: limit(number()?),
                connections_per_device: count(number()?)?,
            },
        };
        if get.is_empty() { Ok(settings) } else { Err(WireError::Invalid("settings")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_survives() {
        // Each value unlike the default and unlike the others.
        let odd = Settings {
            lookback: Span::days(20),
            new_within: Span::days(2),
            prevalence_window: Span::days(3),
            prevalence_below: 7,
            vendor_servers_below: 8,
            max_clock_skew: Span::hours(2),
            update_interval: Span::minutes(3),
            urls_per_destination: 9,
            report_late: false,
            warm_up: Span::days(5),
            track_workstations: false,
            limits: Limits { tracked_connections: Some(10), state_memory: Some(11), connections_per_device: 12 },
        };
        assert_eq!(Settings::decode(&odd.encode()).unwrap(), odd);
        let changed = odd.described().into_iter().zip(Settings::default().described()).filter(|(a, b)| a != b);
        assert_eq!(changed.count(), 14, "{:?}", odd.described());
        assert!(odd.described().contains(&("query.lookback", "20d".to_owned())));
        let short = odd.encode();
        assert!(Settings::decode(&short[1..]).is_err() && Settings::decode(&[short.clone(), short].concat()).is_err());
    }
}
