//! Which files there are: paths as given, directories and containers searched through.
//!
//! Invariant: paths keep the order in which they were given, a directory's files are sorted by path, and no file comes twice. What a
//! path's names exclude (other hours, other tenants) is not searched.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::FileError;
use super::object::{self, Object, Retry};
use super::window::{Selection, describe};
use crate::time::Ticks;

/// A file to read, or standard input (`-`).
#[derive(Clone, Debug)]
pub struct Input {
    /// As it is shown; `-` is standard input.
    pub path: PathBuf,
    /// What its position is stored under: the same however the path to it was written.
    pub name: String,
    /// Bytes as stored, when the run began; `None` where that is not known (standard input, pipes).
    pub size: Option<u64>,
    /// No record in it arrived earlier, by its path; the earliest instant when that says nothing.
    pub begins: Ticks,
    /// Of a store.
    pub(super) object: Option<Object>,
}

impl Input {
    /// Whether this is standard input.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        self.object.is_none() && self.path.as_os_str() == "-"
    }

    fn file(path: PathBuf, name: &Path, size: Option<u64>) -> Input {
        let name = name.to_string_lossy().into_owned();
        Input { begins: begins(&name), path, name, size, object: None }
    }

    fn blob(object: Object) -> Input {
        let name = object.name();
        Input { path: PathBuf::from(&name), begins: begins(&name), name, size: Some(object.size), object: Some(object) }
    }
}

fn begins(name: &str) -> Ticks {
    describe(name).during.map_or(Ticks::MIN, |(begins, _)| begins)
}

/// Expands the paths. Directories are searched through to the bottom (links are followed, each directory once) for `.json`,
/// `.ndjson`, `.jsonl` and `.csv`, each also `.gz` or `.zst`, `.avro` and `.parquet`; a file that is named itself may be called anything.
/// `az://`, `s3://` and `gs://` are containers, prefixes or blobs; `file://` is a path.
///
/// # Errors
/// A path that cannot be read, a directory without such files, `-` twice, or no path at all.
pub fn inputs(paths: &[PathBuf], selection: &Selection, retry: Retry) -> Result<Vec<Input>, FileError> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for given in paths {
        let text = given.to_string_lossy();
        if object::is_url(&text) {
            let blobs = blobs(&text, selection, retry)?;
            found.extend(blobs.into_iter().map(Input::blob).filter(|input| seen.insert(PathBuf::from(&input.name))));
            continue;
        }
        let path = &text.strip_prefix("file://").map_or_else(|| given.clone(), PathBuf::from);
        if path.as_os_str() == "-" {
            if !seen.insert(path.clone()) {
                return Err(FileError::StdinTwice);
            }
            found.push(Input { path: path.clone(), name: "-".to_owned(), size: None, begins: Ticks::MIN, object: None });
            continue;
        }
        let open = |source| FileError::Open { path: path.clone(), source };
        let data = fs::metadata(path).map_err(open)?;
        if data.is_dir() {
            let mut files = Vec::new();
            search(path, selection, &mut HashSet::new(), &mut files)?;
            if files.is_empty() {
                return Err(nothing(path, selection));
            }
            files.sort_by(|a, b| a.0.path.cmp(&b.0.path));
            found.extend(files.into_iter().filter(|(_, real)| seen.insert(real.clone())).map(|(input, _)| input));
        } else {
            let real = fs::canonicalize(path).map_err(open)?;
            if seen.insert(real.clone()) {
                found.push(Input::file(path.clone(), &real, data.is_file().then_some(data.len())));
            }
        }
    }
    if found.is_empty() { Err(FileError::NoInput) } else { Ok(found) }
}

fn nothing(path: &Path, selection: &Selection) -> FileError {
    let path = path.to_owned();
    if *selection == Selection::default() { FileError::Empty { path } } else { FileError::NothingSelected { path } }
}

fn blobs(url: &str, selection: &Selection, retry: Retry) -> Result<Vec<Object>, FileError> {
    let (bucket, prefix) = object::open(url, retry)?;
    let found = bucket.list(&prefix, selection)?;
    match found {
        found if !found.is_empty() => Ok(found),
        _ if is_wanted(prefix.as_ref()) => Ok(vec![bucket.blob(&prefix)?]),
        _ => Err(nothing(Path::new(url), selection)),
    }
}

fn search(
    directory: &Path,
    selection: &Selection,
    seen: &mut HashSet<PathBuf>,
    files: &mut Vec<(Input, PathBuf)>,
) -> Result<(), FileError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Open { path, source }
    };
    if !seen.insert(fs::canonicalize(directory).map_err(at(directory))?) {
        return Ok(());
    }
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        if !selection.wants(&path.to_string_lossy()) {
            continue;
        }
        let data = fs::metadata(&path).map_err(at(&path))?;
        if data.is_dir() {
            search(&path, selection, seen, files)?;
        } else if is_wanted(&path.to_string_lossy()) {
            let real = fs::canonicalize(&path).map_err(at(&path))?;
            files.push((Input::file(path, &real, data.is_file().then_some(data.len())), real));
        }
    }
    Ok(())
}

/// Whether a file of this name is read when it is found in a directory.
pub(super) fn is_wanted(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    [".json", ".ndjson", ".jsonl", ".csv"].iter().any(|end| stem.ends_with(end))
        || [".avro", ".parquet"].iter().any(|end| name.ends_with(end))
}
