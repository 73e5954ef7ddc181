//! Buckets over the protocols of S3, Google and Azure, from servers on loopback.
//!
//! What a user's program does is done by child processes of the tests, which learn of the server by the variables that
//! users set; so each of them is a new process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod inside;

use std::process::Command;

use distdl_s3_tests::{Protocol, Server};

const RECORD_BYTES: usize = 784;

/// A new process that does what a function of `inside` does, and what it says at its end.
fn run(server: &Server, what: &str, secret: &str) -> Outcome {
    let before = server.sent_bytes();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("inside::{what}"), "--nocapture"])
        .env(inside::CACHE, server.beside().join("cache"))
        .env(inside::ROOT, server.root())
        .envs(server.variables(secret))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{what} at {}: {text}{}",
        server.root(),
        String::from_utf8_lossy(&output.stderr)
    );
    let sent_bytes = server.sent_bytes() - before;
    Outcome { text, sent_bytes }
}

struct Outcome {
    text: String,
    /// What the server has sent meanwhile.
    sent_bytes: u64,
}

impl Outcome {
    fn figure(&self, name: &str) -> u64 {
        let after = self.text.split(&format!("{name}=")).nth(1).unwrap();
        after.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn records(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count * RECORD_BYTES).collect()
}

fn fetches_once(protocol: Protocol) {
    let server = Server::speaking(protocol);
    let mut bytes = records(20_000, 1);
    std::fs::write(server.object("records.bin"), &bytes).unwrap();
    let expected = |run: &Outcome, bytes: &[u8]| {
        assert_eq!(run.figure("records"), (bytes.len() / RECORD_BYTES) as u64);
        assert_eq!(run.figure("hash"), inside::hash(0, bytes));
    };

    let first = run(&server, "read", "secret");
    expected(&first, &bytes);
    assert_eq!(first.figure("remote_bytes"), bytes.len() as u64);
    assert!(
        first.sent_bytes < bytes.len() as u64 * 11 / 10,
        "{} bytes sent",
        first.sent_bytes
    );

    let second = run(&server, "read", "secret");
    expected(&second, &bytes);
    assert_eq!((second.figure("remote_bytes"), second.figure("fetches")), (0, 0));
    assert!(
        second.sent_bytes < 10_000,
        "{} bytes sent to list it",
        second.sent_bytes
    );

    bytes.extend(records(1_000, 2));
    std::fs::write(server.object("records.bin"), &bytes).unwrap();
    let third = run(&server, "read", "secret");
    expected(&third, &bytes);
    assert!(
        (784_000..3_000_000).contains(&third.figure("remote_bytes")),
        "{}",
        third.text
    );
    assert!(third.sent_bytes < 3_000_000, "{} bytes sent", third.sent_bytes);
    for (name, run) in [("first", &first), ("second", &second), ("grown", &third)] {
        println!(
            "{name}: {} remote bytes, {} sent",
            run.figure("remote_bytes"),
            run.sent_bytes
        );
    }
}

const EACH: [Protocol; 3] = [Protocol::S3, Protocol::Gs, Protocol::Az];

#[test]
fn an_object_is_fetched_once_and_of_a_grown_one_the_tail() {
    EACH.into_iter().for_each(fetches_once);
}

#[test]
fn buckets_are_listed_written_and_hold_commits() {
    for protocol in EACH {
        run(&Server::speaking(protocol), "write", "secret");
    }
}

/// Not of S3, whose server here looks for a name first and writes it then.
#[test]
fn of_two_who_create_one_name_one_wins() {
    for protocol in [Protocol::Gs, Protocol::Az] {
        run(&Server::speaking(protocol), "race", "secret");
    }
}

#[test]
fn a_wrong_key_is_an_error_that_names_it() {
    for protocol in EACH {
        run(&Server::speaking(protocol), "be_refused", "guessed");
    }
}
