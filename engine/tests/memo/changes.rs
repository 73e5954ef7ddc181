//! The second time is free, and a change costs what depends on it.

use distdl_engine::Context;

use crate::pipeline::*;

const FILES: usize = 64;

#[test]
fn one_changed_object_of_64_costs_its_partition_and_another_version_all() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    let ledger = Ledger::default();
    let run = |version: u64| {
        let context = context(cache.path());
        let words = words(&context, files.path(), FILES, &ledger)
            .unwrap()
            .memoize("words", version)
            .unwrap();
        let all = words.collect().unwrap();
        let computed = ledger.take();
        assert_eq!(words.partitions_computed(), computed.len() as u64);
        let figures = context.store().memo().unwrap().figures();
        assert_eq!(figures.computations, computed.len() as u64);
        assert_eq!(figures.computations_avoided, (FILES - computed.len()) as u64);
        assert_eq!(figures.bytes_read > 0, computed.len() < FILES);
        assert_eq!(figures.bytes_written > 0, !computed.is_empty());
        (all, computed)
    };
    let everything: Vec<usize> = (0..FILES).collect();
    let (first, computed) = run(1);
    assert_eq!(computed, everything);
    assert_eq!(run(1), (first.clone(), vec![]), "the second run computes 0 partitions");
    write_file(files.path(), 17, "something else altogether");
    let (changed, computed) = run(1);
    assert_eq!(computed, [17], "exactly what depends on the changed object");
    assert_ne!(changed, first);
    assert_eq!(run(1), (changed.clone(), vec![]));
    assert_eq!(run(2), (changed.clone(), everything), "another version");
    assert_eq!(run(1), (changed, vec![]), "the older version is still there");
}

#[test]
fn behind_a_shuffle_any_change_costs_everything_and_nothing_costs_nothing() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), 8);
    let (read, summed) = (Ledger::default(), Ledger::default());
    let run = || {
        let context = context(cache.path());
        let words = words(&context, files.path(), 8, &read)
            .unwrap()
            .memoize("words", 1)
            .unwrap();
        let counts = words
            .map(|word| (word, 1_u64))
            .reduce_by_key_into(|left, right| left + right, 4);
        let note = summed.clone();
        let counts = counts.map_partitions_with_index(move |partition, counts| {
            note.note(partition);
            counts
        });
        let counts = counts.memoize("counts", 1).unwrap();
        let tasks = context.metrics().tasks();
        let mut all = counts.collect().unwrap();
        all.sort();
        (
            all,
            context.metrics().tasks() - tasks,
            read.take().len(),
            summed.take().len(),
        )
    };
    let (first, tasks, ..) = run();
    assert_eq!(tasks, 12);
    let (second, tasks, read, summed) = run();
    assert_eq!((second, read, summed), (first.clone(), 0, 0));
    assert_eq!(tasks, 4, "the stage before the shuffle does not run");
    write_file(files.path(), 3, "a change");
    let (third, tasks, read, summed) = run();
    assert_ne!(third, first);
    assert_eq!((tasks, read, summed), (12, 1, 4));
}

/// A sort samples, an index counts: neither is done for what is remembered.
#[test]
fn work_before_planning_is_not_done_for_what_is_remembered() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), 6);
    let ledger = Ledger::default();
    let run = |range: bool| {
        let context = context(cache.path());
        let words = words(&context, files.path(), 6, &ledger).unwrap();
        let sorted = words.zip_with_index().sort_by_key_into(3).memoize("sorted", 1).unwrap();
        let all = match range {
            true => sorted.filter_by_range("b".to_owned()..).collect().unwrap(),
            false => sorted.collect().unwrap(),
        };
        (all, context.metrics().jobs(), ledger.take().len())
    };
    let plain = |file: usize| [format!("word{file}"), format!("word{}", file % 7), "all".to_owned()];
    let mut expected: Vec<(String, u64)> = (0..6).flat_map(plain).zip(0..).collect();
    expected.sort();
    let (first, ..) = run(false);
    assert_eq!(first, expected);
    assert_eq!(run(false), (first.clone(), 1, 0));
    let files = remembered(cache.path());
    assert_eq!(files.len(), 3);
    std::fs::remove_file(&files[0]).unwrap();
    let (again, _, computed) = run(false);
    assert!(again == first && computed > 0);
    // It asks for the bounds, which are found by computing.
    let expected = first
        .into_iter()
        .filter(|(word, _)| word.as_str() >= "b")
        .collect::<Vec<_>>();
    assert_eq!(run(true).0, expected);
}

/// What is remembered before a filter, a sort and a join is what would be computed: order included.
#[test]
fn what_is_derived_from_remembered_blocks_is_what_it_would_be() {
    let cache = tempfile::tempdir().unwrap();
    let run = |memoized: bool| {
        let context = context(cache.path());
        let rows = context.range(0..300, 5).map(|x| (x * 7919 % 41, x));
        let sums = rows.reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right));
        let sums = if memoized {
            sums.memoize("sums", 1).unwrap()
        } else {
            sums
        };
        let joined = sums.join(&rows.group_by_key().map_values(|values| values.len() as u64));
        (
            joined.collect().unwrap(),
            sums.sort_by_key().collect().unwrap(),
            sums.count().unwrap(),
        )
    };
    let expected = run(false);
    assert_eq!((run(true), run(true)), (expected.clone(), expected));
}

#[test]
fn another_name_type_or_operator_is_another_computation() {
    let cache = tempfile::tempdir().unwrap();
    let computed = |name: &str, add: u64, sampled: Option<u64>| {
        let context = context(cache.path());
        let numbers = context.range(add..100 + add, 4);
        let numbers = match sampled {
            Some(seed) => numbers.sample(0.5, seed).unwrap(),
            None => numbers,
        };
        let memo = numbers.memoize(name, 1).unwrap();
        memo.count().unwrap();
        memo.partitions_computed()
    };
    let ways = [
        ("a", 0, None),
        ("b", 0, None),
        ("a", 1, None),
        ("a", 0, Some(1)),
        ("a", 0, Some(2)),
    ];
    for (name, add, sampled) in ways {
        assert_eq!(computed(name, add, sampled), 4, "{name} {add} {sampled:?}");
    }
    for (name, add, sampled) in ways {
        assert_eq!(computed(name, add, sampled), 0, "{name} {add} {sampled:?}");
    }
    let context = context(cache.path());
    let texts = context
        .range(0..100, 4)
        .map(|number| number.to_string())
        .memoize("a", 1)
        .unwrap();
    assert_eq!((texts.count().unwrap(), texts.partitions_computed()), (100, 4));
}

#[test]
fn another_command_or_range_is_another_computation() {
    let cache = tempfile::tempdir().unwrap();
    let context = || context(cache.path());
    for (program, expected) in [("1q", 1), ("2q", 2), ("1q", 1)] {
        let context = context();
        let lines = context.range(0..4, 1).pipe("sed", &[program]);
        assert_eq!(
            lines.memoize("lines", 1).unwrap().count().unwrap(),
            expected,
            "{program}"
        );
    }
    for end in [3, 4, 3] {
        let context = context();
        let pairs = context.range(0..9, 2).map(|key| (key, ())).filter_by_range(..end);
        assert_eq!(pairs.memoize("pairs", 1).unwrap().count().unwrap(), end);
    }
}

#[test]
fn unpersist_ends_it_and_explain_tells_of_it() {
    let cache = tempfile::tempdir().unwrap();
    let context = context(cache.path());
    let numbers = context.range(0..100, 4).memoize("numbers", 3).unwrap();
    numbers.count().unwrap();
    assert!(
        numbers
            .explain()
            .contains("memoized as \"numbers\" version 3, persisted (MemoryAndDisk, 4 of 4 blocks")
    );
    numbers.unpersist().count().unwrap();
    numbers.count().unwrap();
    assert_eq!(numbers.partitions_computed(), 4, "only what is persisted is counted");
    assert!(numbers.explain().contains("stage 0: 4 tasks") && !numbers.explain().contains("reads 4 blocks"));
    assert_eq!(
        remembered(cache.path()).len(),
        4,
        "what is remembered stays for other runs"
    );
}

#[test]
fn without_a_cache_folder_memoize_is_an_error_that_says_how_to_mend_it() {
    let context = distdl_engine::Context::new(distdl_engine::Config::default().with_threads(1)).unwrap();
    let error = context.range(0..9, 2).memoize("x", 1).unwrap_err().to_string();
    assert!(error.contains("--cache") && error.contains("persist"), "{error}");
}

/// A run that finds a sort remembered does not look for the bounds of its ranges, and cannot once lineage is cut.
#[test]
fn keys_of_a_remembered_sort_are_found_after_a_cut() {
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let context = context(cache.path());
        let pairs = context.range(0..40, 4).map(|x| (x * 7 % 40, x));
        let sorted = pairs.sort_by_key_into(4).memoize("sorted", 1).unwrap();
        let sorted = sorted.local_checkpoint().unwrap();
        for key in 0..40 {
            assert_eq!(sorted.lookup(&(key * 7 % 40)).unwrap(), [key]);
        }
    }
}

/// A run that finds positions remembered has not counted the partitions before it.
#[test]
fn positions_are_counted_where_blocks_are_given_up_in_the_middle_of_an_action() {
    let cache = tempfile::tempdir().unwrap();
    let expected: Vec<(u64, u64)> = (0..40).map(|number| (number, number)).collect();
    for _ in 0..2 {
        let context = Context::new(config(cache.path()).with_threads(1)).unwrap();
        let placed = context.range(0..40, 4).zip_with_index().memoize("placed", 1).unwrap();
        let handle = placed.clone();
        let mapped = placed.map_partitions(move |rows| {
            handle.unpersist();
            rows
        });
        assert_eq!(mapped.collect().unwrap(), expected);
        // For the next run, what this one was not to keep.
        let again = Context::new(config(cache.path())).unwrap();
        again
            .range(0..40, 4)
            .zip_with_index()
            .memoize("placed", 1)
            .unwrap()
            .count()
            .unwrap();
    }
}
