//! A stage as one timely operator on every worker: shuffles come in, tasks run batch by batch, parcels go out.
//!
//! A stage that reads no shuffle hands its partitions to whichever worker is free. One that does runs each partition
//! on its owner, once the frontiers say that everything for it has come. What a bucket brought is read in the order of
//! (source partition, sequence), never of arrival. What goes to another process is a frame on its link, and comes in
//! through the job's inbox. A worker with nothing left may compute what another process is slow with (speculation).

mod attempts;
mod resending;
mod shuffles;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::worker::Worker;

use self::resending::Resending;
use self::shuffles::{Received, Running, Uses};
use crate::batch::{AnyBatch, AnyStream, RecordType, TaskError, TaskResult};
use crate::dataflow::job::{Attempt, Event, Job};
use crate::dataflow::parcel::Parcel;
use crate::dataflow::speculation::SpareWork;
use crate::evaluate::evaluate;
use crate::id::{DatasetId, ShuffleId};
use crate::plan::recover::{recover_in_stage, unplanned};
use crate::plan::{Operation, Output, Stage, program};
use crate::progress::RunningJob;
use crate::task::TaskContext;

type Time = u64;
type Parcels<'scope> = Stream<'scope, Time, Vec<Parcel>>;
/// The stream of a shuffle for one reading stage.
type Edges<'scope> = BTreeMap<(ShuffleId, usize), Parcels<'scope>>;

/// Batches that a task handles before it lets the worker's other operators run.
const BATCHES_PER_TURN: usize = 64;

/// Times that a task counts on blocks which turn out to be lost; then it computes all of them.
const TRIES_MAX: usize = 8;

/// Builds the job's dataflow on this worker.
pub(crate) fn build(worker: &mut Worker, job: &Arc<Job>, events: &Sender<Event>) {
    let index = worker.index();
    worker.dataflow::<Time, _, _>(|scope| {
        let mut edges = Edges::new();
        for stage in 0..job.plan.stages.len() {
            let tasks = Tasks::new(job, stage, index, events.clone());
            build_stage(scope, tasks, &mut edges);
        }
    });
}

fn build_stage<'scope>(scope: Scope<'scope, Time>, mut tasks: Tasks, edges: &mut Edges<'scope>) {
    let stage = tasks.stage().clone();
    let name = tasks.job.lineage.node(stage.root).operator;
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let address = builder.operator_info().address;
    if !stage.reads.is_empty() || tasks.job.speculation.is_some() {
        tasks
            .job
            .inbox
            .enlist(scope.worker().sync_activator_for(address.to_vec()));
    }
    let activator = scope.activator_for(address);
    let mut inputs = Vec::new();
    for shuffle in stage.reads.keys() {
        if let Some(stream) = edges.remove(&(*shuffle, tasks.index)) {
            inputs.push((
                *shuffle,
                builder.new_input(stream, Exchange::new(|parcel: &Parcel| parcel.worker)),
            ));
        }
    }
    let mut outputs = Vec::new();
    if let Output::Shuffle(shuffle) = stage.output {
        for reader in tasks.job.readers(shuffle) {
            let (output, stream) = builder.new_output();
            outputs.push(OutputBuilder::<_, CapacityContainerBuilder<Vec<Parcel>>>::from(output));
            edges.insert((shuffle, reader), stream);
        }
    }
    if outputs.is_empty() {
        // Nobody reads it: its capability keeps the dataflow alive while this stage waits for other processes, of which
        // no frontier knows.
        let (output, _) = builder.new_output();
        outputs.push(OutputBuilder::<_, CapacityContainerBuilder<Vec<Parcel>>>::from(output));
        tasks.outgoing.push(Vec::new());
    }
    builder.build_reschedule(move |capabilities| {
        let mut capabilities: Vec<Capability<Time>> = capabilities;
        let mut done = false;
        move |frontiers| {
            for (shuffle, input) in &mut inputs {
                input.for_each(|_, parcels| tasks.receive(*shuffle, parcels));
            }
            if done || frontiers.iter().any(|frontier| !frontier.frontier().is_empty()) {
                return false;
            }
            if !tasks.arrived() {
                return false;
            }
            let progress = tasks.run_slice();
            done = progress == Progress::Done;
            for ((reader, output), capability) in outputs.iter_mut().enumerate().zip(&capabilities) {
                let mut output = output.activate();
                output
                    .session(capability)
                    .give_iterator(tasks.outgoing[reader].drain(..));
            }
            match progress {
                Progress::Busy => activator.activate(),
                Progress::WaitFor(time) => activator.activate_after(time),
                Progress::Done => {
                    capabilities.clear();
                    tasks.release();
                }
            }
            !done
        }
    });
}

/// What a stage has left to do on a worker.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It has more to do.
    Busy,
    /// It has nothing to do before this time is over.
    WaitFor(Duration),
    /// It has nothing left to do.
    Done,
}

/// The tasks of one stage on one worker.
struct Tasks {
    job: Arc<Job>,
    index: usize,
    worker: usize,
    /// Whether everything from other processes has come.
    whole: bool,
    events: Option<Sender<Event>>,
    received: BTreeMap<(ShuffleId, usize), Received>,
    own: VecDeque<usize>,
    running: Option<Running>,
    /// The attempt that was begun last.
    attempt: Option<Attempt>,
    resending: Option<Resending>,
    /// Parcels to send, for each reading stage.
    outgoing: Vec<Vec<Parcel>>,
    readers: Vec<usize>,
}

impl Tasks {
    fn new(job: &Arc<Job>, index: usize, worker: usize, events: Sender<Event>) -> Self {
        let stage = &job.plan.stages[index];
        let mine = |partition: &usize| job.worker(index, *partition) == Some(worker);
        let mut received = BTreeMap::new();
        for (shuffle, buckets) in &stage.reads {
            for (bucket, users) in buckets {
                let readers = users.iter().filter(|user| mine(user)).count();
                if readers > 0 {
                    received.insert(
                        (*shuffle, *bucket),
                        Received {
                            parcels: Vec::new(),
                            readers,
                        },
                    );
                }
            }
        }
        let readers = match stage.output {
            Output::Shuffle(shuffle) => job.readers(shuffle),
            Output::Result => Vec::new(),
        };
        Self {
            index,
            worker,
            whole: false,
            events: Some(events),
            received,
            own: stage.partitions.iter().copied().filter(mine).collect(),
            running: None,
            attempt: None,
            resending: None,
            outgoing: readers.iter().map(|_| Vec::new()).collect(),
            readers,
            job: Arc::clone(job),
        }
    }

    fn stage(&self) -> &Stage {
        &self.job.plan.stages[self.index]
    }

    /// The type of the records that this stage sends into a shuffle.
    fn kind(&self) -> Option<RecordType> {
        match self.stage().output {
            Output::Shuffle(shuffle) => Some(self.job.lineage.shuffle_spec(shuffle)?.record_type()),
            Output::Result => None,
        }
    }

    fn receive(&mut self, shuffle: ShuffleId, parcels: &mut Vec<Parcel>) {
        for parcel in parcels.drain(..) {
            if let Some(received) = self.received.get_mut(&(shuffle, parcel.bucket as usize)) {
                received.parcels.push(parcel);
            }
        }
    }

    /// Whether there is no need to wait for other processes any more: everything has come, or will never come.
    fn arrived(&mut self) -> bool {
        if self.job.cancelled.load(Ordering::Relaxed) || self.reads_incomplete_shuffles() {
            return true;
        }
        if !self.whole && self.job.inbox.is_whole(self.index) {
            self.whole = true;
            for (shuffle, parcel) in self.job.inbox.take(self.index, self.worker) {
                self.receive(shuffle, &mut vec![parcel]);
            }
            for ((shuffle, _), received) in &mut self.received {
                let inbox = &self.job.inbox;
                inbox.retain_counting(self.index, *shuffle, &mut received.parcels);
            }
        }
        self.whole
    }

    /// Works for a while.
    fn run_slice(&mut self) -> Progress {
        let progress = self.run_task();
        if self.running.is_none() && self.resending.is_none() {
            self.job.progress.leaves(self.index, self.worker);
        }
        progress
    }

    fn run_task(&mut self) -> Progress {
        if self.job.cancelled.load(Ordering::Relaxed) || self.reads_incomplete_shuffles() {
            return Progress::Done;
        }
        if self.running.is_some() {
            self.guarded(Self::advance);
            return Progress::Busy;
        }
        if self.resending.is_some() {
            self.guarded(Self::resend);
            return Progress::Busy;
        }
        let attempt = match self.claim() {
            Some(attempt) => attempt,
            None => match self.speculate() {
                SpareWork::Copies(partition) => match self.attempt_at(partition, true) {
                    Some(attempt) => attempt,
                    None => return Progress::Busy,
                },
                SpareWork::Waits(time) => return Progress::WaitFor(time),
                SpareWork::Leaves => return Progress::Done,
            },
        };
        self.attempt = Some(attempt.clone());
        let progress = &self.job.progress;
        progress.begins(self.index, self.worker, attempt.partition, attempt.begun);
        self.guarded(|tasks| tasks.begin(attempt));
        Progress::Busy
    }

    /// Whether a shuffle may lack records. The loss is noted before the frontier lets this stage begin.
    fn reads_incomplete_shuffles(&self) -> bool {
        !self.stage().reads.is_empty() && self.job.incomplete.load(Ordering::SeqCst)
    }

    fn release(&mut self) {
        self.guarded(|tasks| {
            tasks.received.clear();
            tasks.running.take().map_or(Ok(()), |running| tasks.abort(running))
        });
        self.job.progress.leaves(self.index, self.worker);
        self.events = None;
    }

    /// Drops a partition that is not finished. What its closures made is dropped with it: code of the program, too.
    fn abort(&mut self, running: Running) -> TaskResult<()> {
        let context = running.context.clone();
        self.attempt(&context, |_| {
            drop(running);
            Ok(())
        })?;
        // It may leave blocks that will not be computed again: what was added on the way to them counts now or never.
        self.send(Event::Updates(context.take_updates()));
        Ok(())
    }

    fn begin(&mut self, attempt: Attempt) -> TaskResult<()> {
        let (stage, partition) = (self.stage(), attempt.partition);
        if stage.kept.contains(&partition) {
            self.resending = Some(Resending::new(partition));
            return Ok(());
        }
        let context = TaskContext::new(
            Arc::clone(&self.job.resources),
            stage.root,
            partition,
            Arc::clone(&self.job.cancelled),
        )
        .with_elsewhere(self.job.elsewhere.clone())
        .until(attempt.stop.clone());
        let parent = stage.root;
        let Output::Shuffle(shuffle) = stage.output else {
            return self.finish_result(&context, &attempt);
        };
        let Some(spec) = self.job.lineage.shuffle_spec(shuffle).map(Arc::clone) else {
            return Ok(());
        };
        let stream = self.attempt(&context, |tasks| {
            let stream = tasks.open(&context, partition)?;
            Ok((!tasks.job.incomplete.load(Ordering::SeqCst)).then_some(stream))
        })?;
        let Some(stream) = stream else {
            // Nobody will read the buckets; opening has shown whether this partition's blocks are there. Those that it
            // kept will not be computed again.
            self.send(Event::Updates(context.take_updates()));
            return Ok(());
        };
        let writer = spec.writer(&context, partition);
        let kept = match self.job.team.ranks() {
            1 => None,
            _ => self
                .job
                .resources
                .outputs
                .keep(&self.job.resources.store, shuffle, partition),
        };
        self.running = Some(Running {
            context,
            attempt,
            parent,
            child: shuffle.child,
            stream,
            writer,
            kind: Arc::new(spec.record_type()),
            sequences: BTreeMap::new(),
            kept,
        });
        Ok(())
    }

    fn finish_result(&mut self, context: &TaskContext, attempt: &Attempt) -> TaskResult<()> {
        let (reduce, partition) = (Arc::clone(&self.job.reduce.function), attempt.partition);
        let value = self.attempt(context, |tasks| {
            let stream = tasks.open(context, partition)?;
            let watched = Watched {
                stream,
                progress: Arc::clone(&tasks.job.progress),
            };
            reduce(context, partition, Box::new(watched))
        })?;
        context.settle(|_| true);
        self.send(Event::Result(partition, value, context.take_updates()));
        self.job.ended(self.index, attempt);
        Ok(())
    }

    fn advance(&mut self) -> TaskResult<()> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        let (context, attempt) = (running.context.clone(), running.attempt.clone());
        let (running, kept) = self.attempt(&context, |tasks| {
            for _ in 0..BATCHES_PER_TURN {
                let batch = running.stream.next().transpose()?;
                let ended = batch.is_none();
                tasks.job.progress.put_out(batch.as_ref().map_or(0, AnyBatch::records));
                running.write(tasks, batch)?;
                if ended {
                    // What is left of it is dropped here, where code of the program may run.
                    return Ok((None, running.kept.take()));
                }
            }
            Ok((Some(running), None))
        })?;
        self.running = running;
        if self.running.is_none() {
            // Before anybody can know that it is there.
            if let Some(kept) = kept {
                self.job.resources.outputs.finish(kept);
            }
            self.announce(attempt.partition);
            context.settle(|_| true);
            self.send(Event::Updates(context.take_updates()));
            self.job.ended(self.index, &attempt);
        }
        Ok(())
    }

    /// The stream of one partition of this stage, computed again from lineage where blocks turn out to be lost.
    fn open(&mut self, context: &TaskContext, partition: usize) -> TaskResult<AnyStream> {
        let job = Arc::clone(&self.job);
        let stage = &job.plan.stages[self.index];
        let available = |dataset: DatasetId, partition: usize| job.available(dataset, partition);
        // A block that was planned on is asked for even if it is gone by now: only so is its loss noticed. Computing it
        // could take a shuffle that nobody sends here.
        let planned = |dataset: DatasetId, partition: usize| {
            let blocks = stage.blocks.get(&dataset);
            blocks.is_some_and(|blocks| blocks.contains(&partition)) || available(dataset, partition)
        };
        // What another partition reads is no use: it may have been taken already.
        let reads = |operation: &Operation| match operation {
            Operation::Shuffle(shuffle, bucket) => {
                let users = stage.reads.get(shuffle).and_then(|buckets| buckets.get(bucket));
                users.is_some_and(|users| users.binary_search(&partition).is_ok())
            }
            _ => true,
        };
        let root = (stage.root, partition);
        let mut program = program(&job.lineage, root, &planned, &|_| true)?;
        if let Some(lost) = unplanned(&job.lineage, &program, reads) {
            // Blocks that the plan counted on are not to be kept any more: somebody has called `unpersist` since.
            return Err(TaskError::Lost(lost));
        }
        let (mut tries, mut not_kept) = (0, BTreeSet::new());
        loop {
            tries += 1;
            let uses = Uses::of(&program);
            let mut read = |shuffle, bucket| self.read(&uses, shuffle, bucket);
            let lost = match evaluate(context, &job.lineage, &program, &mut read) {
                Err(TaskError::Lost(lost)) => lost,
                other => {
                    self.forget(&uses);
                    return other;
                }
            };
            context.forget_pending();
            let keeps_lost = |operation: &Operation| match operation {
                Operation::Keep(dataset, partition) => dataset.block(*partition) == lost,
                _ => false,
            };
            if program.iter().any(keeps_lost) {
                // It was not kept after all, and others of its dataset would not be the next time either.
                not_kept.insert(DatasetId(lost.dataset));
            }
            // What memory cannot hold together is not waited for again and again.
            let counted_on = |dataset, partition| {
                (tries < TRIES_MAX || job.lineage.node(dataset).is_cut()) && available(dataset, partition)
            };
            let reuse = |dataset| tries < TRIES_MAX && !not_kept.contains(&dataset);
            match recover_in_stage(&job.lineage, root, &counted_on, &reuse, reads)? {
                Some(again) => program = again,
                None => return Err(TaskError::Lost(lost)),
            }
        }
    }

    fn send(&self, event: Event) {
        // The driver may have given up; then nobody wants the result.
        if let Some(events) = &self.events {
            let _ = events.send(event);
        }
    }
}

/// Counts what is read of a stream.
struct Watched {
    stream: AnyStream,
    progress: Arc<RunningJob>,
}

impl Iterator for Watched {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.stream.next();
        if let Some(Ok(batch)) = &batch {
            self.progress.put_out(batch.records());
        }
        batch
    }
}
