//! The file system behind a narrow seam, so that tests can tear, lose and refuse writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file being written.
pub trait DiskFile: Write + Send {
    /// Returns once everything written so far survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync(&mut self) -> io::Result<()>;
}

/// A flat directory of files.
pub trait Disk: Send + Sync {
    /// Names and sizes in bytes of all files.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file from its beginning.
    ///
    /// # Errors
    /// When it is not there or can't be read.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// Creates a file, empty, replacing one of that name. Its name is lost with the power until [`Disk::sync_names`].
    ///
    /// # Errors
    /// When the disk refuses.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to be written on from its byte `at`; what stands behind it is cut off.
    ///
    /// # Errors
    /// When it is not there, is shorter, or the disk refuses.
    fn reopen(&self, name: &str, at: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a synced file. The new name is lost with the power until [`Disk::sync_names`].
    ///
    /// # Errors
    /// When the disk refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Returns once every name given so far survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync_names(&self) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// When the disk refuses.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A directory of the real file system, held by this process alone.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held for the lock on it; without it nothing may be changed.
    lock: Option<File>,
}

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process holds it.
    #[error("state.dir {0} is in use by another process; stop it, or give this one its own state.dir")]
    InUse(PathBuf),
    /// It can't be made or locked.
    #[error("state.dir {path} can't be used: {error}; check that it is a directory which this user may write")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It can't be looked at.
    #[error("state.dir {path} can't be read: {error}; check the path, and that this user may read it")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

const LOCK: &str = "LOCK";

impl Directory {
    /// Makes the directory when it is not there, and locks it.
    ///
    /// # Errors
    /// When another process holds it, or it can't be used.
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let unusable = |error| DirectoryError::Unusable { path: path.to_owned(), error };
        create_durably(path, |parent| File::open(parent)?.sync_all()).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory { path: path.to_owned(), lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// The directory's name for ever: 32 hexadecimal digits, drawn at its first use and kept in its lock file. A copy of the directory
    /// has the same. (It is not synced: a loss of power may cost it, and then another is drawn.)
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn name(&self) -> Result<String, DirectoryError> {
        let unusable = |error| DirectoryError::Unusable { path: self.path.clone(), error };
        self.kept_name().map_err(unusable)
    }

    fn kept_name(&self) -> io::Result<String> {
        let Some(mut lock) = self.lock.as_ref() else { return self.mine(LOCK).map(|_| String::new()) };
        let mut kept = Vec::new();
        lock.seek(SeekFrom::Start(0))?;
        lock.read_to_end(&mut kept)?;
        if let Ok(name) = std::str::from_utf8(&kept)
            && name.len() == 32
            && name.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Ok(name.to_owned());
        }
        let mut drawn = [0; 16];
        openssl::rand::rand_bytes(&mut drawn).map_err(io::Error::other)?;
        let name: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        lock.set_len(0)?;
        lock.seek(SeekFrom::Start(0))?;
        lock.write_all(name.as_bytes())?;
        Ok(name)
    }

    /// A directory to look at, also while another process holds it. Every change is refused.
    ///
    /// # Errors
    /// When it is not there or can't be read.
    pub fn read_only(path: &Path) -> Result<Directory, DirectoryError> {
        let unreadable = |error| DirectoryError::Unreadable { path: path.to_owned(), error };
        std::fs::read_dir(path).map_err(unreadable)?;
        Ok(Directory { path: path.to_owned(), lock: None })
    }

    /// The file of a name that is to be changed.
    fn mine(&self, name: &str) -> io::Result<PathBuf> {
        match self.lock {
            Some(_) => Ok(self.path.join(name)),
            None => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory was opened to be read")),
        }
    }
}

/// Makes a directory, and those above it that are not there; returns once their names survive a loss of power. `sync` is given each
/// directory whose names have to.
fn create_durably(path: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = |of: &Path| of.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    std::fs::create_dir_all(path)?;
    if missing.is_empty() {
        // A process that made it may have been killed before it had synced the name. Where the parent is another's, or of a kind that can't be
        // synced (`state.dir` a mount point), the name is another's too.
        use io::ErrorKind as E;
        return match sync(&parent(path)) {
            Err(e) if matches!(e.kind(), E::PermissionDenied | E::InvalidInput | E::ReadOnlyFilesystem | E::Unsupported) => Ok(()),
            outcome => outcome,
        };
    }
    missing.into_iter().try_for_each(|made| sync(&parent(made)))
}

impl DiskFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && name != LOCK
            {
                names.push((name, entry.metadata()?.len()));
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(self.mine(name)?)?))
    }

    fn reopen(&self, name: &str, at: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut file = OpenOptions::new().write(true).open(self.mine(name)?)?;
        let length = file.metadata()?.len();
        if length < at {
            return Err(io::Error::other(format!("{name} has {length} bytes, {at} were synced")));
        }
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.mine(from)?, self.mine(to)?)
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.mine(name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_directories_that_are_made_are_synced_where_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let synced = |path: &Path, refuse: Option<io::ErrorKind>| {
            let mut synced = Vec::new();
            let outcome = create_durably(path, |parent| {
                assert!(path.is_dir(), "it is there before its name is synced");
                synced.push(parent.strip_prefix(dir.path()).unwrap().to_owned());
                refuse.map_or(Ok(()), |kind| Err(kind.into()))
            });
            (outcome.map_err(|error| error.kind()), synced)
        };
        let path = dir.path().join("a/b/state");
        assert_eq!(synced(&path, None), (Ok(()), ["a/b", "a", ""].map(PathBuf::from).into()));
        // Once more, since whoever made it may have been killed before.
        assert_eq!(synced(&path, None), (Ok(()), ["a/b"].map(PathBuf::from).into()));
        assert_eq!(synced(&path, Some(io::ErrorKind::PermissionDenied)).0, Ok(()), "another made it");
        assert_eq!(synced(&path, Some(io::ErrorKind::Other)).0, Err(io::ErrorKind::Other));
        let other = dir.path().join("a/other");
        assert_eq!(synced(&other, Some(io::ErrorKind::PermissionDenied)).0, Err(io::ErrorKind::PermissionDenied), "made, and not synced");
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = Directory::open(dir.path()).unwrap();
        let refused = Directory::open(dir.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::InUse(_)), "{refused}");
        // Looking needs no lock, and changes nothing.
        let look = Directory::read_only(dir.path()).unwrap();
        assert!(look.list().unwrap().is_empty());
        assert!(look.create("a").is_err() && look.remove("LOCK").is_err() && look.rename("LOCK", "b").is_err());
        assert!(matches!(Directory::read_only(&dir.path().join("none")), Err(DirectoryError::Unreadable { .. })));
        drop(held);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_keeps_its_name_and_draws_another_when_it_is_lost() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = |dir: &tempfile::TempDir| Directory::open(dir.path()).unwrap().name().unwrap();
        let first = name(&dir);
        assert_eq!((first.len(), name(&dir)), (32, first.clone()));
        assert_ne!(name(&other), first);
        for lost in ["", "no name", &first[1..]] {
            std::fs::write(dir.path().join(LOCK), lost).unwrap();
            let drawn = name(&dir);
            assert_ne!(drawn, first);
            assert_eq!((drawn.len(), name(&dir)), (32, drawn));
        }
        assert!(Directory::read_only(dir.path()).unwrap().name().is_err());
    }
}
