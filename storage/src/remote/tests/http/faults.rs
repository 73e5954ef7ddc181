//! A server that fails as servers do, and a cache behind which that shows: never a wrong byte, and usable afterwards.
use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::PutMode;

use super::*;
use crate::testing::WAIT_MAX;

const LENGTH: usize = 200_000;

/// A limit that is waited for, and that a machine with much to do keeps otherwise.
const SHORT: Duration = Duration::from_secs(2);

/// How a request for bytes is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// 503.
    Busy,
    /// The connection ends before an answer.
    Closed,
    /// The answer ends after so many bytes of those that it has promised.
    CutAfter(usize),
    /// After so many bytes nothing more comes, and the connection stays. Without even a head for `None`.
    SilentAfter(Option<usize>),
    /// It promises and sends fewer bytes than were asked for.
    Short(usize),
    /// Another version of the same length.
    Changed,
    /// Another length under the same version.
    Longer,
}

#[derive(Default)]
struct Script {
    faults: VecDeque<Fault>,
    is_untagged: bool,
    /// Headers `Range` of the requests for bytes.
    asked: Vec<Option<String>>,
    /// Connections that stay open.
    silent: Vec<TcpStream>,
}

struct Faulty {
    server: Option<Server>,
    script: Arc<Mutex<Script>>,
    bytes: Bytes,
    folder: tempfile::TempDir,
}

impl Faulty {
    fn start() -> Self {
        let bytes: Bytes = (0..LENGTH).map(|at| ((at * at) >> 7) as u8).collect();
        let script = Arc::<Mutex<Script>>::default();
        let (answering, content) = (Arc::clone(&script), bytes.clone());
        let server = Server::answering(move |stream, request| answer(stream, request, &content, &answering));
        Self {
            server: Some(server),
            script,
            bytes,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn next(&self, faults: &[Fault]) {
        self.script().faults = faults.iter().copied().collect();
    }

    fn requests(&self) -> usize {
        self.script().asked.len()
    }

    fn stores(&self, change: impl FnOnce(&mut StoresOptions)) -> Stores {
        let mut options = StoresOptions {
            retries: 0,
            retry_pause: Duration::ZERO,
            cache: Some(CacheOptions::new(self.folder.path().join("cache"))),
            ..StoresOptions::default()
        };
        change(&mut options);
        Stores::with_options(options)
    }

    fn object(&self) -> Object {
        let url = self.server.as_ref().unwrap().url("object");
        self.stores(|_| ()).list(&url).unwrap().remove(0)
    }

    /// What is read is what the server has, is asked for once, and then is here.
    fn assert_usable(&self, object: &Object) {
        self.next(&[]);
        let before = self.requests();
        for requests in [1, 1] {
            assert_eq!(self.stores(|_| ()).read(object).unwrap(), self.bytes);
            assert_eq!(self.requests() - before, requests);
        }
    }
}

fn answer(mut stream: TcpStream, request: &[String], content: &Bytes, script: &Mutex<Script>) {
    let is_head = request[0].starts_with("HEAD");
    let mut script = script.lock().unwrap();
    let fault = (!is_head).then(|| script.faults.pop_front()).flatten();
    let range = request
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
    let (start, end) = range.as_ref().map_or((0, content.len()), |range| {
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (start.parse().unwrap(), end.parse::<usize>().unwrap() + 1)
    });
    if !is_head {
        script.asked.push(range.clone());
    }
    let tag = if fault == Some(Fault::Changed) { 2 } else { 1 };
    let total = content.len() + usize::from(fault == Some(Fault::Longer));
    let mut body = content.slice(start..end);
    let mut status = match range {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}",
            end - 1
        ),
        None => "200 OK".into(),
    };
    match fault {
        Some(Fault::Closed) => return,
        Some(Fault::SilentAfter(None)) => return script.silent.push(stream),
        Some(Fault::Busy) => (status, body) = ("503 Service Unavailable".into(), Bytes::new()),
        Some(Fault::Short(length)) => body = body.slice(..length),
        _ => {}
    }
    let length = body.len();
    if let Some(Fault::CutAfter(sent) | Fault::SilentAfter(Some(sent))) = fault {
        body = body.slice(..sent);
    }
    let tag = match script.is_untagged {
        true => String::new(),
        false => format!("ETag: \"{tag}\"\r\n"),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{tag}Connection: close\r\n\r\n");
    // The client may have had enough.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(if is_head { &[] } else { &body });
    if matches!(fault, Some(Fault::SilentAfter(_))) {
        script.silent.push(stream);
    }
}

#[test]
fn every_failure_is_an_error_that_leaves_the_cache_usable() {
    let faults = [
        Fault::Busy,
        Fault::Closed,
        Fault::CutAfter(0),
        Fault::CutAfter(70_000),
        Fault::Short(70_000),
        Fault::Changed,
        Fault::Longer,
    ];
    for fault in faults {
        let server = Faulty::start();
        let object = server.object();
        server.next(&[fault]);
        let error = object_error(server.stores(|_| ()).read(&object));
        let is_change = matches!(error, ObjectError::Changed { .. });
        let is_failure = matches!(error, ObjectError::Remote { .. });
        match fault {
            Fault::Changed | Fault::Longer => assert!(is_change, "{fault:?}: {error}"),
            _ => assert!(is_failure, "{fault:?}: {error}"),
        }
        assert!(error.to_string().contains(&object.url), "{fault:?}: {error}");
        server.assert_usable(&object);
    }
}

#[test]
fn a_server_that_falls_silent_is_given_up_after_the_limit() {
    let limits: [fn(&mut StoresOptions); 2] = [
        |options| options.silence_timeout = SHORT,
        |options| options.request_timeout = SHORT,
    ];
    std::thread::scope(|scope| {
        for limit in limits {
            for silence in [None, Some(0), Some(70_000)] {
                scope.spawn(move || {
                    let server = Faulty::start();
                    let object = server.object();
                    server.next(&[Fault::SilentAfter(silence)]);
                    // Nobody ends the silence but the limit.
                    let error = object_error(server.stores(limit).read(&object));
                    assert!(matches!(error, ObjectError::Remote { .. }), "{silence:?}: {error}");
                    assert_eq!(server.script().silent.len(), 1, "{silence:?}");
                    server.assert_usable(&object);
                });
            }
        }
    });
}

#[test]
fn what_passes_is_tried_again_and_a_cut_answer_goes_on_where_it_was_cut() {
    let server = Faulty::start();
    let object = server.object();
    server.next(&[Fault::Busy, Fault::Closed, Fault::CutAfter(70_000)]);
    let read = server.stores(|options| options.retries = 3).read(&object);
    assert_eq!(read.unwrap(), server.bytes);
    let asked = server.script().asked.clone();
    let ranges = [
        "bytes=0-199999",
        "bytes=0-199999",
        "bytes=0-199999",
        "bytes=70000-199999",
    ];
    assert_eq!(asked, ranges.map(|range| Some(range.to_owned())));
    assert_eq!(server.stores(|_| ()).read(&object).unwrap(), server.bytes);
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_until_it_answers() {
    let server = Faulty::start();
    let object = server.object();
    server.next(&[Fault::Busy; 30]);
    let default = StoresOptions::default().retries;
    let read = server.stores(|options| options.retries = default).read(&object);
    assert_eq!(read.unwrap(), server.bytes);
    assert_eq!(server.requests(), 31);
}

#[test]
fn a_cut_answer_without_a_tag_is_read_anew() {
    let server = Faulty::start();
    server.script().is_untagged = true;
    let object = server.object();
    assert_eq!(object.version, None);
    server.next(&[Fault::CutAfter(70_000), Fault::CutAfter(0)]);
    let read = server.stores(|options| options.retries = 2).read(&object);
    assert_eq!(read.unwrap(), server.bytes);
    assert_eq!(server.requests(), 3);
    server.next(&[Fault::CutAfter(70_000); 2]);
    let error = object_error(server.stores(|options| options.retries = 1).read(&object));
    assert!(matches!(error, ObjectError::Remote { .. }), "{error}");
}

#[test]
fn an_answer_is_not_pieced_together_of_two_versions() {
    let server = Faulty::start();
    let object = server.object();
    server.next(&[Fault::CutAfter(70_000), Fault::Changed]);
    let error = object_error(server.stores(|options| options.retries = 1).read(&object));
    assert!(matches!(error, ObjectError::Remote { .. }), "{error}");
    server.assert_usable(&object);
}

#[test]
fn a_server_that_is_gone_in_mid_read_is_an_error_and_what_is_here_is_served_without_it() {
    let mut server = Faulty::start();
    let object = server.object();
    server.next(&[Fault::CutAfter(70_000), Fault::Closed, Fault::Closed]);
    let error = object_error(server.stores(|options| options.retries = 2).read(&object));
    assert!(matches!(error, ObjectError::Remote { .. }), "{error}");
    server.assert_usable(&object);
    drop(server.server.take());
    let stores = server.stores(|_| ());
    assert_eq!(stores.read(&object).unwrap(), server.bytes);
    assert_eq!(
        (stores.figures().fetches, stores.figures().cache_bytes),
        (0, LENGTH as u64)
    );
}

#[test]
fn bytes_that_are_on_their_way_are_no_silence() {
    let (received, has_received) = channel();
    let server = Server::answering(move |stream, request| {
        if request[0].starts_with("PUT") {
            received.send(stream).unwrap();
        }
    });
    let silent = Faulty::start();
    let object = silent.object();
    silent.next(&[Fault::SilentAfter(None)]);
    let stores = silent.stores(|options| options.silence_timeout = SHORT);
    std::thread::scope(|scope| {
        let target = stores.target(&server.url("object")).unwrap();
        let client = &stores.0.client;
        let put = scope.spawn(move || client.put(target, Bytes::from(vec![0; 1 << 20]), PutMode::Overwrite));
        let mut stream = has_received.recv_timeout(WAIT_MAX).expect("a request to write");
        // It has begun before this one, which is given up.
        assert!(stores.read(&object).is_err());
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        // Until the client has had the answer: what is left unread would reset the connection.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        put.join().unwrap().unwrap();
    });
}
