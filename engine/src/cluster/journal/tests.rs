//! The log torn, damaged, shared and read back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use rustix::io::Errno;

use std::fs;

use super::*;
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::protocol::{ActionKind, Inventory};
use crate::error::EngineError;

const BYTES_MAX: u64 = 1 << 20;

fn head(action: u64) -> Head {
    let kind = ActionKind::Compute {
        wanted: vec![0],
        dataset: crate::id::DatasetId(1),
        rounds_max: 1,
    };
    Head {
        action,
        fingerprint: [7; 32],
        site: "count at main.rs:1".to_owned(),
        kind,
    }
}

fn answered(action: u64, size: usize) -> LogEntry {
    let results = vec![(0, Bytes::from(vec![action as u8; size]))];
    let answer = Answer::Computed {
        results,
        updates: Vec::new(),
    };
    LogEntry::Answered {
        head: head(action),
        finished_by: vec![MemberId(1)],
        answer: Some(answer),
    }
}

fn size(answer: &Answer) -> usize {
    match answer {
        Answer::Computed { results, .. } => results[0].1.len(),
        other => panic!("{other:?}"),
    }
}

fn written(folder: &Path) -> Vec<u8> {
    let (mut journal, entries) = Journal::open(folder, BYTES_MAX).unwrap();
    assert!(entries.is_empty());
    let round = LogEntry::Began {
        round: 0,
        work: Work::Compute {
            costs: vec![3],
            lanes: vec![0, 1],
            finished: vec![],
            held: vec![Inventory::new()],
        },
    };
    for entry in [
        LogEntry::Joined {
            member: MemberId(3),
            arithmetic: Arithmetic::ANY,
        },
        LogEntry::Came(head(0)),
        round,
        answered(0, 1000),
    ] {
        journal.append(&entry).unwrap();
    }
    journal.append(&answered(1, 10)).unwrap();
    drop(journal);
    fs::read(folder.join("journal")).unwrap()
}

#[test]
fn what_the_system_refuses_comes_with_its_remedy() {
    let refused = |errno: Errno| {
        let source = io::Error::from_raw_os_error(errno.raw_os_error());
        failed("open", Path::new("a folder"), source).to_string()
    };
    for (errno, remedy) in [
        (Errno::MFILE, "`ulimit -n`"),
        (Errno::NFILE, "`fs.file-max`"),
        (Errno::NOSPC, "free space"),
        (Errno::ACCESS, "give the user that runs this program that right"),
    ] {
        assert!(refused(errno).contains(remedy), "{}", refused(errno));
    }
}

#[test]
fn what_was_appended_is_there_again_and_answers_are_read_back_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let (mut journal, entries) = Journal::open(folder.path(), BYTES_MAX).unwrap();
    let is = |entry: &LogEntry| matches!(entry, LogEntry::Answered { answer: None, .. });
    assert_eq!(
        entries.iter().filter(|entry| is(entry)).count(),
        1,
        "the last one, without its answer"
    );
    assert!(
        !entries.iter().any(|entry| matches!(entry, LogEntry::Began { .. })),
        "rounds that are over are dropped"
    );
    assert_eq!(size(&journal.answer(0).unwrap().1), 1000);
    assert!(matches!(
        journal.answer(2),
        Err(JournalError::NoAnswer { action: 2, .. })
    ));
    journal.append(&answered(2, 5)).unwrap();
    assert_eq!(size(&journal.answer(2).unwrap().1), 5);
    assert_eq!(size(&journal.answer(1).unwrap().1), 10);
}

#[test]
fn two_name_nodes_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Journal::open(folder.path(), BYTES_MAX).unwrap();
    assert!(matches!(
        Journal::open(folder.path(), BYTES_MAX),
        Err(JournalError::InUse { .. })
    ));
    drop(first);
    Journal::open(folder.path(), BYTES_MAX).unwrap();
}

/// While it is ending, a name node that comes back lets the others end well.
#[test]
fn a_journal_whose_program_is_over_is_not_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let append = |entry: LogEntry| {
        Journal::open(folder.path(), BYTES_MAX)
            .unwrap()
            .0
            .append(&entry)
            .unwrap()
    };
    append(LogEntry::Finishing);
    append(LogEntry::Lost { member: MemberId(0) });
    append(LogEntry::Over);
    let says = Journal::open(folder.path(), BYTES_MAX).unwrap_err().to_string();
    let names = says.contains(&folder.path().display().to_string());
    assert!(names && says.contains("has ended; remove that folder"), "{says}");
}

#[test]
fn a_file_that_is_no_journal_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("journal"), b"somebody's diary").unwrap();
    assert!(matches!(
        Journal::open(folder.path(), BYTES_MAX),
        Err(JournalError::Damaged { offset: 0, .. })
    ));
    assert_eq!(fs::read(folder.path().join("journal")).unwrap(), b"somebody's diary");
}

#[test]
fn zeros_at_the_end_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = written(folder.path());
    let whole = bytes.clone();
    bytes.resize(bytes.len() + 5000, 0);
    fs::write(folder.path().join("journal"), bytes).unwrap();
    let (_, entries) = Journal::open(folder.path(), BYTES_MAX).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(fs::read(folder.path().join("journal")).unwrap(), whole);
}

/// It would be replayed as if it had happened twice.
#[test]
fn a_whole_frame_at_another_place_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = written(folder.path());
    let whole = bytes.len() as u64;
    let header = bytes[MAGIC.len()..][..HEADER_BYTES as usize].try_into().unwrap();
    let (length, ..) = parts(header);
    bytes.extend_from_within(MAGIC.len()..MAGIC.len() + HEADER_BYTES as usize + length as usize);
    fs::write(folder.path().join("journal"), bytes).unwrap();
    let opened = Journal::open(folder.path(), BYTES_MAX).map(|(_, entries)| entries);
    assert!(
        matches!(opened, Err(JournalError::Damaged { offset, .. }) if offset == whole),
        "{opened:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_was_torn(part in 0.0..1.0_f64) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(folder.path());
        let length = (bytes.len() as f64 * part) as usize;
        fs::write(folder.path().join("journal"), &bytes[..length]).unwrap();
        let (mut journal, _) = Journal::open(folder.path(), BYTES_MAX).unwrap();
        prop_assert!(journal.answers.len() < 2);
        let next = journal.answers.len() as u64;
        journal.append(&answered(next, 77)).unwrap();
        drop(journal);
        let (mut journal, _) = Journal::open(folder.path(), BYTES_MAX).unwrap();
        prop_assert_eq!(size(&journal.answer(next).unwrap().1), 77);
    }

    #[test]
    fn a_flipped_bit_before_the_last_frame_is_an_error_that_says_where(part in 0.0..1.0_f64, bit in 0..8_u32) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = written(folder.path());
        let last = {
            let (journal, _) = Journal::open(folder.path(), BYTES_MAX).unwrap();
            journal.answers[1] as usize
        };
        let at = (last as f64 * part) as usize;
        bytes[at] ^= 1 << bit;
        fs::write(folder.path().join("journal"), &bytes).unwrap();
        match Journal::open(folder.path(), BYTES_MAX) {
            Err(JournalError::Damaged { offset, .. }) => prop_assert!(offset as usize <= at),
            other => prop_assert!(false, "{:?}", other.map(|(_, entries)| entries)),
        }
        prop_assert_eq!(fs::read(folder.path().join("journal")).unwrap(), bytes, "nothing is cut off");
    }
}

#[test]
fn answers_of_a_temporary_log_are_read_between_writes() {
    let mut journal = Journal::temporary(None, BYTES_MAX).unwrap();
    for action in 0..3 {
        journal.append(&answered(action, 10 + action as usize)).unwrap();
        for earlier in 0..=action {
            assert_eq!(size(&journal.answer(earlier).unwrap().1), 10 + earlier as usize);
        }
    }
    assert!(matches!(
        journal.answer(3),
        Err(JournalError::NoAnswer { action: 3, .. })
    ));
}

#[test]
fn a_temporary_log_without_a_place_says_where_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let says = Journal::temporary(Some(&file.join("below it")), BYTES_MAX)
        .unwrap_err()
        .to_string();
    assert!(
        says.contains("below it") && says.contains("`spill_folder`, or TMPDIR"),
        "{says}"
    );
    let journal = Journal::temporary(None, BYTES_MAX).unwrap();
    assert_eq!(journal.path, distdl_storage::temporary_folder());
}

#[test]
fn a_log_that_is_full_says_so_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let kept = written(folder.path());
    let bytes_max = kept.len() as u64 + 200;
    let (mut journal, _) = Journal::open(folder.path(), bytes_max).unwrap();
    let full = journal.append(&answered(2, 1000)).unwrap_err();
    assert!(matches!(full, JournalError::Full { bytes, .. } if bytes == kept.len() as u64));
    let says = full.to_string();
    assert!(
        says.contains(&bytes_max.to_string()) && says.contains("raise `disk`"),
        "{says}"
    );
    assert_eq!(fs::read(folder.path().join("journal")).unwrap(), kept);
    journal.append(&answered(2, 1)).unwrap();
    assert_eq!(size(&journal.answer(2).unwrap().1), 1);
    for _ in 0..bytes_max {
        journal.append(&LogEntry::Cut).unwrap();
    }
    let nothing = LogEntry::Collected(Vec::new());
    assert!(matches!(journal.append(&nothing), Err(JournalError::Full { .. })));
    journal.append(&LogEntry::Finishing).unwrap();
}

#[test]
fn a_temporary_log_takes_no_room_for_what_nobody_reads() {
    let mut journal = Journal::temporary(None, 400).unwrap();
    for member in 0..1000 {
        let member = MemberId(member);
        let arithmetic = Arithmetic::ANY;
        journal.append(&LogEntry::Joined { member, arithmetic }).unwrap();
    }
    let collected = Collected {
        results: vec![(0, Bytes::from(vec![1; 1000]))],
        updates: Vec::new(),
    };
    journal.append(&LogEntry::Collected(vec![collected])).unwrap();
    journal.append(&answered(0, 100)).unwrap();
    assert_eq!(size(&journal.answer(0).unwrap().1), 100);
    assert!(matches!(
        journal.append(&answered(1, 400)),
        Err(JournalError::Full { bytes_max: 400, .. })
    ));
}

#[test]
fn what_comes_to_little_and_errors_find_room_in_a_full_log_and_have_a_limit_too() {
    let mut journal = Journal::temporary(None, 80_000).unwrap();
    let failed = |action| LogEntry::Answered {
        head: head(action),
        finished_by: Vec::new(),
        answer: Some(Answer::Failed(EngineError::invalid("x".repeat(1000), ""))),
    };
    let mut append = |entry: &dyn Fn(u64) -> LogEntry| {
        while journal.append(&entry(journal.answers.len() as u64)).is_ok() {}
        (journal.answers.len() as u64, journal.quota().bytes)
    };
    let (_, large) = append(&|action| answered(action, 500));
    let (_, small) = append(&|action| answered(action, 10));
    let (actions, errors) = append(&failed);
    assert!((79_000..=80_000).contains(&large), "{large}");
    assert!(
        (84_500..=85_000).contains(&small),
        "what comes to little goes on for a while: {small}"
    );
    assert!((88_500..=90_000).contains(&errors), "{errors}");
    assert!(matches!(journal.answer(actions - 1), Ok((_, Answer::Failed(_)))));
}

#[test]
fn whoever_counts_along_knows_what_is_taken_and_what_finds_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Journal::open(folder.path(), 3000).unwrap().0;
    for mut journal in [kept, Journal::temporary(None, 3000).unwrap()] {
        let mut quota = journal.quota();
        let collected = Collected {
            results: vec![(0, Bytes::from(vec![1; 300]))],
            updates: Vec::new(),
        };
        let (mut refused, collected) = (0, LogEntry::Collected(vec![collected]));
        let entries =
            (0..40).flat_map(|action| [LogEntry::Came(head(action)), collected.clone(), answered(action, 300)]);
        for entry in entries {
            match quota.refusal(&entry, 0, "") {
                Some(error) => {
                    let full = journal.append(&entry).unwrap_err();
                    assert!(matches!(full, JournalError::Full { more: lacked, .. }
                        if matches!(error, EngineError::JournalFull { more, .. } if more == lacked)));
                    refused += 1;
                }
                None => {
                    quota.take(&entry);
                    journal.append(&entry).unwrap();
                }
            }
            assert_eq!(quota.bytes, journal.quota().bytes);
        }
        assert!(refused > 20, "{refused}");
    }
}
