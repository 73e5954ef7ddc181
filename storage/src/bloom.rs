//! A Bloom filter over digests. **It may only say "absent".**
//!
//! What was inserted is never said to be absent. "Maybe there" is to be confirmed by an exact look-up: a false positive
//! costs that look-up, and never a result. Nothing can be taken out: after removals a filter is built anew from the
//! keys that are left.

use std::hash::{Hash, Hasher};

use growable_bloom_filter::{GrowableBloom, GrowableBloomBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StorageError};

/// What a filter is asked about: a BLAKE3 hash.
pub type Digest = [u8; 32];

const MAGIC: &[u8; 8] = b"dstlBlm1";

const CHECKSUM_BYTES: usize = 32;

/// Longest snapshot that is read, in bytes.
const SNAPSHOT_BYTES_MAX: usize = 1 << 28;

/// Largest number of keys that a filter may be sized for.
const KEYS_MAX: usize = 1 << 24;

/// Most times that a filter grows beyond the size it was made for. Then it says "maybe" to everything.
const GROWTHS_MAX: usize = 4;

const GROWTH_FACTOR: usize = 2;

/// The library's, which it names nowhere: each filter that it adds has this share of the error of the one before.
const TIGHTENING: f64 = 0.8515625;

/// A growing filter's errors add up: to a geometric series of its parts', the first of which has the error asked for.
const COMPOUND: f64 = 1.0 / (1.0 - TIGHTENING);

const RATE_MIN: f64 = 1e-6;
const RATE_MAX: f64 = 0.5;

/// A set of digests that forgets which, in about ten bits a key for a false-positive rate of one in a hundred.
#[derive(Debug, Clone, PartialEq)]
pub struct Bloom {
    filter: GrowableBloom,
    sizing: Sizing,
    /// Set once it has grown as often as it may.
    says_maybe_to_all: bool,
}

/// What a filter is made for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Sizing {
    keys: usize,
    rate_max: f64,
}

/// The bytes of a digest and nothing else, whatever the derived `Hash` of an array adds.
struct Key<'a>(&'a Digest);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(self.0);
    }
}

impl Bloom {
    /// An empty filter for about `keys` keys, with at most `rate_max` false positives for each absent key that it is
    /// asked about. More keys make it slower and hold to the rate, up to about 30 times as many; beyond that it says
    /// "maybe" to everything. The rate is taken as 0.000001 to 0.5, the keys as 1 to 16,777,216.
    pub fn new(keys: usize, rate_max: f64) -> Self {
        let sizing = Sizing {
            keys: keys.clamp(1, KEYS_MAX),
            rate_max: if rate_max.is_nan() {
                RATE_MIN
            } else {
                rate_max.clamp(RATE_MIN, RATE_MAX)
            },
        };
        Self {
            filter: sizing.filter(),
            sizing,
            says_maybe_to_all: false,
        }
    }

    /// A filter of `keys`, sized for them.
    pub fn of<'a>(keys: impl ExactSizeIterator<Item = &'a Digest>, rate_max: f64) -> Self {
        let mut bloom = Self::new(keys.len(), rate_max);
        keys.for_each(|key| bloom.insert(key));
        bloom
    }

    /// A filter whose bits are all set, as a damaged or hostile one may be.
    #[cfg(test)]
    pub(crate) fn all_ones() -> Self {
        Self {
            says_maybe_to_all: true,
            ..Self::new(1, RATE_MAX)
        }
    }

    /// Adds a key. From now on it is never said to be absent.
    pub fn insert(&mut self, key: &Digest) {
        let full = self.filter.len() >= self.sizing.capacity(GROWTHS_MAX + 1);
        self.says_maybe_to_all |= full && !self.filter.contains(Key(key));
        if !self.says_maybe_to_all {
            self.filter.insert(Key(key));
        }
    }

    /// `false` says that the key was never inserted. `true` says nothing for sure.
    pub fn may_contain(&self, key: &Digest) -> bool {
        self.says_maybe_to_all || self.filter.contains(Key(key))
    }

    /// The filter as bytes for another process: magic and version, sizes, bits, and BLAKE3 over all of it.
    ///
    /// # Errors
    /// Never for a filter of this module; the serialiser's type allows for it.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        let parts = (self.sizing, self.says_maybe_to_all, &self.filter);
        let mut bytes = postcard::to_extend(&parts, MAGIC.to_vec()).map_err(|error| StorageError::Encode {
            type_name: "Bloom",
            reason: error.to_string(),
        })?;
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        Ok(bytes)
    }

    /// The filter of a snapshot.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for bytes that are no snapshot of this version, whole and unchanged. No bytes whatever
    /// make it panic, or allocate more than about their own length.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self> {
        let corrupt = |reason: &str| StorageError::corrupt("a snapshot of a Bloom filter", reason);
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(corrupt("it is longer than a filter can be"));
        }
        let (body, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(|| corrupt("it is cut off"))?;
        let parts = body
            .strip_prefix(MAGIC)
            .ok_or_else(|| corrupt("it is of another version"))?;
        if blake3::hash(body).as_bytes() != checksum {
            return Err(corrupt("its checksum is wrong"));
        }
        // The checksum keeps accidents out. The sizes are looked at all the same: whoever sends it may mean harm.
        let (shape, rest) = postcard::take_from_bytes::<(Sizing, bool, Shape<'_>)>(parts)
            .map_err(|error| corrupt(&format!("it cannot be read: {error}")))?;
        let (sizing, says_maybe_to_all, shape) = shape;
        if !rest.is_empty() || !sizing.is_sound() || !shape.is_of(&sizing) {
            return Err(corrupt("its sizes do not go together"));
        }
        let (_, _, filter) = postcard::from_bytes::<(Sizing, bool, GrowableBloom)>(parts)
            .map_err(|error| corrupt(&format!("it cannot be read: {error}")))?;
        Ok(Self {
            filter,
            sizing,
            says_maybe_to_all,
        })
    }
}

impl Sizing {
    fn error(&self) -> f64 {
        self.rate_max / COMPOUND
    }

    fn filter(&self) -> GrowableBloom {
        GrowableBloomBuilder::new()
            .estimated_insertions(self.keys)
            .desired_error_ratio(self.error())
            .growth_factor(GROWTH_FACTOR)
            .tightening_ratio(TIGHTENING)
            .build()
    }

    /// What a filter of so many parts holds.
    fn capacity(&self, parts: usize) -> usize {
        (0..parts as u32).map(|part| self.keys * GROWTH_FACTOR.pow(part)).sum()
    }

    fn is_sound(&self) -> bool {
        (1..=KEYS_MAX).contains(&self.keys) && (RATE_MIN..=RATE_MAX).contains(&self.rate_max)
    }
}

/// The library's filter as it lies in bytes, borrowed from them: its sizes are looked at before anything is made of it.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    parts: Vec<Part<'a>>,
    error: f64,
    keys: usize,
    inserts: usize,
    capacity: usize,
    growth_factor: usize,
    tightening: f64,
}

#[derive(Deserialize)]
struct Part<'a> {
    bits: &'a [u8],
    slices: u64,
}

impl Shape<'_> {
    /// Whether a filter of this sizing may look so.
    fn is_of(&self, sizing: &Sizing) -> bool {
        let settings = (self.error, self.keys, self.growth_factor, self.tightening)
            == (sizing.error(), sizing.keys, GROWTH_FACTOR, TIGHTENING);
        let parts = self.parts.len();
        let counts =
            parts <= GROWTHS_MAX + 1 && self.capacity == sizing.capacity(parts) && self.inserts <= self.capacity;
        // Slices of no bits would be divided by.
        let whole = |part: &Part<'_>| (1..=64).contains(&part.slices) && part.bits.len() as u64 * 8 >= part.slices;
        settings && counts && self.parts.iter().all(whole)
    }
}

#[cfg(test)]
mod tests;
