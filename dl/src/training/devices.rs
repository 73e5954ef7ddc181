//! What computes instead of the CPU, in this process.

use std::sync::Arc;

use distdl_engine::Dataset;

use super::device::LaneDevices;
#[cfg(feature = "gpu")]
use super::gpu;
use crate::error::Result;
use crate::metrics::GpuFigures;
use crate::network::NeuralNetwork;
use crate::samples::Samples;

/// GPUs, if there are any.
#[derive(Clone, Default)]
pub(super) struct Devices {
    #[cfg(feature = "gpu")]
    gpu: Option<Arc<gpu::GpuLanes>>,
}

impl Devices {
    /// Errors if a GPU must compute and cannot.
    pub(super) fn choose(data: &Dataset<Samples>, network: &NeuralNetwork) -> Result<Self> {
        let _ = (data, network);
        Ok(Self {
            #[cfg(feature = "gpu")]
            gpu: gpu::GpuLanes::choose(data.context(), network)?,
        })
    }

    pub(super) fn lanes(&self) -> Option<Arc<dyn LaneDevices>> {
        #[cfg(feature = "gpu")]
        return self.gpu.clone().map(|gpu| gpu as Arc<dyn LaneDevices>);
        #[cfg(not(feature = "gpu"))]
        return None;
    }

    pub(super) fn figures(&self) -> Option<GpuFigures> {
        #[cfg(feature = "gpu")]
        return self.gpu.as_ref().map(|gpu| gpu.figures());
        #[cfg(not(feature = "gpu"))]
        return None;
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Devices({:?})", self.figures())
    }
}
