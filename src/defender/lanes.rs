//! The scanner's inner loop: where in sixteen bytes of a string something other than plain text comes.
//!
//! Invariant: every way to find it finds the same. `safe_arch` wraps the SSE2 instructions without `unsafe` here; there is no
//! step to wider ones, since choosing those while running needs it.

/// Bytes looked at in one step. Twice as many were measured to be slower: most strings and gaps between escapes are short.
pub(super) const LANES: usize = 16;

/// Position of the first quote, backslash or control character in the chunk. SSE2 belongs to every x86-64.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn first_special(chunk: &[u8; LANES]) -> Option<usize> {
    use safe_arch::{bitor_m128i, cmp_eq_mask_i8_m128i, load_unaligned_m128i, min_u8_m128i, move_mask_i8_m128i, set_splat_i8_m128i};
    let bytes = load_unaligned_m128i(chunk);
    let quotes = cmp_eq_mask_i8_m128i(bytes, set_splat_i8_m128i(b'"' as i8));
    let backslashes = cmp_eq_mask_i8_m128i(bytes, set_splat_i8_m128i(b'\\' as i8));
    let controls = cmp_eq_mask_i8_m128i(min_u8_m128i(bytes, set_splat_i8_m128i(0x1f)), bytes);
    let mask = move_mask_i8_m128i(bitor_m128i(bitor_m128i(quotes, backslashes), controls));
    (mask != 0).then(|| mask.trailing_zeros() as usize)
}

/// The same in machine words, for other processors.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline]
pub(super) fn first_special_by_words(chunk: &[u8; LANES]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // The lowest byte marked is exact: a subtraction can borrow only from the bytes above one that is marked rightly.
    let marks = |bytes: u64| {
        let quotes = (bytes ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslashes = (bytes ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let controls = bytes.wrapping_sub(ONES * 0x20);
        (quotes | backslashes | controls) & !bytes & HIGHS
    };
    let bits = u128::from_le_bytes(*chunk);
    let (low, high) = (marks(bits as u64), marks((bits >> 64) as u64));
    match (low, high) {
        (0, 0) => None,
        (0, _) => Some(8 + high.trailing_zeros() as usize / 8),
        _ => Some(low.trailing_zeros() as usize / 8),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use first_special_by_words as first_special;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_special_byte_is_found_by_words_as_by_lanes() {
        for byte in 0..=255u8 {
            for place in 0..LANES {
                for rest in [b' ', 0x7F, 0x80, 0xFF, b'!', b'#', b'[', b']'] {
                    let mut chunk = [rest; LANES];
                    chunk[place] = byte;
                    let expected = (byte < 0x20 || byte == b'"' || byte == b'\\').then_some(place);
                    assert_eq!(first_special(&chunk), expected, "{chunk:?}");
                    assert_eq!(first_special_by_words(&chunk), expected, "{chunk:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_special_of_any_chunk_is_the_same_both_ways(chunk: [u8; LANES]) {
            prop_assert_eq!(first_special(&chunk), first_special_by_words(&chunk));
        }
    }
}
