//! Suppression rules as a configuration gives them: tables of its own, and a file. What a rule may be is [`crate::suppress`]'s to say.

use super::reader::Reader;
use crate::suppress::Rules;
use std::path::PathBuf;

/// Suppression rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suppress {
    /// Those of the configuration itself.
    pub own: Rules,
    /// Where more of them stand.
    pub file: Option<PathBuf>,
    /// All of them, the file's last.
    pub rules: Rules,
}

/// Reads the configuration's own rules, and those of its rules file.
pub(super) fn read(r: &mut Reader) -> Suppress {
    let own = r.tables("suppress").map_or_else(|| Ok(Rules::default()), |tables| Rules::read(&tables)).unwrap_or_else(|mistakes| {
        mistakes.into_iter().for_each(|m| r.mistake(&m.key, None, m.message));
        Rules::default()
    });
    const FILE: &str = "detection.suppress_file";
    let Some(file) = r.optional_text(FILE) else { return Suppress { rules: own.clone(), file: None, own } };
    let rules = match std::fs::read_to_string(&file) {
        Ok(text) => own.and_file(&text).unwrap_or_else(|mistakes| {
            mistakes.iter().for_each(|m| r.mistake(FILE, None, format!("{file}: {m}")));
            Rules::default()
        }),
        Err(error) => {
            r.mistake(FILE, None, format!("can't read {file}: {error}"));
            Rules::default()
        }
    };
    Suppress { own, file: Some(PathBuf::from(file)), rules }
}
