//! The fixed tree over lanes along which floating-point updates are summed.
//!
//! The sum over lanes `[start, end)` is that over `[start, middle)` plus that over `[middle, end)`, where the left part
//! is the largest power of two below the length. The tree depends on the number of lanes alone, so that a sum has the
//! same bits wherever its parts are computed. (It is the tree of pairwise summation, Higham 1993.)

use std::ops::Range;

/// Where the sum over `lanes` is split; `None` for a single lane.
pub fn split(lanes: &Range<usize>) -> Option<usize> {
    (lanes.len() > 1).then(|| lanes.start + (lanes.len().div_ceil(2)).next_power_of_two())
}

/// Sums per-lane values along the tree.
pub fn fold<T>(lanes: Range<usize>, leaf: &mut impl FnMut(usize) -> T, add: &mut impl FnMut(T, T) -> T) -> Option<T> {
    if lanes.is_empty() {
        return None;
    }
    Some(match split(&lanes) {
        None => leaf(lanes.start),
        Some(middle) => {
            // Depth is the logarithm of the number of lanes.
            let left = fold(lanes.start..middle, leaf, add)?;
            let right = fold(middle..lanes.end, leaf, add)?;
            add(left, right)
        }
    })
}

/// Elements that are summed at a time, so that partial sums stay in the first-level cache.
const BLOCK: usize = 1024;

/// Writes the sum along the tree of `vectors[lane][range]` to `sum`, which is `range.len()` long.
///
/// # Panics
/// If a vector is shorter than `range.end` or `sum` has another length: lengths are checked where vectors come in.
pub fn sum(vectors: &[&[f32]], range: Range<usize>, sum: &mut [f32]) {
    assert_eq!(sum.len(), range.len(), "the sum must be as long as the range");
    let mut scratch = vec![[0.0f32; BLOCK]; usize::BITS as usize - vectors.len().leading_zeros() as usize];
    let starts = range.clone().step_by(BLOCK);
    for (start, sum) in starts.zip(sum.chunks_mut(BLOCK)) {
        sum_block(vectors, 0..vectors.len(), start, sum, &mut scratch);
    }
}

fn sum_block(vectors: &[&[f32]], lanes: Range<usize>, start: usize, sum: &mut [f32], scratch: &mut [[f32; BLOCK]]) {
    let block = start..start + sum.len();
    let Some(middle) = split(&lanes) else {
        if let Some(vector) = vectors.get(lanes.start) {
            sum.copy_from_slice(&vector[block]);
        }
        return;
    };
    if lanes.len() == 2 {
        // The commonest node by far: both parts are read once, the sum is written once.
        let parts = vectors[lanes.start][block.clone()].iter().zip(&vectors[middle][block]);
        sum.iter_mut()
            .zip(parts)
            .for_each(|(sum, (left, right))| *sum = left + right);
        return;
    }
    sum_block(vectors, lanes.start..middle, start, sum, scratch);
    if lanes.end - middle == 1 {
        add(sum, &vectors[middle][block]);
    } else if let Some((right, scratch)) = scratch.split_first_mut() {
        let right = &mut right[..sum.len()];
        sum_block(vectors, middle..lanes.end, start, right, scratch);
        add(sum, right);
    }
}

fn add(sum: &mut [f32], right: &[f32]) {
    for (sum, right) in sum.iter_mut().zip(right) {
        *sum += right;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_left_part_is_the_largest_power_of_two_below_the_length() {
        let splits: Vec<_> = (1..10).map(|length| split(&(0..length)).unwrap_or(0)).collect();
        assert_eq!(splits, [0, 1, 2, 2, 4, 4, 4, 4, 8]);
    }

    #[test]
    fn vectors_are_summed_along_the_same_tree_as_scalars() {
        for lanes in 1..20usize {
            let length = 2 * BLOCK + 17;
            let value = |lane: usize, index: usize| (1.0 + lane as f32).powi(7) / (3.0 + index as f32);
            let vectors: Vec<Vec<f32>> = (0..lanes)
                .map(|lane| (0..length).map(|index| value(lane, index)).collect())
                .collect();
            let borrowed: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
            let range = 5..length - 3;
            let mut total = vec![0.0; range.len()];
            sum(&borrowed, range.clone(), &mut total);
            for (index, total) in range.zip(total) {
                let expected = fold(0..lanes, &mut |lane| value(lane, index), &mut |left, right| {
                    left + right
                });
                assert_eq!(
                    total.to_bits(),
                    expected.unwrap().to_bits(),
                    "{lanes} lanes, element {index}"
                );
            }
        }
    }
}
