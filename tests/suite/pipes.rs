//! Partitions through outside programs.

use std::process::Command;

use distdl::{Context, Dataset, EngineError, Level};
use proptest::prelude::*;

use crate::common::{batch_records, cases, context, small_batches};

fn shell(dataset: &Dataset<u64>, script: &str) -> Dataset<String> {
    dataset.pipe("sh", &["-c", script])
}

/// The error of an action, which must come from the pipe and from partition 0.
fn message_of(piped: &Dataset<String>) -> String {
    match piped.count() {
        Err(EngineError::Operator {
            operator,
            partition: 0,
            message,
            ..
        }) if operator == "pipe" => message,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn lines_come_out_as_the_program_makes_them(
        lines in prop::collection::vec("[a-zA-Z0-9 äß,]{0,12}", 0..40),
        partitions in 1..4usize,
        threads in 1..=2usize,
        batch_records in batch_records(),
    ) {
        let context = small_batches(threads, batch_records);
        let piped = context.parallelize(lines.clone(), partitions).pipe("sed", &["s/a/[&]/g"]);
        let expected: Vec<String> = lines.iter().map(|line| line.replace('a', "[a]")).collect();
        prop_assert_eq!(piped.persist(Level::MemoryAndDisk).collect().unwrap(), &expected[..]);
        prop_assert_eq!(piped.collect().unwrap(), expected);
    }
}

/// More than the pipes between two processes hold.
fn many(context: &Context) -> Dataset<u64> {
    context.range(0..200_000, 2)
}

#[test]
fn a_program_may_write_much_before_it_reads_and_read_all_before_it_writes() {
    let context = context(2);
    let numbers = many(&context);
    let first = shell(&numbers, "seq 200000; cat");
    let lines = first.collect().unwrap();
    assert_eq!(lines.len(), 600_000);
    assert_eq!(lines[199_999..200_001], ["200000", "0"]);
    let last = numbers.pipe("sort", &["-n", "-r"]).collect().unwrap();
    assert_eq!((last[0].as_str(), last[100_000].as_str()), ("99999", "199999"));
}

#[test]
fn a_program_may_close_its_input_early() {
    let context = context(2);
    let numbers = many(&context);
    assert_eq!(numbers.pipe("head", &["-n", "1"]).collect().unwrap(), ["0", "100000"]);
    assert_eq!(shell(&numbers, "exec <&-; echo x").collect().unwrap(), ["x", "x"]);
    assert!(shell(&numbers, "true").is_empty().unwrap());
}

#[test]
fn a_program_that_closes_its_output_early_still_gets_its_input() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("exec >&-; wc -l > {}/count", folder.path().display());
    let context = context(1);
    assert!(
        shell(&context.range(0..100_000, 1), &script)
            .collect()
            .unwrap()
            .is_empty()
    );
    let count = std::fs::read_to_string(folder.path().join("count")).unwrap();
    assert_eq!(count.trim(), "100000");
}

#[test]
fn an_action_may_want_only_the_first_lines_of_a_program_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    assert!(Command::new("mkfifo").arg(&held).status().unwrap().success());
    let all_ended = std::thread::spawn({
        let held = held.clone();
        move || std::fs::read(held).unwrap()
    });
    // It writes forever, and what it has started besides holds the named pipe open.
    let script = format!("exec 9> {}; sleep 600 & yes", held.display());
    let context = context(1);
    assert_eq!(shell(&context.range(0..3, 1), &script).take(2).unwrap(), ["y", "y"]);
    assert!(all_ended.join().unwrap().is_empty());
}

#[test]
fn what_goes_wrong_is_an_error_with_the_programs_last_words() {
    let context = context(1);
    let numbers = many(&context);
    let message = message_of(&shell(
        &numbers,
        "cat > /dev/null; seq 5000 >&2; echo out of luck >&2; exit 3",
    ));
    assert!(message.contains("exit status: 3"), "{message}");
    assert!(message.ends_with("4999\n5000\nout of luck"), "{message}");
    assert!(message.len() < 3000, "{} bytes", message.len());
    let message = message_of(&shell(&numbers, "kill -9 $$"));
    assert!(
        message.contains("signal: 9") && message.contains("nothing"),
        "{message}"
    );
    let message = message_of(&numbers.pipe("no-such-program", &[]));
    assert!(message.contains("`no-such-program` cannot be started"), "{message}");
    let message = message_of(&shell(&numbers, r"printf 'a\n\377\n'"));
    assert!(message.contains("not UTF-8"), "{message}");
    assert_eq!(numbers.count().unwrap(), 200_000);
}

#[test]
fn an_error_before_the_pipe_is_the_error_of_the_action() {
    let context = context(2);
    let bad = context.range(0..5000, 2).map(|x| {
        assert!(x != 4000, "no");
        x
    });
    assert!(matches!(
        bad.pipe("cat", &[]).count(),
        Err(EngineError::Panic { partition: 1, .. })
    ));
}

#[test]
fn a_program_that_hangs_is_ended_with_its_action() {
    let (context, folder) = (context(2), tempfile::tempdir().unwrap());
    let begun = folder.path().join("begun");
    assert!(Command::new("mkfifo").arg(&begun).status().unwrap().success());
    for script in [
        "sleep 3600",
        "exec > /dev/null; exec sleep 3600",
        "exec >&- 2>&-; exec sleep 3600",
    ] {
        let (handle, begins) = (context.cancel_handle(), begun.clone());
        // A named pipe is open once both ends are: a program runs.
        let cancelling = std::thread::spawn(move || std::fs::File::open(begins).is_ok() && handle.cancel());
        let hung = shell(&context.range(0..4, 2), &format!(": > {}; {script}", begun.display()));
        let result = hung.count();
        assert!(cancelling.join().unwrap());
        assert!(
            matches!(&result, Err(EngineError::Cancelled { .. })),
            "{script}: {result:?}"
        );
    }
    assert_eq!(context.range(0..4, 2).count().unwrap(), 4);
}

#[test]
fn what_a_program_leaves_behind_is_not_waited_for() {
    let piped = shell(&context(1).range(0..3, 1), "sleep 100000 >/dev/null & echo $!; cat");
    let lines = piped.collect().unwrap();
    assert!(Command::new("kill").arg(&lines[0]).status().unwrap().success());
    assert_eq!(lines[1..], ["0", "1", "2"]);
}

/// Runs a program that leaves something at its input; what that has written to its descriptor 9, once it has ended.
fn leaves_at_its_input(numbers: &Dataset<String>, left: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    assert!(Command::new("mkfifo").arg(&held).status().unwrap().success());
    let script = format!("exec 3<&0 9> {}; {left} <&3 >/dev/null 2>&1 & echo x", held.display());
    let read = std::thread::spawn(move || std::fs::read_to_string(held).unwrap());
    assert_eq!(numbers.pipe("sh", &["-c", &script]).collect().unwrap(), ["x"]);
    read.join().unwrap()
}

#[test]
fn what_a_program_leaves_at_its_input_does_not_hold_the_action_and_is_ended() {
    let many = context(1).range(0..100_000, 1).map(|number| number.to_string());
    assert_eq!(leaves_at_its_input(&many, "sleep 100000"), "");
}

#[test]
fn what_a_program_leaves_at_its_input_gets_all_of_it() {
    let wide = context(1).range(0..3000, 1).map(|number| format!("{number:1000}"));
    // It takes one byte at a time.
    let counted = leaves_at_its_input(&wide, "(while read line; do echo; done | wc -l >&9)");
    assert_eq!(counted.trim(), "3000");
}
