//! What operations mean, said once more with plain vectors on one thread.
//!
//! A dataset is a vector of partitions, each a vector of records in order. Only the hash that places keys is the
//! engine's own.

use std::collections::HashMap;

use std::hash::{DefaultHasher, Hasher};

use distdl::engine::{HashPartitioner, Key, PartitionFunction, Partitioner};

pub(crate) type Row = (u64, u64);
pub(crate) type Partitions<T> = Vec<Vec<T>>;
/// A key with all its values on either side.
pub(crate) type Cogrouped<V, W> = Partitions<(u64, (Vec<V>, Vec<W>))>;

/// All that either side has under a key.
pub(crate) type Joined = Partitions<(u64, (Option<u64>, Option<u64>))>;

/// A program's own partitioner, by another hash than the engine's.
pub(crate) struct Custom(pub(crate) usize);

impl<K: Key> Partitioner<K> for Custom {
    fn partitions(&self) -> usize {
        self.0
    }

    fn partition(&self, key: &K) -> usize {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        (hasher.finish() % self.0 as u64) as usize
    }

    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>("")
    }
}

/// Where keys lie, in how many partitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Placement {
    Hash(usize),
    Custom(usize),
}

impl Placement {
    fn of<K: Key>(self) -> Box<dyn Partitioner<K>> {
        match self {
            Self::Hash(partitions) => Box::new(HashPartitioner::new(partitions)),
            Self::Custom(partitions) => Box::new(Custom(partitions)),
        }
    }
}

/// Cuts records into groups of neighbours whose lengths differ by 1 at most.
pub(crate) fn cut<T: Clone>(records: &[T], partitions: usize) -> Partitions<T> {
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
    let mut output = vec![Vec::new(); partitions];
    for (source, records) in input.iter().enumerate() {
        for (position, record) in records.iter().enumerate() {
            output[place(record, source, position)].push(record.clone());
        }
    }
    output
}

pub(crate) fn repartition<T: Clone>(input: &[Vec<T>], partitions: usize) -> Partitions<T> {
    send(input, partitions, |_, source, position| {
        (source + position) % partitions
    })
}

pub(crate) fn by_key<K: Key, V: Clone>(input: &[Vec<(K, V)>], placement: Placement) -> Partitions<(K, V)> {
    let partitioner = placement.of::<K>();
    send(input, partitioner.partitions(), |(key, _), _, _| {
        partitioner.partition(key)
    })
}

/// Each key with all its values: keys and values in the order in which they come.
pub(crate) fn group<K: Key, V: Clone>(input: &[Vec<(K, V)>], placement: Placement) -> Partitions<(K, Vec<V>)> {
    each(&by_key(input, placement), |_, records| {
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
    placement: Placement,
    function: impl Fn(V, V) -> V,
) -> Partitions<(K, V)> {
    each(&group(input, placement), |_, groups| {
        let reduced = groups
            .into_iter()
            .filter_map(|(key, values)| Some((key, values.into_iter().reduce(&function)?)));
        reduced.collect()
    })
}

pub(crate) fn cogroup<V: Clone, W: Clone>(
    left: &[Vec<(u64, V)>],
    right: &[Vec<(u64, W)>],
    placement: Placement,
) -> Cogrouped<V, W> {
    let right = by_key(right, placement);
    each(&by_key(left, placement), |partition, left| {
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

/// Each row of the right side with those of the left side under its key, or with none; then the rows of the left side
/// that the right side has no key for, key by key as keys first come.
pub(crate) fn outer_join(left: &[Vec<Row>], right: &[Vec<Row>], placement: Placement) -> Joined {
    let right = by_key(right, placement);
    each(&by_key(left, placement), |partition, left| {
        let right = &right[partition];
        let mut pairs = Vec::new();
        for (key, value) in right {
            let matching: Vec<&Row> = left.iter().filter(|row| row.0 == *key).collect();
            pairs.extend(matching.iter().map(|row| (*key, (Some(row.1), Some(*value)))));
            pairs.extend(matching.is_empty().then_some((*key, (None, Some(*value)))));
        }
        let lacking = left.iter().filter(|row| right.iter().all(|other| other.0 != row.0));
        for (key, values) in group(&[lacking.copied().collect()], Placement::Hash(1)).concat() {
            pairs.extend(values.into_iter().map(|value| (key, (Some(value), None))));
        }
        pairs
    })
}

/// Partition by partition of the left side, and for each of them partition by partition of the right side.
pub(crate) fn cartesian<T: Clone, U: Clone>(left: &[Vec<T>], right: &[Vec<U>]) -> Partitions<(T, U)> {
    let pairs = |left: &[T], right: &[U]| {
        let pairs = left
            .iter()
            .flat_map(|one| right.iter().map(move |other| (one.clone(), other.clone())));
        pairs.collect()
    };
    left.iter()
        .flat_map(|left| right.iter().map(move |right| pairs(left, right)))
        .collect()
}

pub(crate) fn distinct<T: Key>(input: &[Vec<T>], partitions: usize) -> Partitions<T> {
    let keyed = map(input, |record| (record, ()));
    map(&group(&keyed, Placement::Hash(partitions)), |(record, _)| record)
}

pub(crate) fn subtract<T: Key>(input: &[Vec<T>], other: &[T], partitions: usize) -> Partitions<T> {
    let keyed = map(input, |record| (record, ()));
    each(&by_key(&keyed, Placement::Hash(partitions)), |_, records| {
        let records = records.into_iter().map(|(record, ())| record);
        records.filter(|record| !other.contains(record)).collect()
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

/// What changes nothing under [`compose`], if its other side has an odd scale.
pub(crate) const NEUTRAL: u64 = 1 << 32;

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
