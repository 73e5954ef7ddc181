//! Pipelines behind which the lineage is cut, by the program or because it is long.

use distdl::engine::testing::TestCluster;
use distdl::{Config, Context};
use proptest::prelude::*;

use crate::common::{cases, levels};
use crate::pipelines::{build, partitions_of, steps};

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn pipelines_give_the_same_behind_a_local_checkpoint(
        before in steps(6),
        level in prop::option::of(levels()),
        threads in 1..=2usize,
        batch_records in 1..=7usize,
        steps in prop::option::of(1..6usize),
    ) {
        let config = Config { batch_records, cut_lineage_every: steps, ..Config::default() };
        let context = Context::new(config.with_threads(threads)).unwrap();
        let both = build(&context, &before);
        let dataset = level.map_or_else(|| both.dataset.clone(), |level| both.dataset.persist(level));
        let cut = dataset.local_checkpoint().unwrap();
        drop((dataset, both.dataset));
        prop_assert_eq!(context.live_datasets(), 1);
        prop_assert_eq!(&partitions_of(&cut.map(|row| row)), &both.expected);
    }

    #[test]
    fn processes_cut_lineages_alike(before in steps(5), steps in prop::option::of(1..6usize), processes in 2..=3u32) {
        let cluster = TestCluster { cut_lineage_every: steps, ..TestCluster::new(processes) };
        let run = cluster.run(move |context| {
            let both = build(context, &before);
            let cut = both.dataset.local_checkpoint()?;
            drop(both.dataset);
            assert_eq!(partitions_of(&cut.map(|row| row)), both.expected);
            Ok(context.live_datasets())
        });
        prop_assert_eq!(run.unwrap().results, vec![1; processes as usize]);
    }
}
