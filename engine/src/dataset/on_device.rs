//! A map stage on a device: the records of a partition go through a GPU in pieces, two at a time, so that one is copied
//! while another is computed. Without a GPU the same stage computes on the CPU.

#[cfg(feature = "gpu")]
mod stage;

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;

use bytemuck::Pod;
#[cfg(feature = "gpu")]
use distdl_storage::DeviceError;
use distdl_storage::Record;

use crate::batch::{AnyBatch, Failure, PartitionIter, TaskError, TaskResult};
use crate::context::Context;
use crate::dataset::{Dataset, Derivation, only, streams};
#[cfg(feature = "gpu")]
use crate::device::GpuPiece;
use crate::error::EngineError;

/// The name of the operator.
const OPERATOR: &str = "map_partitions_on";

/// What a map stage computes, on a GPU and on the CPU: one record of `U` for each record of `T`.
pub struct DeviceMap<T, U> {
    on_cpu: OnCpu<T, U>,
    on_gpu: OnGpu,
}

type OnCpu<T, U> = Arc<dyn Fn(&[T]) -> Vec<U> + Send + Sync>;

/// What computes on a GPU.
#[derive(Clone)]
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "nothing is computed on a GPU"))]
enum OnGpu {
    /// An entry point of a program in CUDA C++.
    Program { entry: Arc<str>, text: Arc<str> },
    /// Whatever starts kernels.
    #[cfg(feature = "gpu")]
    Closure(Arc<Start>),
}

/// Starts kernels for a piece.
#[cfg(feature = "gpu")]
type Start = dyn Fn(&GpuPiece<'_>) -> Result<(), DeviceError> + Send + Sync;

impl<T: Record + Pod, U: Record + Pod> DeviceMap<T, U> {
    /// A kernel from its source, and what computes the same on the CPU. The program is compiled for the GPU on which it runs
    /// when the first piece comes; an error has the compiler's words. For a piece of some thousand records each thread of a
    /// grid takes those from its own index on, by the number of threads:
    ///
    /// ```c++
    /// extern "C" __global__ void entry(unsigned long long count, const T* inputs, U* outputs) {
    ///     for (unsigned long long index = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; index < count;
    ///          index += (unsigned long long)gridDim.x * blockDim.x) { outputs[index] = ...; }
    /// }
    /// ```
    ///
    /// # Safety
    /// The program has that entry point, with the types of `T` and `U` as Rust lays them out, reads and writes `count`
    /// records and nothing else, and leaves a record of `U` in each place.
    #[expect(unsafe_code, reason = "what a kernel touches, nobody checks")]
    pub unsafe fn from_source(
        entry: &str,
        text: &str,
        on_cpu: impl Fn(&[T]) -> Vec<U> + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_cpu: Arc::new(on_cpu),
            on_gpu: OnGpu::Program {
                entry: entry.into(),
                text: text.into(),
            },
        }
    }

    /// What starts kernels for a piece, and what computes the same on the CPU. It need not wait for the kernels.
    #[cfg(feature = "gpu")]
    pub fn new(
        on_gpu: impl Fn(&GpuPiece<'_>) -> Result<(), DeviceError> + Send + Sync + 'static,
        on_cpu: impl Fn(&[T]) -> Vec<U> + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_cpu: Arc::new(on_cpu),
            on_gpu: OnGpu::Closure(Arc::new(on_gpu)),
        }
    }
}

impl<T: Record + Pod> Dataset<T> {
    /// Maps the records of each partition where [`Context::device`](crate::Context::device) says: on a GPU, in pieces of
    /// up to a mebibyte that are copied while others are computed, or on the CPU. A partition's GPU follows from its index.
    ///
    /// Both should give the same records: a partition may be computed again elsewhere, and where a GPU is lost that need
    /// not compute, the CPU goes on.
    ///
    /// # Errors
    /// An action fails if the program does not compile, if a GPU fails that must compute, or if the CPU's function gives
    /// another number of records than it got; otherwise as any action.
    #[track_caller]
    pub fn map_partitions_on<U: Record + Pod>(&self, kernel: DeviceMap<T, U>) -> Dataset<U> {
        let site = Location::caller();
        let DeviceMap { on_cpu, on_gpu } = kernel;
        let device = Device::choose(self.context(), on_gpu);
        let compute = streams(move |_, partition, inputs| {
            let failure = Failure::default();
            let mapped = Mapped {
                input: PartitionIter::<T>::new(only(inputs), Failure::clone(&failure)),
                failure,
                on_cpu: Arc::clone(&on_cpu),
                way: device.way(partition),
                waiting: VecDeque::new(),
                site,
                partition,
                has_ended: false,
            };
            Ok(Box::new(mapped))
        });
        Derivation::new(OPERATOR, self.partitions(), self.narrow_dependency(), compute).build(self.context())
    }
}

/// A way through a device for the pieces of one partition, which come out as they went in.
trait Way<T, U> {
    /// Whether another piece may go in.
    fn has_room(&self) -> bool;

    /// Sends a piece in. If that fails, it is under way all the same.
    fn begin(&mut self, piece: Vec<T>) -> Result<(), Trouble>;

    /// Waits for the piece that has been under way longest; `None` if there is none.
    fn end(&mut self) -> Result<Option<Vec<U>>, Trouble>;

    /// The pieces that are under way, in order.
    fn give_up(self: Box<Self>) -> VecDeque<Vec<T>>;
}

/// Why a piece does not come out.
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "there is no device"))]
enum Trouble {
    /// Nothing else would help.
    Fatal(String),
    /// The device is lost; the CPU may go on.
    Lost(String),
}

/// What one partition becomes.
struct Mapped<T: Record, U> {
    input: PartitionIter<T>,
    failure: Failure,
    on_cpu: OnCpu<T, U>,
    way: Option<Box<dyn Way<T, U>>>,
    /// What the CPU computes before what comes next.
    waiting: VecDeque<Vec<T>>,
    site: &'static Location<'static>,
    partition: usize,
    has_ended: bool,
}

impl<T: Record + Pod, U: Record + Pod> Iterator for Mapped<T, U> {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let step = self.step().transpose();
        self.has_ended = !matches!(step, Some(Ok(_)));
        step.map(|outputs| outputs.map(AnyBatch::owned))
    }
}

impl<T: Record + Pod, U: Record + Pod> Mapped<T, U> {
    fn step(&mut self) -> TaskResult<Option<Vec<U>>> {
        if self.way.is_some() {
            match self.step_on_device()? {
                Ok(outputs) => return Ok(outputs),
                Err(Trouble::Fatal(message)) => return Err(self.failed(message)),
                Err(Trouble::Lost(message)) => {
                    tracing::warn!("the CPU computes from here on: {message}");
                    self.waiting = self.way.take().map_or(VecDeque::new(), |way| way.give_up());
                }
            }
        }
        let piece = match self.waiting.pop_front() {
            Some(piece) => Some(piece),
            None => self.piece()?,
        };
        let Some(piece) = piece else { return Ok(None) };
        let outputs = (self.on_cpu)(&piece);
        match outputs.len() == piece.len() {
            true => Ok(Some(outputs)),
            false => Err(self.failed(format!("{} records became {}", piece.len(), outputs.len()))),
        }
    }

    /// Fills the device, and waits for what has been there longest.
    fn step_on_device(&mut self) -> TaskResult<Result<Option<Vec<U>>, Trouble>> {
        while self.way.as_ref().is_some_and(|way| way.has_room()) {
            let Some(piece) = self.piece()? else { break };
            if let Some(Err(trouble)) = self.way.as_mut().map(|way| way.begin(piece)) {
                return Ok(Err(trouble));
            }
        }
        Ok(self.way.as_mut().map_or(Ok(None), |way| way.end()))
    }

    /// The next records, if there are more.
    fn piece(&mut self) -> TaskResult<Option<Vec<T>>> {
        let piece: Vec<T> = self.input.by_ref().take(piece_records::<T, U>()).collect();
        match self.failure.borrow_mut().take() {
            Some(error) => Err(error),
            None => Ok(Some(piece).filter(|piece| !piece.is_empty())),
        }
    }

    fn failed(&self, message: String) -> TaskError {
        EngineError::Operator {
            operator: OPERATOR.into(),
            site: self.site.to_string(),
            partition: self.partition,
            message,
        }
        .into()
    }
}

/// Records of a piece.
fn piece_records<T, U>() -> usize {
    (PIECE_BYTES / size_of::<T>().max(size_of::<U>()).max(1)).max(1)
}

/// Bytes of a piece, of its input or its output, whichever are more.
const PIECE_BYTES: usize = 1 << 20;

/// What computes.
struct Device {
    #[cfg(feature = "gpu")]
    stage: Option<Arc<stage::Stage>>,
}

impl Device {
    fn choose(context: &Context, on_gpu: OnGpu) -> Self {
        #[cfg(not(feature = "gpu"))]
        let _ = (context, on_gpu);
        Self {
            #[cfg(feature = "gpu")]
            stage: stage::Stage::choose(context, on_gpu).map(Arc::new),
        }
    }

    /// A partition's way through it; `None` for the CPU.
    fn way<T: Record + Pod, U: Record + Pod>(&self, partition: usize) -> Option<Box<dyn Way<T, U>>> {
        #[cfg(feature = "gpu")]
        return Some(Box::new(stage::GpuWay::open(self.stage.as_ref()?, partition)?));
        #[cfg(not(feature = "gpu"))]
        {
            let _ = partition;
            None
        }
    }
}
