//! Remote addresses in networks. An IPv4 address that is written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 address, on both sides.

use ipnet::IpNet;
use std::net::IpAddr;

/// Networks of one rule.
#[derive(Debug)]
pub(super) struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address.
    ///
    /// # Errors
    /// What is wrong with which text.
    pub(super) fn read(texts: &[String]) -> Result<Networks, String> {
        texts.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>().map(Networks)
    }

    /// Whether an address, as Defender wrote it, is in one of them; a text that is no address is in none.
    pub(super) fn contain(&self, ip: &str) -> bool {
        ip.parse::<IpAddr>().is_ok_and(|ip| self.0.iter().any(|network| network.contains(&ip.to_canonical())))
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let expected = "expected a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or an address";
    let parsed =
        text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| format!("given {text:?}, {expected}"))?;
    if parsed.network() != parsed.addr() {
        return Err(format!("given {text:?}, which has bits beyond its prefix; expected \"{}\"", parsed.trunc()));
    }
    let network = match (parsed, parsed.addr().to_canonical()) {
        (IpNet::V6(v6), IpAddr::V4(v4)) if v6.prefix_len() >= 96 => {
            ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map(IpNet::V4).map_err(|e| format!("given {text:?}: {e}"))?
        }
        (parsed, _) => parsed,
    };
    if network.prefix_len() == 0 {
        return Err(format!("given {text:?}, which is every address; leave cidr out, or name the networks"));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::read(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address_on_both_sides() {
        for rule in ["203.0.113.0/24", "::ffff:203.0.113.0/120", "::ffff:cb00:7100/120"] {
            let of = networks(&[rule]);
            for ip in ["203.0.113.7", "::ffff:203.0.113.7", "::FFFF:CB00:7107"] {
                assert!(of.contain(ip), "{ip} in {rule}");
            }
            for ip in ["203.0.114.7", "::ffff:203.0.114.7", "::203.0.113.7", "2001:db8::cb00:7107"] {
                assert!(!of.contain(ip), "{ip} in {rule}");
            }
        }
    }

    #[test]
    fn what_is_no_address_is_in_no_network() {
        let of = networks(&["2001:db8::/32", "198.51.100.9"]);
        assert!(of.contain("2001:db8::1") && of.contain("2001:DB8:0:0::1") && of.contain("198.51.100.9"));
        for ip in
            ["", " 198.51.100.9", "198.51.100.009", "198.51.100.9:443", "[2001:db8::1]", "2001:db8::1%eth0", "0xc6336409", "198.51.100.8"]
        {
            assert!(!of.contain(ip), "{ip}");
        }
    }

    #[test]
    fn wrong_networks_are_refused_with_what_was_expected() {
        for (text, word) in [
            ("203.0.113.7/24", "expected \"203.0.113.0/24\""),
            ("0.0.0.0/0", "every address"),
            ("::/0", "every address"),
            ("::ffff:0:0/96", "every address"),
            ("203.0.113.0/33", "expected a network"),
            ("microsoft.com", "expected a network"),
            ("", "expected a network"),
        ] {
            let error = Networks::read(&[text.to_owned()]).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
