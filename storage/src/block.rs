//! The name of a block, and the records it stands for.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::codec::{Codec, Erased};
use crate::error::{Result, StorageError};
use crate::records::{Record, Records};

/// Names one partition of one dataset. Sorted by dataset, then by partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The dataset's id.
    pub dataset: u64,
    /// 0-based index of the partition.
    pub partition: u64,
}

impl BlockId {
    const SUFFIX: &str = ".block";

    /// The name of the block's file within a folder.
    pub fn file_name(self) -> String {
        format!("{self}{}", Self::SUFFIX)
    }

    /// The block whose file has this name; `None` if it is no name of a block.
    pub fn parse(file_name: &str) -> Option<Self> {
        file_name.strip_suffix(Self::SUFFIX)?.parse().ok()
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "dataset-{}-partition-{}", self.dataset, self.partition)
    }
}

/// The text is not of the form `dataset-3-partition-7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block is named like dataset-3-partition-7")]
pub struct ParseBlockIdError;

impl FromStr for BlockId {
    type Err = ParseBlockIdError;

    fn from_str(text: &str) -> Result<Self, ParseBlockIdError> {
        let parts = || text.strip_prefix("dataset-")?.split_once("-partition-");
        let (dataset, partition) = parts().ok_or(ParseBlockIdError)?;
        let number = |digits: &str| digits.parse().map_err(|_| ParseBlockIdError);
        let id = Self {
            dataset: number(dataset)?,
            partition: number(partition)?,
        };
        // One block has one name: no sign, no leading zeros.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(ParseBlockIdError)
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Block({} records of {})",
            self.len(),
            self.codec().type_name()
        )
    }
}

/// The records of one partition, of a type that only its reader knows. A copy costs O(1) and shares them.
#[derive(Clone)]
pub struct Block(Arc<Inner>);

struct Inner {
    records: Erased,
    len: usize,
    codec: Codec,
    memory_bytes: OnceLock<u64>,
}

impl Block {
    /// A block of `records`.
    pub fn new<T: Record>(records: Vec<T>) -> Self {
        Self::from_records(Records::from(records))
    }

    /// A block that shares `records`.
    pub fn from_records<T: Record>(records: Records<T>) -> Self {
        let len = records.len();
        Self::from_erased(Box::new(records), len, Codec::of::<T>())
    }

    /// `len` records of the type of `codec`.
    pub(crate) fn from_erased(records: Erased, len: usize, codec: Codec) -> Self {
        Self(Arc::new(Inner {
            records,
            len,
            codec,
            memory_bytes: OnceLock::new(),
        }))
    }

    /// The records.
    ///
    /// # Errors
    /// [`StorageError::WrongType`] if they are not of `T`.
    pub fn records<T: Record>(&self) -> Result<Records<T>> {
        let records = self.0.records.downcast_ref::<Records<T>>();
        records
            .cloned()
            .ok_or_else(|| self.wrong_type(std::any::type_name::<T>()))
    }

    /// The records, without a copy of the block left behind: [`Records::into_vec`] then moves them if no other copy
    /// of the block is kept.
    ///
    /// # Errors
    /// [`StorageError::WrongType`] if they are not of `T`.
    pub fn into_records<T: Record>(self) -> Result<Records<T>> {
        let inner = match Arc::try_unwrap(self.0) {
            Ok(inner) => inner,
            Err(shared) => return Self(shared).records(),
        };
        match inner.records.downcast::<Records<T>>() {
            Ok(records) => Ok(*records),
            Err(_) => Err(StorageError::WrongType {
                expected: std::any::type_name::<T>(),
                found: inner.codec.type_name().to_owned(),
            }),
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Estimate of the memory that the records take, in bytes: their size, and for types that own heap memory their
    /// serialised size too. Computed at the first call.
    pub fn memory_bytes(&self) -> u64 {
        *self
            .0
            .memory_bytes
            .get_or_init(|| self.codec().memory_bytes(&self.0.records))
    }

    /// How a store writes this block.
    pub fn codec(&self) -> Codec {
        self.0.codec
    }

    pub(crate) fn erased(&self) -> &Erased {
        &self.0.records
    }

    fn wrong_type(&self, expected: &'static str) -> StorageError {
        StorageError::WrongType {
            expected,
            found: self.codec().type_name().to_owned(),
        }
    }

    /// Nothing, or an error if the records are not of the type of `codec`.
    pub(crate) fn check_type(&self, codec: Codec) -> Result<()> {
        if self.codec().type_id() == codec.type_id() {
            Ok(())
        } else {
            Err(self.wrong_type(codec.type_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_name_is_read_back_and_no_other_text_is_a_name() {
        let id = BlockId {
            dataset: 3,
            partition: u64::MAX,
        };
        assert_eq!(
            BlockId {
                dataset: 3,
                partition: 7
            }
            .to_string(),
            "dataset-3-partition-7"
        );
        assert_eq!(BlockId::parse(&id.file_name()), Some(id));
        for text in [
            "",
            "dataset-3",
            "dataset-03-partition-7",
            "dataset-+3-partition-7",
            "dataset-3-partition-7-",
            "dataset-3-partition-18446744073709551616",
            "dataset--partition-",
        ] {
            assert_eq!(text.parse::<BlockId>(), Err(ParseBlockIdError), "{text}");
        }
        assert_eq!(BlockId::parse("dataset-3-partition-7"), None);
    }

    #[test]
    fn records_are_shared_and_moved_when_nobody_shares_them() {
        let block = Block::new(vec![1_u64, 2]);
        let address = block.records::<u64>().unwrap().as_ptr();
        assert_eq!(block.clone().records::<u64>().unwrap().as_ptr(), address);
        let moved = block.into_records::<u64>().unwrap().into_vec();
        assert_eq!(moved.as_ptr(), address);
        let block = Block::new(moved);
        let reader = block.records::<u64>().unwrap();
        let cloned = block.into_records::<u64>().unwrap().into_vec();
        assert_ne!(cloned.as_ptr(), reader.as_ptr());
    }

    #[test]
    fn another_type_is_an_error_that_names_both() {
        let block = Block::new(vec![1_u64]);
        for error in [
            block.records::<u32>().unwrap_err(),
            block.into_records::<u32>().unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("u32") && error.to_string().contains("u64"),
                "{error}"
            );
        }
    }

    #[test]
    fn memory_counts_what_the_records_own() {
        assert_eq!(Block::new(vec![0_u64; 10]).memory_bytes(), 80);
        let text_bytes = Block::new(vec!["x".repeat(1000)]).memory_bytes();
        assert!((1000..1100).contains(&text_bytes), "{text_bytes}");
    }
}
