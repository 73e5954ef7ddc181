//! Frames without payload from process to process through shared memory, where the reader looks for them while it
//! waits: no system call, and nobody is woken who is awake.
//!
//! ```text
//!   sender's region                        receiver's region
//!     letters for rank 0                     letters for ...
//!     letters for rank 1  ---- read by ----> taken from rank 0   ---- read by the sender: which letters may be
//!     ...                                    taken from rank 1        written over
//!                                            sleepers            ---- read by the sender: whether to ring
//! ```
//!
//! Each rank writes its own region only. A letter is a frame's header, with its checksum. A reader that is about to
//! sleep counts itself as a sleeper and then looks once more; a sender writes its letter and then looks for sleepers.
//! Each looks behind a fence of the whole order, so that at least one of them sees the other: no letter is slept over.

use std::sync::Mutex;
use std::sync::atomic::{Ordering, fence};

use distdl_storage::Unpoisoned;

use crate::cluster::shared_memory::{Piece, View, Words};
use crate::cluster::wire::{HEADER_BYTES, Header, Limits, WireError};

/// Letters to one rank that may lie unread. In a loop nobody is many versions ahead, so that few are needed; what finds
/// no room goes over the link.
const LETTERS: usize = 64;

/// Words of a letter: its number, counted from 1, and the header.
const LETTER_WORDS: usize = 1 + HEADER_WORDS;
const HEADER_WORDS: usize = HEADER_BYTES / 8;

/// A letter has no payload.
const LIMITS: Limits = Limits { payload_bytes_max: 0 };

/// How much memory the mailbox of a process needs that belongs to a team of `ranks`, in numbers of 4 bytes.
pub(crate) fn floats(ranks: usize) -> usize {
    2 * (words_before(ranks) + ranks * LETTERS * LETTER_WORDS)
}

/// The words before the letters: how many sleep, and how many letters were taken from each rank.
fn words_before(ranks: usize) -> usize {
    1 + ranks
}

/// The letters that this process writes, and what it says of those that it reads.
pub(crate) struct Mailbox {
    words: Words,
    ranks: usize,
    /// Letters written to each rank.
    written: Vec<Mutex<u64>>,
    /// Letters taken from each rank.
    taken: Vec<Mutex<u64>>,
}

/// The mailbox of another process: where it begins in its region.
#[derive(Clone, Copy)]
pub(crate) struct Address<'a> {
    /// The region.
    pub view: &'a View,
    /// In numbers of 4 bytes.
    pub start: usize,
}

/// What became of a letter that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It lies where its reader will look for it.
    Written,
    /// So it does, but its reader sleeps and must be woken.
    Ring,
    /// There is no room; nothing was written.
    Full,
}

impl Mailbox {
    /// A mailbox in a piece of [`floats`]`(ranks)`.
    pub(crate) fn new(piece: Piece, ranks: usize) -> Self {
        let counts = || (0..ranks).map(|_| Mutex::new(0)).collect();
        Self {
            words: piece.into_words(),
            ranks,
            written: counts(),
            taken: counts(),
        }
    }

    /// Where it begins in its region, in numbers of 4 bytes.
    pub(crate) fn start(&self) -> usize {
        self.words.start()
    }

    /// Writes a letter from rank `me` to another one, whose mailbox is at `theirs`.
    pub(crate) fn send(&self, me: usize, to: usize, theirs: Address<'_>, header: &Header) -> Sent {
        let Some(mut written) = self.written.get(to).map(|count| count.lock().unpoisoned()) else {
            return Sent::Full;
        };
        let read = theirs.view.word(theirs.start, 1 + me);
        if read.is_none_or(|read| written.wrapping_sub(read) >= LETTERS as u64) {
            return Sent::Full;
        }
        let first = letter(self.ranks, to, *written);
        let bytes = header.encode();
        let (words, _) = bytes.as_chunks::<8>();
        for (index, word) in (first + 1..).zip(words) {
            self.store(index, u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        *written += 1;
        self.store(first, *written, Ordering::Release);
        drop(written);
        fence(Ordering::SeqCst);
        match theirs.view.word(theirs.start, 0) {
            Some(0) => Sent::Written,
            _ => Sent::Ring,
        }
    }

    /// The next letter to rank `me` from another one, whose mailbox is at `theirs`, if there is one.
    ///
    /// # Errors
    /// If what lies there is no letter.
    pub(crate) fn take(&self, me: usize, from: usize, theirs: Address<'_>) -> Result<Option<Header>, WireError> {
        let Some(mut taken) = self.taken.get(from).map(|count| count.lock().unpoisoned()) else {
            return Ok(None);
        };
        let first = letter(self.ranks, me, *taken);
        if theirs.view.word(theirs.start, first) != Some(*taken + 1) {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (index, word) in (first + 1..).zip(words) {
            let value = theirs.view.word(theirs.start, index).ok_or(WireError::NoFrame)?;
            *word = value.to_le_bytes();
        }
        let header = Header::decode(&bytes, LIMITS)?;
        *taken += 1;
        self.store(1 + from, *taken, Ordering::Release);
        Ok(Some(header))
    }

    /// Counts a sleeper. It must look for letters once more before it sleeps.
    pub(crate) fn fall_asleep(&self) {
        if let Some(sleepers) = self.words.get(0) {
            sleepers.fetch_add(1, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes a sleeper off.
    pub(crate) fn wake_up(&self) {
        if let Some(sleepers) = self.words.get(0) {
            sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn store(&self, index: usize, value: u64, order: Ordering) {
        if let Some(word) = self.words.get(index) {
            word.store(value, order);
        }
    }
}

/// The first word of the letter with a number, of those to a rank.
fn letter(ranks: usize, to: usize, number: u64) -> usize {
    let slot = (number % LETTERS as u64) as usize;
    words_before(ranks) + (to * LETTERS + slot) * LETTER_WORDS
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::cluster::shared_memory::Region;
    use crate::cluster::wire::Kind;

    struct Side {
        mailbox: Mailbox,
        region: Arc<Region>,
    }

    impl Side {
        fn new(ranks: usize) -> Self {
            let (region, mut pieces) = Region::create(&[3, floats(ranks)]).unwrap();
            let mailbox = Mailbox::new(pieces.pop().unwrap(), ranks);
            Self { mailbox, region }
        }

        fn view(&self) -> View {
            View::open(&self.region.name()).unwrap()
        }
    }

    fn header(number: u64) -> Header {
        let mut header = Header::new(Kind::Update, [number, 1, 2, 3, 4, u64::MAX]);
        header.tallies = [number as f64, f64::NAN, -0.0, 1.0];
        header
    }

    #[test]
    fn letters_come_in_their_order_until_there_is_no_room() {
        let (one, two) = (Side::new(2), Side::new(2));
        let (views, starts) = ([one.view(), two.view()], [one.mailbox.start(), two.mailbox.start()]);
        let at = |rank: usize| Address {
            view: &views[rank],
            start: starts[rank],
        };
        for round in 0..3 {
            for number in 0..LETTERS as u64 {
                assert_eq!(one.mailbox.send(0, 1, at(1), &header(round + number)), Sent::Written);
            }
            assert_eq!(one.mailbox.send(0, 1, at(1), &header(0)), Sent::Full);
            for number in 0..LETTERS as u64 {
                let read = two.mailbox.take(1, 0, at(0)).unwrap().unwrap();
                assert_eq!(read.encode(), header(round + number).encode());
            }
            assert!(two.mailbox.take(1, 0, at(0)).unwrap().is_none());
            assert!(one.mailbox.take(0, 1, at(1)).unwrap().is_none());
        }
    }

    #[test]
    fn a_sleeper_is_to_be_rung() {
        let (one, two) = (Side::new(2), Side::new(2));
        let view = two.view();
        let there = Address {
            view: &view,
            start: two.mailbox.start(),
        };
        two.mailbox.fall_asleep();
        assert_eq!(one.mailbox.send(0, 1, there, &header(1)), Sent::Ring);
        two.mailbox.wake_up();
        assert_eq!(one.mailbox.send(0, 1, there, &header(2)), Sent::Written);
    }

    #[test]
    fn what_is_no_letter_is_an_error() {
        let (one, two) = (Side::new(2), Side::new(2));
        let (first, second) = (one.view(), two.view());
        let (here, there) = (
            Address {
                view: &first,
                start: one.mailbox.start(),
            },
            Address {
                view: &second,
                start: two.mailbox.start(),
            },
        );
        one.mailbox.send(0, 1, there, &header(1));
        one.mailbox.store(letter(2, 1, 0) + 5, 77, Ordering::Relaxed);
        assert!(two.mailbox.take(1, 0, here).is_err());
        let beyond = Address {
            start: usize::MAX - 1,
            ..here
        };
        assert!(two.mailbox.take(1, 0, beyond).unwrap().is_none());
    }

    /// Two threads that sleep and ring: one letter that nobody wakes up for, and this never ends.
    #[test]
    fn no_letter_is_slept_over() {
        const LAST: u64 = 20_000;
        let sides = [Side::new(2), Side::new(2)];
        let views = [sides[0].view(), sides[1].view()];
        let (bells, ropes): (Vec<_>, Vec<_>) = (0..2).map(|_| channel::<()>()).unzip();
        let mut ropes = ropes.into_iter();
        std::thread::scope(|scope| {
            for me in 0..2 {
                let (sides, views, bell, rope) = (&sides, &views, bells[1 - me].clone(), ropes.next().unwrap());
                scope.spawn(move || {
                    let peer = 1 - me;
                    let theirs = Address {
                        view: &views[peer],
                        start: sides[peer].mailbox.start(),
                    };
                    let mine = &sides[me].mailbox;
                    let next = || mine.take(me, peer, theirs).unwrap();
                    for number in 0..LAST {
                        if number % 2 == me as u64 {
                            match mine.send(me, peer, theirs, &header(number)) {
                                Sent::Written => {}
                                Sent::Ring => bell.send(()).unwrap(),
                                Sent::Full => panic!("there is room for one"),
                            }
                            continue;
                        }
                        let letter = next().unwrap_or_else(|| {
                            mine.fall_asleep();
                            let letter = next().unwrap_or_else(|| {
                                loop {
                                    rope.recv().unwrap();
                                    if let Some(letter) = next() {
                                        break letter;
                                    }
                                }
                            });
                            mine.wake_up();
                            letter
                        });
                        assert_eq!(letter.words[0], number);
                    }
                });
            }
        });
    }
}
