//! Drawn clusters and what goes wrong in them.

use std::time::Duration;

use distdl_engine::cluster::MemberId;
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::cluster::events::{ClusterEvent, Happening};
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context};
use proptest::prelude::*;

/// Failing cases are printed, and kept in `proptest-regressions` with their seed.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    }
}

/// One process that belongs to no cluster.
pub(crate) fn alone() -> Context {
    Context::new(Config::default()).unwrap()
}

/// Processes, of these for parameters only, spares, threads.
pub(crate) fn shapes() -> impl Strategy<Value = TestCluster> {
    let workers = (1..=5u32, 0..=2u32, 0..=1u32, 1..=2usize);
    (workers, any::<bool>()).prop_map(
        |((processes, parameter_workers, spares, threads), shared_memory)| TestCluster {
            parameter_workers,
            spares,
            threads,
            shared_memory,
            ..TestCluster::new(processes)
        },
    )
}

/// Where a process is hit, in the words of `--chaos`.
pub(crate) type Points = BoxedStrategy<String>;

/// At the beginning of steps, in recovery, while blocks are stored.
pub(crate) fn milestones(steps: u64) -> Points {
    prop_oneof![
        4 => (0..steps).prop_map(|step| format!("step:{step}")),
        1 => (1..4u64).prop_map(|recovery| format!("recovery:{recovery}")),
        1 => (0..6u64).prop_map(|block| format!("block:{block}")),
    ]
    .boxed()
}

/// At whatever a process is about to say to another one or to the name node.
pub(crate) fn messages(frames: u64, reports: u64) -> Points {
    prop_oneof![
        3 => (0..frames).prop_map(|frame| format!("frame:{frame}")),
        2 => (0..reports).prop_map(|report| format!("report:{report}")),
    ]
    .boxed()
}

/// Up to `most` faults at some points: one process that is killed, two at once, one and then another while the cluster
/// recovers, and links that break.
pub(crate) fn faults(processes: u32, points: Points, most: usize) -> impl Strategy<Value = String> {
    let kill = (0..processes, points.clone()).prop_map(|(worker, point)| format!("kill=worker:{worker}@{point}"));
    let fault = if processes == 1 {
        kill.boxed()
    } else {
        let two = (0..processes, 1..processes).prop_map(move |(one, apart)| (one, (one + apart) % processes));
        let both = (two.clone(), points.clone())
            .prop_map(|((one, other), point)| format!("kill=worker:{one}@{point},kill=worker:{other}@{point}"));
        let then = (two.clone(), points.clone())
            .prop_map(|((one, other), point)| format!("kill=worker:{one}@{point},kill=worker:{other}@recovery:1"));
        let cut = (two, points).prop_map(|((one, other), point)| format!("cut={one}-{other}@{point}"));
        prop_oneof![4 => kill, 1 => both, 1 => then, 2 => cut].boxed()
    };
    prop::collection::vec(fault, 0..=most).prop_map(move |faults| {
        let faults = faults.join(",");
        faults.split(',').take(most).collect::<Vec<_>>().join(",")
    })
}

/// A cluster with up to four faults.
pub(crate) fn clusters(points: Points) -> impl Strategy<Value = TestCluster> {
    shapes().prop_flat_map(move |cluster| {
        faults(cluster.processes, points.clone(), 4)
            .prop_map(move |faults| cluster.clone().with_chaos(Chaos::parse(&faults).unwrap()))
    })
}

/// A cluster whose processes look for a killed name node.
pub(crate) fn with_name_node_again(cluster: TestCluster, lease: Duration) -> TestCluster {
    TestCluster {
        name_node_grace: Duration::from_secs(20),
        lease,
        ..cluster
    }
}

/// Who joined: the member, its place, and whether the name node knew it.
pub(crate) fn joined(events: &[ClusterEvent]) -> Vec<(MemberId, u32, bool)> {
    let joined = events.iter().filter_map(|event| match event.what {
        Happening::Joined {
            member, slot, known, ..
        } => Some((member, slot, known)),
        _ => None,
    });
    joined.collect()
}

/// The places of the members of each generation.
pub(crate) fn generations(events: &[ClusterEvent]) -> Vec<Vec<u32>> {
    let generations = events.iter().filter_map(|event| match &event.what {
        Happening::Generation { slots, .. } => Some(slots.clone()),
        _ => None,
    });
    generations.collect()
}
