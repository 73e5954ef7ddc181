//! What cutting into chunks costs, for benchmarks.

use crate::chunk::cut;

/// Cuts a segment into chunks and hashes each, as the cache does with what it fetches. Returns how many there are.
pub fn chunks_count(segment: &[u8]) -> usize {
    cut(segment, 0).len()
}
