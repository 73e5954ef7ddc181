//! Keys of computations: what goes into them, and what is refused.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::*;
use crate::batch::RecordType;
use crate::id::DatasetId;
use crate::lineage::{Compute, Contents, Dependency, Graph, Lineage, Memoized, NodeSpec, PartitionMap};

fn node(
    graph: &mut Graph,
    operator: &'static str,
    dependencies: Vec<Dependency>,
    contents: Option<Contents>,
) -> DatasetId {
    let spec = NodeSpec {
        contents,
        memo: (operator == "memoize").then(|| Memoized {
            name: "x".into(),
            version: 1,
        }),
        ..NodeSpec::new(operator, 3, dependencies, Compute::Pass)
    };
    graph.insert(spec, RecordType::of::<u64>()).id
}

fn same(parent: DatasetId) -> Dependency {
    Dependency::Narrow {
        parent,
        partitions: PartitionMap::Same,
    }
}

fn lineage(contents: Option<Contents>, depth: usize) -> (Lineage, DatasetId) {
    let mut graph = Graph::default();
    let mut last = node(&mut graph, "live", Vec::new(), contents);
    for _ in 0..depth {
        last = node(&mut graph, "map", vec![same(last)], None);
    }
    let last = node(&mut graph, "memoize", vec![same(last)], None);
    (graph.lineage(last), last)
}

#[test]
fn a_source_that_does_not_tell_what_it_holds_is_found_and_has_no_keys() {
    let (lineage, last) = lineage(None, 1);
    assert_eq!(unknown_source(&lineage).unwrap().operator, "live");
    assert_eq!(keys(&lineage, last), None);
}

#[test]
fn a_changed_digest_changes_the_key_of_its_partition_alone() {
    let keys = |middle: u8| {
        let contents: Contents = Arc::new(move |partition| [if partition == 1 { middle } else { 0 }; 32]);
        let (lineage, last) = lineage(Some(contents), 1);
        keys(&lineage, last).unwrap()
    };
    let (before, after) = (keys(1), keys(2));
    assert_eq!((before[0], before[2]), (after[0], after[2]));
    assert_ne!(before[1], after[1]);
    assert_ne!(before[0], before[2], "the place counts too");
    assert_eq!(before, keys(1));
}

/// No walk is a recursion.
#[test]
fn ten_thousand_operators_have_keys() {
    let contents: Contents = Arc::new(|_| [7; 32]);
    let (lineage, last) = lineage(Some(contents), 10_000);
    assert_eq!(keys(&lineage, last).unwrap().len(), 3);
}

#[test]
fn a_partition_of_a_union_has_the_key_of_what_it_reads_however_many_arms_there_are() {
    let keys = |arms: usize| {
        let mut graph = Graph::default();
        let arm = |arm: usize| {
            let contents: Contents = Arc::new(move |partition| [(10 * arm + partition) as u8; 32]);
            let parent = node(&mut graph, "source", Vec::new(), Some(contents));
            Dependency::Narrow {
                parent,
                partitions: PartitionMap::Offset(3 * arm),
            }
        };
        let arms: Vec<_> = (0..arms).map(arm).collect();
        let union = NodeSpec::new("union", 3 * arms.len(), arms, Compute::Pass);
        let union = graph.insert(union, RecordType::of::<u64>()).id;
        digests(&graph.lineage(union), union).unwrap()
    };
    let (few, many) = (keys(2), keys(7));
    assert_eq!(few, many[..6], "the other arms are none of its inputs");
    let different: BTreeSet<_> = many.iter().collect();
    assert_eq!(different.len(), 21);
}

#[test]
fn another_make_of_the_record_type_changes_the_keys() {
    /// Those of a memoized dataset of the type, which has one name whatever it is made of.
    macro_rules! keys_of {
        ($record:item) => {{
            #[derive(Clone, Serialize, Deserialize)]
            #[allow(dead_code)]
            $record
            let mut graph = Graph::default();
            let source = node(&mut graph, "live", Vec::new(), Some(Arc::new(|_| [0; 32])));
            let memo = Some(Memoized { name: "x".into(), version: 1 });
            let spec = NodeSpec::new("memoize", 3, vec![same(source)], Compute::Pass);
            let last = graph.insert(NodeSpec { memo, ..spec }, RecordType::of::<Record>()).id;
            (std::any::type_name::<Record>(), keys(&graph.lineage(last), last).unwrap())
        }};
    }
    let before = keys_of!(
        struct Record {
            debit: u64,
            credit: u64,
        }
    );
    let after = keys_of!(
        struct Record {
            credit: u64,
            debit: u64,
        }
    );
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    assert_eq!(
        before,
        keys_of!(
            struct Record {
                debit: u64,
                credit: u64,
            }
        )
    );
}
