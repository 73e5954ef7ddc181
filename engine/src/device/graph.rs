//! What a handle is asked for again and again, as one graph of the driver: the host then asks once for all of it.
//!
//! A graph is recorded while it is asked for, and asked for in the same way again whenever it is to be done. What is asked for
//! then is not done one by one but compared with what was recorded: arguments of kernels may be others, which the graph is
//! told; the rest must be the same.
#![allow(unsafe_code)] // calls of the driver for which cudarc has no safe ones

use std::ffi::c_void;
use std::fmt::{Debug, Formatter};
use std::mem;
use std::ptr::null_mut;
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::{CudaGraph, DriverError, sys};
use distdl_storage::DeviceError;

use super::gpu::{ARGUMENTS_MAX, Gpu};

/// What was asked of a handle, in order, as one thing that can be asked for.
pub struct GpuGraph {
    graph: CudaGraph,
    asked: Vec<Asked>,
}

// SAFETY: any thread may use a graph, one at a time, and this value has it for itself.
unsafe impl Send for GpuGraph {}

impl Debug for GpuGraph {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GpuGraph of {}", self.asked.len())
    }
}

/// One thing that was asked for.
pub(super) enum Asked {
    Kernel {
        launch: Launch,
        node: sys::CUgraphNode,
    },
    /// A copy or a product, by all numbers that say what it is.
    Other(Vec<u64>),
}

// SAFETY: a node is a number to us, which only the driver follows.
unsafe impl Send for Asked {}

/// A launch of a kernel.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) kernel: sys::CUfunction,
    pub(super) blocks: u32,
    pub(super) threads: u32,
    /// Each as its bytes, with zeros behind them.
    pub(super) arguments: [u64; ARGUMENTS_MAX],
}

/// What becomes of what a handle is asked for.
#[derive(Default)]
pub(super) enum Turn {
    /// It is done.
    #[default]
    Now,
    /// It becomes a graph.
    Recording(Vec<Asked>),
    /// It is compared with what was recorded, up to here.
    Again {
        asked: Vec<Asked>,
        next: usize,
        graph: Place,
    },
}

/// Where the driver has a graph that can be launched.
#[derive(Clone, Copy)]
pub(super) struct Place(sys::CUgraphExec);

// SAFETY: it is a number to us, which only the driver follows.
unsafe impl Send for Place {}

/// The first version of the driver that has all that this calls: CUDA 12.3.
const VERSION_MIN: i32 = 12_030;

impl Gpu {
    /// A graph of what `ask` asks of this handle: kernels, copies within the GPU, and products. Nothing of that is done. It must
    /// have been asked for before, so that all kernels are loaded.
    ///
    /// # Errors
    /// Those of `ask`; the driver is older than CUDA 12.3, or fails.
    pub fn record<E: From<DeviceError>>(&self, ask: impl FnOnce() -> Result<(), E>) -> Result<GpuGraph, E> {
        self.begin_recording()?;
        let asked = ask();
        let graph = self.end_recording();
        asked?;
        Ok(graph?)
    }

    /// Asks for a graph, with arguments as `ask` gives them, which asks for what was recorded.
    ///
    /// # Errors
    /// Those of `ask`; it asks for something else, or the driver fails. Then nothing is done.
    pub fn ask_again<E: From<DeviceError>>(
        &self,
        graph: &mut GpuGraph,
        ask: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.bind().map_err(|error| self.failed(ASK, error))?;
        *self.turn() = Turn::Again {
            asked: mem::take(&mut graph.asked),
            next: 0,
            graph: Place(graph.graph.cu_graph_exec()),
        };
        let asked = ask();
        let mut is_whole = false;
        if let Turn::Again { asked, next, .. } = mem::take(&mut *self.turn()) {
            is_whole = next == asked.len();
            graph.asked = asked;
        }
        asked?;
        if !is_whole {
            return Err(self.is_another("less was asked for").into());
        }
        let launched = graph.graph.launch();
        Ok(launched.map_err(|error| self.failed(ASK, error))?)
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        let mut version = 0;
        // SAFETY: the driver writes a number.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
        asked.map_err(|error| self.failed(RECORD, error))?;
        if version < VERSION_MIN {
            return Err(self.refused(RECORD, "its driver is older than CUDA 12.3".into()));
        }
        // Other threads may go on to allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let begun = self.stream.begin_capture(mode);
        begun.map_err(|error| self.failed(RECORD, error))?;
        *self.turn() = Turn::Recording(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<GpuGraph, DeviceError> {
        let turn = mem::take(&mut *self.turn());
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = self.stream.end_capture(flags);
        let graph = graph.map_err(|error| self.failed(RECORD, error))?;
        match (graph, turn) {
            (Some(graph), Turn::Recording(asked)) => Ok(GpuGraph { graph, asked }),
            _ => Err(self.refused(RECORD, "there was nothing in it".into())),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Launches a kernel by `run`, now or as a part of a graph.
    pub(super) fn in_turn(
        &self,
        launch: Launch,
        run: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut turn = self.turn();
        match &mut *turn {
            Turn::Now => {
                drop(turn);
                run()
            }
            Turn::Recording(asked) => {
                run()?;
                let node = self.last_node()?;
                asked.push(Asked::Kernel { launch, node });
                Ok(())
            }
            Turn::Again { asked, next, graph } => {
                let recorded = asked.get_mut(*next);
                *next += 1;
                let Some(Asked::Kernel { launch: before, node }) = recorded else {
                    return Err(self.is_another("a kernel was asked for"));
                };
                let shape = |launch: &Launch| (launch.kernel, launch.blocks, launch.threads);
                if shape(before) != shape(&launch) {
                    return Err(self.is_another("another kernel was asked for"));
                }
                if *before != launch {
                    tell(*graph, *node, &launch).map_err(|error| self.failed(ASK, error))?;
                    *before = launch;
                }
                Ok(())
            }
        }
    }

    /// The same for something else, by all numbers that say what it is.
    pub(super) fn other_in_turn(
        &self,
        numbers: &[u64],
        run: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut turn = self.turn();
        match &mut *turn {
            Turn::Now => {
                drop(turn);
                run()
            }
            Turn::Recording(asked) => {
                run()?;
                asked.push(Asked::Other(numbers.to_vec()));
                Ok(())
            }
            Turn::Again { asked, next, .. } => {
                let recorded = asked.get(*next);
                *next += 1;
                match recorded {
                    Some(Asked::Other(before)) if before == numbers => Ok(()),
                    _ => Err(self.is_another("another copy or product was asked for")),
                }
            }
        }
    }

    /// The node of what was asked for last, while that is recorded.
    fn last_node(&self) -> Result<sys::CUgraphNode, DeviceError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut graph, mut last, mut count) = (null_mut(), std::ptr::null(), 0);
        // SAFETY: the stream lives, and the driver writes to these; what is null it leaves out.
        let asked = unsafe {
            sys::cuStreamGetCaptureInfo_v3(
                self.stream.cu_stream(),
                &raw mut status,
                null_mut(),
                &raw mut graph,
                &raw mut last,
                null_mut(),
                &raw mut count,
            )
        };
        asked.result().map_err(|error| self.failed(RECORD, error))?;
        if count != 1 || last.is_null() {
            return Err(self.refused(RECORD, format!("{count} nodes come last")));
        }
        // SAFETY: there is one node, until the next call that has to do with this stream.
        Ok(unsafe { *last })
    }

    fn is_another(&self, what: &str) -> DeviceError {
        self.refused(ASK, format!("{what} than was recorded: this is a bug, report it"))
    }
}

/// What errors call it.
const RECORD: &str = "record a graph";
const ASK: &str = "run a graph";

/// Tells a graph the arguments of a kernel from its next launch on.
fn tell(Place(graph): Place, node: sys::CUgraphNode, launch: &Launch) -> Result<(), DriverError> {
    let mut arguments = launch.arguments;
    let mut places = arguments
        .each_mut()
        .map(|argument| (&raw mut *argument).cast::<c_void>());
    let parameters = sys::CUDA_KERNEL_NODE_PARAMS {
        func: launch.kernel,
        gridDimX: launch.blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: places.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    };
    // SAFETY: the node is one of this graph's, of this kernel; the driver reads as many arguments as the kernel has, which are
    // there, as they were when it was recorded.
    unsafe { sys::cuGraphExecKernelNodeSetParams_v2(graph, node, &raw const parameters) }.result()
}
