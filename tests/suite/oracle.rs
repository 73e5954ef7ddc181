//! What operations mean, said once more with plain vectors on one thread.
//!
//! A dataset is a vector of partitions, each a vector of records in order. Only the hash that places keys is the
//! engine's own.

use std::collections::HashMap;

use distdl::engine::Key;
use distdl::engine::partitioner::{HashPartitioner, Partitioner};

pub(crate) type Row = (u64, u64);
pub(crate) type Partitions<T> = Vec<Vec<T>>;
/// A key with all its values on either side.
pub(crate) type Cogrouped<V, W> = Partitions<(u64, (Vec<V>, Vec<W>))>;

/// Cuts records into groups of neighbours whose lengths differ by 1 at most.
pub(crate) fn cut<T: Clone>(records: &[T], partitions: usize) -> Partitions<T> {
    let partitions = partitions.max(1);
    let start = |partition: usize| partition * records.len() / partitions;
    (0..partitions)
        .map(|partition| records[start(partition)..start(partition + 1)].to_vec())
        .collect()
}

/// The same partitions, of what `each` makes of the records of one.
pub(crate) fn each<T: Clone, U>(input: &[Vec<T>], each: impl Fn(usize, Vec<T>) -> Vec<U>) -> Partitions<U> {
    let partitions = input.iter().cloned().enumerate();
    partitions
        .map(|(partition, records)| each(partition, records))
        .collect()
}

pub(crate) fn map<T: Clone, U>(input: &[Vec<T>], function: impl Fn(T) -> U) -> Partitions<U> {
    each(input, |_, records| records.into_iter().map(&function).collect())
}

/// Sends every record to the partition that `place` names; (record, source partition, position there).
fn send<T: Clone>(input: &[Vec<T>], partitions: usize, place: impl Fn(&T, usize, usize) -> usize) -> Partitions<T> {
    let mut output = vec![Vec::new(); partitions.max(1)];
    for (source, records) in input.iter().enumerate() {
        for (position, record) in records.iter().enumerate() {
            output[place(record, source, position)].push(record.clone());
        }
    }
    output
}

pub(crate) fn repartition<T: Clone>(input: &[Vec<T>], partitions: usize) -> Partitions<T> {
    let partitions = partitions.max(1);
    send(input, partitions, |_, source, position| {
        (source + position) % partitions
    })
}

pub(crate) fn by_key<K: Key, V: Clone>(input: &[Vec<(K, V)>], partitions: usize) -> Partitions<(K, V)> {
    let hash = HashPartitioner::new(partitions);
    send(input, partitions, |(key, _), _, _| hash.partition(key))
}

/// Each key with all its values: keys and values in the order in which they come.
pub(crate) fn group<K: Key, V: Clone>(input: &[Vec<(K, V)>], partitions: usize) -> Partitions<(K, Vec<V>)> {
    each(&by_key(input, partitions), |_, records| {
        let mut groups: Vec<(K, Vec<V>)> = Vec::new();
        let mut places = HashMap::new();
        for (key, value) in records {
            let place = *places.entry(key.clone()).or_insert(groups.len());
            if place == groups.len() {
                groups.push((key, Vec::new()));
            }
            groups[place].1.push(value);
        }
        groups
    })
}

pub(crate) fn reduce<K: Key, V: Clone>(
    input: &[Vec<(K, V)>],
    partitions: usize,
    function: impl Fn(V, V) -> V,
) -> Partitions<(K, V)> {
    each(&group(input, partitions), |_, groups| {
        let reduced = groups
            .into_iter()
            .filter_map(|(key, values)| Some((key, values.into_iter().reduce(&function)?)));
        reduced.collect()
    })
}

pub(crate) fn cogroup<V: Clone, W: Clone>(
    left: &[Vec<(u64, V)>],
    right: &[Vec<(u64, W)>],
    partitions: usize,
) -> Cogrouped<V, W> {
    let right = by_key(right, partitions);
    each(&by_key(left, partitions), |partition, left| {
        let right = &right[partition];
        let mut keys: Vec<u64> = Vec::new();
        for key in left
            .iter()
            .map(|(key, _)| *key)
            .chain(right.iter().map(|(key, _)| *key))
        {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of = |wanted: u64| {
            let left = left
                .iter()
                .filter(|(key, _)| *key == wanted)
                .map(|(_, value)| value.clone());
            let right = right
                .iter()
                .filter(|(key, _)| *key == wanted)
                .map(|(_, value)| value.clone());
            (wanted, (left.collect(), right.collect()))
        };
        keys.into_iter().map(of).collect()
    })
}

pub(crate) fn join<V: Clone, W: Clone>(
    left: &[Vec<(u64, V)>],
    right: &[Vec<(u64, W)>],
    partitions: usize,
) -> Partitions<(u64, (V, W))> {
    let left = by_key(left, partitions);
    each(&by_key(right, partitions), |partition, right| {
        let mut pairs = Vec::new();
        for (key, right) in right {
            let matching = left[partition].iter().filter(|(other, _)| *other == key);
            pairs.extend(matching.map(|(_, left)| (key, (left.clone(), right.clone()))));
        }
        pairs
    })
}

pub(crate) fn coalesce<T: Clone>(input: &[Vec<T>], partitions: usize) -> Partitions<T> {
    let indices: Vec<usize> = (0..input.len()).collect();
    let groups = cut(&indices, partitions.clamp(1, input.len()));
    let concatenate = |group: &Vec<usize>| group.iter().flat_map(|index| input[*index].clone()).collect();
    groups.iter().map(concatenate).collect()
}

/// A number that tells sequences apart, also by order.
pub(crate) fn digest(values: impl IntoIterator<Item = u64>) -> u64 {
    values.into_iter().fold(7, |digest: u64, value| {
        digest.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ value.wrapping_add(1)
    })
}

/// `x -> scale * x + offset` modulo 2^32, in one number: what comes of two, one after the other. Associative, and the
/// order matters.
pub(crate) fn compose(first: u64, second: u64) -> u64 {
    let parts = |packed: u64| ((packed >> 32) as u32 | 1, packed as u32);
    let ((scale, offset), (next_scale, next_offset)) = (parts(first), parts(second));
    let (scale, offset) = (
        next_scale.wrapping_mul(scale),
        next_scale.wrapping_mul(offset).wrapping_add(next_offset),
    );
    u64::from(scale) << 32 | u64::from(offset)
}
