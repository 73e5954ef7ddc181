//! The vector that a lane writes its update into.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cluster::shared_memory::Piece;

/// One update, as long as the parameters, in memory of this process or in memory that it shares with others.
pub(crate) enum Vector {
    /// Of this process alone.
    Own(Vec<f32>),
    /// Readable in place for other processes.
    Shared(Piece),
}

impl Vector {
    /// One of this process, all 0.
    pub(crate) fn new(length: usize) -> Self {
        Self::Own(vec![0.0; length])
    }

    /// Where it begins in the region that it shares.
    pub(crate) fn start(&self) -> Option<usize> {
        match self {
            Self::Own(_) => None,
            Self::Shared(piece) => Some(piece.start()),
        }
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(values) => values,
            Self::Shared(piece) => piece,
        }
    }
}

impl DerefMut for Vector {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Own(values) => values,
            Self::Shared(piece) => piece,
        }
    }
}

// Between the workers of one process vectors move by pointer, except in tests of what bytes would do.
impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Own)
    }
}
