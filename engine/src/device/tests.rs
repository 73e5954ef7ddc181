//! What is chosen without a GPU, and in which words.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Config;
use crate::{Context, EngineError};

#[test]
fn off_touches_nothing() {
    let nowhere = Path::new("/nowhere");
    assert_eq!(choose(GpuUse::Off, false, Some(nowhere)), Ok(Chosen::Off));
    let context = Context::new(Config::default().with_threads(1).with_gpu(GpuUse::Off)).unwrap();
    assert_eq!(*context.device(), Chosen::Off);
}

#[test]
fn a_gpu_that_must_be_there_is_found_or_the_start_fails_with_what_is_missing() {
    let config = Config::default().with_threads(1).with_gpu(GpuUse::On);
    match Context::new(config) {
        Ok(context) => assert!(matches!(context.device(), Chosen::Gpu(_))),
        Err(error) => {
            assert!(matches!(error, EngineError::Device(_)), "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with("`device.gpu` is `on`, but ") && text.contains("`auto` or `off`"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_gpu_that_may_be_there_never_fails_and_is_asked_for_once() {
    let context = Context::new(Config::default().with_threads(1)).unwrap();
    let chosen = context.device();
    assert!(std::ptr::eq(chosen, context.device()));
    assert!(!chosen.to_string().contains('\n'), "{chosen}");
}

#[cfg(feature = "gpu")]
#[test]
fn a_folder_that_cannot_be_read_is_named_before_anything_else() {
    let error = choose(GpuUse::On, false, Some(Path::new("/nowhere/cuda"))).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/nowhere/cuda") && text.contains("cuda_libraries"),
        "{text}"
    );
    let chosen = choose(GpuUse::Auto, false, Some(Path::new("/nowhere/cuda"))).unwrap();
    assert_eq!(chosen, Chosen::Without(error));
}

#[cfg(feature = "gpu")]
#[test]
fn a_missing_library_is_named_with_its_files_and_places() {
    let folder = tempfile::tempdir().unwrap();
    let missing = libraries::OF_CUDNN[0].open(Some(folder.path()));
    let Err(error) = missing else { return }; // This machine has it.
    let text = error.to_string();
    let names = [
        "cuDNN is missing",
        "libcudnn.so.13",
        "LD_LIBRARY_PATH",
        "the system's folders",
    ];
    for name in names
        .map(str::to_owned)
        .into_iter()
        .chain([folder.path().display().to_string()])
    {
        assert!(text.contains(&name), "{name}: {text}");
    }
    std::fs::write(folder.path().join("libcudnn.so"), "no library").unwrap();
    assert_eq!(libraries::OF_CUDNN[0].open(Some(folder.path())), Err(error));
}

#[cfg(not(feature = "gpu"))]
#[test]
fn a_program_without_the_feature_says_so() {
    let error = choose(GpuUse::On, false, None).unwrap_err();
    assert_eq!(error, NoGpu::NotBuilt);
    assert!(
        EngineError::from(error)
            .to_string()
            .contains("without the feature `gpu`")
    );
}

#[test]
fn errors_survive_a_trip_between_processes() {
    let error = EngineError::from(NoGpu::Folder {
        path: "/f".into(),
        message: "gone".into(),
    });
    let sent = postcard::to_stdvec(&error).unwrap();
    let received: EngineError = postcard::from_bytes(&sent).unwrap();
    assert_eq!(received.to_string(), error.to_string());
}
