//! A device whose memory is the host's, and that fails on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::fault::Pause;
use crate::device::{DeviceError, DeviceMemory};
use crate::unpoisoned::Unpoisoned;

/// What is to happen at an allocation or a copy.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceFault {
    /// The device says that it has no memory left.
    OutOfMemory,
    /// The device fails.
    Fail,
    /// It waits.
    Pause(Pause),
}

/// A stand-in for a device: buffers in host memory, up to a limit in bytes. Copies are handles of the same device.
#[derive(Debug, Clone)]
pub struct HostDevice(Arc<Mutex<Host>>);

#[derive(Debug)]
struct Host {
    bytes_max: u64,
    bytes_used: u64,
    bytes_used_most: u64,
    allocations_count: u64,
    copies_count: u64,
    allocation_faults: BTreeMap<u64, DeviceFault>,
    copy_faults: BTreeMap<u64, DeviceFault>,
}

/// A piece of a [`HostDevice`].
#[derive(Debug)]
pub struct HostBuffer {
    bytes: Vec<u8>,
    device: HostDevice,
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.device.host().bytes_used -= self.bytes.len() as u64;
    }
}

impl HostBuffer {
    /// What lies in it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl HostDevice {
    /// A device with `bytes_max` bytes of memory.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Mutex::new(Host {
            bytes_max,
            bytes_used: 0,
            bytes_used_most: 0,
            allocations_count: 0,
            copies_count: 0,
            allocation_faults: BTreeMap::new(),
            copy_faults: BTreeMap::new(),
        })))
    }

    /// Lets `fault` happen at an allocation: the next one for `after` 0, the one after that for 1, and so on.
    pub fn on_allocate(&self, after: u64, fault: DeviceFault) {
        let mut host = self.host();
        let at = host.allocations_count + after;
        host.allocation_faults.insert(at, fault);
    }

    /// Lets `fault` happen at a copy to the device, counted like allocations.
    pub fn on_copy(&self, after: u64, fault: DeviceFault) {
        let mut host = self.host();
        let at = host.copies_count + after;
        host.copy_faults.insert(at, fault);
    }

    /// What the buffers that live take, in bytes.
    pub fn bytes_used(&self) -> u64 {
        self.host().bytes_used
    }

    /// The most that they have taken at a time, in bytes.
    pub fn bytes_used_most(&self) -> u64 {
        self.host().bytes_used_most
    }

    /// Number of copies to the device so far.
    pub fn copies_count(&self) -> u64 {
        self.host().copies_count
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unpoisoned()
    }

    /// Lets a fault of the script happen.
    fn meet(&self, fault: Option<DeviceFault>, what: &'static str, bytes: usize) -> Result<(), DeviceError> {
        match fault {
            Some(DeviceFault::OutOfMemory) => Err(self.out_of_memory(bytes, 0)),
            Some(DeviceFault::Fail) => Err(self.failed(what, "a scripted fault".into())),
            Some(DeviceFault::Pause(pause)) => {
                pause.wait();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn out_of_memory(&self, bytes: usize, free_bytes: u64) -> DeviceError {
        DeviceError::OutOfMemory {
            device: self.name().into(),
            needed_bytes: bytes as u64,
            free_bytes: Some(free_bytes),
        }
    }

    fn failed(&self, what: &'static str, reason: String) -> DeviceError {
        let device = self.name().into();
        DeviceError::Failed { device, what, reason }
    }
}

impl DeviceMemory for HostDevice {
    type Buffer = HostBuffer;

    fn name(&self) -> &str {
        "the host's stand-in for a device"
    }

    fn allocate(&self, bytes: usize) -> Result<HostBuffer, DeviceError> {
        let mut host = self.host();
        let at = host.allocations_count;
        host.allocations_count += 1;
        let fault = host.allocation_faults.remove(&at);
        drop(host);
        self.meet(fault, "allocate", bytes)?;
        let mut host = self.host();
        let free_bytes = host.bytes_max - host.bytes_used;
        if bytes as u64 > free_bytes {
            return Err(self.out_of_memory(bytes, free_bytes));
        }
        host.bytes_used += bytes as u64;
        host.bytes_used_most = host.bytes_used_most.max(host.bytes_used);
        drop(host);
        let device = self.clone();
        Ok(HostBuffer {
            bytes: vec![0; bytes],
            device,
        })
    }

    fn copy_in(&self, bytes: &[u8], buffer: &mut HostBuffer) -> Result<(), DeviceError> {
        let mut host = self.host();
        let at = host.copies_count;
        host.copies_count += 1;
        let fault = host.copy_faults.remove(&at);
        drop(host);
        self.meet(fault, "copy to it", bytes.len())?;
        if bytes.len() != buffer.bytes.len() {
            let reason = format!("{} bytes do not fill a buffer of {}", bytes.len(), buffer.bytes.len());
            return Err(self.failed("copy to it", reason));
        }
        buffer.bytes.copy_from_slice(bytes);
        Ok(())
    }

    fn copy_out(&self, buffer: &HostBuffer) -> Result<Vec<u8>, DeviceError> {
        Ok(buffer.bytes.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_conformance;

    #[test]
    fn conforms() {
        device_conformance(&HostDevice::new(1 << 20), 1 << 20);
    }
}
