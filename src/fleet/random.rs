//! The fleet's own chance: a seeded generator, a mixing hash and a heavy-tailed choice.
//!
//! Invariant: integers only, so that one seed gives the same fleet on every machine and with every compiler. What is drawn
//! from it is decided elsewhere.

/// xoshiro256** (Blackman and Vigna), seeded through [`mix`].
#[derive(Clone, Debug)]
pub(crate) struct Random([u64; 4]);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random([mix(seed, 1), mix(seed, 2), mix(seed, 3), mix(seed, 4)])
    }

    pub(crate) fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        b.wrapping_mul(5).rotate_left(7).wrapping_mul(9)
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        scale(self.next(), n)
    }

    /// True with a probability of `parts` in a million.
    pub(crate) fn chance(&mut self, parts: u64) -> bool {
        self.below(1_000_000) < parts
    }
}

/// Maps a uniform 64-bit value to `0..n` (Lemire's multiply and shift; the bias is below 2⁻³²).
pub(crate) fn scale(value: u64, n: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(n)) >> 64).expect("INV: the upper half of a 128-bit product fits")
}

/// A well-mixed function of two numbers (splitmix64's finaliser): what is derived from it needs no memory.
pub(crate) const fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(32) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Zipf's law over `0..n`: rank k is drawn in proportion to 1 / (k + offset).
#[derive(Debug)]
pub(crate) struct Zipf {
    upto: Vec<u64>,
}

impl Zipf {
    /// `offset` flattens the head; at least 1.
    pub(crate) fn new(n: u32, offset: u64) -> Self {
        let upto = (0..u64::from(n)).scan(0, |sum, k| {
            *sum += (1 << 40) / (k + offset.max(1));
            Some(*sum)
        });
        Zipf { upto: upto.collect() }
    }

    pub(crate) fn pick(&self, random: &mut Random) -> u32 {
        let at = random.below(self.upto.last().copied().unwrap_or(0));
        u32::try_from(self.upto.partition_point(|sum| *sum <= at)).expect("INV: built from a u32 count")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_is_heavy_tailed_and_in_range() {
        let (zipf, mut random) = (Zipf::new(1000, 1), Random::new(7));
        let mut seen = vec![0u32; 1000];
        (0..100_000).for_each(|_| seen[zipf.pick(&mut random) as usize] += 1);
        // H(1000) = 7.485: rank 0 has 13.4 %, rank 1 half of it.
        assert!((12_800..14_000).contains(&seen[0]), "{}", seen[0]);
        assert!((6_300..7_100).contains(&seen[1]), "{}", seen[1]);
        assert!(seen[500..].iter().sum::<u32>() > 8_000);
    }

    #[test]
    fn the_generator_is_pinned() {
        // Values of an independent implementation. A change here changes every fleet that anybody has named by its seed.
        let mut random = Random::new(1);
        assert_eq!([random.next(), random.next(), random.next()], [0x32d1_8d6c_50c3_ba66, 0x3c99_3c06_fee3_0e46, 0xdf05_1c2f_95be_6976]);
        assert!((0..1000).all(|_| random.below(10) < 10));
    }
}
