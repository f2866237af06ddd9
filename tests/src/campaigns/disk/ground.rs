//! Disks of a campaign's own: ext4 in a file, mounted where nobody else sees it, whose power can be cut.
//!
//! The mounts are in a namespace that one small process keeps; when it ends, which it does when the campaign does, however
//! that comes, they are gone, and with them the loop devices. From outside they are reached through `/proc/PID/root`.

#![expect(unsafe_code, reason = "an ioctl that no library wraps")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::ioctl;
use tempfile::TempDir;

use super::super::Skipped;

/// How long a file system may still be said to be in use after its last user was waited for: the kernel closes the
/// io_uring files of a process a moment later.
const BUSY: Duration = Duration::from_secs(10);

/// See the module. Everything in it is gone when it is dropped.
pub(super) struct Ground {
    keeper: Child,
    directory: TempDir,
}

impl Ground {
    /// # Errors
    /// Something of what it takes is not here.
    pub(super) fn new() -> Result<Ground, Skipped> {
        let skipped = |words: String| Skipped(words);
        if !rustix::process::geteuid().is_root() {
            return Err(skipped("it takes root to mount disks".to_owned()));
        }
        let directory = tempfile::tempdir().map_err(|error| skipped(error.to_string()))?;
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| skipped(format!("unshare (util-linux): {error}")))?;
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let ground = Ground { keeper, directory };
        if line != "ready\n" {
            return Err(skipped("there is no mount namespace to be had here".to_owned()));
        }
        ground.try_out().map_err(skipped)?;
        Ok(ground)
    }

    /// A small disk, to see whether there are loop devices, and who makes file systems.
    fn try_out(&self) -> Result<(), String> {
        let mut trial = self.disk("trial", self.directory(), 16 << 20)?;
        trial.mount()?;
        trial.unmount()
    }

    /// Where files may lie that are on no disk of ours.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new disk, in a file in this directory as the namespace sees it; not mounted yet.
    pub(super) fn disk(&self, name: &str, image_dir: &Path, bytes: u64) -> Result<Disk<'_>, String> {
        let image = image_dir.join(format!("{name}.ext4"));
        let file = File::create(self.inside(&image)).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        // Nothing reserved for root, and nothing left to be written later.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        self.run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, &text(&image)])?;
        let mount = self.directory.path().join(name);
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        Ok(Disk { ground: self, image, mount })
    }

    /// A path of the namespace, from outside.
    fn inside(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(below)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new("nsenter")
            .args(["--target", &self.keeper.id().to_string(), "--mount", "--", command])
            .args(arguments)
            .output()
            .map_err(|error| format!("nsenter (util-linux): {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// One disk.
pub(super) struct Disk<'g> {
    ground: &'g Ground,
    /// As the namespace sees them.
    image: PathBuf,
    mount: PathBuf,
}

impl Disk<'_> {
    /// Brings it up; what a power cut left of its journal is played then.
    pub(super) fn mount(&mut self) -> Result<(), String> {
        self.ground.run("mount", &["-t", "ext4", "-o", "loop", &text(&self.image), &text(&self.mount)])
    }

    /// Takes it down. After a power cut what was in memory only is gone by that.
    pub(super) fn unmount(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BUSY;
        loop {
            match self.ground.run("umount", &[&text(&self.mount)]) {
                Err(words) if words.contains("busy") && Instant::now() < deadline => {
                    // Nothing tells when the kernel is done.
                    std::thread::sleep(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    /// Where it is, from outside of the namespace.
    pub(super) fn path(&self) -> PathBuf {
        self.ground.inside(&self.mount)
    }

    /// Where it is, inside: for a disk in a file on this one.
    pub(super) fn inner_path(&self) -> &Path {
        &self.mount
    }

    /// From here on nothing reaches it any more, and every write and sync fails: what was not synced is lost.
    pub(super) fn cut_power(&self) -> Result<(), String> {
        /// `EXT4_IOC_SHUTDOWN`, and not to write the journal first (`linux/ext4.h`).
        const SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(self.path()).map_err(|error| error.to_string())?;
        // SAFETY: this opcode of ext4 reads a u32 through the pointer it is given, and writes nothing.
        let cut = unsafe { ioctl::ioctl(&root, ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        cut.map_err(|error| format!("the power cannot be cut: {error}"))
    }

    /// Free bytes.
    pub(super) fn free_bytes(&self) -> Result<u64, String> {
        let stat = rustix::fs::statvfs(self.path()).map_err(|error| error.to_string())?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Takes all but so many bytes, until it is dropped.
    pub(super) fn fill(&self, free_bytes: u64) -> Result<Filler, String> {
        let path = self.path().join("filler");
        let file = File::create(&path).map_err(|error| error.to_string())?;
        let filler = Filler(path);
        let bytes = self.free_bytes()?.saturating_sub(free_bytes);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(|error| error.to_string())?;
        Ok(filler)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Not mounted, or gone with the namespace.
        let _ = self.ground.run("umount", &["--lazy", &text(&self.mount)]);
    }
}

/// What fills a disk.
pub(super) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
