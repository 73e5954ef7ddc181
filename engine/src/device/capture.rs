//! What becomes of what a handle is asked for: it is done, or captured for a graph, or compared with what was captured.
#![allow(unsafe_code)] // calls of the driver for which cudarc has no safe ones

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cudarc::driver::{CudaStream, DriverError, sys};
use distdl_storage::DeviceError;

/// Most arguments of a kernel.
pub(super) const ARGUMENTS_MAX: usize = 20;

/// What becomes of what a handle is asked for.
#[derive(Default)]
pub(super) enum Mode {
    /// It is done.
    #[default]
    Eager,
    /// It becomes a part of a graph, unless something could not.
    Capturing { asked: Vec<Asked>, is_broken: bool },
    /// It is compared with what was captured, up to here; the graph is told other arguments.
    Replaying {
        asked: Vec<Asked>,
        next: usize,
        graph: GraphExec,
    },
}

/// One thing that was asked for.
pub(super) enum Asked {
    Kernel {
        launch: Launch,
        node: sys::CUgraphNode,
    },
    /// A copy, a product or a convolution, by all numbers that say what it is.
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

/// Where the driver has a graph that can be launched.
#[derive(Clone, Copy)]
pub(super) struct GraphExec(pub(super) sys::CUgraphExec);

// SAFETY: it is a number to us, which only the driver follows.
unsafe impl Send for GraphExec {}

/// Why something was not asked for.
pub(super) enum Fault {
    /// Its own reason.
    Own(DeviceError),
    /// The driver failed to do something.
    Driver(&'static str, DriverError),
    /// It could not be captured.
    Uncaptured(String),
    /// It is something else than was captured.
    Another(&'static str),
}

/// What errors call it.
pub(super) const CAPTURE: &str = "capture a graph";
pub(super) const REPLAY: &str = "replay a graph";

impl Mode {
    /// Launches a kernel on the stream, by `run`.
    pub(super) fn launch(
        &mut self,
        stream: &CudaStream,
        launch: Launch,
        run: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), Fault> {
        match self {
            Mode::Eager => run().map_err(Fault::Own),
            Mode::Capturing { asked, is_broken } => {
                let node = run().map_err(Fault::Own).and_then(|()| last_node(stream));
                *is_broken |= node.is_err();
                asked.push(Asked::Kernel { launch, node: node? });
                Ok(())
            }
            Mode::Replaying { asked, next, graph } => {
                let Some(Asked::Kernel { launch: before, node }) = asked.get_mut(*next) else {
                    return Err(Fault::Another("another thing"));
                };
                let shape = |launch: &Launch| (launch.kernel, launch.blocks, launch.threads);
                if shape(before) != shape(&launch) {
                    return Err(Fault::Another("another kernel"));
                }
                if *before != launch {
                    tell(*graph, *node, &launch).map_err(|error| Fault::Driver(REPLAY, error))?;
                    *before = launch;
                }
                *next += 1;
                Ok(())
            }
        }
    }

    /// Does something else by `run`, which these numbers say all of.
    pub(super) fn other(
        &mut self,
        numbers: &[u64],
        run: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), Fault> {
        match self {
            Mode::Eager => run().map_err(Fault::Own),
            Mode::Capturing { asked, is_broken } => {
                let done = run().map_err(Fault::Own);
                *is_broken |= done.is_err();
                asked.push(Asked::Other(numbers.to_vec()));
                done
            }
            Mode::Replaying { asked, next, .. } => match asked.get(*next) {
                Some(Asked::Other(before)) if before == numbers => {
                    *next += 1;
                    Ok(())
                }
                _ => Err(Fault::Another("another copy, product or convolution")),
            },
        }
    }
}

/// The node of what was asked of the stream last, while that is captured.
fn last_node(stream: &CudaStream) -> Result<sys::CUgraphNode, Fault> {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let (mut graph, mut last, mut count) = (null_mut(), null(), 0);
    // SAFETY: the stream lives, and the driver writes to these; what is null it leaves out.
    let asked = unsafe {
        sys::cuStreamGetCaptureInfo_v3(
            stream.cu_stream(),
            &raw mut status,
            null_mut(),
            &raw mut graph,
            &raw mut last,
            null_mut(),
            &raw mut count,
        )
    };
    asked.result().map_err(|error| Fault::Driver(CAPTURE, error))?;
    if count != 1 || last.is_null() {
        return Err(Fault::Uncaptured(format!("{count} nodes come last")));
    }
    // SAFETY: there is one node, until the next call that has to do with this stream.
    Ok(unsafe { *last })
}

/// Tells a graph the arguments of a kernel from its next launch on.
fn tell(GraphExec(graph): GraphExec, node: sys::CUgraphNode, launch: &Launch) -> Result<(), DriverError> {
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
    // SAFETY: the node is one of this graph's, of this kernel; the driver reads as many arguments as the kernel has,
    // which are there, as they were when it was captured.
    unsafe { sys::cuGraphExecKernelNodeSetParams_v2(graph, node, &raw const parameters) }.result()
}
