//! A rules file that is read again when it changes. What is wrong is told once, and the rules before stay in force.
//!
//! A text counts once it was read twice alike, so that a file that is still being written is not believed. Who asks how often is the
//! owner's business; nothing here waits or reads a clock.

use super::Rules;
use super::read::RuleMistake;
use std::path::PathBuf;

/// What a look found.
#[derive(Debug, PartialEq)]
pub enum Look {
    /// What is in force is what the file says; or it is not certain yet what it says.
    Same,
    /// These are to be put in force.
    New(Rules),
    /// The file's new text is refused, and why; one a line.
    Refused(String),
}

/// A rules file under watch.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// The configuration's own rules, which go before the file's.
    own: Rules,
    in_force: Rules,
    /// What the last look read.
    seen: Result<String, String>,
    /// What was told of, or put in force.
    settled: Result<String, String>,
}

impl Watch {
    /// Watches a file of which `in_force` was read at the start, after the configuration's `own` rules.
    #[must_use]
    pub fn new(path: PathBuf, own: Rules, in_force: Rules) -> Watch {
        let unread = Err(String::new());
        Watch { path, own, in_force, seen: unread.clone(), settled: unread }
    }

    /// Looks once.
    pub fn look(&mut self) -> Look {
        let text = std::fs::read_to_string(&self.path).map_err(|e| format!("can't be read: {e}"));
        if text != self.seen {
            self.seen = text;
            return Look::Same;
        }
        if text == self.settled {
            return Look::Same;
        }
        self.settled.clone_from(&text);
        let refused = |text: &str| Look::Refused(format!("detection.suppress_file {}: {text}", self.path.display()));
        match text.map_err(|e| refused(&e)).and_then(|text| self.own.and_file(&text).map_err(|mistakes| refused(&lines(&mistakes)))) {
            Ok(rules) if rules == self.in_force => Look::Same,
            Ok(rules) => {
                self.in_force = rules.clone();
                Look::New(rules)
            }
            Err(look) => look,
        }
    }
}

fn lines(mistakes: &[RuleMistake]) -> String {
    mistakes.iter().map(RuleMistake::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_force_when_it_is_whole_and_refused_once_when_it_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.toml");
        let rule = |name: &str, cidr: &str| format!("[[suppress]]\nname = \"{name}\"\ncidr = \"{cidr}\"\nreason = \"r\"\nowner = \"o\"\n");
        let own = Rules::default().and_file(&rule("own", "192.0.2.0/24")).unwrap();
        let first = own.and_file(&rule("a", "198.51.100.0/24")).unwrap();
        std::fs::write(&path, rule("a", "198.51.100.0/24")).unwrap();
        let mut watch = Watch::new(path.clone(), own.clone(), first);
        assert_eq!([watch.look(), watch.look(), watch.look()], [Look::Same, Look::Same, Look::Same]);

        std::fs::write(&path, rule("b", "203.0.113.0/24")).unwrap();
        assert_eq!(watch.look(), Look::Same, "it may be half written");
        let Look::New(rules) = watch.look() else { panic!("not put in force") };
        assert_eq!(rules.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["own", "b"]);
        assert_eq!(watch.look(), Look::Same);

        std::fs::write(&path, rule("own", "203.0.113.0/99")).unwrap();
        assert_eq!(watch.look(), Look::Same);
        let Look::Refused(said) = watch.look() else { panic!("not refused") };
        assert!(said.contains("rules.toml: suppress[1].cidr: given \"203.0.113.0/99\""), "{said}");
        assert_eq!(watch.look(), Look::Same, "told once");

        std::fs::remove_file(&path).unwrap();
        assert_eq!(watch.look(), Look::Same);
        assert!(matches!(watch.look(), Look::Refused(said) if said.contains("can't be read")));
        // What was in force all the while comes back: nothing to do.
        std::fs::write(&path, rule("b", "203.0.113.0/24")).unwrap();
        assert_eq!([watch.look(), watch.look()], [Look::Same, Look::Same]);
    }
}
