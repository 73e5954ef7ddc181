//! Text files appear whole or not at all.

use std::fs;

use distdl::EngineError;
use proptest::prelude::*;

use crate::common::{cases, context};

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_is_saved_is_read_again_partition_by_partition(
        lines in prop::collection::vec("[a-zA-Z0-9 äß,]{0,12}", 0..40),
        partitions in 1..6usize,
        threads in 1..=3usize,
    ) {
        let context = context(threads);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let url = path.to_str().unwrap();
        let saved = context.parallelize(lines.clone(), partitions);
        saved.save_as_text_file(url).unwrap();
        saved.save_as_text_file("memory://out").unwrap();
        let mut names: Vec<String> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expected: Vec<String> = (0..partitions).map(|partition| format!("part-{partition:05}")).collect();
        prop_assert!(names == expected, "{:?}", names);
        for partition in 0..partitions {
            let start = |partition: usize| partition * lines.len() / partitions;
            let part: String = lines[start(partition)..start(partition + 1)].iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(fs::read_to_string(path.join(format!("part-{partition:05}"))).unwrap(), part);
        }
        for url in [url, "memory://out"] {
            prop_assert_eq!(&context.text_file(url, 3).unwrap().collect().unwrap(), &lines);
        }
    }
}

#[test]
fn a_panic_half_way_leaves_nothing() {
    for threads in 1..=3 {
        let context = context(threads);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let bad = context.range(0..100, 8).map(|x| {
            assert!(x != 77, "no");
            x
        });
        for url in [path.to_str().unwrap(), "memory://out"] {
            assert!(matches!(bad.save_as_text_file(url), Err(EngineError::Panic { .. })));
            assert!(context.text_file(url, 1).is_err());
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "something was left behind"
        );
        context
            .range(0..3, 2)
            .save_as_text_file(path.to_str().unwrap())
            .unwrap();
        assert_eq!(fs::read_to_string(path.join("part-00001")).unwrap(), "1\n2\n");
    }
}

#[test]
fn what_exists_is_not_overwritten() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let numbers = context.range(0..3, 1);
    for url in [path.to_str().unwrap(), "memory://out"] {
        numbers.save_as_text_file(url).unwrap();
        assert!(matches!(
            numbers.map(|x| x + 1).save_as_text_file(url),
            Err(EngineError::Storage(_))
        ));
        assert_eq!(context.text_file(url, 1).unwrap().collect().unwrap(), ["0", "1", "2"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
