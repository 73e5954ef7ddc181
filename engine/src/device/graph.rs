//! What a handle is asked for again and again, as one graph of the driver: the host then asks once for all of it.
//!
//! A graph is recorded while it is asked for, and asked for in the same way again whenever it is to be done. What is asked for
//! then is not done one by one but compared with what was recorded: arguments of kernels may be others, which the graph is
//! told; the rest must be the same.
#![allow(unsafe_code)] // asks for the driver's version; a graph may go to another thread

use std::fmt::{Debug, Formatter};
use std::mem;

use cudarc::driver::{CudaGraph, sys};
use distdl_storage::DeviceError;

use super::gpu::Gpu;
use super::turn::{Asked, Place, RECORD, RUN, Turn};

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
        let _done = DoneAgain(self);
        let asked = ask();
        let graph = self.end_recording();
        asked?;
        Ok(graph?)
    }

    /// Asks for a graph, with arguments as `ask` gives them, which asks for what was recorded.
    ///
    /// # Errors
    /// Those of `ask`; it asks for something else, or the driver fails. Then nothing is done, and the graph is of no use any
    /// more.
    pub fn ask_again<E: From<DeviceError>>(
        &self,
        graph: &mut GpuGraph,
        ask: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.bind().map_err(|error| self.failed(RUN, error))?;
        *self.turn() = Turn::Again {
            asked: mem::take(&mut graph.asked),
            next: 0,
            graph: Place(graph.graph.cu_graph_exec()),
        };
        let _done = DoneAgain(self);
        let asked = ask();
        let turn = mem::take(&mut *self.turn());
        asked?;
        match turn {
            Turn::Again { asked, next, .. } if next == asked.len() => graph.asked = asked,
            _ => return Err(self.refused(RUN, "less was asked for than was recorded".into()).into()),
        }
        let launched = graph.graph.launch();
        Ok(launched.map_err(|error| self.failed(RUN, error))?)
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
        let graph = self.stream.end_capture(FLAGS);
        let graph = graph.map_err(|error| self.failed(RECORD, error))?;
        match (graph, turn) {
            (Some(graph), Turn::Recording(asked)) => Ok(GpuGraph { graph, asked }),
            _ => Err(self.refused(RECORD, "there was nothing in it".into())),
        }
    }
}

/// How a graph is made.
const FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// Sees to it that what is asked of a handle later is done, even if whoever asked has panicked.
struct DoneAgain<'a>(&'a Gpu);

impl Drop for DoneAgain<'_> {
    fn drop(&mut self) {
        if let Turn::Recording(_) = mem::take(&mut *self.0.turn()) {
            // A graph that nobody will launch.
            let _ = self.0.stream.end_capture(FLAGS);
        }
    }
}
