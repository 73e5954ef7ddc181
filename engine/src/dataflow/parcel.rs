//! What travels through a shuffle: a batch with its logical address.
//!
//! Within a process parcels move by pointer. Between processes the batch becomes one frame of its codec, written once,
//! and is decoded by the reader, who knows the type. One that finds no room in memory waits for its reader on disk.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, SerializeTuple, Serializer};

use crate::batch::{AnyBatch, RecordType};
use crate::dataflow::parcel_memory::Charge;
use crate::error::Result;
use crate::outputs::Stored;

/// A batch for one bucket of a shuffle. It is kept small: there may be one for each source and bucket.
pub(crate) struct Parcel {
    /// Index of the worker that reads it.
    pub worker: u64,
    /// The child's partition that it belongs to.
    pub bucket: u64,
    /// The parent's partition that it comes from.
    pub source: u64,
    /// 0-based position among what `source` sent to `bucket`.
    pub sequence: u64,
    /// The rank of the process that computed it: there may be several attempts at a partition.
    pub rank: u64,
    payload: RefCell<Payload>,
    /// The memory that it takes, until it is opened.
    charge: Option<Arc<Charge>>,
}

/// The records of a parcel.
pub(crate) enum Payload {
    /// As they are.
    Batch(AnyBatch, Arc<RecordType>),
    /// As another process sent them; all who read them share the frame.
    Frame(Bytes),
    /// On disk.
    Stored(Stored, Arc<RecordType>),
    /// Given away.
    Taken,
}

impl Parcel {
    /// Packs records that take the memory of `charge`.
    pub(crate) fn new(
        (worker, rank): (usize, usize),
        bucket: u64,
        (source, sequence): (u64, u64),
        payload: Payload,
        charge: Option<Arc<Charge>>,
    ) -> Self {
        Self {
            worker: worker as u64,
            bucket,
            source,
            sequence,
            rank: rank as u64,
            payload: RefCell::new(payload),
            charge,
        }
    }

    /// The key that fixes the order in which a bucket's parcels are read, whatever order they came in.
    pub(crate) fn order(&self) -> (u64, u64) {
        (self.source, self.sequence)
    }

    /// Unpacks the records.
    ///
    /// # Errors
    /// They lie on disk and cannot be read, or are not what was sent.
    pub(crate) fn open(self, kind: RecordType) -> Result<Option<AnyBatch>> {
        match self.payload.into_inner() {
            Payload::Batch(batch, _) => Ok(Some(batch)),
            Payload::Frame(frame) => kind.decode(frame).map(Some),
            Payload::Stored(stored, _) => kind.decode(stored.read()?).map(Some),
            Payload::Taken => Ok(None),
        }
    }

    /// Packs the same records twice without copying them.
    pub(crate) fn share(self) -> (Self, Self) {
        let (first, second) = self.payload.into_inner().share();
        let address = (self.source, self.sequence);
        let processes = (self.worker as usize, self.rank as usize);
        let twin = Self::new(processes, self.bucket, address, second, self.charge.clone());
        let payload = RefCell::new(first);
        (Self { payload, ..self }, twin)
    }
}

impl Payload {
    /// The same records twice without copying them.
    pub(crate) fn share(self) -> (Self, Self) {
        match self {
            Self::Batch(batch, kind) => {
                let (first, second) = kind.share(batch);
                (Self::Batch(first, Arc::clone(&kind)), Self::Batch(second, kind))
            }
            Self::Frame(frame) => (Self::Frame(frame.clone()), Self::Frame(frame)),
            Self::Stored(stored, kind) => (
                Self::Stored(stored.clone(), Arc::clone(&kind)),
                Self::Stored(stored, kind),
            ),
            Self::Taken => (Self::Taken, Self::Taken),
        }
    }

    /// The records as a frame for another process.
    fn into_frame(self) -> Result<Option<Bytes>> {
        match self {
            Self::Batch(batch, kind) => Ok(Some(kind.encode(batch)?.into())),
            Self::Frame(frame) => Ok(Some(frame)),
            Self::Stored(stored, _) => Ok(Some(stored.read()?.into())),
            Self::Taken => Ok(None),
        }
    }
}

impl Serialize for Parcel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let payload = self.payload.replace(Payload::Taken);
        let frame = payload.into_frame().map_err(S::Error::custom)?;
        let frame = frame.ok_or_else(|| S::Error::custom("a parcel was sent after its records were taken"))?;
        let mut tuple = serializer.serialize_tuple(6)?;
        for number in [self.worker, self.bucket, self.source, self.sequence, self.rank] {
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
        let (worker, bucket, source, sequence, rank, frame) = Deserialize::deserialize(deserializer)?;
        Ok(Self {
            worker,
            bucket,
            source,
            sequence,
            rank,
            payload: RefCell::new(Payload::Frame(frame)),
            charge: None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_parcel_is_small() {
        assert!(size_of::<Parcel>() <= 104, "{}", size_of::<Parcel>());
    }

    #[test]
    fn all_who_read_a_frame_have_the_same_bytes() {
        let kind = RecordType::of::<u64>();
        let frame = kind.encode(AnyBatch::owned(vec![1_u64, 2, 3])).unwrap();
        let place = frame.as_ptr();
        let parcel = Parcel::new((0, 1), 0, (0, 0), Payload::Frame(frame.into()), None);
        let (first, rest) = parcel.share();
        let (second, third) = rest.share();
        for parcel in [first, second, third] {
            let Payload::Frame(frame) = &*parcel.payload.borrow() else {
                panic!("it is a frame no more");
            };
            assert_eq!(frame.as_ptr(), place);
        }
    }
}
