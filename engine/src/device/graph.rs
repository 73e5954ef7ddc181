//! What a handle is asked for again and again, as one graph of the driver: the host then asks once for all of it.
//!
//! A graph is captured while it is asked for, and asked for in the same way again whenever it is to be done. What is
//! asked for then is not done one by one but compared with what was captured: arguments of kernels may be others, which
//! the graph is told; the rest must be the same.
#![allow(unsafe_code)] // asks for the driver's version; a graph has places in memory, and may go to another thread

use std::fmt::{Debug, Formatter};
use std::mem;
use std::sync::Arc;

use cudarc::driver::{CudaGraph, CudaStream, DriverError, sys};
use distdl_storage::DeviceError;

use super::buffer::bind;
use super::capture::{Asked, CAPTURE, GraphExec, Mode, REPLAY};
use super::gpu::Gpu;

/// What was asked of a handle, in order, as one thing that can be asked for.
pub struct GpuGraph {
    graph: CudaGraph,
    /// What was captured; nothing once it has failed.
    asked: Vec<Asked>,
    stream: Arc<CudaStream>,
}

// SAFETY: any thread may use a graph, one at a time, and this value has it for itself.
unsafe impl Send for GpuGraph {}

impl Drop for GpuGraph {
    /// The driver frees it for a thread that has a context, and whoever drops it may have none yet.
    fn drop(&mut self) {
        let _ = bind(self.stream.context());
    }
}

impl Debug for GpuGraph {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GpuGraph of {}", self.asked.len())
    }
}

/// The first version of the driver that has all that this calls: CUDA 12.3.
const VERSION_MIN: i32 = 12_030;

impl Gpu {
    /// A graph of what `ask` asks of this handle: kernels, copies within the GPU, products and convolutions, and
    /// nothing else. None of that is done. It must have been asked for before, so that all kernels are loaded. Waits
    /// for whoever captures on this GPU, and whoever waits for all of it waits for this.
    ///
    /// # Errors
    /// Those of `ask`; it asks for something else, or for nothing; the driver is older than CUDA 12.3, or fails.
    pub fn capture<E: From<DeviceError>>(&self, ask: impl FnOnce() -> Result<(), E>) -> Result<GpuGraph, E> {
        // None if this thread captures with another handle, too: that one's turn lasts longer.
        let _turn = self.capturing.enter();
        self.begin_capture()?;
        let _done = EagerAgain(self);
        let asked = ask();
        let graph = self.end_capture();
        asked?;
        Ok(graph?)
    }

    /// Launches a graph, with arguments as `ask` gives them, which asks for what was captured.
    ///
    /// # Errors
    /// Those of `ask`; it asks for something else; the graph is another handle's, or has failed before; the driver
    /// fails. Then nothing is done, and the graph is of no use any more.
    ///
    /// # Safety
    /// What `ask` names, buffers, cuBLAS and cuDNN, is there until the graph is done: nothing of it ends with `ask`.
    pub unsafe fn replay<E: From<DeviceError>>(
        &self,
        graph: &mut GpuGraph,
        ask: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if !Arc::ptr_eq(&graph.stream, &self.stream) {
            return Err(self.refused(REPLAY, "it was captured by another handle".into()).into());
        }
        if graph.asked.is_empty() {
            return Err(self.refused(REPLAY, "it has failed before".into()).into());
        }
        self.bind().map_err(|error| self.failed(REPLAY, error))?;
        *self.mode() = Mode::Replaying {
            asked: mem::take(&mut graph.asked),
            next: 0,
            graph: GraphExec(graph.graph.cu_graph_exec()),
        };
        let _done = EagerAgain(self);
        let asked = ask();
        let mode = mem::take(&mut *self.mode());
        asked?;
        match mode {
            Mode::Replaying { asked, next, .. } if next == asked.len() => graph.asked = asked,
            _ => {
                return Err(self
                    .refused(REPLAY, "less was asked for than was captured".into())
                    .into());
            }
        }
        let launched = graph.graph.launch();
        Ok(launched.map_err(|error| self.failed(REPLAY, error))?)
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        let mut version = 0;
        // SAFETY: the driver writes a number.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
        asked.map_err(|error| self.failed(CAPTURE, error))?;
        if version < VERSION_MIN {
            return Err(self.refused(CAPTURE, "its driver is older than CUDA 12.3".into()));
        }
        // Other threads may go on to allocate meanwhile.
        let of_thread = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // Held meanwhile: who has seen that the handle is eager has asked before.
        let mut mode = self.mode();
        let begun = self.stream.begin_capture(of_thread);
        begun.map_err(|error| self.failed(CAPTURE, error))?;
        *mode = Mode::Capturing {
            asked: Vec::new(),
            is_broken: false,
        };
        Ok(())
    }

    fn end_capture(&self) -> Result<GpuGraph, DeviceError> {
        let mut mode = self.mode();
        let graph = self.stop_capturing().map_err(|error| self.failed(CAPTURE, error))?;
        match (graph, mem::take(&mut *mode)) {
            (Some(graph), Mode::Capturing { asked, is_broken }) if !is_broken && !asked.is_empty() => Ok(GpuGraph {
                graph,
                asked,
                stream: self.stream.clone(),
            }),
            _ => Err(self.refused(CAPTURE, "there is nothing in it, or not all".into())),
        }
    }

    /// Ends the capture even if something has failed before, which cudarc has kept: it would say that and leave the
    /// stream as it is, so that whatever is asked for later would be captured, too.
    fn stop_capturing(&self) -> Result<Option<CudaGraph>, DriverError> {
        let bound = self.bind();
        let graph = self.stream.end_capture(FLAGS);
        bound.and(graph)
    }
}

/// How a graph is made.
const FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// Sees to it that what is asked of a handle later is done, even if whoever asked has panicked.
struct EagerAgain<'a>(&'a Gpu);

impl Drop for EagerAgain<'_> {
    fn drop(&mut self) {
        let mut mode = self.0.mode();
        if let Mode::Capturing { .. } = mem::take(&mut *mode) {
            // A graph that nobody will launch.
            let _ = self.0.stop_capturing();
        }
    }
}
