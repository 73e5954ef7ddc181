//! Buckets over the protocols of S3, Google and Azure, from servers on loopback.
//!
//! What a user's program does is done by child processes of the tests, which learn of the server by the variables that
//! users set; so each of them is a new process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod inside;

use std::net::TcpListener;
use std::process::Command;

use distdl_s3_tests::{Protocol, Server};

const RECORD_BYTES: usize = 784;

/// A new process that does what a function of `inside` does, and what it says at its end.
fn run(server: &Server, what: &str, secret: &str) -> Outcome {
    run_with(server, what, server.variables(secret))
}

/// The same with such variables.
fn run_with(server: &Server, what: &str, variables: Vec<(&str, String)>) -> Outcome {
    let before = server.sent_bytes();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("inside::{what}"), "--nocapture"])
        .env(inside::CACHE, server.beside().join("cache"))
        .env(inside::ROOT, server.root())
        .envs(variables)
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

/// Does what comes to an error with such words, which has the URL of the model and no secret.
fn is_refused(server: &Server, what: &str, secret: &str, words: &str) {
    says_why(server, &run(server, what, secret).text, words);
}

fn says_why(server: &Server, said: &str, words: &str) {
    let error = said.split("error=").nth(1).unwrap();
    let url = format!("{}/data/digits.safetensors: ", server.root());
    assert!(error.contains(&url) && error.contains(words), "{words}: {said}");
    assert!(!error.contains("secret") && !error.contains("guessed"), "{said}");
}

#[test]
fn models_are_saved_and_loaded_and_what_is_none_is_named() {
    for protocol in EACH {
        let server = Server::speaking(protocol);
        let object = server.object("digits.safetensors");
        is_refused(&server, "load_no_model", "secret", "there is no such file or object");
        run(&server, "save_and_load_a_model", "secret");
        is_refused(&server, "load_no_model", "guessed", "no permission to read it");
        is_refused(&server, "save_no_model", "guessed", "no permission to write it");
        let whole = std::fs::read(&object).unwrap();
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&object, &whole[..length]).unwrap();
            is_refused(&server, "load_no_model", "secret", "not a whole safetensors file");
        }
        let file = std::fs::File::options().write(true).open(&object).unwrap();
        file.set_len(200_000_000).unwrap(); // a hole takes no room
        is_refused(&server, "load_no_model", "secret", "which no file of this network is");
    }
}

#[test]
fn a_model_is_not_saved_where_no_server_answers() {
    for protocol in EACH {
        let server = Server::speaking(protocol);
        // It is connected to, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", silent.local_addr().unwrap());
        let there = |(name, value): (&'static str, String)| match value.starts_with("http://") {
            true => (name, address.clone()),
            false => (name, value),
        };
        let variables = server.variables("secret").into_iter().map(there).collect();
        let said = run_with(&server, "wait_in_vain", variables).text;
        says_why(&server, &said, "check the address and the connection");
    }
}
