//! What cuDNN is told of a convolution, freed when it is dropped.
#![allow(unsafe_code)] // tells it to what was just made, and frees that

use std::ffi::c_int;

use cudarc::cudnn::result::{self as cudnn, CudnnError};
use cudarc::cudnn::sys::{self, cudnnStatus_t as Status};

use super::Convolution;

/// What cuDNN is told of a convolution.
pub(super) struct Descriptors {
    pub(super) images: Tensor,
    pub(super) filters: Filter,
    pub(super) outputs: Tensor,
    pub(super) convolution: Windows,
}

pub(super) struct Tensor(pub(super) sys::cudnnTensorDescriptor_t);
pub(super) struct Filter(pub(super) sys::cudnnFilterDescriptor_t);
pub(super) struct Windows(pub(super) sys::cudnnConvolutionDescriptor_t);

impl Descriptors {
    pub(super) fn new(
        convolution: &Convolution,
        [images, filters, outputs]: [[c_int; 4]; 3],
        math: sys::cudnnMathType_t,
    ) -> Result<Self, CudnnError> {
        Ok(Self {
            images: Tensor::new(images)?,
            filters: Filter::new(filters)?,
            outputs: Tensor::new(outputs)?,
            convolution: Windows::new(convolution, math)?,
        })
    }
}

const LAYOUT: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;

impl Tensor {
    fn new(sides: [c_int; 4]) -> Result<Self, CudnnError> {
        let tensor = Self(cudnn::create_tensor_descriptor()?);
        // SAFETY: it lives.
        unsafe { cudnn::set_tensor4d_descriptor(tensor.0, LAYOUT, FLOAT, sides) }?;
        Ok(tensor)
    }
}

impl Filter {
    fn new(sides: [c_int; 4]) -> Result<Self, CudnnError> {
        let filter = Self(cudnn::create_filter_descriptor()?);
        // SAFETY: it lives.
        unsafe { cudnn::set_filter4d_descriptor(filter.0, FLOAT, LAYOUT, sides) }?;
        Ok(filter)
    }
}

impl Windows {
    fn new(convolution: &Convolution, math: sys::cudnnMathType_t) -> Result<Self, CudnnError> {
        let windows = Self(cudnn::create_convolution_descriptor()?);
        let too_many = |_| CudnnError(Status::CUDNN_STATUS_NOT_SUPPORTED);
        let number = |side| c_int::try_from(side).map_err(too_many);
        let [padding_y, padding_x] = [number(convolution.padding[0])?, number(convolution.padding[1])?];
        let [stride_y, stride_x] = [number(convolution.stride[0])?, number(convolution.stride[1])?];
        // What others call a convolution is a cross-correlation here: filters are not turned round.
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: it lives.
        unsafe {
            cudnn::set_convolution2d_descriptor(
                windows.0, padding_y, padding_x, stride_y, stride_x, 1, 1, mode, FLOAT,
            )?;
            cudnn::set_convolution_math_type(windows.0, math)?;
        }
        Ok(windows)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nothing else destroys it.
        let _ = unsafe { cudnn::destroy_tensor_descriptor(self.0) };
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nothing else destroys it.
        let _ = unsafe { cudnn::destroy_filter_descriptor(self.0) };
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nothing else destroys it.
        let _ = unsafe { cudnn::destroy_convolution_descriptor(self.0) };
    }
}
