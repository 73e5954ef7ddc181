//! How training shows itself: a progress bar and a table for people, one JSON object a line for programs.

use std::collections::BTreeMap;
use std::io::{Stdout, Write};
use std::time::Duration;

use distdl_dl::{BatchReport, GpuFigures, StepResult, Training};
use distdl_engine::{Context, WorkerTimes};
use distdl_storage::{BytesBySource, StoreFigures};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// What is known at the end of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EpochReport {
    /// Epochs finished.
    pub epoch: u64,
    /// Steps finished.
    pub step: u64,
    /// Mean loss of the epoch's mini-batches, each before it was applied.
    pub train_loss: f64,
    /// Share of test samples that are right, 0 to 1; none where their targets are values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Training throughput of the epoch; evaluation is left out.
    pub samples_per_second: f64,
    /// Training time so far in seconds; evaluation is left out.
    pub seconds: f64,
    /// Loading time of the epoch in seconds, which is part of its training time: this process has waited for the
    /// samples of its lanes, before the first step and behind each checkpoint.
    pub loading_seconds: f64,
    /// BLAKE3 of the parameters, in hexadecimal.
    pub parameters_hash: String,
    /// Bytes that this process has read so far, by where they lay.
    pub bytes_by_source: BytesBySource,
    /// What reading has cost all processes so far, if there is a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<StoreFigures>,
    /// What each process did on its GPUs in the epoch, if it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuReport>,
}

/// An epoch on the GPUs of a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GpuReport {
    /// The process, counted from 0.
    pub process: usize,
    /// The share of the time in which no pass was under way, 0 to 1: they waited for the exchange of parameters, or for
    /// the CPU. A pass is what a lane has its GPU do in a step, from the first copy there to the last one back.
    pub waited: f64,
    /// What was done.
    #[serde(flatten)]
    pub figures: GpuFigures,
}

impl GpuReport {
    /// What was done from one count to the next.
    fn between(process: usize, before: &GpuFigures, now: GpuFigures, took: Duration) -> Self {
        let figures = now.since(before);
        Self {
            process,
            waited: (1.0 - figures.busy_seconds / took.as_secs_f64().max(f64::MIN_POSITIVE)).clamp(0.0, 1.0),
            figures,
        }
    }
}

/// Shows the epochs of a training.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    /// Its stores and blocks count what is read.
    context: Context,
    bar: ProgressBar,
    output: Stdout,
    seconds: f64,
    epochs: Vec<EpochReport>,
    /// What had been loaded before the epoch.
    loading_before: Duration,
    /// What each process had done on GPUs before the epoch.
    gpus_before: BTreeMap<(usize, u64), GpuFigures>,
}

const TEMPLATE: &str = "{prefix} [{bar:32}] {pos}/{len} steps  {msg}  {eta} left";

impl Reporter {
    /// A reporter as the context's configuration wants it (`json`, `progress`) for `epochs` epochs of a training.
    pub fn new(context: &Context, training: &Training, epochs: u64) -> Self {
        let config = context.config();
        // One bar at a time.
        context.hide_progress();
        let target = if config.shows_progress() && !config.json {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(epochs * training.steps_per_epoch()), target);
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("epoch {}", training.epoch() + 1));
        bar.set_position(training.step());
        bar.reset_eta();
        if let Some(resumed) = training.resumed() {
            let mut lines: Vec<String> = resumed
                .remarks
                .iter()
                .map(|remark| format!("warning: {remark}"))
                .collect();
            lines.push(format!(
                "goes on at step {} from checkpoint {}",
                resumed.step, resumed.commit
            ));
            if training.epoch() >= epochs {
                let hash = training.parameters_hash();
                lines.push(format!(
                    "nothing is left to train of {epochs} epochs; parameters hash {hash}"
                ));
            }
            bar.suspend(|| {
                let written = lines.iter().map(|line| writeln!(std::io::stderr(), "{line}"));
                // Without them the training is the same.
                let _ = written.collect::<std::io::Result<()>>();
            });
        }
        Self {
            json: config.json,
            context: context.clone(),
            bar,
            output: std::io::stdout(),
            seconds: 0.0,
            epochs: Vec::new(),
            loading_before: context.metrics().loading(),
            gpus_before: training.gpu_figures_of_all(),
        }
    }

    /// Notes a finished step.
    pub fn step(&mut self, step: &StepResult, samples_per_second: f64) {
        // Drawing is limited to 10 a second; making the text is not free either.
        self.bar.set_position(step.step + 1);
        if step.step.is_multiple_of(16) {
            self.bar.set_message(format!(
                "loss {:.4}  {samples_per_second:.0} samples/s",
                step.report.mean_loss()
            ));
        }
    }

    /// Notes a finished epoch: what training reported, how long it took, and what the test said.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn epoch(
        &mut self,
        training: &Training,
        trained: &BatchReport,
        took: Duration,
        test: &BatchReport,
    ) -> std::io::Result<()> {
        self.seconds += took.as_secs_f64();
        let reading = self.context.stores().figures();
        let gpus = training.gpu_figures_of_all();
        let gpus_before = std::mem::replace(&mut self.gpus_before, gpus.clone());
        let gpus = gpus.into_iter().map(|(process, now)| {
            // The counts of one that was started again begin anew.
            let before = gpus_before.get(&process).cloned().unwrap_or_default();
            GpuReport::between(process.0, &before, now, took)
        });
        let loading = self.context.metrics().loading();
        let loading_before = std::mem::replace(&mut self.loading_before, loading);
        let report = EpochReport {
            epoch: training.epoch(),
            step: training.step(),
            train_loss: trained.mean_loss(),
            test_accuracy: test.accuracy(),
            samples_per_second: trained.samples as f64 / took.as_secs_f64(),
            seconds: self.seconds,
            loading_seconds: loading.saturating_sub(loading_before).as_secs_f64(),
            parameters_hash: training.parameters_hash(),
            bytes_by_source: BytesBySource::of(&reading, &self.context.store().statistics(), None),
            reading: self
                .context
                .config()
                .cache_folder
                .is_some()
                .then(|| self.context.reading()),
            gpus: gpus.collect(),
        };
        let line = if self.json {
            serde_json::to_string(&report)?
        } else {
            let shares = report.gpus.iter().map(|gpu| format!("{:.0}%", 100.0 * gpu.waited));
            let shares: Vec<String> = shares.collect();
            let gpus = match shares.len() {
                0 => String::new(),
                1 => format!("  the GPU waits {}", shares[0]),
                _ => format!("  GPUs wait {}", shares.join(", ")),
            };
            let accuracy = report
                .test_accuracy
                .map(|share| format!("  test accuracy {:.2}%", 100.0 * share));
            let accuracy = accuracy.unwrap_or_default();
            format!(
                "epoch {:>2}  loss {:.4}{accuracy}  {:>7.0} samples/s  {:.2} s{gpus}",
                report.epoch, report.train_loss, report.samples_per_second, report.seconds,
            )
        };
        self.bar.set_prefix(format!("epoch {}", report.epoch + 1));
        self.epochs.push(report);
        let output = &mut self.output;
        self.bar.suspend(|| writeln!(output, "{line}"))
    }

    /// Says on standard error what the workers of this process did in all iterations so far: there each process says
    /// what is its own. For people a line a worker, for programs a JSON object.
    ///
    /// # Errors
    /// If standard error cannot be written.
    pub fn workers(&self) -> std::io::Result<()> {
        let mut errors = std::io::stderr();
        for times in self.context.metrics().worker_times() {
            let line = if self.json {
                serde_json::to_string(&times)?
            } else {
                worker_line(&times)
            };
            self.bar.suspend(|| writeln!(errors, "{line}"))?;
        }
        Ok(())
    }

    /// Ends the display; for people with a closing table.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.bar.finish_and_clear();
        let (false, Some(last)) = (self.json, self.epochs.last()) else {
            return Ok(());
        };
        let accuracies = self.epochs.iter().filter_map(|epoch| epoch.test_accuracy);
        let best = accuracies.fold(0.0, f64::max);
        let mut speeds: Vec<f64> = self.epochs.iter().map(|epoch| epoch.samples_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        writeln!(self.output, "\nepochs             {}", last.epoch)?;
        if let Some(accuracy) = last.test_accuracy {
            writeln!(
                self.output,
                "test accuracy      {:.2}% (best {:.2}%)",
                100.0 * accuracy,
                100.0 * best
            )?;
        }
        writeln!(self.output, "training time      {:.2} s", last.seconds)?;
        let loading: f64 = self.epochs.iter().map(|epoch| epoch.loading_seconds).sum();
        writeln!(self.output, "loading time       {loading:.2} s")?;
        writeln!(self.output, "samples/s, median  {:.0}", speeds[speeds.len() / 2])?;
        writeln!(self.output, "parameters hash    {}", last.parameters_hash)
    }
}

fn worker_line(times: &WorkerTimes) -> String {
    let steps = times.lane_steps.max(1) as f64;
    let whole = (times.computing + times.applying + times.waiting)
        .as_secs_f64()
        .max(f64::MIN_POSITIVE);
    format!(
        "worker {:>2}  {} steps of lanes, {:.2} ms each; waited {:.0}% of the time; versions read were {:.1} behind, {} at most",
        times.worker,
        times.lane_steps,
        1e3 * times.computing.as_secs_f64() / steps,
        100.0 * times.waiting.as_secs_f64() / whole,
        times.behind_sum as f64 / steps,
        times.behind_max,
    )
}
