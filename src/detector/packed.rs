//! Instants in seven bytes, for rows of which there are millions.

use crate::time::Ticks;

/// An instant from 1856 to 2084, to the tick; what lies outside is taken for the nearest of these. Arrival clocks are held to
/// the host's or the broker's clock, and event times to the arrival clock, so none lies outside that could be in a window.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Packed([u8; 7]);

const GREATEST: i64 = (1 << 55) - 1;

impl Packed {
    pub(crate) const GREATEST: Packed = Packed([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);

    #[inline]
    pub(crate) fn new(t: Ticks) -> Packed {
        let [a, b, c, d, e, f, g, _] = t.0.clamp(-GREATEST - 1, GREATEST).to_le_bytes();
        Packed([a, b, c, d, e, f, g])
    }

    #[inline]
    pub(crate) fn ticks(self) -> Ticks {
        let [a, b, c, d, e, f, g] = self.0;
        // The sign comes back with the shift.
        Ticks(i64::from_le_bytes([0, a, b, c, d, e, f, g]) >> 8)
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ticks().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_of_our_time_survive_to_the_tick() {
        for t in [0, 1, -1, 17_672_256_123_456_789, -17_672_256_123_456_789, GREATEST, -GREATEST - 1] {
            assert_eq!(Packed::new(Ticks(t)).ticks(), Ticks(t));
        }
        assert_eq!(Packed::new(Ticks::MIN).ticks(), Ticks(-GREATEST - 1));
        assert_eq!(Packed::new(Ticks::MAX).ticks(), Ticks(GREATEST));
        assert_eq!(Packed::new(Ticks::MAX), Packed::GREATEST);
        assert_eq!(size_of::<(u8, Packed)>(), 8);
    }
}
