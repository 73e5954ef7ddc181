//! Copies that go on while the host does something else.

use distdl_engine::device::{Gpu, GpuFound, GpuPort};
use distdl_storage::DeviceError;

pub(crate) fn copies_go_both_ways_in_their_order(found: &GpuFound) {
    let [gpu, other] = [0, 0].map(|index| Gpu::open(found, index).unwrap());
    let mut port = GpuPort::new(&gpu, 8).unwrap();
    for turn in [1_u32, 2] {
        port.send(&gpu, &[turn, 7]).unwrap();
        port.send(&gpu, &[turn + 10]).unwrap();
        port.fetch(&gpu, 8).unwrap();
        assert_eq!(
            port.take(&gpu).unwrap(),
            bytemuck::cast_slice::<u32, u8>(&[turn + 10, 7])
        );
    }
    assert!(port.send(&gpu, &[0_u32; 3]).is_err() && port.fetch(&gpu, 9).is_err());
    assert!(port.send(&other, &[0_u32]).is_err());
    port.fetch(&gpu, 8).unwrap();
}

pub(crate) fn one_that_is_dropped_within_a_capture_keeps_what_its_copy_needs(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let mut port = GpuPort::new(&gpu, 8).unwrap();
    // The emulated driver ends the process if memory is given back that a copy needs.
    port.fetch(&gpu, 8).unwrap();
    let captured = gpu.capture(|| {
        drop(port);
        Ok::<(), DeviceError>(())
    });
    assert!(captured.is_err(), "nobody can wait for the copy meanwhile");
}
