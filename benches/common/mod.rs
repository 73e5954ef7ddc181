//! What the benches share: the machine's name, quantiles, a counter-based source of numbers.

#![allow(dead_code, unreachable_pub, reason = "every bench uses a part of this")]

use std::process::{Command, Stdio};
use std::time::Instant;

use distdl::Failure;
use distdl::prelude::*;

use serde::Serialize;

/// Minimum, median and maximum of some measurements, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub min_seconds: f64,
    pub median_seconds: f64,
    pub max_seconds: f64,
    pub runs: usize,
}

/// Sorts measurements out.
pub fn spread(mut seconds: Vec<f64>) -> Spread {
    seconds.sort_by(f64::total_cmp);
    Spread {
        min_seconds: seconds[0],
        median_seconds: seconds[seconds.len() / 2],
        max_seconds: seconds[seconds.len() - 1],
        runs: seconds.len(),
    }
}

/// Runs `work` once to warm up and `runs` times for the record.
pub fn measure<R>(runs: usize, mut work: impl FnMut() -> R) -> (Spread, R) {
    let mut result = work();
    let seconds = (0..runs.max(1)).map(|_| {
        let start = Instant::now();
        result = work();
        start.elapsed().as_secs_f64()
    });
    (spread(seconds.collect()), result)
}

/// Runs this program again, as a cluster of so many processes with one thread each.
pub fn run_as_cluster(processes: usize, arguments: &[String]) -> Result<(), Failure> {
    let shape = ["--threads=1".to_owned(), format!("--processes={processes}")];
    run_again(&[&shape, arguments].concat())
}

/// Runs this program again.
pub fn run_again(arguments: &[String]) -> Result<(), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let status = command.args(arguments).stdin(Stdio::null()).status()?;
    let ended = || format!("`{}` ended with {status}", arguments.join(" ")).into();
    status.success().then_some(()).ok_or_else(ended)
}

/// The processor, the number of cores, and the system, for the record.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(str::to_owned));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} cores, {}",
        name.unwrap_or_else(|| "unknown CPU".into()),
        std::env::consts::OS
    )
}

/// SplitMix64 (Steele, Lea and Flood 2014) of a counter: the same numbers as the peers' scripts make.
pub fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Caffe's LeNet for MNIST.
pub fn lenet() -> Result<NeuralNetwork, Failure> {
    let image = Image {
        channels: 1,
        height: 28,
        width: 28,
    };
    let convolutions = NeuralNetwork::new(image)
        .hidden(Conv2d::new(20, 5))
        .hidden(MaxPool2d::new(2))
        .hidden(Conv2d::new(50, 5))
        .hidden(MaxPool2d::new(2));
    let dense = convolutions.hidden(Flatten).hidden(Dense::relu(500));
    Ok(dense.output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?)
}

/// Prints one figure as a JSON line.
pub fn emit(figure: &impl Serialize) {
    match serde_json::to_string(figure) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("cannot write a figure: {error}"),
    }
}

/// The most memory that this process has held so far, where the system tells.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    peak.map_or(0, |kibibytes: u64| kibibytes * 1024)
}

/// Has the most memory counted anew from what is held now, where the system can.
pub fn forget_peak_memory() {
    // 5 resets the mark, and nothing else.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
