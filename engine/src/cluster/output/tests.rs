//! What all print is shown once, what one prints is never lost, and bytes stay as they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const A: Life = (0, 0);
const B: Life = (1, 0);
const B_AGAIN: Life = (1, 1);

#[test]
fn each_place_of_standard_output_is_shown_once() {
    let mut merger = OutputMerger::default();
    assert_eq!(merger.feed(B, b"epoch 1 in 2 s\nepo"), b"epoch 1 in 2 s\n");
    assert_eq!(merger.feed(A, b"epoch 1 in 3 s\nepoch 2 in 1 s\n"), b"epoch 2 in 1 s\n");
    merger.ended(B); // Killed in the middle of line 2.
    assert_eq!(merger.feed(B_AGAIN, b"epoch 1 in 0 s\nepoch 2 in 0 s\nend"), b"");
    assert_eq!(merger.feed(A, b"end\n"), b"end\n");
    merger.ended(A);
    merger.ended(B_AGAIN);
    assert_eq!(merger.close(), b"");
}

#[test]
fn the_longest_unfinished_last_line_is_shown_at_the_end() {
    let mut merger = OutputMerger::default();
    merger.feed(A, b"1\nwhole");
    merger.feed(B, b"1\nwho");
    merger.ended(A);
    merger.ended(B);
    assert_eq!(merger.close(), b"whole");
    assert_eq!(merger.close(), b"");
}

#[test]
fn a_line_longer_than_the_limit_in_one_process_only_harms_no_other_line() {
    let mut merger = OutputMerger::default();
    let long = [&[b'x'; LINE_BYTES_MAX][..], b"tail\n"].concat();
    assert_eq!(merger.feed(A, &long[..LINE_BYTES_MAX]), &long[..LINE_BYTES_MAX]);
    assert_eq!(merger.feed(B, b"short\nsecond\n"), b"\nsecond\n");
    assert_eq!(merger.feed(A, b"tail\nsecond\nthird\n"), b"third\n");
}

#[test]
fn what_all_say_on_standard_error_is_shown_once_and_what_one_says_is_kept() {
    let mut merger = ErrorMerger::default();
    assert_eq!(merger.feed(A, b"warning\nwarning\n"), b"warning\nwarning\n");
    assert_eq!(
        merger.feed(B, b"warning\nthread 'x' panicked\nwarning\n"),
        b"thread 'x' panicked\n"
    );
    assert_eq!(merger.feed(B_AGAIN, b"warning\nwarning\nwarning\n"), b"warning\n");
    merger.feed(A, b"error: half a li");
    assert_eq!(merger.ended(A), b"error: half a li");
    assert_eq!(merger.feed(B_AGAIN, b"next\n"), b"\nnext\n");
}

#[test]
fn the_same_panic_in_all_processes_is_shown_once() {
    let mut merger = ErrorMerger::default();
    let panic =
        |number: u32| format!("thread 'main' ({number}) panicked at src/a.rs:1:2:\nno (1) reason\n").into_bytes();
    assert_eq!(merger.feed(A, &panic(4711)), panic(4711));
    assert_eq!(merger.feed(B, &panic(4712)), b"");
    let other = b"thread 'main' (5) panicked at src/a.rs:1:3:\n";
    assert_eq!(merger.feed(B, other), other);
}

#[test]
fn what_is_remembered_of_standard_error_is_limited() {
    let mut merger = ErrorMerger::default();
    let lines: String = (0..=LINES_MAX).map(|line| format!("{line}\n")).collect();
    merger.feed(A, lines.as_bytes());
    assert_eq!((merger.seen.len(), merger.order.len()), (LINES_MAX, LINES_MAX));
    assert_eq!(merger.feed(B, b"0\n"), b"0\n", "forgotten");
    assert_eq!(merger.feed(B, format!("{LINES_MAX}\n").as_bytes()), b"", "remembered");
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_standard_error_that_cannot_be_written_is_no_error_and_ends_nobody() {
    let output = Output::new(Box::new(io::sink()), Box::new(Full));
    assert!((0..2).all(|_| output.feed(A, Stream::Errors, b"said\n")));
    output.close().unwrap();
}

/// Takes nothing the first time.
struct FullAtFirst {
    has_failed: bool,
    takes: Arc<Mutex<Vec<u8>>>,
}

impl Write for FullAtFirst {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::mem::replace(&mut self.has_failed, true) {
            true => self.takes.lock().unwrap().write(bytes),
            false => Full.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_standard_error_that_takes_something_again_is_given_what_comes_next() {
    let takes = Arc::default();
    let errors = FullAtFirst {
        has_failed: false,
        takes: Arc::clone(&takes),
    };
    let output = Output::new(Box::new(io::sink()), Box::new(errors));
    for line in [&b"lost\n"[..], b"said\n"] {
        assert!(output.feed(A, Stream::Errors, line));
    }
    output.close().unwrap();
    let taken = String::from_utf8(takes.lock().unwrap().clone()).unwrap();
    assert!(taken.contains("said") && !taken.contains("lost"), "{taken}");
}

#[test]
fn a_standard_output_that_cannot_be_written_is_an_error_and_ends_the_processes() {
    let output = Arc::new(Output::new(Box::new(Full), Box::new(io::sink())));
    assert!(output.feed(A, Stream::Output, b"half a line"));
    assert!(!output.feed(A, Stream::Output, b"\n"));
    assert!(output.feed(A, Stream::Errors, b"said\n"));
    assert_eq!(output.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

/// Feeds the same text to several processes in pieces of drawn length and in drawn order.
fn merged(text: &[u8], processes: u32, draws: &[(u32, usize)], lives: u32) -> Vec<u8> {
    let mut merger = OutputMerger::default();
    let mut written = Vec::new();
    let mut done = vec![(0_u32, 0_usize); processes as usize];
    let last = (0..processes).map(|process| (process, usize::MAX));
    for (process, bytes) in draws.iter().copied().chain(last) {
        let process = process % processes;
        let (life, at) = &mut done[process as usize];
        if bytes == 0 && *life < lives {
            merger.ended((process, *life));
            (*life, *at) = (*life + 1, 0);
            continue;
        }
        let end = text.len().min(at.saturating_add(bytes));
        written.extend(merger.feed((process, *life), &text[*at..end]));
        *at = end;
    }
    written.extend(merger.close());
    written
}

proptest! {
    #[test]
    fn any_bytes_pass_unharmed_however_they_come_and_whoever_dies(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop_oneof![Just(1), Just(3000usize)]), 0..8),
        newline in any::<bool>(),
        processes in 1..4u32,
        draws in prop::collection::vec((0..4u32, prop_oneof![0..60usize, Just(LINE_BYTES_MAX)]), 0..40),
    ) {
        let mut text: Vec<u8> = pieces.into_iter().flat_map(|(piece, times)| piece.repeat(times)).collect();
        if !newline {
            text.retain(|byte| *byte != b'\n');
        }
        prop_assert!(merged(&text, processes, &draws, 3) == text);
    }

    #[test]
    fn no_line_of_standard_error_is_lost_or_shown_more_often_than_it_was_said(
        said in prop::collection::vec((0..3u32, 0..5u8), 0..40),
    ) {
        let mut merger = ErrorMerger::default();
        let mut written = Vec::new();
        for (process, line) in &said {
            written.extend(merger.feed((*process, 0), &[b'a' + line, b'\n']));
        }
        for line in 0..5 {
            let shown = written.iter().filter(|byte| **byte == b'a' + line).count();
            let by = |process| said.iter().filter(|one| **one == (process, line)).count();
            prop_assert_eq!(shown, (0..3).map(by).max().unwrap());
        }
    }
}
