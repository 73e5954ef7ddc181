//! What libraries say of their versions.

use std::path::Path;

use distdl_engine::config::GpuUse;
use distdl_engine::device::choose;

/// Each by itself, where it says its version.
pub(super) fn libraries_of_a_newer_cuda_are_refused(folder: &Path) {
    for (file, name) in [("nvrtc", "NVRTC"), ("cublas", "cuBLAS"), ("cudnn", "cuDNN")] {
        // SAFETY: the library is open already, and the function is declared like that.
        let library = unsafe { libloading::Library::new(folder.join(format!("lib{file}.so"))) }.unwrap();
        // SAFETY: as above.
        let be_version = unsafe { library.get::<unsafe extern "C" fn(i64)>("emulated_be_version") }.unwrap();
        // SAFETY: as above.
        let choose_with = |version| {
            // SAFETY: as above.
            unsafe { be_version(version) };
            choose(GpuUse::On, true, Some(folder))
        };
        let error = choose_with(14_020).unwrap_err().to_string();
        let wanted = format!("{name} is made for CUDA of version 14.2, and the driver is made for 13.0");
        assert!(error.contains(&wanted), "{error}");
        // It does not say, is older, or as old.
        for version in [0, 12_080, 13_040] {
            assert!(choose_with(version).is_ok(), "{name} of {version}");
        }
    }
}
