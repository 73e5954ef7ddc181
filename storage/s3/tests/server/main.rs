//! Buckets over the S3 protocol, from a server on loopback.
//!
//! What a user's program does is done by child processes of the tests, which learn of the server by the variables that
//! users set; so each of them is a new process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod inside;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3ServiceBuilder, SharedS3Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const RECORD_BYTES: usize = 784;

/// A server with a bucket, and before it a proxy that counts what it sends.
struct Server {
    folder: tempfile::TempDir,
    address: SocketAddr,
    sent_bytes: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("objects/bucket/data")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path().join("objects")).unwrap());
        service.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = service.build().into_shared();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let sent_bytes = Arc::new(AtomicU64::new(0));
        let (inner, outer) = runtime.block_on(async {
            let bind = || TcpListener::bind("127.0.0.1:0");
            (bind().await.unwrap(), bind().await.unwrap())
        });
        let address = outer.local_addr().unwrap();
        runtime.spawn(proxy(outer, inner.local_addr().unwrap(), Arc::clone(&sent_bytes)));
        runtime.spawn(serve(inner, service));
        Self {
            folder,
            address,
            sent_bytes,
            _runtime: runtime,
        }
    }

    fn object(&self) -> PathBuf {
        self.folder.path().join("objects/bucket/data/records.bin")
    }

    /// A new process that does what a function of `inside` does, and what it says at its end.
    fn run(&self, what: &str, secret: &str) -> Outcome {
        let before = self.sent_bytes.load(Ordering::SeqCst);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("inside::{what}"), "--nocapture"])
            .env(inside::CACHE, self.folder.path().join("cache"))
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT", format!("http://{}", self.address))
            .env("AWS_ALLOW_HTTP", "true")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{what}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let sent_bytes = self.sent_bytes.load(Ordering::SeqCst) - before;
        Outcome { text, sent_bytes }
    }
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

async fn proxy(listener: TcpListener, server: SocketAddr, sent_bytes: Arc<AtomicU64>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let sent_bytes = Arc::clone(&sent_bytes);
        tokio::spawn(async move {
            let mut server = TcpStream::connect(server).await.unwrap();
            let (mut asking, mut asked) = client.split();
            let (mut answers, mut questions) = server.split();
            let ask = async {
                let _ = tokio::io::copy(&mut asking, &mut questions).await;
                let _ = questions.shutdown().await;
            };
            let answer = async {
                let mut piece = vec![0; 1 << 16];
                while let Ok(length @ 1..) = answers.read(&mut piece).await {
                    // Counted before it is passed on, so before whoever waits for it may look.
                    sent_bytes.fetch_add(length as u64, Ordering::SeqCst);
                    if asked.write_all(&piece[..length]).await.is_err() {
                        break;
                    }
                }
                let _ = asked.shutdown().await;
            };
            tokio::join!(ask, answer);
        });
    }
}

async fn serve(listener: TcpListener, service: SharedS3Service) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            // An end by the client is no matter.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
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

#[test]
fn an_object_is_fetched_once_and_of_a_grown_one_the_tail() {
    let server = Server::start();
    let mut bytes = records(20_000, 1);
    std::fs::write(server.object(), &bytes).unwrap();
    let expected = |run: &Outcome, bytes: &[u8]| {
        assert_eq!(run.figure("records"), (bytes.len() / RECORD_BYTES) as u64);
        assert_eq!(run.figure("hash"), inside::hash(0, bytes));
    };

    let first = server.run("read", "secret");
    expected(&first, &bytes);
    assert_eq!(first.figure("remote_bytes"), bytes.len() as u64);
    assert!(
        first.sent_bytes < bytes.len() as u64 * 11 / 10,
        "{} bytes sent",
        first.sent_bytes
    );

    let second = server.run("read", "secret");
    expected(&second, &bytes);
    assert_eq!((second.figure("remote_bytes"), second.figure("fetches")), (0, 0));
    assert!(
        second.sent_bytes < 10_000,
        "{} bytes sent to list it",
        second.sent_bytes
    );

    bytes.extend(records(1_000, 2));
    std::fs::write(server.object(), &bytes).unwrap();
    let third = server.run("read", "secret");
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

#[test]
fn buckets_are_listed_written_and_hold_commits() {
    Server::start().run("write", "secret");
}

#[test]
fn a_wrong_key_is_an_error_that_names_it() {
    Server::start().run("be_refused", "guessed");
}
