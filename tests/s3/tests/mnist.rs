//! MNIST from a bucket, trained by three processes: every byte is fetched once for all of them, and not again in the
//! next run, whether they share a cache folder or have one each, as on three hosts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use distdl_s3_tests::Server;
use flate2::read::GzDecoder;

const PROCESSES: usize = 3;
const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/mnist");
const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";
const HEADER_BYTES: [(&str, usize, usize); 2] = [(IMAGES, 16, 784), (LABELS, 8, 1)];
/// Of the appended records.
const NEW_RECORDS: usize = 1_000;

/// The files unpacked, and their length in bytes.
fn upload(server: &Server) -> u64 {
    let names = [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    let upload = |name: &str| {
        let packed = std::fs::File::open(Path::new(MNIST).join(format!("{name}.gz"))).unwrap();
        let mut bytes = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        std::fs::write(server.object(name), &bytes).unwrap();
        bytes.len() as u64
    };
    names.into_iter().map(upload).sum()
}

/// Appends some records of their beginning to the training files.
fn append(server: &Server) {
    for (name, header, record) in HEADER_BYTES {
        let mut bytes = std::fs::read(server.object(name)).unwrap();
        let count = ((bytes.len() - header) / record + NEW_RECORDS) as u32;
        bytes[4..8].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_within(header..header + NEW_RECORDS * record);
        std::fs::write(server.object(name), bytes).unwrap();
    }
}

struct Report {
    hash: String,
    remote_bytes: u64,
    peer_bytes: u64,
    /// What the server has sent meanwhile.
    sent_bytes: u64,
}

fn report(server: &Server, train: impl FnOnce() -> String) -> Report {
    let before = server.sent_bytes();
    let line: serde_json::Value = serde_json::from_str(&train()).unwrap();
    let figure = |name: &str| line["reading"][name].as_u64().unwrap();
    println!("{}", line["reading"]);
    Report {
        hash: line["parameters_hash"].as_str().unwrap().to_owned(),
        remote_bytes: figure("remote_bytes"),
        peer_bytes: figure("peer_bytes"),
        sent_bytes: server.sent_bytes() - before,
    }
}

fn arguments() -> Vec<&'static str> {
    let data = [
        "--data=s3://bucket/data",
        "--epochs=1",
        "--hidden=16",
        "--batch=1000",
        "--json",
    ];
    [&data[..], &["--lanes=3", "--threads=1"]].concat()
}

fn command(server: &Server, program: &str, cache: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .envs(server.variables("secret"))
        .env("DISTDL_CACHE", cache)
        .env("DISTDL_CACHE_GROWS_ONLY", "s3://bucket/")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Three processes of one host, which share a folder.
fn one_host(server: &Server) -> Report {
    report(server, || {
        let mut command = command(server, env!("CARGO_BIN_EXE_mnist-s3"), &server.beside().join("cache"));
        command.arg(format!("--processes={PROCESSES}")).args(arguments());
        printed(command.spawn().unwrap())
    })
}

/// Three processes with a folder each, started by hand.
fn three_hosts(server: &Server) -> Report {
    report(server, || {
        let distdl = env!("CARGO_BIN_EXE_distdl-s3");
        let journal = tempfile::tempdir().unwrap();
        let name_node = Command::new(distdl)
            .args([
                "name",
                "--listen=127.0.0.1:0",
                &format!("--processes={PROCESSES}"),
                "--folder",
            ])
            .arg(journal.path())
            .env("XDG_RUNTIME_DIR", server.beside())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut name_node = Ends(name_node.unwrap());
        let mut said = BufReader::new(name_node.0.stderr.take().unwrap()).lines();
        let address = said.find_map(|line| line.unwrap().strip_prefix("name node at ").map(str::to_owned));
        let address = address.expect("it says where it listens");
        let worker = |slot: usize| {
            let cache = server.beside().join(format!("cache of {slot}"));
            let mut command = command(server, distdl, &cache);
            command.args(["worker", "--name", &address, "--slot", &slot.to_string(), "--"]);
            command
                .env("XDG_RUNTIME_DIR", server.beside())
                .arg(env!("CARGO_BIN_EXE_mnist-s3"))
                .args(arguments())
                .spawn()
                .unwrap()
        };
        let workers: Vec<Child> = (0..PROCESSES).map(worker).collect();
        let lines: Vec<String> = workers.into_iter().map(printed).collect();
        assert!(name_node.0.wait().unwrap().success());
        lines.into_iter().find(|line| !line.is_empty()).unwrap()
    })
}

/// A process that does not outlive a test that fails.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last line that a process prints, once it has ended well.
fn printed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

fn three_runs(run: impl Fn(&Server) -> Report, have_folders_of_their_own: bool) {
    let server = Server::start();
    let bytes = upload(&server);
    let first = run(&server);
    assert_eq!(first.remote_bytes, bytes, "each byte once for all processes");
    assert!(first.sent_bytes < bytes * 11 / 10, "{} bytes sent", first.sent_bytes);
    assert_eq!(first.peer_bytes > 0, have_folders_of_their_own);
    let second = run(&server);
    assert_eq!((second.remote_bytes, &second.hash), (0, &first.hash));
    append(&server);
    let third = run(&server);
    assert!(
        (784_000..3_000_000).contains(&third.remote_bytes),
        "{}",
        third.remote_bytes
    );
    assert!(third.sent_bytes < 3_000_000, "{} bytes sent", third.sent_bytes);
    assert_ne!(third.hash, first.hash, "the new records count");
}

#[test]
fn processes_that_share_a_folder_fetch_each_byte_once() {
    three_runs(one_host, false);
}

#[test]
fn processes_with_folders_of_their_own_fetch_each_byte_once() {
    three_runs(three_hosts, true);
}
