//! What computes instead of the CPU, in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use bytes::Bytes;
use distdl_engine::{Context, Dataset};

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
    /// Under which processes publish their figures.
    notice: String,
    #[cfg(feature = "gpu")]
    gpu: Option<Arc<gpu::GpuLanes>>,
}

impl Devices {
    /// Errors if a GPU must compute and cannot.
    pub(super) fn choose(data: &Dataset<Samples>, network: &NeuralNetwork) -> Result<Self> {
        let _ = (data, network);
        let devices = Self {
            notice: format!("GPUs of the training over {}", data.id()),
            #[cfg(feature = "gpu")]
            gpu: gpu::GpuLanes::choose(data.context(), network)?,
        };
        #[cfg(feature = "gpu")]
        devices.publish(data.context());
        Ok(devices)
    }

    /// Lets all processes read what is done here, as long as that is.
    #[cfg(feature = "gpu")]
    fn publish(&self, context: &Context) {
        if let Some(gpu) = &self.gpu {
            let gpu = Arc::downgrade(gpu);
            let figures = move || serde_json::to_vec(&gpu.upgrade()?.figures()).ok().map(Bytes::from);
            context.publish(&self.notice, figures);
        }
    }

    /// What was done in each process that has any, up to the last action.
    pub(super) fn figures_of_all(&self, context: &Context) -> BTreeMap<usize, GpuFigures> {
        let all = context.published(&self.notice).into_iter();
        // A notice of another build says nothing.
        all.filter_map(|(process, notice)| Some((process, serde_json::from_slice(&notice).ok()?)))
            .collect()
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
