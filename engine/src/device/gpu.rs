//! A GPU: its memory through the handle of one worker, and kernels that run there one after the other.
#![allow(unsafe_code)] // memory without contents, and launches that nobody checks but who knows the kernel

use std::ffi::CString;
use std::fmt::{Debug, Formatter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use distdl_storage::{DeviceError, DeviceMemory, Unpoisoned};

use super::GpuFound;
use super::buffer::{GpuBuffer, GpuSlice, WORD, bind};
use super::capture::{ARGUMENTS_MAX, CAPTURE, Fault, Launch, Mode, REPLAY};
use super::compiler::Cubin;
use crate::exclusive::Exclusive;

/// The handle of one worker on a GPU: what it asks for happens in the order in which it asks.
pub struct Gpu {
    name: String,
    architecture: String,
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    /// Exclusive use of the GPU, among all handles: of who captures a graph there, and of who waits for all of it,
    /// since the driver lets nobody do that meanwhile, and nothing comes of the capture if somebody tries.
    pub(super) capturing: Arc<Exclusive>,
    copied: Copied,
    /// What becomes of what it is asked for.
    mode: Mutex<Mode>,
}

impl Debug for Gpu {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a handle of {} {}", self.name, self.index())
    }
}

/// What is asked of a handle is done at once while this is there, and becomes no part of a graph.
pub(super) struct Eager<'a>(#[expect(dead_code, reason = "others wait for it")] MutexGuard<'a, Mode>);

/// What a handle has copied, in bytes.
#[derive(Debug, Default)]
struct Copied {
    to_gpu: AtomicU64,
    from_gpu: AtomicU64,
}

/// A program on a GPU.
#[derive(Debug)]
pub struct GpuModule(Arc<CudaModule>);

/// One entry point of a program on a GPU.
#[derive(Debug, Clone)]
pub struct GpuKernel(CudaFunction);

/// What a kernel is given.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// A pointer to memory of the GPU.
    Buffer(&'a GpuBuffer),
    /// A pointer to a part of it.
    Words(GpuSlice<'a>),
    /// A pointer to nothing.
    Absent,
    /// An `unsigned int`.
    Kind(u32),
    /// An `unsigned long long`.
    Count(u64),
    /// A `float`.
    Number(f32),
    /// A `double`.
    Wide(f64),
}

impl Gpu {
    /// A handle on the GPU of this index, one of those [alike](GpuFound::alike) that [`choose`](super::choose) has
    /// found.
    ///
    /// # Errors
    /// The driver fails, or has too little memory left.
    pub fn open(found: &GpuFound, index: usize) -> Result<Self, DeviceError> {
        let name = &found.name;
        let be_opened = |error| failed(name, "be opened", error);
        let capturing = found.opened.keep(index).map_err(be_opened)?;
        // One of its own: it keeps what a call has failed with.
        let context = CudaContext::new(index).map_err(be_opened)?;
        // SAFETY: a buffer is written on the stream that it was allocated on, in order, or on the copy stream of a
        // `DoubleBuffer`, whose events order the two; other streams read what has been waited for, and are waited for
        // before it is freed.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream();
        let (major, minor) = found.capability;
        Ok(Self {
            name: name.clone(),
            architecture: format!("sm_{major}{minor}"),
            stream: stream.map_err(|error| failed(name, "make a stream", error))?,
            context,
            capturing,
            copied: Copied::default(),
            mode: Mutex::default(),
        })
    }

    /// Its 0-based index among the GPUs of the machine. A kernel runs on the one on which it was loaded.
    pub fn index(&self) -> usize {
        self.context.ordinal()
    }

    /// What its kernels are compiled for, such as `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Loads a program.
    ///
    /// # Errors
    /// It is for other GPUs, or the driver fails.
    pub fn load(&self, cubin: &Cubin) -> Result<GpuModule, DeviceError> {
        let module = self.context.load_module(Ptx::from_binary(cubin.as_bytes().to_vec()));
        Ok(GpuModule(module.map_err(|error| self.failed("load a program", error))?))
    }

    /// An entry point of a program.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn kernel(&self, module: &GpuModule, name: &str) -> Result<GpuKernel, DeviceError> {
        if CString::new(name).is_err() {
            return Err(self.refused("find a kernel", "a name has no zero byte".into()));
        }
        let function = module.0.load_function(name);
        Ok(GpuKernel(
            function.map_err(|error| self.failed("find a kernel", error))?,
        ))
    }

    /// Starts a kernel on `blocks` blocks of `threads` threads. It ends before whatever is asked of this handle next
    /// begins. Nothing starts for 0 blocks. While a graph is captured it becomes a part of that instead.
    ///
    /// # Errors
    /// There are more than 20 arguments, or a buffer lies on another GPU; it is another one than the graph has that is
    /// replayed; the driver fails.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes, in its order, and its buffers are as long as it takes them to be.
    /// What it writes to, nobody else uses; those of other handles are there until it has ended.
    pub unsafe fn launch(
        &self,
        kernel: &GpuKernel,
        blocks: u32,
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), DeviceError> {
        if blocks == 0 {
            return Ok(());
        }
        let mut values = [0_u64; ARGUMENTS_MAX];
        if arguments.len() > values.len() {
            return Err(self.refused("start a kernel", format!("it has more than {ARGUMENTS_MAX} arguments")));
        }
        for (value, argument) in values.iter_mut().zip(arguments) {
            let buffer = match argument {
                Argument::Buffer(buffer) => Some(*buffer),
                Argument::Words(words) => Some(words.buffer()),
                _ => None,
            };
            buffer.map_or(Ok(()), |buffer| self.check_near("start a kernel", buffer))?;
            *value = match argument {
                Argument::Buffer(buffer) => buffer.address(),
                Argument::Words(words) => words.address(),
                Argument::Absent => 0,
                Argument::Kind(kind) => first_bytes(*kind),
                Argument::Count(count) => *count,
                Argument::Number(number) => first_bytes(number.to_bits()),
                Argument::Wide(number) => number.to_bits(),
            };
        }
        let asked = Launch {
            kernel: kernel.0.cu_function(),
            blocks,
            threads,
            arguments: values,
        };
        let run = || {
            let mut launch = self.stream.launch_builder(&kernel.0);
            for value in &values[..arguments.len()] {
                // The driver reads as many bytes as the kernel's argument has, from the first on.
                launch.arg(value);
            }
            let shape = LaunchConfig {
                grid_dim: (blocks, 1, 1),
                block_dim: (threads, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the caller vouches for arguments and buffers.
            let launched = unsafe { launch.launch(shape) };
            launched.map(drop).map_err(|error| self.failed("start a kernel", error))
        };
        self.in_mode(|mode| mode.launch(&self.stream, asked, run))
    }

    /// Copies words to a buffer of this handle, behind whatever was asked of it before, and waits for that: they may be
    /// changed once this returns.
    ///
    /// # Errors
    /// The lengths differ, the buffer is of another handle, or the driver fails.
    pub fn write<T: bytemuck::Pod>(&self, from: &[T], to: GpuSlice<'_>) -> Result<(), DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(from);
        self.check_length("copy to it", bytes.len(), to.len() * WORD)?;
        self.check_own("copy to it", to.buffer())?;
        self.send(bytes, to.address())
    }

    /// Copies words from the GPU, once whatever was asked of this handle before is done.
    ///
    /// # Errors
    /// The lengths differ, or the driver fails: now, or at what was asked before.
    pub fn read<T: bytemuck::Pod>(&self, from: GpuSlice<'_>, to: &mut [T]) -> Result<(), DeviceError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(to);
        self.check_length("copy from it", bytes.len(), from.len() * WORD)?;
        self.check_near("copy from it", from.buffer())?;
        self.fetch(from.address(), bytes)
    }

    /// Copies words from one place of the GPU to another, which is no part of the first. Both are in buffers of this
    /// handle: one of another might be freed before this is done.
    ///
    /// # Errors
    /// The lengths differ, a buffer is of another handle, or the driver fails.
    pub fn copy(&self, from: GpuSlice<'_>, to: GpuSlice<'_>) -> Result<(), DeviceError> {
        self.check_length("copy within it", from.len() * WORD, to.len() * WORD)?;
        self.check_own("copy within it", to.buffer())?;
        self.check_own("copy within it", from.buffer())?;
        if from.is_empty() {
            return Ok(());
        }
        let (source, bytes, stream) = (from.address(), from.len() * WORD, self.stream.cu_stream());
        let run = || {
            // SAFETY: both have so many bytes.
            let copied = self
                .bind()
                .and_then(|()| unsafe { result::memcpy_dtod_async(to.address(), source, bytes, stream) });
            copied.map_err(|error| self.failed("copy within it", error))
        };
        self.in_mode(|mode| mode.other(&[source, to.address(), bytes as u64], run))
    }

    /// Waits until whatever was asked of this handle is done.
    ///
    /// # Errors
    /// It failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        drop(self.check_now("do what it was asked")?);
        self.wait().map_err(|error| self.failed("do what it was asked", error))
    }

    /// Bytes of the GPU's memory that no program has, by the driver's own count, once all is done that was asked of it:
    /// what was freed is counted then.
    ///
    /// # Errors
    /// This thread captures a graph there; the driver fails.
    pub fn free_bytes(&self) -> Result<u64, DeviceError> {
        let free = self.wait_for_all().and_then(|()| self.context.mem_get_info());
        free.map(|(free, _)| free as u64)
            .map_err(|error| self.failed("count its memory", error))
    }

    /// Bytes that this handle has copied to the GPU, and from it.
    pub fn copied_bytes(&self) -> (u64, u64) {
        let Copied { to_gpu, from_gpu } = &self.copied;
        (to_gpu.load(Ordering::Relaxed), from_gpu.load(Ordering::Relaxed))
    }

    /// What becomes of what it is asked for.
    pub(super) fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unpoisoned()
    }

    /// Asks for something in the mode that the handle is in.
    pub(super) fn in_mode(&self, ask: impl FnOnce(&mut Mode) -> Result<(), Fault>) -> Result<(), DeviceError> {
        ask(&mut self.mode()).map_err(|fault| match fault {
            Fault::Own(error) => error,
            Fault::Driver(what, error) => self.failed(what, error),
            Fault::Uncaptured(reason) => self.refused(CAPTURE, reason),
            Fault::Another(what) => self.refused(REPLAY, format!("{what} was asked for than what was captured")),
        })
    }

    /// The GPU, for whoever asks its driver for more.
    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Lets this thread call the driver.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        bind(&self.context)
    }

    /// Copies bytes to a place that has room for them, and waits: they may be changed then, and all handles see them.
    fn send(&self, bytes: &[u8], to: u64) -> Result<(), DeviceError> {
        drop(self.check_now("copy to it")?);
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller has compared the lengths, and this waits before it gives the bytes back.
        let copied = self
            .bind()
            .and_then(|()| unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) });
        let copied = copied.and(self.wait());
        copied.map_err(|error| self.failed("copy to it", error))?;
        self.count_to_gpu(bytes.len());
        Ok(())
    }

    /// Copies bytes from a place that has so many, and waits for them, and for whatever was asked before.
    fn fetch(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        drop(self.check_now("copy from it")?);
        if bytes.is_empty() {
            return self.synchronize();
        }
        // SAFETY: the caller has compared the lengths, and this waits before it gives the bytes back.
        let copied = self
            .bind()
            .and_then(|()| unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) });
        let copied = copied.and(self.wait());
        copied.map_err(|error| self.failed("copy from it", error))?;
        self.count_from_gpu(bytes.len());
        Ok(())
    }

    /// Waits until whatever was asked of this handle is done, whatever failed before.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        let bound = self.bind();
        // SAFETY: the stream lives.
        bound.and(unsafe { result::stream::synchronize(self.stream.cu_stream()) })
    }

    /// Waits until whatever was asked of any handle of the GPU is done. An error, as the driver's, if this thread
    /// captures there.
    fn wait_for_all(&self) -> Result<(), DriverError> {
        let Some(_turn) = self.capturing.enter() else {
            return Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
        };
        self.context.synchronize()
    }

    /// Counts what was copied to the GPU.
    pub(super) fn count_to_gpu(&self, bytes: usize) {
        self.copied.to_gpu.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what was copied from it.
    pub(super) fn count_from_gpu(&self, bytes: usize) {
        self.copied.from_gpu.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The error of who needs so many bytes more than there are.
    pub(super) fn out_of_memory(&self, bytes: usize) -> DeviceError {
        DeviceError::OutOfMemory {
            device: self.name.clone(),
            needed_bytes: bytes as u64,
            free_bytes: self.context.mem_get_info().ok().map(|(free, _)| free as u64),
        }
    }

    /// An error while a graph is captured or replayed: what this is about can be no part of it. None is begun while
    /// somebody has what this gives.
    pub(super) fn check_now(&self, what: &'static str) -> Result<Eager<'_>, DeviceError> {
        let mode = self.mode();
        match *mode {
            Mode::Eager => Ok(Eager(mode)),
            _ => Err(self.refused(what, "that can be no part of a graph".into())),
        }
    }

    /// An error unless the buffer is written in the order of this handle.
    pub(super) fn check_own(&self, what: &'static str, buffer: &GpuBuffer) -> Result<(), DeviceError> {
        match Arc::ptr_eq(buffer.stream(), &self.stream) {
            true => Ok(()),
            false => Err(self.refused(what, "the buffer was allocated by another handle".into())),
        }
    }

    /// An error unless the buffer lies on the GPU of this handle.
    pub(super) fn check_near(&self, what: &'static str, buffer: &GpuBuffer) -> Result<(), DeviceError> {
        match buffer.stream().context().ordinal() == self.context.ordinal() {
            true => Ok(()),
            false => Err(self.refused(what, "the buffer lies on another GPU".into())),
        }
    }

    pub(super) fn failed(&self, what: &'static str, error: DriverError) -> DeviceError {
        failed(&self.name, what, error)
    }

    pub(super) fn refused(&self, what: &'static str, reason: String) -> DeviceError {
        let device = self.name.clone();
        DeviceError::Failed { device, what, reason }
    }

    fn check_length(&self, what: &'static str, host_bytes: usize, bytes: usize) -> Result<(), DeviceError> {
        match host_bytes == bytes {
            true => Ok(()),
            false => Err(self.refused(
                what,
                format!("{host_bytes} bytes of the host are not {bytes} of its own"),
            )),
        }
    }
}

/// A number whose first bytes in memory are those of a shorter one.
fn first_bytes(number: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The driver's pool gives memory in pieces of so many bytes.
const PIECE_BYTES: usize = 512;

impl DeviceMemory for Gpu {
    type Buffer = GpuBuffer;

    fn name(&self) -> &str {
        &self.name
    }

    fn taken_bytes(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(PIECE_BYTES)
    }

    fn allocate(&self, bytes: usize) -> Result<GpuBuffer, DeviceError> {
        drop(self.check_now("allocate")?);
        // The driver has no memory of 0 bytes.
        // SAFETY: nobody counts on its contents.
        let allocate = || unsafe { self.stream.alloc(bytes.max(1)) };
        let slice = match allocate() {
            // What was freed comes back when whatever used it is done.
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => self.wait_for_all().and_then(|()| allocate()),
            other => other,
        };
        match slice {
            Ok(slice) => Ok(GpuBuffer::new(bytes, slice)),
            // The last is said where a graph is captured, which cannot be waited for: the GPU is well.
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY | CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)) => {
                Err(self.out_of_memory(bytes))
            }
            Err(error) => Err(self.failed("allocate", error)),
        }
    }

    fn copy_in(&self, bytes: &[u8], buffer: &mut GpuBuffer) -> Result<(), DeviceError> {
        self.check_length("copy to it", bytes.len(), buffer.bytes())?;
        self.check_own("copy to it", buffer)?;
        self.send(bytes, buffer.address())
    }

    fn copy_out(&self, buffer: &GpuBuffer) -> Result<Vec<u8>, DeviceError> {
        self.check_near("copy from it", buffer)?;
        let mut bytes = vec![0; buffer.bytes()];
        self.fetch(buffer.address(), &mut bytes)?;
        Ok(bytes)
    }
}

fn failed(device: &str, what: &'static str, error: DriverError) -> DeviceError {
    DeviceError::Failed {
        device: device.into(),
        what,
        reason: format!("{:?}", error.0),
    }
}
