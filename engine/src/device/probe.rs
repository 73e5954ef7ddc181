//! Finds a GPU without a panic, whatever is missing.
#![allow(unsafe_code)] // asks the driver for its version, and about a device that it has just named

use std::panic::catch_unwind;
use std::path::Path;

use cudarc::driver::result::{self, DriverError, device};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};

use super::GpuFound;
use super::error::NoGpu;
use super::libraries::{CudaLibrary, DRIVER, NEEDED, OF_CUDNN, check_folder};
use super::opened::Opened;

/// The first GPU of the machine, if the driver and all libraries that computing needs are there.
pub(super) fn find(cudnn: bool, folder: Option<&Path>) -> Result<GpuFound, NoGpu> {
    // A driver without some function that cudarc asks for makes it panic.
    catch_unwind(|| look(cudnn, folder)).unwrap_or_else(|panic| Err(NoGpu::Unfit(panic_text(&*panic))))
}

/// Asks cudarc nothing before the driver is known to be there: it panics without, even for the text of an error.
fn look(cudnn: bool, folder: Option<&Path>) -> Result<GpuFound, NoGpu> {
    check_folder(folder)?;
    DRIVER.open(folder)?;
    let mut found = first()?;
    NEEDED.iter().try_for_each(|library| library.open(folder))?;
    check_versions(&NEEDED)?;
    if cudnn {
        // cuDNN may end a process that asks it for anything before all of its libraries are there.
        OF_CUDNN.iter().try_for_each(|library| library.open(folder))?;
        check_versions(&OF_CUDNN)?;
        found.uses_cudnn = true;
    }
    Ok(found)
}

/// Libraries go with a driver of the same major version or a newer one: an older one loads no kernel of theirs, and
/// cuBLAS does not start there.
fn check_versions(libraries: &[CudaLibrary]) -> Result<(), NoGpu> {
    let mut of_driver = 0;
    // SAFETY: the driver writes a number.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut of_driver) }.result();
    asked.map_err(|error| failed("say its version", error))?;
    libraries
        .iter()
        .try_for_each(|library| library.check_version(of_driver))
}

fn first() -> Result<GpuFound, NoGpu> {
    result::init().map_err(|error| failed("start", error))?;
    let count = device::get_count().map_err(|error| failed("count its GPUs", error))?;
    if count <= 0 {
        return Err(NoGpu::NoDevice);
    }
    let (first, memory_bytes) = describe(0)?;
    let is_alike = |index: &i32| describe(*index).is_ok_and(|(other, _)| other == first);
    let alike = (0..count).filter(is_alike).map(|index| index.unsigned_abs() as usize);
    Ok(GpuFound {
        alike: alike.collect(),
        name: first.name,
        capability: first.capability,
        memory_bytes,
        count: count.unsigned_abs() as usize,
        uses_cudnn: false,
        opened: Opened::default(),
    })
}

/// What must be equal for equal bits.
#[derive(PartialEq, Eq)]
struct Kind {
    name: String,
    capability: (i32, i32),
    processors: i32,
}

/// What a GPU is, and its memory in bytes.
fn describe(index: i32) -> Result<(Kind, u64), NoGpu> {
    let gpu = device::get(index).map_err(|error| failed("name a GPU", error))?;
    // SAFETY: `gpu` comes from `device::get`.
    let attribute = |attribute| unsafe { device::get_attribute(gpu, attribute) };
    let failed = |error| failed("describe a GPU", error);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).map_err(failed)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).map_err(failed)?;
    let kind = Kind {
        name: device::get_name(gpu).map_err(failed)?,
        capability: (major, minor),
        processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(failed)?,
    };
    // SAFETY: as above.
    let memory_bytes = unsafe { device::total_mem(gpu) }.map_err(failed)? as u64;
    Ok((kind, memory_bytes))
}

fn failed(what: &str, error: DriverError) -> NoGpu {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => NoGpu::NoDevice,
        code => NoGpu::Driver {
            what: what.into(),
            reason: format!("{code:?}"),
        },
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
