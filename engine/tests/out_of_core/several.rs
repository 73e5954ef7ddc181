//! Several processes with little memory each, whoever dies.

use std::time::Duration;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Result};
use proptest::prelude::*;

use crate::oracle::{cases, context};

type Row = (u64, u64);

fn program(context: &Context) -> Result<Vec<Vec<Row>>> {
    let rows = context
        .range(0..4_000, 7)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 900, i));
    let sums = rows.reduce_by_key_into(|left, right| left.wrapping_mul(31).wrapping_add(right), 5);
    let joined = sums.join(&rows).map_values(|(sum, value)| sum ^ value);
    Ok(vec![
        rows.sort_by_key_into(4).collect()?,
        sums.collect()?,
        joined.collect()?,
        sums.coalesce(2).collect()?,
        rows.group_by_key()
            .map_values(|values| values.iter().fold(7, |hash, value| (hash * 3) ^ value))
            .collect()?,
    ])
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn processes_with_little_memory_give_the_same_whoever_dies(
        processes in 1..=3u32,
        memory_bytes_max in 0..60_000u64,
        threads in 1..=2usize,
        batch_records in prop_oneof![Just(16usize), Just(1024)],
        keeps: bool,
        kill in prop::option::of((0..3u32, 1..200u64)),
    ) {
        let expected = program(&context(1 << 30, 1, 1024)).unwrap();
        let faults = kill.filter(|(slot, _)| *slot < processes);
        let faults = faults.map(|(slot, frame)| format!("kill=worker:{slot}@frame:{frame}")).unwrap_or_default();
        let keep_shuffles_after = if keeps { Duration::ZERO } else { Duration::MAX };
        let cluster = TestCluster {
            memory_bytes_max,
            keep_shuffles_after,
            threads,
            batch_records,
            ..TestCluster::new(processes)
        };
        let run = cluster.with_chaos(Chaos::parse(&faults).unwrap()).run(move |context| {
            Ok((program(context)?, context.metrics().spilled_bytes()))
        });
        let run = run.unwrap();
        prop_assert!(!run.results.is_empty());
        for (found, spilled) in run.results {
            prop_assert_eq!(&found, &expected);
            // One that takes a dead one's place may find that all is done.
            prop_assert!(spilled > 0 || memory_bytes_max > 10_000 || !faults.is_empty());
        }
    }
}
