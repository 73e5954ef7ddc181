//! The fixed tree over lanes along which floating-point updates are summed.
//!
//! The sum over lanes `[start, end)` is that over `[start, middle)` plus that over `[middle, end)`, where the left part
//! is the largest power of two below the length. The tree depends on the number of lanes alone, so that a sum has the
//! same bits wherever its parts are computed. (It is the tree of pairwise summation, Higham 1993.)

use std::ops::Range;

use crate::updates::UpdateFormat;

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

/// The most branches between the root of the tree over `lanes` and a leaf.
fn depth(lanes: &Range<usize>) -> usize {
    lanes.len().next_power_of_two().ilog2() as usize
}

/// Elements that are summed at a time, so that partial sums stay in the first-level cache.
const BLOCK: usize = 1024;

/// The sum over some lanes: of one lane, or of all lanes below a node of the tree.
#[derive(Debug, Clone)]
pub struct PartialSum<'a> {
    /// Which lanes.
    pub lanes: Range<usize>,
    /// Their sum.
    pub values: &'a [f32],
}

impl<'a> PartialSum<'a> {
    /// What one lane has.
    pub fn of_lane(lane: usize, values: &'a [f32]) -> Self {
        let lanes = lane..lane + 1;
        Self { lanes, values }
    }
}

/// The largest nodes of the tree over `lanes` whose lanes are all `here`, in order: what can be summed without the
/// others.
pub fn cover(lanes: Range<usize>, here: &impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut nodes = Vec::new();
    let mut waiting = vec![lanes];
    while let Some(lanes) = waiting.pop() {
        if lanes.clone().all(here) {
            nodes.extend((!lanes.is_empty()).then_some(lanes));
        } else if let Some(middle) = split(&lanes) {
            waiting.push(middle..lanes.end);
            waiting.push(lanes.start..middle);
        }
    }
    nodes
}

/// Writes the sum over `lanes` along the tree to `sum`, rounded at each node as the format says. `parts` are nodes of
/// the tree that cover the lanes, in order, and are rounded already.
///
/// # Panics
/// If they do not, or one of them is shorter than `sum`: both are checked where parts come in.
pub fn sum(parts: &[PartialSum<'_>], lanes: Range<usize>, format: UpdateFormat, sum: &mut [f32]) {
    // One for each right branch on the way to a leaf. The parts may be fewer than that way is long.
    let mut scratch = vec![[0.0f32; BLOCK]; depth(&lanes)];
    for (index, sum) in sum.chunks_mut(BLOCK).enumerate() {
        sum_block((parts, lanes.clone()), index * BLOCK, format, sum, &mut scratch);
    }
}

fn sum_block(
    (parts, lanes): (&[PartialSum<'_>], Range<usize>),
    start: usize,
    format: UpdateFormat,
    sum: &mut [f32],
    scratch: &mut [[f32; BLOCK]],
) {
    let block = start..start + sum.len();
    if let [only] = parts {
        assert_eq!(only.lanes, lanes, "the parts of a sum must be nodes of its tree");
        return sum.copy_from_slice(&only.values[block]);
    }
    if let [left, right] = parts {
        // The commonest node by far: both parts are read once, the sum is written once.
        let pairs = left.values[block.clone()].iter().zip(&right.values[block]);
        sum.iter_mut()
            .zip(pairs)
            .for_each(|(sum, (left, right))| *sum = left + right);
        return format.round(sum);
    }
    let middle = split(&lanes).unwrap_or(lanes.end);
    let (left, right) = parts.split_at(parts.partition_point(|part| part.lanes.start < middle));
    sum_block((left, lanes.start..middle), start, format, sum, scratch);
    if let [right] = right {
        add(sum, &right.values[block]);
    } else {
        #[allow(clippy::expect_used, reason = "`sum` makes as much as the tree is deep")]
        let (spare, scratch) = scratch.split_first_mut().expect("scratch for each right branch");
        let spare = &mut spare[..sum.len()];
        sum_block((right, middle..lanes.end), start, format, spare, scratch);
        add(sum, spare);
    }
    format.round(sum);
}

fn add(sum: &mut [f32], right: &[f32]) {
    for (sum, right) in sum.iter_mut().zip(right) {
        *sum += right;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_left_part_is_the_largest_power_of_two_below_the_length() {
        let splits: Vec<_> = (1..10).map(|length| split(&(0..length)).unwrap_or(0)).collect();
        assert_eq!(splits, [0, 1, 2, 2, 4, 4, 4, 4, 8]);
    }

    #[test]
    fn vectors_are_summed_along_the_same_tree_as_scalars() {
        for format in [UpdateFormat::Full, UpdateFormat::Bf16] {
            for lanes in 1..20 {
                let evenly = (1..5).map(|hosts| (0..lanes).map(|lane| lane * hosts / lanes).collect());
                evenly.for_each(|hosts: Vec<usize>| sums_are_those_of_scalars(&hosts, 2 * BLOCK + 17, format));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// However lanes are dealt, and whichever of the sums over them an owner is sent.
        #[test]
        fn sums_of_any_parts_have_the_same_bits(hosts in vec(0..9_usize, 1..140), evenly in any::<bool>()) {
            let mut hosts = hosts;
            if evenly {
                hosts.sort_unstable();
            }
            sums_are_those_of_scalars(&hosts, 3, UpdateFormat::Full);
        }
    }

    /// The lanes of one host come one by one, those of the others summed as far as the tree allows.
    #[test]
    fn an_owner_adds_the_sums_of_others_to_many_lanes_of_its_own() {
        for (lanes, hosts) in [(64, 8), (128, 8), (128, 16), (61, 2), (1024, 64)] {
            let hosts: Vec<usize> = (0..lanes).map(|lane| lane * hosts / lanes).collect();
            sums_are_those_of_scalars(&hosts, 3, UpdateFormat::Full);
        }
    }

    /// `hosts` are by lane. The sum is taken where all that others send is summed, and on each host.
    fn sums_are_those_of_scalars(hosts: &[usize], length: usize, format: UpdateFormat) {
        let lanes = hosts.len();
        let rounded = |value: f32| {
            let mut value = [value];
            format.round(&mut value);
            value[0]
        };
        let value = |lane: usize, index: usize| rounded((1.0 + lane as f32).powi(7) / (3.0 + index as f32));
        let vectors: Vec<Vec<f32>> = (0..lanes)
            .map(|lane| (0..length).map(|index| value(lane, index)).collect())
            .collect();
        let of_lane = |lane: usize| PartialSum::of_lane(lane, &vectors[lane]);
        let expected: Vec<u32> = (0..length)
            .map(|index| {
                let mut add = |left: f32, right: f32| rounded(left + right);
                fold(0..lanes, &mut |lane| value(lane, index), &mut add)
                    .unwrap()
                    .to_bits()
            })
            .collect();
        let all: BTreeSet<usize> = hosts.iter().copied().collect();
        let nodes = all
            .iter()
            .flat_map(|host| cover(0..lanes, &|lane| hosts[lane] == *host));
        let summed: Vec<(Range<usize>, Vec<f32>)> = nodes
            .map(|node| {
                let leaves: Vec<PartialSum<'_>> = node.clone().map(of_lane).collect();
                let mut total = vec![0.0; length];
                sum(&leaves, node.clone(), format, &mut total);
                (node, total)
            })
            .collect();
        for owner in all.into_iter().map(Some).chain([None]) {
            let own = (0..lanes).filter(|lane| Some(hosts[*lane]) == owner).map(of_lane);
            let sent = summed.iter().filter(|(node, _)| Some(hosts[node.start]) != owner);
            let sent = sent.map(|(lanes, values)| PartialSum {
                lanes: lanes.clone(),
                values,
            });
            let mut parts: Vec<PartialSum<'_>> = own.chain(sent).collect();
            parts.sort_by_key(|part| part.lanes.start);
            let mut total = vec![0.0; length];
            sum(&parts, 0..lanes, format, &mut total);
            let total: Vec<u32> = total.into_iter().map(f32::to_bits).collect();
            assert_eq!(total, expected, "{format:?}: lanes of hosts {hosts:?} at {owner:?}");
        }
    }
}
