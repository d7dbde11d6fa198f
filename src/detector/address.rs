//! Remote addresses in few bytes: an IPv4 address in its usual form as itself, any other text by its place in a list.

use compact_str::{CompactString, ToCompactString};
use std::net::Ipv4Addr;

/// An address that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Its text is the one that this address has.
    V4([u8; 4]),
    /// The place of its text, a little-endian number: an address takes five bytes.
    Text([u8; 4]),
}

impl Address {
    /// The IPv4 address that has exactly this text.
    #[inline]
    pub(crate) fn parse(text: &str) -> Option<[u8; 4]> {
        // No other text than its own is read as an address: zeros before a number are refused.
        text.parse::<Ipv4Addr>().ok().map(|ip| ip.octets())
    }
}

/// The texts of the others.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    texts: Vec<Box<str>>,
    free: Vec<u32>,
}

impl Addresses {
    /// Keeps an address until it is released.
    pub(crate) fn keep(&mut self, text: &str) -> Address {
        if let Some(octets) = Address::parse(text) {
            return Address::V4(octets);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.texts.push(Box::default());
            self.texts.len() as u32 - 1
        });
        self.texts.iter_mut().skip(place as usize).take(1).for_each(|kept| *kept = text.into());
        Address::Text(place.to_le_bytes())
    }

    pub(crate) fn release(&mut self, address: Address) {
        if let Address::Text(place) = address {
            let place = u32::from_le_bytes(place);
            self.texts.iter_mut().skip(place as usize).take(1).for_each(|kept| *kept = Box::default());
            self.free.push(place);
        }
    }

    /// Whether an address has this text, of which `parsed` is what [`Address::parse`] says.
    #[inline]
    pub(crate) fn is(&self, address: Address, parsed: Option<[u8; 4]>, text: &str) -> bool {
        match address {
            Address::V4(octets) => parsed == Some(octets),
            Address::Text(place) => parsed.is_none() && *self.kept(place) == *text,
        }
    }

    pub(crate) fn text(&self, address: Address) -> CompactString {
        match address {
            Address::V4(octets) => Ipv4Addr::from(octets).to_compact_string(),
            Address::Text(place) => CompactString::from(self.kept(place)),
        }
    }

    fn kept(&self, place: [u8; 4]) -> &str {
        self.texts.get(u32::from_le_bytes(place) as usize).map_or("", |text| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_as_it_was() {
        let mut addresses = Addresses::default();
        let texts =
            ["192.0.2.1", "0.0.0.0", "255.255.255.255", "192.0.2.01", "1.2.3", "::ffff:1.2.3.4", "2001:DB8::1", "", "host", " 1.2.3.4"];
        let kept = texts.map(|text| addresses.keep(text));
        for (text, address) in texts.iter().zip(kept) {
            assert_eq!(addresses.text(address), *text);
            for other in texts {
                assert_eq!(addresses.is(address, Address::parse(other), other), *text == other, "{text:?} {other:?}");
            }
        }
        assert_eq!(kept.iter().filter(|address| matches!(address, Address::V4(_))).count(), 3);
        kept.into_iter().for_each(|address| addresses.release(address));
        assert_eq!(addresses.keep("2001:db8::2"), Address::Text([6, 0, 0, 0]), "a freed place is used again");
    }
}
