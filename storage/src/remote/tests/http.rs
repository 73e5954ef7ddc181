//! A server of a few lines on a port that the system chooses.
mod faults;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::text::{TextOptions, read_lines_with, split_text};

const BODY: &str = "one\ntwo\nthree\n";

/// Ends with the value: a connection of its own wakes and stops it.
struct Server(SocketAddr, Option<JoinHandle<()>>);

impl Server {
    fn start() -> Self {
        Self::answering(answer)
    }

    /// A server that answers one request after the other, each on a connection of its own.
    fn answering(answer: impl Fn(TcpStream, &[String]) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            loop {
                let stream = listener.accept().unwrap().0;
                let lines = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                if request.is_empty() {
                    return;
                }
                answer(stream, &request);
            }
        };
        Self(address, Some(std::thread::spawn(serve)))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        TcpStream::connect(self.0).unwrap();
        self.1.take().unwrap().join().unwrap();
    }
}

fn answer(mut stream: TcpStream, request: &[String]) {
    let first = &request[0];
    let range = request
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (head, path) = (first.starts_with("HEAD"), first.split([' ', '?']).nth(1).unwrap());
    let (status, extra, body) = match (path, range) {
        ("/missing", _) => ("404 Not Found", String::new(), ""),
        ("/forbidden", _) => ("403 Forbidden", String::new(), ""),
        ("/get-only", _) if head => ("405 Method Not Allowed", String::new(), ""),
        ("/knows-get", _) if head => ("501 Not Implemented", String::new(), ""),
        (signed, _) if head && signed.starts_with("/signed") => ("403 Forbidden", String::new(), ""),
        ("/signed-empty", Some(_)) => ("416 Range Not Satisfiable", String::new(), ""),
        ("/signed-empty", None) => ("200 OK", String::new(), ""),
        ("/broken", _) => ("500 Internal Server Error", String::new(), ""),
        ("/short", None) if !head => ("200 OK", String::new(), "one"),
        ("/whole" | "/short" | "/signed-whole", _) | (_, None) => ("200 OK", String::new(), BODY),
        (_, Some(range)) => {
            let (start, end) = range.split_once('-').unwrap();
            let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
            let extra = format!("Content-Range: bytes {start}-{end}/{}\r\n", BODY.len());
            ("206 Partial Content", extra, &BODY[start..=end])
        }
    };
    let length = body.len();
    let shown = if head { "" } else { body };
    let tag = if path == "/whole" { "" } else { "ETag: \"1\"\r\n" };
    let length = match head && path == "/unmeasured" {
        true => String::new(),
        false => format!("Content-Length: {length}\r\n"),
    };
    let answer = format!("HTTP/1.1 {status}\r\n{length}{tag}{extra}Connection: close\r\n\r\n{shown}");
    stream.write_all(answer.as_bytes()).unwrap();
}

fn no_retries() -> Stores {
    Stores::with_options(StoresOptions {
        retries: 0,
        ..StoresOptions::default()
    })
}

#[test]
fn objects_are_read_whole_and_in_ranges() {
    let server = Server::start();
    let stores = no_retries();
    let object = stores.list(&server.url("a%20b.txt?key=value")).unwrap().remove(0);
    assert_eq!((object.bytes, object.version.as_deref()), (14, Some("1")));
    assert_eq!(stores.read(&object).unwrap(), BODY);
    assert_eq!(stores.read_range(&object, 4..7).unwrap(), "two");
}

#[test]
fn lines_come_from_servers_with_and_without_ranges() {
    let server = Server::start();
    let stores = no_retries();
    for path in ["text", "whole"] {
        let objects = stores.list(&server.url(path)).unwrap();
        let options = TextOptions {
            piece_bytes: 3,
            ..TextOptions::default()
        };
        let groups = split_text(&objects, 2);
        let readers = groups
            .iter()
            .flatten()
            .map(|split| read_lines_with(&stores, split, options).unwrap());
        assert_eq!(
            readers.flatten().map(Result::unwrap).collect::<Vec<_>>(),
            ["one", "two", "three"],
            "{path}"
        );
    }
    let whole = stores.list(&server.url("whole")).unwrap().remove(0);
    assert!(matches!(
        object_error(stores.read_range(&whole, 0..2)),
        ObjectError::RangesNotServed { .. }
    ));
}

#[test]
fn answers_that_are_errors_are_named() {
    let server = Server::start();
    let stores = no_retries();
    let listed = |path: &str| object_error(stores.list(&server.url(path)));
    assert!(matches!(listed("missing"), ObjectError::NotFound { .. }));
    assert!(matches!(listed("forbidden"), ObjectError::NoPermission { .. }));
    assert!(matches!(listed("broken"), ObjectError::Remote { .. }));
    let short = stores.list(&server.url("short")).unwrap().remove(0);
    assert!(matches!(object_error(stores.read(&short)), ObjectError::Changed { .. }));
}

#[test]
fn addresses_that_answer_only_those_who_read_are_read() {
    let server = Server::start();
    let stores = no_retries();
    for (path, body) in [
        ("signed", BODY),
        ("signed-whole", BODY),
        ("signed-empty", ""),
        ("get-only", BODY),
        ("knows-get", BODY),
        ("unmeasured", BODY),
    ] {
        let object = stores.list(&server.url(path)).unwrap().remove(0);
        assert_eq!(
            (object.bytes, object.version.as_deref()),
            (body.len() as u64, Some("1")),
            "{path}"
        );
        assert_eq!(stores.read(&object).unwrap(), body, "{path}");
    }
}

/// A server without tags, of which each answer tells the next of these times: when the object was changed, and what its
/// clock says.
fn dated(answers: &'static [[Option<u8>; 2]]) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = Server::answering(move |mut stream, request| {
        assert!(request[0].starts_with("HEAD"));
        let times = answers[counted.fetch_add(1, Ordering::Relaxed)];
        let headers = ["Last-Modified", "Date"]
            .iter()
            .zip(times)
            .filter_map(|(name, second)| {
                let second = second?;
                Some(format!("{name}: Sat, 28 Nov 2026 12:00:{second:02} GMT\r\n"))
            });
        let headers: String = headers.collect();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
    });
    (server, asked)
}

#[test]
fn what_changed_in_the_second_of_the_answer_is_asked_about_again() {
    let cases: [(&'static [[Option<u8>; 2]], &str); 5] = [
        (&[[Some(1), Some(2)]], "01"),
        (&[[Some(1), Some(1)], [Some(1), Some(2)]], "01"),
        (&[[Some(1), Some(1)], [Some(2), Some(2)], [Some(2), Some(3)]], "02"),
        // A clock that is not told of.
        (&[[Some(1), None], [Some(1), None]], "01"),
        // One who changes it all the time is not waited for.
        (&[[Some(1), Some(1)], [Some(2), Some(2)], [Some(3), Some(3)]], "03"),
    ];
    std::thread::scope(|scope| {
        for (answers, second) in cases {
            scope.spawn(move || {
                let (server, asked) = dated(answers);
                let object = no_retries().list(&server.url("x")).unwrap().remove(0);
                let version = object.version.unwrap();
                assert!(version.starts_with(&format!("2026-11-28T12:00:{second}")), "{version}");
                assert_eq!(asked.load(Ordering::Relaxed), answers.len());
            });
        }
    });
}

#[test]
fn errors_show_no_user_and_no_query() {
    let server = Server::start();
    let stores = no_retries();
    let secret = |path: &str| format!("http://me:secret@{}/{path}?key=secret", server.0);
    for path in ["missing", "forbidden", "broken", "*"] {
        let error = object_error(stores.list(&secret(path))).to_string();
        assert!(
            error.contains(&server.url(path)) && !error.contains("secret"),
            "{error}"
        );
    }
    let object = stores.list(&secret("whole")).unwrap().remove(0);
    let error = object_error(stores.read_range(&object, 0..2)).to_string();
    assert!(error.contains("whole") && !error.contains("secret"), "{error}");
    assert_eq!(stores.read(&object).unwrap(), BODY);
}

#[test]
fn times_without_an_end_are_limited() {
    let server = Server::start();
    let stores = Stores::with_options(StoresOptions {
        retry_pause: Duration::MAX,
        silence_timeout: Duration::MAX,
        request_timeout: Duration::MAX,
        ..StoresOptions::default()
    });
    let object = stores.list(&server.url("text")).unwrap().remove(0);
    assert_eq!(stores.read(&object).unwrap(), BODY);
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = object_error(no_retries().list(&format!("http://{free}/x")));
    assert!(
        matches!(&error, ObjectError::Remote { url, .. } if url.contains(&free.to_string())),
        "{error}"
    );
}

#[test]
fn a_server_that_never_answers_is_not_called_for_as_long_as_one_that_has() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stores = Stores::with_options(StoresOptions {
        retries: 200,
        retry_pause: Duration::ZERO,
        silence_timeout: Duration::from_millis(1),
        ..StoresOptions::default()
    });
    // One that takes connections and says nothing, and nobody.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for server in [silent.local_addr().unwrap(), free] {
        let error = object_error(stores.list(&format!("http://{server}/x"))).to_string();
        assert!(
            error.contains("performing HEAD") && !error.contains("after 200 retries"),
            "{error}"
        );
    }
}
