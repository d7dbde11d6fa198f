//! Which names of an address are under a trusted domain, label by label and by the public suffix list.
//!
//! A name is covered by a rule's domain only if the domain reaches at least to the name's registrable domain: a rule for `windows.net`
//! does not cover `evil.blob.core.windows.net`, since anybody can have a name under `blob.core.windows.net`.

/// Domains of one rule, in lower case.
#[derive(Debug)]
pub(super) struct Domains(Vec<String>);

impl Domains {
    /// Reads domains such as `microsoft.com`.
    ///
    /// # Errors
    /// What is wrong with which text.
    pub(super) fn read(texts: &[String]) -> Result<Domains, String> {
        texts.iter().map(|text| domain(text)).collect::<Result<Vec<_>, _>>().map(Domains)
    }

    /// Whether there is a name, and each is under one of the domains.
    pub(super) fn cover_all(&self, urls: &[String]) -> bool {
        !urls.is_empty() && urls.iter().all(|url| host(url).is_some_and(|host| self.0.iter().any(|domain| covers(domain, &host))))
    }
}

fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(&name);
    if !text.is_ascii() {
        return Err(format!("given {text:?}, expected ASCII: write an international name as \"xn--…\""));
    }
    if !is_host(name) || name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(format!("given {text:?}, expected a domain such as \"microsoft.com\""));
    }
    if psl::domain_str(name).is_none() {
        return Err(format!(
            "given {text:?}, which is a public suffix: anybody can have a name under it; expected a registered domain such as \"contoso.{name}\""
        ));
    }
    Ok(name.to_owned())
}

fn covers(domain: &str, host: &str) -> bool {
    let is_under = host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    is_under && psl::domain_str(host).is_some_and(|registrable| domain.len() >= registrable.len())
}

fn is_host(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    !name.is_empty() && name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(good))
}

/// The host of a `RemoteUrl`, which is a host or a URL, in lower case. `None` for everything in which two readers could see two hosts.
fn host(url: &str) -> Option<String> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c)) && !scheme.is_empty() => rest,
        Some(_) => return None,
        None => url,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = match authority.split_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && port.bytes().all(|c| c.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    // No user names, backslashes, escapes, blanks or other scripts.
    is_host(host).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covers_all(domains: &[&str], urls: &[&str]) -> bool {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Domains::read(&owned(domains)).unwrap().cover_all(&owned(urls))
    }

    #[test]
    fn names_under_the_domain_are_covered_however_they_are_written() {
        for url in [
            "microsoft.com",
            "update.microsoft.com",
            "UPDATE.Microsoft.COM",
            "update.microsoft.com.",
            "a.b.c.microsoft.com:443",
            "https://update.microsoft.com/path?x=evil.example",
            "http://update.microsoft.com:8080",
            "_dmarc.microsoft.com",
        ] {
            assert!(covers_all(&["microsoft.com"], &[url]), "{url}");
        }
        for written in ["Microsoft.com", ".microsoft.com", "*.microsoft.com", "microsoft.com."] {
            assert!(covers_all(&[written], &["update.microsoft.com"]), "{written}");
        }
    }

    #[test]
    fn look_alikes_are_not() {
        for url in [
            "evil-microsoft.com",
            "evilmicrosoft.com",
            "microsoft.com.evil.example",
            "microsoft.co",
            "microsoft.comx",
            "micro\u{455}oft.com",
            "mi\u{212a}rosoft.com",
            "microsoft\u{3002}com",
            "update.microsoft.com\u{200b}",
            "xn--microsft-03a.com",
            "https://microsoft.com@evil.example/",
            "https://evil.example/microsoft.com",
            "https://evil.example?.microsoft.com",
            "https://evil.example#.microsoft.com",
            "https://evil.example\\.microsoft.com",
            "https://evil.example%2f.microsoft.com",
            "evil.example:443.microsoft.com",
            "evil.example\n.microsoft.com",
            " update.microsoft.com",
            "update..microsoft.com",
            ".microsoft.com",
            "microsoft.com..",
            "://microsoft.com",
            "203.0.113.7",
            "[2001:db8::1]",
            "",
        ] {
            assert!(!covers_all(&["microsoft.com"], &[url]), "{url:?}");
        }
    }

    #[test]
    fn one_name_that_is_not_trusted_shows_the_finding_and_no_name_hides_nothing() {
        let rule = ["microsoft.com", "windowsupdate.com"];
        assert!(covers_all(&rule, &["a.microsoft.com", "b.windowsupdate.com"]));
        assert!(!covers_all(&rule, &["a.microsoft.com", "evil.example.net"]));
        assert!(!covers_all(&rule, &[]));
    }

    #[test]
    fn a_domain_does_not_cover_what_others_can_register_below_it() {
        assert!(covers_all(&["windows.net"], &["login.windows.net"]));
        assert!(!covers_all(&["windows.net"], &["evil.blob.core.windows.net"]), "blob.core.windows.net is a public suffix");
        assert!(covers_all(&["ours.blob.core.windows.net"], &["ours.blob.core.windows.net"]));
        assert!(!covers_all(&["ours.blob.core.windows.net"], &["theirs.blob.core.windows.net"]));
        assert!(!covers_all(&["amazonaws.com"], &["evil.s3.amazonaws.com"]));
    }

    #[test]
    fn public_suffixes_and_what_is_no_domain_are_refused() {
        for (text, word) in [
            ("com", "public suffix"),
            ("co.uk", "public suffix"),
            ("github.io", "public suffix"),
            ("blob.core.windows.net", "public suffix"),
            ("corp", "public suffix"),
            ("*.com", "public suffix"),
            ("b\u{fc}cher.example", "xn--"),
            ("", "expected a domain"),
            ("*", "expected a domain"),
            ("a*.example.com", "expected a domain"),
            ("https://microsoft.com", "expected a domain"),
            ("203.0.113.7", "expected a domain"),
        ] {
            let error = Domains::read(&[text.to_owned()]).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        /// Whatever stands before the domain, only a dot joins it on.
        #[test]
        fn nothing_but_a_label_before_a_dot_is_covered(before in ".{0,20}") {
            let url = format!("{before}microsoft.com");
            let labels = before.strip_suffix('.').is_some_and(|b| !b.is_empty() && is_host(b));
            let is_covered = covers_all(&["microsoft.com"], &[&url]);
            let scheme_only = before.strip_suffix("://").is_some_and(|s| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c)));
            let scheme_and_labels = before.split_once("://").is_some_and(|(s, b)| !s.is_empty() && s.is_ascii() && b.strip_suffix('.').is_some_and(is_host));
            prop_assert!(!is_covered || before.is_empty() || labels || scheme_only || scheme_and_labels, "{:?}", url);
        }
    }
}
