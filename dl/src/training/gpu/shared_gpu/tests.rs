//! What comes of errors where several threads bring the same samples.

#![allow(clippy::unwrap_used)]
use std::sync::mpsc::channel;

use distdl_storage::testing::{HostDevice, wait_until};

use super::*;

/// Of two threads that bring the same samples the second has only what the tier carries of the first one's error.
#[test]
fn what_is_wrong_with_samples_is_said_to_all_who_bring_them() {
    let (device, tier) = (HostDevice::new(1000), &DeviceTier::new("device", 1000));
    let bring = |wait: &dyn Fn()| {
        let source = || -> Result<Vec<u8>> {
            wait();
            Err(Error::Data("no index".into()))
        };
        pin(tier, &device, DeviceKey::Content([0; 32]), source).unwrap_err()
    };
    let (begun, has_begun) = channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            bring(&move || {
                begun.send(()).unwrap();
                wait_until("the second looks for it", || tier.figures().bloom_absent == 2);
            })
        });
        has_begun.recv().unwrap();
        let errors = [bring(&|| ()), first.join().unwrap()];
        assert!(errors.iter().all(|error| matches!(error, Error::Data(_))), "{errors:?}");
    });
}
