//! The storage layer of DistDL: a block's life from put over memory and disk to get, and the files that are input and
//! output.
//!
//! Blocks are kept by a [`BlockStore`]; files and objects are read and written by [`remote::Stores`]; what must survive
//! the program is kept by [`Commits`]. Bytes from disk are checked before they are believed: bad bytes are an error
//! that names the block.
//!
//! ```
//! use distdl_storage::{Block, BlockId, BlockStore, Codec, Level, StoreOptions};
//!
//! let store = BlockStore::new(StoreOptions { memory_bytes_max: 1 << 20, ..StoreOptions::default() })?;
//! let id = BlockId { dataset: 3, partition: 7 };
//! store.put(id, &Block::new(vec![1.5_f32, 2.5]), Level::MemoryAndDisk)?;
//! let block = store.get(id, Codec::of::<f32>())?.expect("it was just put");
//! assert_eq!(*block.records::<f32>()?, [1.5, 2.5]);
//! # Ok::<(), distdl_storage::StorageError>(())
//! ```

mod unpoisoned;

pub mod object;

mod error;

pub mod bloom;

mod records;

mod size;

mod strict;

mod schema;

mod codec;

mod block;

mod frame;

pub mod durable;

mod spill;

mod tier;

mod memory;

mod owner;

mod disk;

mod flight;

mod device;

mod chunk;

mod figures;

pub mod peers;

mod cache;

mod memo;

mod store;

mod sources;

pub mod remote;

mod split;

mod bad_record;

pub mod text;

mod columns;

pub mod csv;

pub mod array;

#[cfg(any(feature = "arrow", feature = "parquet"))]
mod table;

#[cfg(feature = "arrow")]
pub mod arrow;

#[cfg(feature = "parquet")]
pub mod parquet;

mod manifest;

mod checkpoint;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bad_record::BadRecord;
pub use block::{Block, BlockId, ParseBlockIdError};
pub use bloom::Digest;
pub use checkpoint::{Checkpoint, FoundCheckpoint};
pub use codec::{Codec, CodecKind, Source};
pub use device::{DeviceBudget, DeviceError, DeviceFigures, DeviceKey, DeviceMemory, DevicePin, DeviceTier};
pub use disk::{DiskTier, temporary_folder};
pub use error::{Result, StorageError};
pub use figures::StoreFigures;
pub use frame::program_fingerprint;
pub use manifest::{Blob, Commit, Commits, Unpublished};
pub use memo::{Memo, MemoFigures};
pub use memory::MemoryTier;
pub use records::{Record, Records};
pub use size::size_of_value;
pub use sources::BytesBySource;
pub use spill::{Spill, SpilledRows};
pub use split::PARTITIONS_MAX;
pub use store::{BlockStore, Level, Pin, Reservation, StoreOptions, StoreStatistics};
pub use tier::Tier;
pub use unpoisoned::Unpoisoned;
