//! Names of devices and paths of processes by pattern: `*` is any text, `?` one character, nothing else is special.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Device names of one rule. ASCII letters match in either case.
#[derive(Debug)]
pub(super) struct Names(GlobSet);

impl Names {
    /// Reads patterns.
    ///
    /// # Errors
    /// What is wrong with which text.
    pub(super) fn read(texts: &[String]) -> Result<Names, String> {
        let patterns = texts.iter().map(|text| {
            if text.chars().all(|c| c == '*' || c == '?') {
                return Err(format!("given {text:?}, which is every device; leave device out, or name them"));
            }
            Ok(text.to_ascii_lowercase())
        });
        Ok(Names(build(patterns, false)?))
    }

    pub(super) fn match_name(&self, name: &str) -> bool {
        !name.is_empty() && self.0.is_match(name.to_ascii_lowercase())
    }
}

/// Processes of one rule: path patterns, SHA-256 digests.
#[derive(Debug)]
pub(super) struct Processes {
    /// Of Windows: ASCII letters match in either case, and `/` is `\`.
    windows: GlobSet,
    unix: GlobSet,
    digests: Vec<String>,
}

impl Processes {
    /// Reads patterns of whole paths, and SHA-256 digests in hex.
    ///
    /// # Errors
    /// What is wrong with which text.
    pub(super) fn read(texts: &[String]) -> Result<Processes, String> {
        let (mut windows, mut unix, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            if text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit()) {
                digests.push(text.to_ascii_lowercase());
            } else if text.contains('\\') {
                windows.push(Ok(path(text)));
            } else if text.contains('/') {
                unix.push(Ok(text.clone()));
            } else {
                return Err(format!(
                    "given {text:?}, expected a whole path such as \"c:\\\\program files\\\\acme\\\\*.exe\" or \"/opt/acme/**\", or a SHA-256 in hex"
                ));
            }
            let literal = text.chars().filter(|c| !"*?/\\:".contains(*c)).count();
            if literal == 0 {
                return Err(format!("given {text:?}, which is every process; leave process out, or name them"));
            }
        }
        Ok(Processes { windows: build(windows.into_iter(), true)?, unix: build(unix.into_iter(), true)?, digests })
    }

    pub(super) fn match_process(&self, path_text: &str, sha256: &str) -> bool {
        let steps_up = |separators: &[char]| path_text.split(separators).any(|part| part == ".." || part == ".");
        self.digests.iter().any(|digest| digest.eq_ignore_ascii_case(sha256))
            || (!steps_up(&['/', '\\']) && self.windows.is_match(path(path_text)))
            || (!steps_up(&['/']) && self.unix.is_match(path_text))
    }
}

/// A Windows path as it is compared.
fn path(text: &str) -> String {
    text.replace('\\', "/").to_ascii_lowercase()
}

/// In paths `*` and `?` stay within one directory, and `**` goes through any number.
fn build(patterns: impl Iterator<Item = Result<String, String>>, paths: bool) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern?;
        let mut plain = String::with_capacity(pattern.len());
        for c in pattern.chars() {
            match c {
                '[' | ']' | '{' | '}' => plain.extend(['[', c, ']']),
                c => plain.push(c),
            }
        }
        let glob = GlobBuilder::new(&plain).literal_separator(paths).backslash_escape(false).build();
        set.add(glob.map_err(|e| format!("given {pattern:?}: {}", e.kind()))?);
    }
    set.build().map_err(|e| format!("the patterns are too large: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn device_names_match_as_a_whole_in_either_case() {
        let names = Names::read(&owned(&["bkp-*.corp.example", "srv-?"])).unwrap();
        assert!(names.match_name("BKP-01.Corp.Example") && names.match_name("srv-1"));
        for name in ["xbkp-01.corp.example", "bkp-01.corp.example.evil", "srv-10", "s\u{17f}v-1", ""] {
            assert!(!names.match_name(name), "{name:?}");
        }
        assert!(Names::read(&owned(&["*"])).unwrap_err().contains("every device"));
        assert!(Names::read(&owned(&["a[b"])).unwrap().match_name("a[b"), "brackets are plain");
    }

    #[test]
    fn windows_paths_match_in_either_case_and_star_stays_in_its_directory() {
        let of = Processes::read(&owned(&[r"c:\program files\acme\*.exe", r"d:\apps\{x}\**\agent.exe"])).unwrap();
        assert!(of.match_process(r"C:\Program Files\Acme\backupd.exe", ""));
        assert!(of.match_process("c:/program files/acme/backupd.exe", ""));
        assert!(of.match_process(r"d:\apps\{x}\1.2\bin\agent.exe", ""));
        for path in [
            r"c:\program files\acme\sub\backupd.exe",
            r"c:\program files\acme\..\..\users\public\x.exe",
            r"c:\program files\acme-evil\backupd.exe",
            r"c:\users\public\c:\program files\acme\backupd.exe",
            r"/tmp/c:\program files\acme\backupd.exe",
            r"c:\program files\acme\bac\u{212a}upd.exe.txt",
            "backupd.exe",
            "",
        ] {
            assert!(!of.match_process(path, ""), "{path}");
        }
    }

    #[test]
    fn unix_paths_match_exactly() {
        let of = Processes::read(&owned(&["/opt/acme/bin/*"])).unwrap();
        assert!(of.match_process("/opt/acme/bin/agent", ""));
        for path in [
            "/opt/Acme/bin/agent",
            "/opt/acme/bin/x/agent",
            r"\opt\acme\bin\agent",
            "/opt/acme/bin/../../../tmp/x",
            "/tmp/opt/acme/bin/agent",
        ] {
            assert!(!of.match_process(path, ""), "{path}");
        }
    }

    #[test]
    fn digests_match_in_either_case_and_an_unknown_digest_matches_nothing() {
        let digest = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        let of = Processes::read(&owned(&[digest])).unwrap();
        assert!(of.match_process("anything", &digest.to_lowercase()));
        assert!(!of.match_process("anything", ""));
    }

    #[test]
    fn names_without_a_directory_are_refused() {
        for (text, word) in [("backupd.exe", "a whole path"), ("*", "a whole path"), (r"*\*", "every process"), ("/**", "every process")] {
            assert!(Processes::read(&owned(&[text])).unwrap_err().contains(word), "{text}");
        }
    }
}
