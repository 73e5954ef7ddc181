//! The name node dies and comes back with its journal.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Staleness, UpdateFormat};
use proptest::prelude::*;

use crate::faults::{cases, faults, joined, messages, shapes, with_name_node_again};
use crate::training::{Optimizer, STEPS, check_exchange, check_with, determinate, optimizers};

/// So long that no heartbeat of a slow machine comes too late.
const PATIENT: Duration = Duration::from_secs(60);

#[test]
fn training_goes_on_under_a_new_name_node() {
    for step in [0, 7, 30, STEPS - 1] {
        let cluster = with_name_node_again(TestCluster::new(3), PATIENT);
        let killed = AtomicBool::new(false);
        let run = check_with(
            &cluster,
            (Optimizer::Plain, Staleness::Synchronous, UpdateFormat::Full),
            move |life, _, report| {
                if report.is_some_and(|report| report.step == step) && !killed.swap(true, Ordering::SeqCst) {
                    life.kill_name_node();
                }
                Ok(())
            },
        );
        let run = run.unwrap();
        assert_eq!(run.results.len(), 3, "nobody was lost");
        let mut names: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (member, slot, known) in joined(&run.events) {
            names.entry(slot).or_default().push((member, known));
        }
        for names in names.values() {
            // A process may have left before the name node died.
            assert!(names[0].1 || names[1..].iter().all(|(member, known)| *known && *member == names[0].0));
        }
        if step + 1 < STEPS {
            assert!(names.values().all(|names| names.len() == 2), "{names:?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_name_node_that_dies_anywhere_does_not_show(
        cluster in shapes(),
        point in prop_oneof![
            (0..60u64).prop_map(|order| format!("frame:{order}")),
            (0..60u64).prop_map(|report| format!("report:{report}")),
        ],
        optimizer in optimizers(),
        exchange in determinate(),
    ) {
        let chaos = Chaos::parse(&format!("kill=name@{point}")).unwrap();
        // What the old one had started and not let in yet is waited for until the lease ends.
        let cluster = with_name_node_again(cluster.with_chaos(chaos), Duration::from_secs(2));
        check_exchange(&cluster, optimizer, exchange)?;
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn a_name_node_and_processes_that_die_together_do_not_show(
        (cluster, faults) in shapes().prop_flat_map(|cluster| {
            let faults = faults(cluster.processes, messages(300, 12), 2);
            (Just(cluster), faults)
        }),
        order in 0..60u64,
        optimizer in optimizers(),
        exchange in determinate(),
    ) {
        let chaos = Chaos::parse(&format!("kill=name@frame:{order},{faults}")).unwrap();
        let cluster = with_name_node_again(cluster.with_chaos(chaos), Duration::from_secs(1));
        check_exchange(&cluster, optimizer, exchange)?;
    }
}
