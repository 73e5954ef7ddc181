//! Memory of the host that a GPU reads and writes by itself.
#![allow(unsafe_code)] // memory that the driver hands out and takes back

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result};

/// Some bytes of the host's memory that stay in place, so that copies to and from a GPU need not wait for the host.
#[derive(Debug)]
pub(super) struct Pinned {
    place: *mut c_void,
    bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the memory belongs to this value, and any thread may use it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory of `bytes` bytes, all 0.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let bytes = bytes.max(1);
        // SAFETY: it is given back once, by `drop`; and it is written to before anybody reads it.
        let place = unsafe {
            let place = result::malloc_host(bytes, 0)?;
            place.cast::<u8>().write_bytes(0, bytes);
            place
        };
        Ok(Self {
            place,
            bytes,
            context: context.clone(),
        })
    }

    /// The bytes. Nothing may be under way to or from them.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes were handed out, written once, and are borrowed from this value.
        unsafe { std::slice::from_raw_parts_mut(self.place.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: `new` has got it from the driver, and this happens once. A lost GPU makes it fail, which changes nothing.
        let _ = unsafe { result::free_host(self.place) };
    }
}
