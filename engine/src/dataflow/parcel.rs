//! What travels through a shuffle: a batch with its logical address.
//!
//! Within a process parcels move by pointer. Between processes the batch becomes one frame of its codec, written once,
//! and is decoded by the reader, who knows the type.

use std::cell::RefCell;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, SerializeTuple, Serializer};

use crate::batch::{AnyBatch, AnyStream, RecordType, TaskResult};

/// A batch for one bucket of a shuffle.
pub struct Parcel {
    /// Index of the worker that reads it.
    pub worker: u64,
    /// The child's partition that it belongs to.
    pub bucket: u64,
    /// The parent's partition that it comes from.
    pub source: u64,
    /// 0-based position among what `source` sent to `bucket`.
    pub sequence: u64,
    payload: RefCell<Payload>,
}

enum Payload {
    Batch(AnyBatch, RecordType),
    Frame(Vec<u8>),
    Taken,
}

impl Parcel {
    /// Packs a batch.
    pub fn new(worker: usize, bucket: usize, source: usize, sequence: u64, batch: AnyBatch, kind: RecordType) -> Self {
        Self {
            worker: worker as u64,
            bucket: bucket as u64,
            source: source as u64,
            sequence,
            payload: RefCell::new(Payload::Batch(batch, kind)),
        }
    }

    /// A parcel that came from another process as a frame.
    pub fn from_frame(worker: u64, bucket: u64, source: u64, sequence: u64, frame: Vec<u8>) -> Self {
        Self {
            worker,
            bucket,
            source,
            sequence,
            payload: RefCell::new(Payload::Frame(frame)),
        }
    }

    /// The key that fixes the order in which a bucket's parcels are read, whatever order they came in.
    pub fn order(&self) -> (u64, u64) {
        (self.source, self.sequence)
    }

    /// Unpacks the records as a stream of batches.
    pub fn open(self, kind: RecordType, batch_records: usize) -> TaskResult<AnyStream> {
        match self.payload.into_inner() {
            Payload::Batch(batch, _) => Ok(Box::new(std::iter::once(Ok(batch)))),
            Payload::Frame(frame) => Ok(kind.stream(kind.decode(frame)?, batch_records)?),
            Payload::Taken => Ok(Box::new(std::iter::empty())),
        }
    }

    /// Packs the same records twice without copying them.
    pub fn share(self) -> (Self, Self) {
        let (first, second) = match self.payload.into_inner() {
            Payload::Batch(batch, kind) => {
                let (first, second) = kind.share(batch);
                (Payload::Batch(first, kind), Payload::Batch(second, kind))
            }
            Payload::Frame(frame) => (Payload::Frame(frame.clone()), Payload::Frame(frame)),
            Payload::Taken => (Payload::Taken, Payload::Taken),
        };
        let address = (self.worker, self.bucket, self.source, self.sequence);
        let with = |payload| Self {
            worker: address.0,
            bucket: address.1,
            source: address.2,
            sequence: address.3,
            payload: RefCell::new(payload),
        };
        (with(first), with(second))
    }
}

impl Serialize for Parcel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let payload = self.payload.replace(Payload::Taken);
        let frame = match payload {
            Payload::Batch(batch, kind) => kind.encode(batch).map_err(S::Error::custom)?,
            Payload::Frame(frame) => frame,
            Payload::Taken => return Err(S::Error::custom("a parcel was sent after its records were taken")),
        };
        let mut tuple = serializer.serialize_tuple(5)?;
        for number in [self.worker, self.bucket, self.source, self.sequence] {
            tuple.serialize_element(&number)?;
        }
        tuple.serialize_element(&frame)?;
        // timely asks for the length first and for the bytes after: encode once.
        self.payload.replace(Payload::Frame(frame));
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Parcel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (worker, bucket, source, sequence, frame) = Deserialize::deserialize(deserializer)?;
        Ok(Self {
            worker,
            bucket,
            source,
            sequence,
            payload: RefCell::new(Payload::Frame(frame)),
        })
    }
}
