//! Names of logical things. Results may depend on these, and on nothing physical.

use std::fmt;

use distdl_storage::BlockId;
use serde::{Deserialize, Serialize};

/// A dataset in a context's lineage. Parents have smaller ids than their children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatasetId(pub u64);

impl DatasetId {
    /// The name of the block of one partition.
    pub fn block(self, partition: usize) -> BlockId {
        BlockId {
            dataset: self.0,
            partition: partition as u64,
        }
    }
}

impl fmt::Display for DatasetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "#{}", self.0)
    }
}

/// One shuffle: the dependency at position `dependency` of dataset `child`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ShuffleId {
    /// The dataset that reads the shuffled records.
    pub child: DatasetId,
    /// 0-based position among the child's dependencies.
    pub dependency: usize,
}

impl fmt::Display for ShuffleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.child, self.dependency)
    }
}
