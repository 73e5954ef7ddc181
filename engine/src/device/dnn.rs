//! Convolutions on a GPU, by cuDNN.
#![allow(unsafe_code)] // calls cuDNN with tensors whose places and lengths are checked

mod descriptors;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::result::{self as cudnn, CudnnError};
use cudarc::cudnn::sys::{self, cudnnStatus_t as Status};
use cudarc::driver::CudaStream;
use distdl_storage::DeviceError;

use self::descriptors::Descriptors;
use super::buffer::{GpuSlice, bind};
use super::capture::Mode;
use super::gpu::Gpu;
use crate::config::Precision;
use crate::exclusive::Exclusive;

/// cuDNN for the handle of one worker: its convolutions take their turn among whatever else is asked of that handle.
/// Its algorithms are named, and none of them adds in an order that may change: equal shapes give equal bits on one
/// kind of GPU with one version of cuDNN.
#[derive(Debug)]
pub struct GpuDnn {
    handle: sys::cudnnHandle_t,
    math: sys::cudnnMathType_t,
    stream: Arc<CudaStream>,
    capturing: Arc<Exclusive>,
    /// What is known of convolutions, as cuDNN may not be asked while a graph is captured: of the last so many.
    answers: RefCell<HashMap<Question, Answer>>,
    computed: Cell<u64>,
}

/// Most convolutions that something is known of; there is one for each layer, its parts, and how many rows a pass has.
const ANSWERS_MAX: usize = 4096;

type Question = (Convolution, ConvolutionPart);

/// Bytes that cuDNN needs to work with; `None` if it cannot compute it.
type Answer = Option<usize>;

// SAFETY: any thread may use cuDNN's handle, one at a time, and this value has it for itself.
unsafe impl Send for GpuDnn {}

impl Drop for GpuDnn {
    fn drop(&mut self) {
        let _ = bind(self.stream.context());
        // cuDNN waits for all of the GPU when it ends, and may when it starts.
        let _turn = self.capturing.enter();
        // SAFETY: `create_handle` made it, and nothing else destroys it. A lost GPU makes this fail, which changes
        // nothing.
        let _ = unsafe { cudnn::destroy_handle(self.handle) };
    }
}

/// A convolution of images with filters. Of images, outputs and filters, in `f32` and without gaps, the elements of a
/// row of pixels are neighbours, then come rows, channels, and images or filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// How many images.
    pub images: usize,
    /// Channels of an image, and of a filter.
    pub channels: usize,
    /// Rows of pixels of an image.
    pub height: usize,
    /// Pixels of such a row.
    pub width: usize,
    /// How many filters, which is the channels of an output.
    pub filters: usize,
    /// Rows and columns of a filter.
    pub size: [usize; 2],
    /// Pixels from one window to the next, down and across.
    pub stride: [usize; 2],
    /// Zeros around the image: so many rows above and as many below, and so many columns at either side.
    pub padding: [usize; 2],
}

/// What is computed from the other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConvolutionPart {
    /// Outputs, from images and filters.
    Outputs,
    /// The gradient by the images, from that by the outputs and the filters.
    Images,
    /// The gradient by the filters, from images and the gradient by the outputs.
    Filters,
}

/// The three of a convolution, or gradients by them.
#[derive(Debug, Clone, Copy)]
pub struct ConvolutionOperands<'a> {
    /// Images x channels x height x width.
    pub images: GpuSlice<'a>,
    /// Filters x channels x rows x columns of a filter.
    pub filters: GpuSlice<'a>,
    /// Images x filters x rows of windows x windows of a row.
    pub outputs: GpuSlice<'a>,
}

/// Words of four bytes that each operand of a convolution begins at a multiple of: what cuDNN's kernels read at once.
pub const ALIGNMENT_WORDS: usize = 4;

const ALIGNMENT: u64 = 4 * ALIGNMENT_WORDS as u64;

impl<'a> ConvolutionOperands<'a> {
    fn all(self) -> [GpuSlice<'a>; 3] {
        [self.images, self.filters, self.outputs]
    }
}

const WHAT: &str = "convolve";
const START: &str = "start cuDNN";

/// Free bytes of a GPU's memory with fewer than which cuDNN might not start.
const START_BYTES: u64 = 64 << 20;

impl Convolution {
    /// Windows of a column and of a row of an image; `None` if not one fits, or a filter does not move.
    fn windows(&self) -> Option<(usize, usize)> {
        let count = |side: usize, way: usize| {
            let padded = side.checked_add(self.padding[way].checked_mul(2)?)?;
            let free = padded.checked_sub(self.size[way])?;
            Some(free.checked_div(self.stride[way])? + 1)
        };
        Some((count(self.height, 0)?, count(self.width, 1)?))
    }

    /// The sides of images, filters and outputs; `None` if cuDNN cannot be told of them.
    fn sides(&self) -> Option<[[c_int; 4]; 3]> {
        let (rows, columns) = self.windows()?;
        let sides = |sides: [usize; 4]| {
            let length = sides
                .iter()
                .try_fold(1_usize, |length, side| length.checked_mul(*side))?;
            // All sides are no more than that, and not 0.
            let fits = (1..=c_int::MAX as usize).contains(&length);
            fits.then(|| sides.map(|side| side as c_int))
        };
        Some([
            sides([self.images, self.channels, self.height, self.width])?,
            sides([self.filters, self.channels, self.size[0], self.size[1]])?,
            sides([self.images, self.filters, rows, columns])?,
        ])
    }
}

impl GpuDnn {
    /// cuDNN for a handle. Where `precision` is not `F32` it may round factors to 11 bits, as `Tf32` says: it knows
    /// nothing between.
    ///
    /// # Errors
    /// cuDNN does not start.
    pub fn new(gpu: &Gpu, precision: Precision) -> Result<Self, DeviceError> {
        gpu.bind().map_err(|error| gpu.failed(START, error))?;
        let start = |CudnnError(status)| match status {
            // It tells want of memory by this, too.
            Status::CUDNN_STATUS_NOT_INITIALIZED if gpu.free_bytes().is_ok_and(|bytes| bytes < START_BYTES) => {
                gpu.out_of_memory(START_BYTES as usize)
            }
            _ => failed(gpu, START, CudnnError(status)),
        };
        // See `drop`.
        let turn = gpu.capturing.enter();
        let handle = cudnn::create_handle();
        drop(turn);
        let dnn = Self {
            handle: handle.map_err(start)?,
            math: match precision {
                Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
                // It may round factors where that is faster, and has every algorithm.
                Precision::Tf32 | Precision::Bf16 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            },
            stream: gpu.stream.clone(),
            capturing: Arc::clone(&gpu.capturing),
            answers: RefCell::default(),
            computed: Cell::new(0),
        };
        // SAFETY: handle and stream live as long as this value.
        unsafe { cudnn::set_stream(dnn.handle, gpu.stream.cu_stream().cast()) }.map_err(start)?;
        Ok(dnn)
    }

    /// Convolutions, and gradients of them, that it has computed, alone or in graphs.
    pub fn computed(&self) -> u64 {
        self.computed.get()
    }

    /// Bytes that a convolution needs to work with; `None` if cuDNN cannot compute it. The answer stays the same,
    /// unless [`convolve`](Self::convolve) finds that it cannot after all.
    ///
    /// # Errors
    /// cuDNN fails, or is asked for the first time while a graph is captured or replayed.
    pub fn workspace_bytes(
        &self,
        gpu: &Gpu,
        convolution: Convolution,
        part: ConvolutionPart,
    ) -> Result<Option<usize>, DeviceError> {
        self.check_handle(gpu)?;
        if let Some(answer) = self.answers.borrow().get(&(convolution, part)) {
            return Ok(*answer);
        }
        drop(gpu.check_now(WHAT)?);
        gpu.bind().map_err(|error| gpu.failed(WHAT, error))?;
        let ask = |sides| {
            let descriptors = Descriptors::new(&convolution, sides, self.math)?;
            self.ask_workspace(&descriptors, part)
        };
        let answer = match convolution.sides().map(ask).transpose() {
            Err(CudnnError(status)) if is_unsupported(status) => None,
            other => other.map_err(|error| failed(gpu, WHAT, error))?,
        };
        self.learn((convolution, part), answer);
        Ok(answer)
    }

    fn learn(&self, (convolution, part): Question, answer: Answer) {
        match answer {
            Some(bytes) => {
                tracing::debug!("cuDNN computes {part:?} of {convolution:?} with {bytes} bytes to work with")
            }
            None => tracing::debug!("cuDNN cannot compute {part:?} of {convolution:?}"),
        }
        let mut answers = self.answers.borrow_mut();
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert((convolution, part), answer);
    }

    fn check_handle(&self, gpu: &Gpu) -> Result<(), DeviceError> {
        match Arc::ptr_eq(&self.stream, &gpu.stream) {
            true => Ok(()),
            false => Err(gpu.refused(WHAT, "cuDNN was started for another handle".into())),
        }
    }

    /// Writes one of `operands` from the others, none of them a part of another or of `workspace`, of which it uses as
    /// many bytes as [`workspace_bytes`](Self::workspace_bytes) says. All begin at multiples of 16 bytes.
    ///
    /// `false` if it turns out that cuDNN cannot compute it: then nothing is written, and it is never asked again.
    ///
    /// # Errors
    /// It was known that cuDNN cannot compute it, lengths or places do not fit, or cuDNN fails.
    pub fn convolve(
        &self,
        gpu: &Gpu,
        convolution: Convolution,
        part: ConvolutionPart,
        operands: ConvolutionOperands<'_>,
        workspace: GpuSlice<'_>,
    ) -> Result<bool, DeviceError> {
        let (sides, bytes) = self.check(gpu, (convolution, part), operands, workspace)?;
        gpu.bind().map_err(|error| gpu.failed(WHAT, error))?;
        let Convolution {
            size, stride, padding, ..
        } = convolution;
        let mut numbers = vec![part as u64, self.math as u64, workspace.address()];
        numbers.extend(operands.all().map(GpuSlice::address));
        numbers.extend(sides.as_flattened().iter().map(|side| u64::from(side.unsigned_abs())));
        numbers.extend([size, stride, padding].as_flattened().iter().map(|side| *side as u64));
        let mut is_refused = false;
        let run = || {
            let descriptors = Descriptors::new(&convolution, sides, self.math);
            let run = descriptors.and_then(|descriptors| self.run(&descriptors, part, operands, (workspace, bytes)));
            run.map_err(|error| {
                is_refused = is_unsupported(error.0);
                failed(gpu, WHAT, error)
            })
        };
        let (is_eager, is_captured) = match *gpu.mode() {
            Mode::Eager => (true, false),
            Mode::Capturing { .. } => (false, true),
            Mode::Replaying { .. } => (false, false),
        };
        let asked = gpu.in_mode(|mode| mode.other(&numbers, run));
        if is_eager && is_refused {
            self.learn((convolution, part), None);
            return Ok(false);
        }
        asked?;
        self.computed.set(self.computed.get() + u64::from(!is_captured));
        Ok(true)
    }

    /// The sides of all operands, and the bytes to work with, if all of it fits.
    fn check(
        &self,
        gpu: &Gpu,
        (convolution, part): Question,
        operands: ConvolutionOperands<'_>,
        workspace: GpuSlice<'_>,
    ) -> Result<([[c_int; 4]; 3], usize), DeviceError> {
        let (Some(sides), Some(bytes)) = (convolution.sides(), self.workspace_bytes(gpu, convolution, part)?) else {
            let reason = format!("cuDNN cannot compute {part:?} of {convolution:?}; ask `workspace_bytes` first");
            return Err(gpu.refused(WHAT, reason));
        };
        for (sides, operand) in sides.iter().zip(operands.all()) {
            let length: usize = sides.iter().map(|side| *side as usize).product();
            gpu.check_own(WHAT, operand.buffer())?;
            if operand.len() != length {
                let reason = format!("{} elements are not {sides:?} of {convolution:?}", operand.len());
                return Err(gpu.refused(WHAT, reason));
            }
        }
        gpu.check_own(WHAT, workspace.buffer())?;
        if 4 * workspace.len() < bytes {
            let reason = format!("it needs {bytes} bytes to work with, and has {}", 4 * workspace.len());
            return Err(gpu.refused(WHAT, reason));
        }
        if !operands.all().into_iter().chain([workspace]).all(GpuSlice::is_aligned) {
            let reason = format!("an operand does not begin at a multiple of {ALIGNMENT} bytes");
            return Err(gpu.refused(WHAT, reason));
        }
        Ok((sides, bytes))
    }

    fn ask_workspace(&self, descriptors: &Descriptors, part: ConvolutionPart) -> Result<usize, CudnnError> {
        let Descriptors {
            images,
            filters,
            outputs,
            convolution,
        } = descriptors;
        // SAFETY: handle and descriptors live.
        unsafe {
            match part {
                ConvolutionPart::Outputs => cudnn::get_convolution_forward_workspace_size(
                    self.handle,
                    images.0,
                    filters.0,
                    convolution.0,
                    outputs.0,
                    FORWARD,
                ),
                ConvolutionPart::Images => cudnn::get_convolution_backward_data_workspace_size(
                    self.handle,
                    filters.0,
                    outputs.0,
                    convolution.0,
                    images.0,
                    BACKWARD_TO_IMAGES,
                ),
                ConvolutionPart::Filters => cudnn::get_convolution_backward_filter_workspace_size(
                    self.handle,
                    images.0,
                    outputs.0,
                    convolution.0,
                    filters.0,
                    BACKWARD_TO_FILTERS,
                ),
            }
        }
    }

    /// Asks for a convolution whose operands have the lengths that are described.
    fn run(
        &self,
        descriptors: &Descriptors,
        part: ConvolutionPart,
        operands: ConvolutionOperands<'_>,
        (workspace, bytes): (GpuSlice<'_>, usize),
    ) -> Result<(), CudnnError> {
        let Descriptors {
            images,
            filters,
            outputs,
            convolution,
        } = descriptors;
        let address = |operand: GpuSlice<'_>| operand.address() as *mut c_void;
        let (of_images, of_filters, of_outputs) = (
            address(operands.images),
            address(operands.filters),
            address(operands.outputs),
        );
        // What is written is the convolution, and not added to what is there.
        let (one, before) = (1.0_f32, 0.0_f32);
        let (one, before) = ((&raw const one).cast(), (&raw const before).cast());
        // SAFETY: handle and descriptors live, the operands have the lengths that the descriptors say, and so many
        // bytes to work with are there, on this handle's GPU.
        unsafe {
            match part {
                ConvolutionPart::Outputs => cudnn::convolution_forward(
                    self.handle,
                    one,
                    images.0,
                    of_images,
                    filters.0,
                    of_filters,
                    convolution.0,
                    FORWARD,
                    address(workspace),
                    bytes,
                    before,
                    outputs.0,
                    of_outputs,
                ),
                ConvolutionPart::Images => cudnn::convolution_backward_data(
                    self.handle,
                    one,
                    filters.0,
                    of_filters,
                    outputs.0,
                    of_outputs,
                    convolution.0,
                    BACKWARD_TO_IMAGES,
                    address(workspace),
                    bytes,
                    before,
                    images.0,
                    of_images,
                ),
                ConvolutionPart::Filters => cudnn::convolution_backward_filter(
                    self.handle,
                    one,
                    images.0,
                    of_images,
                    outputs.0,
                    of_outputs,
                    convolution.0,
                    BACKWARD_TO_FILTERS,
                    address(workspace),
                    bytes,
                    before,
                    filters.0,
                    of_filters,
                ),
            }
        }
    }
}

impl GpuSlice<'_> {
    /// Whether it begins where a convolution's operands must.
    pub fn is_aligned(self) -> bool {
        self.address().is_multiple_of(ALIGNMENT)
    }
}

// The ones that cuDNN's documentation calls deterministic, and that take most shapes.
const FORWARD: sys::cudnnConvolutionFwdAlgo_t =
    sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
const BACKWARD_TO_IMAGES: sys::cudnnConvolutionBwdDataAlgo_t =
    sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
const BACKWARD_TO_FILTERS: sys::cudnnConvolutionBwdFilterAlgo_t =
    sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;

/// Whether cuDNN has no such convolution, and has not failed: it says so of shapes that it does not take by BAD_PARAM
/// (2000 and more), too, as version 9.7 does of some paddings. An installation that does not fit is another matter.
fn is_unsupported(status: Status) -> bool {
    let is_installation = matches!(
        status,
        Status::CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER
            | Status::CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDART
            | Status::CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH
            | Status::CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING
            | Status::CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE
    );
    let cannot = Status::CUDNN_STATUS_BAD_PARAM as u32..Status::CUDNN_STATUS_INTERNAL_ERROR as u32;
    cannot.contains(&(status as u32)) && !is_installation
}

/// Most bytes of the last error's words.
const WORDS_MAX: usize = 512;

fn failed(gpu: &Gpu, what: &'static str, CudnnError(status): CudnnError) -> DeviceError {
    // The second has taken the place of an older one that did not say whose memory.
    if let Status::CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    | Status::CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED = status
    {
        return gpu.out_of_memory(0);
    }
    let mut words = [0_u8; WORDS_MAX];
    // SAFETY: cuDNN writes up to so many bytes, the last of them 0; one more is left as it is.
    unsafe { sys::cudnnGetLastErrorString(words.as_mut_ptr().cast(), WORDS_MAX - 1) };
    let words = CStr::from_bytes_until_nul(&words).unwrap_or_default().to_string_lossy();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    gpu.refused(what, format!("{status:?} {words}").trim_end().to_owned())
}
