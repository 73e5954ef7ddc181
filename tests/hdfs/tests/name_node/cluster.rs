//! A name node and a data node on loopback.
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Ends with the value, and with the test process whichever way that ends.
pub(crate) struct Cluster {
    script: Child,
    pub(crate) port: u16,
    pub(crate) name_node: Pid,
    pub(crate) data_node: Pid,
}

/// Which tests bring their packages to, all of them to the same folder.
fn packages() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    // target/debug/deps/program
    target.ancestors().nth(3).unwrap().join("hadoop")
}

fn tool(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let fetched = tool("fetch").arg(packages()).status().unwrap();
        assert!(fetched.success(), "these tests need Maven, and Java, tried with 17");
        let start = tool("start")
            .arg(packages())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut script = start.unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let [port, name_node, data_node] = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ready", port, name_node, data_node] => [port, name_node, data_node],
            _ => panic!("no cluster: {line:?}"),
        };
        let pid = |text: &str| Pid::from_raw(text.parse().unwrap()).unwrap();
        Self {
            script,
            port: port.parse().unwrap(),
            name_node: pid(name_node),
            data_node: pid(data_node),
        }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("hdfs://127.0.0.1:{}/{name}", self.port)
    }

    /// What Hadoop's own client does, and what it prints.
    pub(crate) fn shell(&self, arguments: &[&str]) -> Vec<u8> {
        // Without this file it does not start.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("core-site.xml"), "<configuration/>").unwrap();
        let path = std::env::join_paths([folder.path(), &packages().join("*")]).unwrap();
        let output = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
            .arg(path)
            .args(["org.apache.hadoop.fs.FsShell", "-fs", &self.url("")])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let mut rest = String::new();
        let _ = self.script.stdout.take().map(|mut said| said.read_to_string(&mut rest));
        let _ = self.script.wait();
    }
}

pub(crate) fn kill(server: Pid) {
    kill_process(server, Signal::KILL).unwrap();
}

/// Stops a server, and waits until it has stopped.
pub(crate) fn stop(server: Pid) {
    kill_process(server, Signal::STOP).unwrap();
    let threads = format!("/proc/{}/task", server.as_raw_nonzero());
    let is_stopped = |thread: PathBuf| {
        let status = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
        status.rsplit(')').next().unwrap().trim_start().starts_with('T')
    };
    let all_stopped = || {
        let mut threads = std::fs::read_dir(&threads).unwrap();
        threads.all(|thread| is_stopped(thread.unwrap().path()))
    };
    while !all_stopped() {
        std::thread::yield_now();
    }
}

pub(crate) fn go_on(server: Pid) {
    kill_process(server, Signal::CONT).unwrap();
}
