//! Drawn pipelines on several processes, some of which die: every one that ends has what the oracle says.

use std::time::Duration;

use distdl::engine::cluster::chaos::Chaos;
use distdl::engine::testing::TestCluster;
use distdl::{Context, EngineError};
use proptest::prelude::*;

use crate::common::{batch_records, cases};
use crate::pipelines::{Step, build, partitions_of, steps};

/// Kills, before whatever a process sends or stores, and links that break.
pub(crate) fn faults(processes: u32) -> impl Strategy<Value = String> {
    let point = prop_oneof![
        3 => (0..80u64).prop_map(|frame| format!("frame:{frame}")),
        2 => (0..20u64).prop_map(|report| format!("report:{report}")),
        2 => (0..12u64).prop_map(|block| format!("block:{block}")),
        1 => (1..3u64).prop_map(|recovery| format!("recovery:{recovery}")),
    ];
    let fault = (0..processes, 0..processes, point, 0..4u32).prop_map(|(one, other, point, kind)| match kind {
        0 if one != other => format!("cut={one}-{other}@{point}"),
        _ => format!("kill=worker:{one}@{point}"),
    });
    prop::collection::vec(fault, 0..=4).prop_map(|faults| faults.join(","))
}

fn clusters() -> impl Strategy<Value = TestCluster> {
    let keeps = prop_oneof![Just(Duration::ZERO), Just(Duration::MAX)];
    // Who waits for no silence copies nearly everything that others have not ended, if all do.
    let copies = prop_oneof![
        2 => Just(vec![Some(Duration::ZERO)]),
        1 => Just(Vec::new()),
        1 => Just(vec![Some(Duration::ZERO), None]),
    ];
    let shapes = (
        1..=4u32,
        0..=1u32,
        0..=1u32,
        1..=2usize,
        batch_records(),
        (keeps, copies),
    );
    shapes.prop_flat_map(
        |(processes, parameter_workers, spares, threads, batch_records, (keep_shuffles_after, speculate_after))| {
            faults(processes).prop_map(move |faults| {
                let cluster = TestCluster {
                    parameter_workers,
                    spares,
                    threads,
                    batch_records,
                    keep_shuffles_after,
                    speculate_after: speculate_after.clone(),
                    ..TestCluster::new(processes)
                };
                cluster.with_chaos(Chaos::parse(&faults).unwrap())
            })
        },
    )
}

/// Computes a pipeline twice: the second time finds the blocks of the first, as far as they are left.
fn check(context: &Context, steps: &[Step]) -> Result<(), EngineError> {
    let both = build(context, steps);
    for _ in 0..2 {
        assert_eq!(partitions_of(&both.dataset), both.expected);
    }
    let expected: u64 = both.expected.iter().map(|rows| rows.len() as u64).sum();
    assert_eq!(both.dataset.count()?, expected);
    Ok(())
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn pipelines_give_what_vectors_give_whoever_dies(cluster in clusters(), steps in steps(9)) {
        let run = cluster.run(move |context| check(context, &steps));
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {}", cluster.chaos)))?;
        prop_assert!(!run.results.is_empty());
    }
}
