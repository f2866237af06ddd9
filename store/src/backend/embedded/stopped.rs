//! A store that nobody runs, looked at and left as it is: not a byte of its directory changes.
//!
//! The log is opened and judged by the code that a start runs, over a disk that takes writes and forgets them: recovery only
//! writes again what is there, and zeros over a torn tail. The tables would change their files at every opening. So they
//! are opened in a scratch directory instead, the [`Mirror`], where links stand for their large files, which never change
//! once they are written, and copies for the small ones.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::disk::{Disk, DiskFile, RealDisk};
use super::format::is_zero;
use super::open::{Failure, LOCK_FILE, TABLES_DIR, open_locked, try_lock};
use super::tables::{self, FILES_DIR, Found, KEYSPACES_DIR};
use super::{Embedded, Options, Upkeep};
use crate::error::OpenError;

/// What is read at once for a checksum.
const READ_BYTES: usize = 1 << 20;
/// The ending of the tables' own journals.
const JOURNAL: &str = ".jnl";

/// A stopped store, held: nobody starts it meanwhile.
#[derive(Debug)]
pub struct Stopped {
    dir: PathBuf,
    lock: File,
}

impl Stopped {
    /// Takes hold of the store in `dir`.
    ///
    /// # Errors
    /// [`OpenError::Absent`] when there is none, [`OpenError::InUse`] while a process runs it, [`OpenError::Io`] for what
    /// the file system said.
    pub fn hold(dir: &Path) -> Result<Stopped, OpenError> {
        let path = || dir.display().to_string();
        let lock = match File::open(dir.join(LOCK_FILE)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Absent { path: path() });
            }
            Err(source) => return Err(OpenError::Io { path: path(), source }),
        };
        match try_lock(lock) {
            Ok(Some(lock)) => Ok(Stopped { dir: dir.to_owned(), lock }),
            Ok(None) => Err(OpenError::InUse { path: path() }),
            Err(source) => Err(OpenError::Io { path: path(), source }),
        }
    }

    /// Reads every file of the tables and says which are not what was written. `progress` hears how many bytes were read.
    ///
    /// # Errors
    /// What the file system said.
    pub fn check_files(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<String>, OpenError> {
        self.check(progress).map_err(|source| OpenError::Io { path: self.dir.display().to_string(), source })
    }

    fn check(&self, progress: &mut dyn FnMut(u64)) -> io::Result<Vec<String>> {
        let tables_dir = self.dir.join(TABLES_DIR);
        let mut wrong = Vec::new();
        match tables::look(&tables_dir)? {
            Found::Whole => {}
            Found::Nothing => return Ok(vec!["the directory tables is missing".to_owned()]),
            Found::Broken(what) => return Ok(vec![what]),
        }
        let mut bytes_count = 0;
        let mut add = |count| {
            bytes_count += count;
            progress(bytes_count);
        };
        for keyspace in std::fs::read_dir(tables_dir.join(KEYSPACES_DIR))? {
            let keyspace = keyspace?.path();
            for (name, checksum) in tables::listed_files(&keyspace)? {
                let path = keyspace.join(FILES_DIR).join(&name);
                let found = match File::open(&path) {
                    Ok(file) => {
                        let mut hasher = Xxh3::new();
                        read_through(file, |bytes| {
                            hasher.update(bytes);
                            add(bytes.len() as u64);
                        })?;
                        Some(hasher.digest128())
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                };
                if found != Some(checksum) {
                    let what = if found.is_some() { "does not match its checksum" } else { "is missing" };
                    let path = path.strip_prefix(&self.dir).unwrap_or(&path).display().to_string();
                    wrong.push(format!("{path} {what}"));
                }
            }
        }
        for entry in std::fs::read_dir(&tables_dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.ends_with(JOURNAL) {
                continue;
            }
            let mut is_empty = true;
            read_through(File::open(tables_dir.join(&name))?, |bytes| is_empty &= is_zero(bytes))?;
            if !is_empty {
                wrong.push(format!("{TABLES_DIR}/{name} is not empty, and nothing is ever written to it"));
            }
        }
        Ok(wrong)
    }

    /// Opens it to be read. Commits are refused.
    ///
    /// # Errors
    /// As [`Embedded::open`]; also when it was never finished being made.
    pub fn open(self) -> Result<Embedded, OpenError> {
        let Stopped { dir, lock } = self;
        let options = Options { upkeep: Upkeep::Inline, disk: Arc::new(Forgetful), ..Options::default() };
        let tables_dir = dir.join(TABLES_DIR);
        let opened = Mirror::of(&tables_dir)
            .map_err(Failure::from)
            .and_then(|mirror| open_locked(&dir, options, lock, Some(mirror)));
        opened.map_err(|failure| failure.at(&dir))
    }
}

/// Hands all bytes of a file to `each`.
fn read_through(mut file: File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        match file.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => each(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What stands for the tables' directory. Removed when it is dropped.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
}

impl Mirror {
    fn of(tables_dir: &Path) -> io::Result<Mirror> {
        let mut drawn = [0; 8];
        RealDisk.random(&mut drawn)?;
        let path = std::env::temp_dir().join(format!("carillon-look-{:016x}", u64::from_le_bytes(drawn)));
        // One that is there is somebody else's: nobody else is to see the links, or to put others in their place.
        DirBuilder::new().mode(0o700).create(&path)?;
        let mirror = Mirror { path };
        // What is not there is judged by whoever looks at the tables themselves.
        if tables_dir.try_exists()? {
            // As it is named: behind a name of `/proc` there may be a directory of another mount namespace.
            mirror_dir(&std::path::absolute(tables_dir)?, &mirror.path, 0)?;
        }
        Ok(mirror)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// How deep `keyspaces/N/tables` lies.
const DEPTH_MAX: u32 = 3;

fn mirror_dir(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if depth < DEPTH_MAX {
                std::fs::create_dir(&to)?;
                mirror_dir(&from, &to, depth + 1)?;
            }
        } else if depth == DEPTH_MAX {
            std::os::unix::fs::symlink(&from, &to)?;
        } else if entry.file_name().to_string_lossy().ends_with(JOURNAL) {
            // 64 MiB of nothing; but without one the tables take themselves for new.
            File::create(&to)?.set_len(entry.metadata()?.len())?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Left behind it harms nobody: links and a few small copies.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The machine's disk, but for what is written: that is taken and forgotten.
#[derive(Debug)]
struct Forgetful;

impl Disk for Forgetful {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ForgetfulFile(File::open(path)?)))
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        RealDisk.random(bytes)
    }
}

#[derive(Debug)]
struct ForgetfulFile(File);

impl DiskFile for ForgetfulFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
