//! The file operations the commit log is made of, behind a trait, so that a test can own the disk: lose what was not
//! synced, tear a write, answer EIO.
//!
//! Invariants: nothing here retries a sync (G14: a second fsync after a failed one says nothing); a short write is
//! continued, every other failure goes up as it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system as the log sees it.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {
    /// Makes `path` and its parents, if they are not there.
    ///
    /// # Errors
    /// What the file system said.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names of the files in `path`, in any order.
    ///
    /// # Errors
    /// What the file system said.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Opens a file that exists, for reading and writing.
    ///
    /// # Errors
    /// What the file system said.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// What the file system said.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames `from` to `to`. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the file system said.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the file system said.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `path` durable.
    ///
    /// # Errors
    /// What the file system said; fatal (G14).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes an unprivileged process may still write to the file system that holds `path`.
    ///
    /// # Errors
    /// What the file system said.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Fills `bytes` with randomness (for the store's id and for segment epochs, never for secrets).
    ///
    /// # Errors
    /// What the operating system said.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: std::fmt::Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the file system said.
    fn bytes(&self) -> io::Result<u64>;

    /// One read at `offset`; may be short.
    ///
    /// # Errors
    /// What the file system said.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// One write at `offset`; may be short.
    ///
    /// # Errors
    /// What the file system said.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written so far durable (fdatasync). Called once; its failure is final.
    ///
    /// # Errors
    /// What the file system said; fatal (G14).
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes all of `bytes`: continues after a short write or an interruption, and gives up on anything else. Ends, since
/// each turn writes at least one byte or fails.
pub(super) fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the whole file.
pub(super) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let bytes_count = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; bytes_count];
    read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Fills `bytes` from `offset` on.
pub(super) fn read_exact_at(file: &dyn DiskFile, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(count) => {
                bytes = bytes.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The machine's file system.
#[derive(Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(&mut File::open("/dev/urandom")?, bytes)
    }
}

/// A file of the machine's file system.
#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
