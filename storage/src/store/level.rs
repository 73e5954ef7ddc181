//! Where blocks are kept, and how often.

/// Where a block is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Level {
    /// In memory. Dropped when other datasets need the room, and computed again when it is asked for. What of a dataset
    /// has no room beside its other blocks is not kept.
    Memory,
    /// On disk.
    Disk,
    /// In memory, and written to disk when other datasets need the room, or there is none beside its other blocks.
    MemoryAndDisk,
    /// [`Level::Memory`] in two processes. Who computes a block gives a copy to another process; a store of its own,
    /// and a program of one process, keeps it once.
    Memory2,
    /// [`Level::Disk`] in two processes.
    Disk2,
    /// [`Level::MemoryAndDisk`] in two processes.
    MemoryAndDisk2,
}

impl Level {
    /// The level of each copy.
    pub fn single(self) -> Self {
        match self {
            Self::Memory | Self::Memory2 => Self::Memory,
            Self::Disk | Self::Disk2 => Self::Disk,
            Self::MemoryAndDisk | Self::MemoryAndDisk2 => Self::MemoryAndDisk,
        }
    }

    /// Whether blocks are kept in two processes.
    pub fn is_twice(self) -> bool {
        self != self.single()
    }
}
