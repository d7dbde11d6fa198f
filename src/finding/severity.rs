//! How much a finding weighs. The rule is small enough to be explained to whoever asks why one came first: it starts at medium,
//! goes one up when the server is privileged, and one down when the baseline can't vouch for "never before".

use crate::detector::Settings;
use crate::finding::Change;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The baseline is young, or the event was late: look when there is time.
    Low,
    /// A server of no special rank.
    Medium,
    /// A privileged server with a full baseline: look now.
    High,
}

impl Severity {
    /// The word in the output's `severity` field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
        }
    }

    /// The severity of a change's finding.
    ///
    /// Medium; one higher if the device matches `detection.privileged_servers`; one lower if it is late or its baseline is young
    /// ([`baseline_is_young`]).
    #[must_use]
    pub fn of(change: &Change, settings: &Settings, privileged: &Privileged) -> Severity {
        let weak = change.late || baseline_is_young(change, settings);
        match (privileged.contains(&change.device_name), weak) {
            (true, false) => Severity::High,
            (false, true) => Severity::Low,
            (true, true) | (false, false) => Severity::Medium,
        }
    }
}

/// Whether the tenant had been observed for less than `lookback − new_within` when the connection was first seen: then "not seen
/// before" may only mean "not watched before".
#[must_use]
pub fn baseline_is_young(change: &Change, settings: &Settings) -> bool {
    change.first_seen < change.observed_since.plus(settings.lookback.minus(settings.new_within))
}

/// A pattern of `detection.privileged_servers` that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a pattern")]
pub struct PatternError(String);

/// The names of privileged servers.
#[derive(Clone, Debug)]
pub struct Privileged(GlobSet);

impl Privileged {
    /// Compiles name patterns: `*` is any text, `?` any character, case is ignored.
    ///
    /// # Errors
    /// The first pattern that can't be read.
    pub fn new(patterns: &[String]) -> Result<Privileged, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).case_insensitive(true).build().map_err(|_| PatternError(pattern.clone()))?;
            set.add(glob);
        }
        set.build().map(Privileged).map_err(|e| PatternError(e.to_string()))
    }

    /// No privileged servers.
    #[must_use]
    pub fn none() -> Privileged {
        Privileged(GlobSet::empty())
    }

    /// Whether a device is one of them.
    #[must_use]
    pub fn contains(&self, device_name: &str) -> bool {
        self.0.is_match(device_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::json::tests::example;
    use crate::time::Span;

    #[test]
    fn privilege_raises_and_doubt_lowers() {
        let (settings, none) = (Settings::default(), Privileged::none());
        let all = Privileged::new(&["SRV-*.corp.example".into()]).unwrap();
        let change = example();
        let late = Change { late: true, ..change.clone() };
        let young = Change { observed_since: change.first_seen.minus(Span::days(2)), ..change.clone() };
        assert_eq!(Severity::of(&change, &settings, &none), Severity::Medium);
        assert_eq!(Severity::of(&change, &settings, &all), Severity::High);
        assert_eq!(Severity::of(&late, &settings, &none), Severity::Low);
        assert_eq!(Severity::of(&young, &settings, &none), Severity::Low);
        assert_eq!(Severity::of(&young, &settings, &all), Severity::Medium);
    }

    #[test]
    fn a_baseline_is_young_until_exactly_lookback_less_new_within() {
        let settings = Settings::default();
        let at = |age| Change { observed_since: example().first_seen.minus(age), ..example() };
        assert!(!baseline_is_young(&at(Span::days(13)), &settings));
        assert!(baseline_is_young(&at(Span(Span::days(13).0 - 1)), &settings));
    }

    #[test]
    fn patterns_match_whole_names() {
        let p = Privileged::new(&["dc*.corp.example".into(), "srv-?".into()]).unwrap();
        assert!(p.contains("dc01.corp.example") && p.contains("DC.CORP.EXAMPLE") && p.contains("srv-1"));
        assert!(!p.contains("xdc01.corp.example") && !p.contains("srv-10") && !p.contains(""));
        assert!(Privileged::new(&["dc[".into()]).is_err());
    }

    #[test]
    fn no_pattern_makes_matching_long() {
        // Patterns are the operator's, names the input's. Matching is linear in the name whatever the pattern, where one that goes back would
        // not end; a pattern that compiles into too much is refused.
        let name = "a".repeat(100_000);
        for pattern in ["*a".repeat(30) + "b", "*?".repeat(30) + "b", "{a,aa,*a}".repeat(12) + "b", "*".repeat(5_000) + "b"] {
            assert!(!Privileged::new(std::slice::from_ref(&pattern)).unwrap().contains(&name), "{pattern}");
        }
        let refused = Privileged::new(&["{a,b,c,d,e,f,g,h}?*".repeat(200_000)]).unwrap_err().to_string();
        assert!(refused.len() < 10_000_000 && refused.contains("is not a pattern"));
    }
}
