//! What is said of events.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn generation(number: u64) -> ClusterEvent {
    let what = Happening::Generation {
        number,
        slots: vec![0, 2],
        gave_up: Vec::new(),
        processes: 3,
        cause: "member 2 was lost".to_owned(),
        micros: Some(1540),
    };
    ClusterEvent::new(Duration::from_millis(2500), what)
}

#[test]
fn a_line_is_one_json_object_with_the_event_beside_its_fields() {
    // As `date --utc --date @1700000000` has it.
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    let line = generation(2).line(at).unwrap();
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["time"], "2023-11-14T22:13:20.250Z");
    assert_eq!(value["event"], "generation");
    assert_eq!(value["seconds"], 2.5);
    assert_eq!(value["number"], 2);
    assert_eq!(value["micros"], 1540);
}

#[test]
fn a_beginning_without_some_and_going_on_have_sentences() {
    assert_eq!(
        generation(1).sentence().unwrap(),
        "beginning with 2 of 3 processes: slot 1 has not come"
    );
    assert_eq!(
        generation(2).sentence().unwrap(),
        "going on with 2 of 3 processes, 1.5 ms after the loss was seen (generation 2: member 2 was lost)"
    );
}

#[test]
fn how_a_process_ended_and_what_comes_of_it_have_sentences() {
    let sentence = |what: Happening| ClusterEvent::new(Duration::ZERO, what).sentence();
    let exited = |process, cause: &str, is_unexplained| Happening::Exited {
        slot: 1,
        process,
        cause: cause.to_owned(),
        is_unexplained,
    };
    for (process, cause, expected) in [
        (
            Some(71),
            "killed by signal 9 (SIGKILL)",
            "slot 1 (process 71) was killed by signal 9 (SIGKILL): if nobody sent it, the machine may have run out \
             of memory (see the kernel's log)",
        ),
        (
            Some(71),
            "killed by signal 6 (SIGABRT)",
            "slot 1 (process 71) was killed by signal 6 (SIGABRT)",
        ),
        (
            Some(71),
            ENDED_HERE,
            "slot 1 (process 71) was ended by the name node, as it lived on without its connection",
        ),
        (Some(71), "exit code 3", "slot 1 (process 71) has ended: exit code 3"),
        (None, "exit code 137", "the process for slot 1 has ended: exit code 137"),
        (
            None,
            "could not be started: no such file",
            "the process for slot 1 could not be started: no such file",
        ),
    ] {
        assert_eq!(sentence(exited(process, cause, true)).unwrap(), expected);
        assert_eq!(sentence(exited(process, cause, false)), None);
    }
    let again = Happening::Started {
        slot: 1,
        again: true,
        restarts_left: 2,
        restarts: 3,
    };
    assert_eq!(
        sentence(again).unwrap(),
        "starting a new process for slot 1 (2 of 3 restarts are left, `--restarts`)"
    );
    let no_more = Happening::StartsNoMore { slot: 1, restarts: 3 };
    assert_eq!(
        sentence(no_more).unwrap(),
        "no process is started for slot 1 any more: `--restarts 3` is used up"
    );
}

#[test]
fn of_many_that_are_behind_some_are_named() {
    let sentence = |count: u32| {
        let what = Happening::Behind {
            slots: (0..count).collect(),
            processes: (70..70 + count).collect(),
            action: 1,
            site: "an action on `count` (declared at main.rs:105:9)".to_owned(),
            micros: 30_000_000,
        };
        ClusterEvent::new(Duration::ZERO, what).sentence().unwrap()
    };
    assert_eq!(
        sentence(1),
        "slot 0 (process 70) has not come to action 1, an action on `count` (declared at main.rs:105:9), where \
         others wait for 30 s: it lives, and its driver program does something else"
    );
    let many = sentence(6);
    let named = "slot 2 (process 72), slot 3 (process 73) and 2 more have not come to action 1";
    assert!(many.contains(named), "{many}");
}

#[test]
fn a_place_whose_process_gave_up_is_not_one_that_nobody_has_come_for() {
    for (slots, gave_up, expected) in [
        (vec![1], vec![1], "slot 1 gave up"),
        (vec![1, 2, 3], vec![2], "slots 1, 3 have not come, slot 2 gave up"),
        (vec![1, 2], vec![], "slots 1, 2 have not come"),
    ] {
        let what = Happening::Waits {
            slots,
            gave_up,
            processes: 4,
            micros: 55_000_000,
        };
        let sentence = ClusterEvent::new(Duration::ZERO, what).sentence().unwrap();
        assert!(
            sentence.contains(&format!(" of 4 processes: {expected}; ")),
            "{sentence}"
        );
    }
}

#[test]
fn text_with_line_breaks_stays_on_one_line() {
    let what = Happening::Finished {
        error: Some("first\nsecond".to_owned()),
    };
    let line = ClusterEvent::new(Duration::ZERO, what).line(SystemTime::UNIX_EPOCH);
    assert!(!line.unwrap().contains('\n'));
}
