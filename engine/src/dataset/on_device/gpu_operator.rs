//! A map operator on the GPUs of a process.
#![allow(unsafe_code)] // starts the kernel that a user vouches for

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytemuck::Pod;
use distdl_storage::{DeviceError, Unpoisoned};

use super::way::{OnGpu, Trouble, Way, piece_records};
use crate::config::GpuUse;
use crate::context::Context;
use crate::device::{Argument, Chosen, CompileError, Compiler, Gpu, GpuBatch, GpuFound, GpuKernel, PipelineStage};

/// Pieces of a partition that are under way at a time: one is copied while the other is computed.
const PIECES_MAX: usize = 2;
/// Threads of a block, and blocks at most.
const THREADS: u32 = 256;
const BLOCKS_MAX: usize = 1 << 16;

/// One operator on the GPUs of this process.
pub(super) struct GpuOperator {
    on_gpu: OnGpu,
    found: GpuFound,
    is_required: bool,
    compiler: std::result::Result<Arc<Compiler>, CompileError>,
    /// The kernel, by the GPU on which it is loaded.
    loaded: Mutex<HashMap<usize, GpuKernel>>,
    /// Stages that no partition has at the moment, by their GPU.
    idle: Mutex<Vec<(usize, PipelineStage)>>,
    /// GPUs that have failed.
    lost: Mutex<BTreeSet<usize>>,
}

impl GpuOperator {
    /// `None` if the CPU computes.
    pub(super) fn choose(context: &Context, on_gpu: OnGpu) -> Option<Self> {
        let Chosen::Gpu(found) = context.device() else {
            return None;
        };
        Some(Self {
            on_gpu,
            found: found.clone(),
            is_required: context.config().gpu == GpuUse::On,
            compiler: context.compiler(),
            loaded: Mutex::default(),
            idle: Mutex::default(),
            lost: Mutex::default(),
        })
    }

    fn stage(&self, index: usize, input_bytes: usize, output_bytes: usize) -> Result<PipelineStage, DeviceError> {
        let mut idle = self.idle.lock().unpoisoned();
        if let Some(place) = idle.iter().position(|(of, _)| *of == index) {
            return Ok(idle.swap_remove(place).1);
        }
        drop(idle);
        PipelineStage::new(Gpu::open(&self.found, index)?, input_bytes, output_bytes)
    }

    /// The operator's kernel on a GPU, if it is one from source.
    fn kernel(&self, gpu: &Gpu) -> Result<Option<GpuKernel>, Trouble> {
        let OnGpu::Program { entry, text } = &self.on_gpu else {
            return Ok(None);
        };
        let mut loaded = self.loaded.lock().unpoisoned();
        if let Some(kernel) = loaded.get(&gpu.index()) {
            return Ok(Some(kernel.clone()));
        }
        let fatal = |error: &dyn std::fmt::Display| Trouble::Fatal(error.to_string());
        let compiler = self.compiler.as_ref().map_err(|error| fatal(error))?;
        let cubin = compiler.compile(entry, text, gpu.architecture());
        let cubin = cubin.map_err(|error| fatal(&error))?;
        let module = gpu.load(&cubin).map_err(|error| self.trouble(gpu.index(), error))?;
        let kernel = gpu.kernel(&module, entry).map_err(|error| fatal(&error))?;
        loaded.insert(gpu.index(), kernel.clone());
        Ok(Some(kernel))
    }

    /// Lets the operator's kernel loose on a piece.
    fn start(&self, kernel: Option<&GpuKernel>, piece: &GpuBatch<'_>) -> Result<(), DeviceError> {
        let kernel = match (kernel, &self.on_gpu) {
            (_, OnGpu::Closure(start)) => return start(piece),
            (Some(kernel), OnGpu::Program { .. }) => kernel,
            (None, OnGpu::Program { .. }) => return Ok(()),
        };
        let arguments = [
            Argument::Count(piece.records as u64),
            Argument::Buffer(piece.inputs),
            Argument::Buffer(piece.outputs),
        ];
        let blocks = piece.records.div_ceil(THREADS as usize).min(BLOCKS_MAX);
        // SAFETY: whoever made the operator vouches for the program; both buffers have room for the piece.
        unsafe { piece.gpu.launch(kernel, blocks as u32, THREADS, &arguments) }
    }

    /// The GPU of a partition: by its index, or the next one that is not lost.
    fn gpu_of(&self, partition: usize) -> Option<usize> {
        let (alike, lost) = (&self.found.alike, self.lost.lock().unpoisoned());
        let first = partition % alike.len().max(1);
        let mut turns = alike[first..].iter().chain(&alike[..first]);
        turns.find(|index| !lost.contains(index)).copied()
    }

    /// What the failure of a GPU means. One with too little memory is not lost, nor is one whose host has too little.
    fn trouble(&self, index: usize, error: DeviceError) -> Trouble {
        let message = error.to_string();
        if matches!(
            error,
            DeviceError::OutOfMemory { .. } | DeviceError::NoHostMemory { .. }
        ) {
            return if self.is_required {
                Trouble::Fatal(message)
            } else {
                Trouble::Full(message)
            };
        }
        let mut lost = self.lost.lock().unpoisoned();
        lost.insert(index);
        match self.is_required && lost.len() >= self.found.alike.len() {
            true => Trouble::Fatal(message),
            false => Trouble::Lost(message),
        }
    }
}

/// The way of one partition through a GPU.
pub(super) struct GpuWay<T> {
    index: usize,
    /// Pieces with their stages; those behind the first without one were never sent.
    under_way: VecDeque<(Vec<T>, Option<PipelineStage>)>,
    /// Behind the stages: a kernel must not go before whatever runs it.
    operator: Arc<GpuOperator>,
}

impl<T> GpuWay<T> {
    /// `None` once all GPUs are lost, which is an error if one must compute.
    pub(super) fn open(operator: &Arc<GpuOperator>, partition: usize) -> Result<Option<Self>, String> {
        match operator.gpu_of(partition) {
            Some(index) => Ok(Some(Self {
                index,
                under_way: VecDeque::new(),
                operator: Arc::clone(operator),
            })),
            None if operator.is_required => Err(format!("every {} of this process is lost", operator.found.name)),
            None => Ok(None),
        }
    }
}

impl<T: Pod, U: Pod> Way<T, U> for GpuWay<T> {
    fn has_room(&self) -> bool {
        self.under_way.len() < PIECES_MAX
    }

    fn begin(&mut self, piece: Vec<T>) -> Result<(), Trouble> {
        let (operator, index) = (&self.operator, self.index);
        let records = piece_records::<T, U>();
        let stage = operator.stage(index, records * size_of::<T>(), records * size_of::<U>());
        self.under_way.push_back((piece, None));
        let mut stage = stage.map_err(|error| operator.trouble(index, error))?;
        let Some((piece, place)) = self.under_way.back_mut() else {
            return Ok(());
        };
        let (inputs, output_bytes) = (bytemuck::cast_slice(piece), piece.len() * size_of::<U>());
        let kernel = operator.kernel(stage.gpu())?;
        let start = |piece: &GpuBatch<'_>| operator.start(kernel.as_ref(), piece);
        let begun = stage.begin(inputs, piece.len(), output_bytes, start);
        begun.map_err(|error| operator.trouble(index, error))?;
        *place = Some(stage);
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Vec<U>>, Trouble> {
        let Some((piece, Some(stage))) = self.under_way.front_mut() else {
            return Ok(None);
        };
        let bytes = stage.end().map_err(|error| self.operator.trouble(self.index, error))?;
        let mut outputs = vec![U::zeroed(); piece.len()];
        bytemuck::cast_slice_mut(&mut outputs).copy_from_slice(&bytes[..piece.len() * size_of::<U>()]);
        if let Some((_, Some(stage))) = self.under_way.pop_front() {
            self.operator.idle.lock().unpoisoned().push((self.index, stage));
        }
        Ok(Some(outputs))
    }

    fn into_pending(self: Box<Self>) -> VecDeque<Vec<T>> {
        self.under_way.into_iter().map(|(piece, _)| piece).collect()
    }
}
