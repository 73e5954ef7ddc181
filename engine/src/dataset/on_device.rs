//! A map stage on a device: the records of a partition go through a GPU in pieces, two at a time, so that one is copied
//! while another is computed. Without a GPU the same stage computes on the CPU.

mod way;

#[cfg(feature = "gpu")]
mod gpu_operator;

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;

use bytemuck::Pod;
#[cfg(feature = "gpu")]
use distdl_storage::DeviceError;
use distdl_storage::Record;

use crate::batch::{AnyBatch, Failure, PartitionIter, TaskError, TaskResult};
use crate::context::Context;
use crate::dataset::{Dataset, only, streams};
#[cfg(feature = "gpu")]
use crate::device::GpuBatch;
use crate::error::EngineError;
use crate::lineage::NodeSpec;

use self::way::{OnGpu, Trouble, Way, piece_records};

/// The name of the operator.
const OPERATOR: &str = "map_partitions_on";

/// What a map stage computes, on a GPU and on the CPU: one record of `U` for each record of `T`. Both are plain data
/// ([`bytemuck::Pod`]): numbers, arrays of them, or structs with `#[repr(C)]` that derive it.
pub struct DeviceMap<T, U> {
    on_cpu: OnCpu<T, U>,
    on_gpu: OnGpu,
}

impl<T, U> std::fmt::Debug for DeviceMap<T, U> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (std::any::type_name::<T>(), std::any::type_name::<U>());
        write!(formatter, "DeviceMap<{from}, {to}>")
    }
}

type OnCpu<T, U> = Arc<dyn Fn(&[T]) -> Vec<U> + Send + Sync>;

impl<T: Record + Pod, U: Record + Pod> DeviceMap<T, U> {
    /// A kernel from its source, and what computes the same on the CPU. The program is compiled for the GPU on which it
    /// runs when the first piece comes; an error has the compiler's words. For a piece of some thousand records each
    /// thread of a grid takes those from its own index on, by the number of threads:
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

    /// What starts kernels for a piece, and what computes the same on the CPU. It need not wait for the kernels. Where
    /// a machine has several GPUs it takes the kernels of that of the piece
    /// ([`Gpu::index`](crate::device::Gpu::index)).
    #[cfg(feature = "gpu")]
    pub fn new(
        on_gpu: impl Fn(&GpuBatch<'_>) -> Result<(), DeviceError> + Send + Sync + 'static,
        on_cpu: impl Fn(&[T]) -> Vec<U> + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_cpu: Arc::new(on_cpu),
            on_gpu: OnGpu::Closure(Arc::new(on_gpu)),
        }
    }
}

impl<T: Record + Pod> Dataset<T> {
    /// Maps the records of each partition where [`Context::device`](crate::Context::device) says: on a GPU, in pieces
    /// of up to a mebibyte that are copied while others are computed, or on the CPU. A partition's GPU follows from its
    /// index.
    ///
    /// Both should give the same records: a partition may be computed again elsewhere. A GPU that is lost leaves its
    /// partitions to the others; without any left the CPU goes on, unless `device.gpu` is `on`. Where a GPU has too
    /// little memory for two pieces, the CPU computes the partition.
    ///
    /// # Errors
    /// An action fails if the program does not compile, if the last GPU is lost, or one has too little memory, and a
    /// GPU must compute, or if the CPU's function gives another number of records than it got; otherwise as any action.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context, DeviceMap};
    /// # let context = Context::new(Config::default().with_gpu(distdl_engine::config::GpuUse::Off))?;
    /// const LENGTHS: &str = r#"
    /// extern "C" __global__ void lengths(unsigned long long count, const float2* inputs, float* outputs) {
    ///     unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    ///     for (unsigned long long index = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; index < count;
    ///          index += threads) {
    ///         outputs[index] = sqrtf(inputs[index].x * inputs[index].x + inputs[index].y * inputs[index].y);
    ///     }
    /// }
    /// "#;
    /// let on_cpu = |points: &[[f32; 2]]| points.iter().map(|[x, y]| (x * x + y * y).sqrt()).collect();
    /// // SAFETY: the kernel reads `count` points of two numbers, and writes as many numbers.
    /// let lengths = unsafe { DeviceMap::from_source("lengths", LENGTHS, on_cpu) };
    /// let points = context.parallelize([[3.0_f32, 4.0], [0.0, 2.0]], 2);
    /// assert_eq!(points.map_partitions_on(lengths).collect()?, [5.0, 2.0]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn map_partitions_on<U: Record + Pod>(&self, kernel: DeviceMap<T, U>) -> Dataset<U> {
        let site = Location::caller();
        let DeviceMap { on_cpu, on_gpu } = kernel;
        let parameters = on_gpu.parameters();
        let device = Arc::new(Device::choose(self.context(), on_gpu));
        let compute = streams(move |_, partition, inputs| {
            let failure = Failure::default();
            let mut mapped = Mapped {
                input: PartitionIter::<T>::new(only(inputs), Failure::clone(&failure)),
                failure,
                on_cpu: Arc::clone(&on_cpu),
                way: None,
                device: Arc::clone(&device),
                waiting: VecDeque::new(),
                site,
                partition,
                has_ended: false,
            };
            mapped.way = mapped.find_way()?;
            Ok(Box::new(mapped))
        });
        let spec = NodeSpec::new(OPERATOR, self.partitions(), self.narrow_dependency(), compute);
        spec.with_agreed_parameters(parameters).build(self.context())
    }
}

/// What one partition becomes.
struct Mapped<T: Record, U> {
    input: PartitionIter<T>,
    failure: Failure,
    on_cpu: OnCpu<T, U>,
    way: Option<Box<dyn Way<T, U>>>,
    /// Where another way comes from.
    device: Arc<Device>,
    /// What a device has given up, before what comes next.
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
        while self.way.is_some() {
            match self.step_on_device()? {
                Ok(outputs) => return Ok(outputs),
                Err(Trouble::Fatal(message)) => return Err(self.failed(message)),
                Err(Trouble::Lost(message)) => {
                    let next = self.find_way()?;
                    self.leave_device(&message, next);
                }
                Err(Trouble::Full(message)) => self.leave_device(&message, None),
            }
        }
        let Some(piece) = self.piece()? else {
            return Ok(None);
        };
        let outputs = (self.on_cpu)(&piece);
        match outputs.len() == piece.len() {
            true => Ok(Some(outputs)),
            false => Err(self.failed(format!("{} records became {}", piece.len(), outputs.len()))),
        }
    }

    /// The partition's way through a device; `None` for the CPU.
    fn find_way(&self) -> TaskResult<Option<Box<dyn Way<T, U>>>> {
        let way = self.device.way(self.partition);
        way.map_err(|message| self.failed(message))
    }

    /// Goes on with another device, or the CPU. What is under way is computed again.
    fn leave_device(&mut self, message: &str, next: Option<Box<dyn Way<T, U>>>) {
        let who = if next.is_some() { "another GPU" } else { "the CPU" };
        tracing::warn!(partition = self.partition, "{who} computes from here on: {message}");
        let mut left = std::mem::replace(&mut self.way, next).map_or(VecDeque::new(), |way| way.into_pending());
        left.append(&mut self.waiting);
        self.waiting = left;
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

    /// The next records, if there are more: those that a device has given up, then new ones.
    fn piece(&mut self) -> TaskResult<Option<Vec<T>>> {
        if let Some(piece) = self.waiting.pop_front() {
            return Ok(Some(piece));
        }
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

/// What computes.
struct Device {
    #[cfg(feature = "gpu")]
    operator: Option<Arc<gpu_operator::GpuOperator>>,
}

impl Device {
    fn choose(context: &Context, on_gpu: OnGpu) -> Self {
        #[cfg(not(feature = "gpu"))]
        let _ = (context, on_gpu);
        Self {
            #[cfg(feature = "gpu")]
            operator: gpu_operator::GpuOperator::choose(context, on_gpu).map(Arc::new),
        }
    }

    /// A partition's way through it; `None` for the CPU. An error if the CPU may not compute.
    fn way<T: Record + Pod, U: Record + Pod>(&self, partition: usize) -> Result<Option<Box<dyn Way<T, U>>>, String> {
        #[cfg(feature = "gpu")]
        if let Some(operator) = &self.operator {
            let way = gpu_operator::GpuWay::open(operator, partition)?;
            return Ok(way.map(|way| Box::new(way) as Box<dyn Way<T, U>>));
        }
        let _ = partition;
        Ok(None)
    }
}
