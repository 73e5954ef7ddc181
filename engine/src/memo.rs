//! Keys of computations: what the blocks of a memoized dataset are remembered under.
//!
//! A key is a hash of the name and version that the program gives, the record type with its schema, and all that is
//! known of the inputs: for each partition the partitions that it depends on, down to what sources say of their
//! contents. Closures cannot be told apart; the name and the version stand for them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use distdl_storage::Digest;
use serde::Serialize;

use crate::id::DatasetId;
use crate::lineage::{Dependency, Lineage, Memoized, Node, PartitionMap};
use crate::partitioner::{PartitionFunction, Partitioning, hasher};

/// The keys of all partitions of a memoized dataset, by partition. None if a source does not tell what it holds, or the
/// dataset is not memoized.
pub(crate) fn keys(lineage: &Lineage, dataset: DatasetId) -> Option<Vec<Digest>> {
    lineage.node(dataset).memo.as_ref()?;
    digests(lineage, dataset)
}

/// A digest of all that is known of a dataset, and of the program itself. None if a source does not tell what it holds.
pub(crate) fn computation(lineage: &Lineage, dataset: DatasetId) -> Option<Digest> {
    let mut fields = Fields::new("computation");
    fields.bytes(&distdl_storage::program_fingerprint());
    fields.bytes(&lineage.node(dataset).record_type.codec.portable().fingerprint());
    for node in lineage.nodes() {
        fields.bytes(node.operator.as_bytes());
        fields.bytes(node.site.to_string().as_bytes());
    }
    digests(lineage, dataset)?.iter().for_each(|part| fields.bytes(part));
    Some(fields.digest())
}

/// What is known of each partition of a dataset; its keys if it is memoized. None if a source does not tell what it
/// holds.
pub(crate) fn digests(lineage: &Lineage, dataset: DatasetId) -> Option<Vec<Digest>> {
    let mut digests = Digests::default();
    for (id, partitions) in needed(lineage, dataset) {
        let node = lineage.node(id);
        let known = node.keys.get();
        let memo = node.memo.as_ref().filter(|_| known.is_none());
        let remembered_as = memo.map(|memo| remembered_as(node, memo));
        let digest = |partition: usize| match (known, &remembered_as) {
            (Some(keys), _) => keys.get(partition).copied(),
            (None, Some(remembered_as)) => Some(key(remembered_as, &digests.of(lineage, node, partition)?)),
            (None, None) => digests.of(lineage, node, partition),
        };
        let found: Option<BTreeMap<usize, Digest>> = partitions
            .into_iter()
            .map(|partition| Some((partition, digest(partition)?)))
            .collect();
        digests.enter(id, found?);
    }
    Some(digests.parts.remove(&dataset)?.into_values().collect())
}

/// A source of a lineage that does not tell what its partitions hold.
pub(crate) fn unknown_source(lineage: &Lineage) -> Option<&Arc<Node>> {
    lineage
        .nodes()
        .find(|node| node.dependencies().is_empty() && node.contents.is_none() && node.keys.get().is_none())
}

/// For each dataset that the keys of `dataset` depend on, parents first: which of its partitions.
fn needed(lineage: &Lineage, dataset: DatasetId) -> BTreeMap<DatasetId, BTreeSet<usize>> {
    let all = |id: DatasetId| 0..lineage.node(id).partitions;
    let mut needed: BTreeMap<DatasetId, BTreeSet<usize>> = BTreeMap::from([(dataset, all(dataset).collect())]);
    let mut next = Some(dataset);
    while let Some(id) = next {
        let node = lineage.node(id);
        let partitions = needed[&id].clone();
        let ends = node.keys.get().is_some();
        for dependency in node.dependencies().iter().filter(|_| !ends) {
            let entry = needed.entry(dependency.parent()).or_default();
            match near(node, dependency) {
                Some(map) => {
                    let parent_partitions = lineage.node(dependency.parent()).partitions;
                    let readers = partitions.range(map.readers(parent_partitions));
                    entry.extend(readers.flat_map(|partition| parents(map, *partition, parent_partitions)));
                }
                None => entry.extend(all(dependency.parent())),
            }
        }
        // Children have larger ids than their parents: what needs this one has been seen.
        next = needed.range(..id).next_back().map(|(id, _)| *id);
    }
    needed
}

/// How partitions of a dataset depend on those of a parent, if not on all of them: what is done before a dataset is
/// planned reads all (a sort samples, an index counts), and so does a shuffle.
fn near<'a>(node: &Node, dependency: &'a Dependency) -> Option<&'a PartitionMap> {
    match dependency {
        Dependency::Narrow { partitions, .. } if node.prepare.is_none() => Some(partitions),
        _ => None,
    }
}

fn parents(map: &PartitionMap, partition: usize, parent_partitions: usize) -> Vec<usize> {
    match map {
        // What it wants is not known before planning: whatever it may want counts.
        PartitionMap::Where(_) => vec![partition],
        map => map.parents(partition, parent_partitions),
    }
}

#[derive(Default)]
struct Digests {
    parts: BTreeMap<DatasetId, BTreeMap<usize, Digest>>,
    /// Of all partitions of a dataset together.
    whole: BTreeMap<DatasetId, Digest>,
}

impl Digests {
    fn enter(&mut self, id: DatasetId, parts: BTreeMap<usize, Digest>) {
        let mut fields = Fields::new("all partitions");
        parts.values().for_each(|part| fields.bytes(part));
        self.whole.insert(id, fields.digest());
        self.parts.insert(id, parts);
    }

    /// What a partition holds, as far as it is known.
    fn of(&self, lineage: &Lineage, node: &Node, partition: usize) -> Option<Digest> {
        let mut fields = Fields::new("partition");
        fields.bytes(node.operator.as_bytes());
        fields.bytes(node.parameters.as_bytes());
        fields.number(partition as u64);
        place(&mut fields, node.partitioning.as_ref());
        if node.dependencies().is_empty() {
            fields.bytes(&node.contents.as_ref()?(partition));
        }
        // Of a union's arms the one that has it: the others are none of its inputs.
        for (_, dependency) in node.dependencies_of(partition) {
            let parent = dependency.parent();
            match near(node, dependency) {
                Some(map) => {
                    let read = parents(map, partition, lineage.node(parent).partitions);
                    fields.number(read.len() as u64);
                    for parent_partition in read {
                        fields.bytes(self.parts.get(&parent)?.get(&parent_partition)?);
                    }
                }
                None => {
                    fields.number(node.partitions as u64);
                    fields.bytes(self.whole.get(&parent)?);
                }
            }
        }
        Some(fields.digest())
    }
}

/// What the keys of all partitions of a memoized dataset have in common.
fn remembered_as(node: &Node, memo: &Memoized) -> Digest {
    let mut fields = Fields::new("memo");
    fields.bytes(memo.name.as_bytes());
    fields.number(memo.version);
    fields.bytes(&node.record_type.codec.portable().fingerprint());
    fields.digest()
}

fn key(remembered_as: &Digest, inputs: &Digest) -> Digest {
    let mut fields = Fields::new("key");
    fields.bytes(remembered_as);
    fields.bytes(inputs);
    fields.digest()
}

/// Where keys lie, as far as it has a name that is the same in every run.
fn place(fields: &mut Fields, partitioning: Option<&Partitioning>) {
    let Some(placed) = partitioning else { return };
    fields.number(placed.partitions as u64);
    match &placed.function {
        PartitionFunction::Hash => fields.bytes(b"hash"),
        PartitionFunction::Range { descending, .. } => {
            fields.bytes(if *descending { b"descending" } else { b"ascending" })
        }
        PartitionFunction::Custom { name, parameters, .. } => {
            fields.bytes(name.as_bytes());
            fields.bytes(parameters.as_bytes());
        }
    }
}

/// Of values, by their bytes.
pub(crate) fn digest(what: &impl Serialize) -> Digest {
    postcard::to_stdvec(what).map_or_else(|_| unequalled(), |bytes| *blake3::hash(&bytes).as_bytes())
}

/// The same as text: what an operator's parameters are, where they are values of the program's.
pub(crate) fn digest_in_words(what: &impl Serialize) -> String {
    blake3::Hash::from_bytes(digest(what)).to_hex().to_string()
}

/// For what refuses to become bytes: nothing is the same as it.
pub(crate) fn unequalled() -> Digest {
    let random = [(); 4].map(|()| RandomState::new().hash_one(0));
    *blake3::hash(&random.map(u64::to_le_bytes).concat()).as_bytes()
}

/// Fields that are hashed with their lengths, so that no two sequences of them are one.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(what: &str) -> Self {
        let mut fields = Self(blake3::Hasher::new());
        fields.bytes(what.as_bytes());
        // Another release may place keys or cut partitions otherwise, and so may another release of the hash.
        fields.bytes(env!("CARGO_PKG_VERSION").as_bytes());
        fields.number(hasher().hash_one(("distdl", 1_u64)));
        fields
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn digest(self) -> Digest {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
