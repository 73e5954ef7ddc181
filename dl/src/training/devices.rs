//! What computes instead of the CPU, in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use bytes::Bytes;
use distdl_engine::{Config, Dataset, Notice};

use super::device::{Evaluates, LaneDevices};
#[cfg(feature = "gpu")]
use super::gpu;
use crate::error::Result;
use crate::metrics::GpuFigures;
use crate::network::NeuralNetwork;
use crate::samples::Samples;

/// GPUs, if there are any.
pub(super) struct Devices {
    /// In which each process says what it has done.
    notice: Arc<Notice>,
    #[cfg(feature = "gpu")]
    gpu: Option<Arc<gpu::GpuLanes>>,
}

impl Devices {
    /// Errors if a GPU must compute and cannot.
    pub(super) fn choose(data: &Dataset<Samples>, network: &NeuralNetwork, evaluates: Evaluates) -> Result<Self> {
        let _ = (network, evaluates);
        let devices = Self {
            notice: Arc::new(data.context().notice()),
            #[cfg(feature = "gpu")]
            gpu: gpu::GpuLanes::choose(data.context(), network, evaluates)?,
        };
        #[cfg(feature = "gpu")]
        devices.say_figures();
        Ok(devices)
    }

    /// From now on all processes can read what is done here.
    #[cfg(feature = "gpu")]
    fn say_figures(&self) {
        let Some(gpu) = &self.gpu else { return };
        let gpu = Arc::downgrade(gpu);
        let figures = move || serde_json::to_vec(&gpu.upgrade()?.figures()).ok().map(Bytes::from);
        if let Err(error) = self.notice.say(figures) {
            tracing::warn!("what is done on GPUs is not said to other processes: {error}");
        }
    }

    /// What was done in each process that has any, by place and life, up to the last action.
    pub(super) fn figures_of_all(&self) -> BTreeMap<(usize, u64), GpuFigures> {
        let mut all = BTreeMap::new();
        for (process, said) in self.notice.said() {
            match serde_json::from_slice(&said) {
                Ok(figures) => drop(all.insert(process, figures)),
                Err(error) => tracing::warn!("process {} says of its GPUs what is none: {error}", process.0),
            }
        }
        all
    }

    pub(super) fn lanes(&self) -> Option<Arc<dyn LaneDevices>> {
        #[cfg(feature = "gpu")]
        return self.gpu.clone().map(|gpu| gpu as Arc<dyn LaneDevices>);
        #[cfg(not(feature = "gpu"))]
        return None;
    }

    /// What computes besides the CPU, in words that follow those for the CPU.
    pub(super) fn words(&self, config: &Config) -> String {
        let cudnn = if config.cudnn { ", cuDNN" } else { "" };
        match self.figures() {
            Some(_) => format!(", GPU {:?}{cudnn}", config.precision),
            None => String::new(),
        }
    }

    pub(super) fn figures(&self) -> Option<GpuFigures> {
        #[cfg(feature = "gpu")]
        return self.gpu.as_ref().map(|gpu| gpu.figures());
        #[cfg(not(feature = "gpu"))]
        return None;
    }
}

#[cfg(feature = "gpu")]
impl Drop for Devices {
    /// Predictions may outlive the training that they are of, and then have its GPUs, but not what it has there.
    fn drop(&mut self) {
        self.gpu.iter().for_each(|gpu| gpu.end());
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Devices({:?})", self.figures())
    }
}
