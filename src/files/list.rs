//! Which files there are: paths as given, directories searched through.
//!
//! Invariant: paths keep the order in which they were given, a directory's files are sorted by path, and no file comes twice.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::FileError;

/// A file to read, or standard input (`-`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// As it is shown; `-` is standard input.
    pub path: PathBuf,
    /// Bytes as stored, when the run began; `None` where that is not known (standard input, pipes).
    pub size: Option<u64>,
}

impl Input {
    /// Whether this is standard input.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }
}

/// Expands the paths. Directories are searched through to the bottom (links are followed, each directory once) for `.json`,
/// `.ndjson` and `.jsonl`, each also `.gz` or `.zst`; a file that is named itself may be called anything.
///
/// # Errors
/// A path that cannot be read, a directory without such files, `-` twice, or no path at all.
pub fn inputs(paths: &[PathBuf]) -> Result<Vec<Input>, FileError> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for path in paths {
        if path.as_os_str() == "-" {
            if !seen.insert(path.clone()) {
                return Err(FileError::StdinTwice);
            }
            found.push(Input { path: path.clone(), size: None });
            continue;
        }
        let open = |source| FileError::Open { path: path.clone(), source };
        let data = fs::metadata(path).map_err(open)?;
        if data.is_dir() {
            let mut files = Vec::new();
            search(path, &mut HashSet::new(), &mut files)?;
            if files.is_empty() {
                return Err(FileError::Empty { path: path.clone() });
            }
            files.sort_by(|a, b| a.0.path.cmp(&b.0.path));
            found.extend(files.into_iter().filter(|(_, real)| seen.insert(real.clone())).map(|(input, _)| input));
        } else if seen.insert(fs::canonicalize(path).map_err(open)?) {
            found.push(Input { path: path.clone(), size: data.is_file().then_some(data.len()) });
        }
    }
    if found.is_empty() { Err(FileError::NoInput) } else { Ok(found) }
}

fn search(directory: &Path, seen: &mut HashSet<PathBuf>, files: &mut Vec<(Input, PathBuf)>) -> Result<(), FileError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Open { path, source }
    };
    if !seen.insert(fs::canonicalize(directory).map_err(at(directory))?) {
        return Ok(());
    }
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let data = fs::metadata(&path).map_err(at(&path))?;
        if data.is_dir() {
            search(&path, seen, files)?;
        } else if is_wanted(&path) {
            let real = fs::canonicalize(&path).map_err(at(&path))?;
            files.push((Input { path, size: data.is_file().then_some(data.len()) }, real));
        }
    }
    Ok(())
}

fn is_wanted(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    [".json", ".ndjson", ".jsonl"].iter().any(|end| stem.ends_with(end))
}
