//! A tier that fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::error::{Result, StorageError};
use crate::spill::Spill;
use crate::tier::Tier;
use crate::unpoisoned::Unpoisoned;

/// What is to happen at a put.
#[derive(Debug)]
#[non_exhaustive]
pub enum PutFault {
    /// It fails, and nothing is written.
    FailBefore,
    /// The block is written, but the put says that it failed.
    FailAfter,
    /// The disk is full.
    DiskFull,
    /// It waits.
    Pause(Pause),
}

/// What is to happen at a get of a block that is kept.
#[derive(Debug)]
#[non_exhaustive]
pub enum GetFault {
    /// It fails.
    Fail,
    /// It fails, since too many files are open.
    TooManyFiles,
    /// The frame is read with this bit changed, counted from 0 and modulo the frame's length.
    FlipBit(usize),
    /// Only so many bytes of the frame are read.
    ShortRead(usize),
    /// The block is gone.
    Lose,
    /// It waits.
    Pause(Pause),
}

/// Makes an operation wait for its [`Gate`].
#[derive(Debug)]
pub struct Pause {
    reached: Sender<()>,
    resume: Receiver<()>,
}

/// Holds an operation at its [`Pause`] until it is opened or dropped.
#[derive(Debug)]
pub struct Gate {
    reached: Receiver<()>,
    resume: Sender<()>,
}

impl Pause {
    /// A pause and the gate that ends it.
    pub fn new() -> (Self, Gate) {
        let (reached, reached_at_gate) = channel();
        let (resume, resume_at_pause) = channel();
        (
            Self {
                reached,
                resume: resume_at_pause,
            },
            Gate {
                reached: reached_at_gate,
                resume,
            },
        )
    }

    pub(super) fn wait(self) {
        // Whichever side is gone lets the other go on.
        let _ = self.reached.send(());
        let _ = self.resume.recv();
    }
}

impl Gate {
    /// Waits until the operation has come to its pause.
    pub fn wait_until_reached(&self) {
        let _ = self.reached.recv();
    }

    /// Lets the operation go on, now or when it comes.
    pub fn open(self) {
        let _ = self.resume.send(());
    }
}

/// The script of a [`FaultTier`]. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    puts_count: u64,
    gets_count: u64,
    put_faults: BTreeMap<u64, PutFault>,
    get_faults: BTreeMap<u64, GetFault>,
    disk_full: bool,
}

impl Faults {
    /// A script without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `fault` happen at a put: the next one for `after` 0, the one after that for 1, and so on.
    pub fn on_put(&self, after: u64, fault: PutFault) {
        let mut script = self.script();
        let at = script.puts_count + after;
        script.put_faults.insert(at, fault);
    }

    /// Lets `fault` happen at a get, counted like puts.
    pub fn on_get(&self, after: u64, fault: GetFault) {
        let mut script = self.script();
        let at = script.gets_count + after;
        script.get_faults.insert(at, fault);
    }

    /// From now on every put finds the disk full, or none does.
    pub fn set_disk_full(&self, disk_full: bool) {
        self.script().disk_full = disk_full;
    }

    /// Number of puts so far.
    pub fn puts_count(&self) -> u64 {
        self.script().puts_count
    }

    /// Number of gets so far.
    pub fn gets_count(&self) -> u64 {
        self.script().gets_count
    }

    fn next_put(&self) -> Option<PutFault> {
        let mut script = self.script();
        let at = script.puts_count;
        script.puts_count += 1;
        let full = script.disk_full.then_some(PutFault::DiskFull);
        script.put_faults.remove(&at).or(full)
    }

    fn next_get(&self) -> Option<GetFault> {
        let mut script = self.script();
        let at = script.gets_count;
        script.gets_count += 1;
        script.get_faults.remove(&at)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unpoisoned()
    }
}

/// A tier with the faults of a script.
#[derive(Debug)]
pub struct FaultTier {
    inner: Box<dyn Tier>,
    faults: Faults,
}

impl FaultTier {
    /// `inner` with `faults`.
    pub fn new(inner: Box<dyn Tier>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    fn failure(&self, what: &'static str, error: impl Into<io::Error>, needed_bytes: u64) -> StorageError {
        StorageError::io(what, Path::new(self.inner.name()), needed_bytes, error.into())
    }

    /// The block as it is read after `damage` was done to its frame.
    fn damaged(&self, id: BlockId, codec: Codec, damage: impl FnOnce(&mut Vec<u8>)) -> Result<Option<Block>> {
        let Some(block) = self.inner.get(id, codec)? else {
            return Ok(None);
        };
        let mut frame = codec.encode(&block)?;
        damage(&mut frame);
        codec.decode(frame.into()).map(Some).map_err(|error| error.about(id))
    }
}

impl Tier for FaultTier {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn put(&self, id: BlockId, block: &Block) -> Result<()> {
        match self.faults.next_put() {
            Some(PutFault::FailBefore) => return Err(self.failure("write", io::ErrorKind::Other, 0)),
            Some(PutFault::FailAfter) => {
                self.inner.put(id, block)?;
                return Err(self.failure("write", io::ErrorKind::Other, 0));
            }
            Some(PutFault::DiskFull) => {
                return Err(self.failure("write", io::ErrorKind::StorageFull, block.memory_bytes()));
            }
            Some(PutFault::Pause(pause)) => pause.wait(),
            None => {}
        }
        self.inner.put(id, block)
    }

    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        match self.faults.next_get() {
            Some(GetFault::Fail) => return Err(self.failure("read", io::ErrorKind::Other, 0)),
            Some(GetFault::TooManyFiles) => return Err(self.failure("read", Errno::MFILE, 0)),
            Some(GetFault::FlipBit(bit)) => {
                return self.damaged(id, codec, |frame| {
                    let bit = bit % (frame.len() * 8);
                    frame[bit / 8] ^= 1 << (bit % 8);
                });
            }
            Some(GetFault::ShortRead(bytes)) => return self.damaged(id, codec, |frame| frame.truncate(bytes)),
            Some(GetFault::Lose) => return self.inner.remove(id).map(|_| None),
            Some(GetFault::Pause(pause)) => pause.wait(),
            None => {}
        }
        self.inner.get(id, codec)
    }

    fn remove(&self, id: BlockId) -> Result<bool> {
        self.inner.remove(id)
    }

    fn bytes_of(&self, id: BlockId) -> Option<u64> {
        self.inner.bytes_of(id)
    }

    fn contains(&self, id: BlockId) -> bool {
        self.inner.contains(id)
    }

    fn ids(&self) -> Vec<BlockId> {
        self.inner.ids()
    }

    fn bytes_used(&self) -> u64 {
        self.inner.bytes_used()
    }

    fn bytes_max(&self) -> u64 {
        self.inner.bytes_max()
    }

    fn spill(&self) -> Result<Spill> {
        self.inner.spill()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryTier;
    use crate::testing::conformance;

    #[test]
    fn without_faults_it_conforms() {
        conformance(&FaultTier::new(Box::new(MemoryTier::new(1 << 20)), Faults::new()));
    }
}
