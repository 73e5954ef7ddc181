//! The records of a block, shared by all who read them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a dataset may hold: every type that can be cloned, sent and serialised.
///
/// Records become bytes without the names of their fields (postcard), on disk and between processes. So attributes of
/// serde that look at names or at what follows do not work there. `flatten` is an error when a record is written, and
/// so is `skip_serializing_if` where it leaves a field out. Enums that are `untagged` or have a `tag`, and types like
/// `serde_json::Value`, are written and are an error when they are read back. All of these errors name the type, the
/// record and what to do. `rename`, `skip`, `transparent` and `with` work.
///
/// A function over any dataset takes `T: Record`. What borrows is no record: `&str` wants `map(str::to_owned)` before
/// it comes into a dataset. serde knows arrays of up to 32 elements; longer ones are a `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no record of a dataset",
    label = "cannot be a record",
    note = "derive `Clone`, `serde::Serialize` and `serde::Deserialize` for it; it may not borrow"
)]
pub trait Record: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Record for T {}

/// The records of one block. A copy costs O(1) and shares them.
pub struct Records<T>(Storage<T>);

/// A vector that lies in memory of another owner, such as a mapped file.
pub(crate) type InPlaceVector<T> = Arc<dyn Deref<Target = Vec<T>> + Send + Sync>;

enum Storage<T> {
    Owned(Arc<Vec<T>>),
    InPlace(InPlaceVector<T>),
}

impl<T> Records<T> {
    pub(crate) fn in_place(vector: InPlaceVector<T>) -> Self {
        Self(Storage::InPlace(vector))
    }

    pub(crate) fn as_vec(&self) -> &Vec<T> {
        match &self.0 {
            Storage::Owned(records) => records,
            Storage::InPlace(records) => records,
        }
    }
}

impl<T: Clone> Records<T> {
    /// The records by value: moved if nobody else holds them and they are not read in place, else cloned.
    pub fn into_vec(self) -> Vec<T> {
        match self.0 {
            Storage::Owned(records) => Arc::unwrap_or_clone(records),
            Storage::InPlace(records) => records.to_vec(),
        }
    }
}

impl<T> From<Vec<T>> for Records<T> {
    fn from(records: Vec<T>) -> Self {
        Self(Storage::Owned(Arc::new(records)))
    }
}

impl<T: Serialize> Serialize for Records<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_vec().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Records<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|records| Self(Storage::Owned(Arc::new(records))))
    }
}

impl<T> Deref for Records<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_vec()
    }
}

impl<T> Clone for Records<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Storage::Owned(records) => Storage::Owned(Arc::clone(records)),
            Storage::InPlace(records) => Storage::InPlace(Arc::clone(records)),
        })
    }
}

impl<T: fmt::Debug> fmt::Debug for Records<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for Records<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Records<T> {}
