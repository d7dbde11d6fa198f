//! What the operators say to each other. In one process the router delivers at once, in order; rows name each other by id.

/// A destination's answer to those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Distinct devices in the prevalence window; exact below the cap.
    pub(crate) prevalence: u32,
    /// Digest of the set of URLs in the window: equal sets, equal digests.
    pub(crate) urls: u64,
}

/// A message between operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// device → vendor: a server with a qualifying event of this vendor in the lookback.
    Join { vendor: u32, device: u32 },
    /// device → vendor: that has ended.
    Leave { vendor: u32, device: u32 },
    /// vendor → device: the vendor counts (or no longer counts) as rare for this member.
    Rare { device: u32, vendor: u32, rare: bool },
    /// vendor → device: a vendor of this member's counts another number of servers; said only where thresholds are many.
    Servers { device: u32 },
    /// device → destination: a candidate wants to hear prevalence and URLs, now and at each change.
    Watch { destination: u32, candidate: u32 },
    /// device → destination: it no longer does.
    Unwatch { destination: u32, candidate: u32 },
    /// destination → device: the answer for a candidate.
    Answer { candidate: u32, answer: Answer },
}
