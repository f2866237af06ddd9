//! A disk in memory that can lose power: everything not synced is kept, lost or torn, sector by sector, as a seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use carillon_store::backend::embedded::{Disk, DiskFile, Options};

use super::support::{Rng, options};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug)]
enum NameOp {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync will write. What a failed sync should have written is in none of both: the kernel
    /// takes it for clean, and shows it until the power goes.
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct Sim {
    rng: Rng,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Since the last sync of a directory; there is one that matters.
    name_ops: Vec<NameOp>,
    /// Operations until the power goes.
    ops_left: Option<u64>,
    is_off: bool,
    lies_about_syncs: bool,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

fn power_off() -> io::Error {
    io::Error::other("the power is off")
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, op: &NameOp) {
    match op {
        NameOp::Set(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameOp::Remove(path) => {
            names.remove(path);
        }
        NameOp::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(Sim {
            rng: Rng(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_ops: Vec::new(),
            ops_left: None,
            is_off: false,
            lies_about_syncs: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().expect("not poisoned")
    }

    /// The power goes after this many more operations, in the middle of the next.
    pub(crate) fn fail_after(&self, ops: u64) {
        self.lock().ops_left = Some(ops);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// A disk whose syncs do nothing: to see that the tests see it.
    pub(crate) fn lie_about_syncs(&self) {
        self.lock().lies_about_syncs = true;
    }

    /// The process is gone, the machine is not: everything written is there, durable or not.
    pub(crate) fn process_restart(&self) {
        let sim = &mut *self.lock();
        sim.ops_left = None;
        sim.is_off = false;
    }

    /// What a power cut leaves, and the power is back.
    pub(crate) fn power_cycle(&self) {
        let sim = &mut *self.lock();
        let percent = [0, 30, 50, 70, 100][sim.rng.below(5) as usize];
        for inode in &mut sim.inodes {
            if sim.rng.chance(percent) {
                inode.durable.resize(inode.now.len(), 0);
            }
            for sector in std::mem::take(&mut inode.dirty) {
                if sim.rng.chance(percent) {
                    inode.write_back(sector);
                }
            }
            inode.now.clone_from(&inode.durable);
        }
        // A file system's own log keeps the order of changes to names.
        let kept = sim.rng.below(sim.name_ops.len() as u64 + 1) as usize;
        for op in sim.name_ops.drain(..).take(kept) {
            apply(&mut sim.durable_names, &op);
        }
        sim.names.clone_from(&sim.durable_names);
        sim.ops_left = None;
        sim.is_off = false;
    }
}

impl Inode {
    /// Makes one sector durable, as far as the durable length reaches.
    fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.now.len()).min(self.durable.len());
        if from < to {
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
    }
}

impl Sim {
    /// Counts an operation; `Ok(false)` when the power goes in the middle of it.
    fn op(&mut self) -> io::Result<bool> {
        if self.is_off {
            return Err(power_off());
        }
        match &mut self.ops_left {
            Some(0) => {
                self.is_off = true;
                Ok(false)
            }
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    fn name_op(&mut self, op: NameOp) -> io::Result<()> {
        if !self.op()? {
            return Err(power_off());
        }
        apply(&mut self.names, &op);
        self.name_ops.push(op);
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let sim = self.lock();
        let names = sim.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.lock().find(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut sim = self.lock();
        sim.inodes.push(Inode::default());
        let inode = sim.inodes.len() - 1;
        sim.name_op(NameOp::Set(path.to_owned(), inode))?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.find(from)?;
        sim.name_op(NameOp::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.find(path)?;
        sim.name_op(NameOp::Remove(path.to_owned()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let sim = &mut *self.lock();
        if !sim.op()? {
            return Err(power_off());
        }
        let is_in = |name: &Path| name.parent() == Some(path);
        let mut later = Vec::new();
        for op in sim.name_ops.drain(..) {
            let concerned = match &op {
                NameOp::Set(name, _) | NameOp::Remove(name) | NameOp::Rename(name, _) => is_in(name),
            };
            if concerned {
                apply(&mut sim.durable_names, &op);
            } else {
                later.push(op);
            }
        }
        sim.name_ops = later;
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut sim = self.lock();
        bytes.fill_with(|| sim.rng.next() as u8);
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let sim = self.disk.lock();
        if sim.is_off {
            return Err(power_off());
        }
        let from = &sim.inodes[self.inode].now[(offset as usize).min(sim.inodes[self.inode].now.len())..];
        let count = bytes.len().min(from.len());
        bytes[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let sim = &mut *self.disk.lock();
        let goes_through = sim.op()?;
        // The power may go in the middle; now and then a write is short for no reason.
        let count = match goes_through {
            true if sim.rng.chance(95) => bytes.len(),
            _ => 1 + sim.rng.below(bytes.len() as u64) as usize,
        };
        let now = &mut sim.inodes[self.inode].now;
        let end = offset as usize + count;
        if now.len() < end {
            now.resize(end, 0);
        }
        now[offset as usize..end].copy_from_slice(&bytes[..count]);
        sim.inodes[self.inode].dirty.extend(offset as usize / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        if goes_through { Ok(count) } else { Err(power_off()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let sim = &mut *self.disk.lock();
        let goes_through = sim.op()?;
        let inode = &mut sim.inodes[self.inode];
        if !goes_through {
            // Either the power goes, or only this sync fails and takes what it did not write for clean.
            if sim.rng.chance(50) {
                inode.dirty.clear();
            }
            return Err(power_off());
        }
        if !sim.lies_about_syncs {
            inode.durable.resize(inode.now.len(), 0);
            for sector in std::mem::take(&mut inode.dirty) {
                inode.write_back(sector);
            }
        }
        Ok(())
    }
}

/// Small sizes, on this disk.
pub(crate) fn options_on(disk: impl Disk) -> Options {
    Options { disk: Arc::new(disk), ..options() }
}
