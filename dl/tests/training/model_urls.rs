//! Models at URLs: on the disk, and in a store of objects that fails.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use distdl_dl::{Error, NeuralNetwork};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context};
use distdl_storage::remote::ObjectStore;
use distdl_storage::testing::{FaultStore, ReadFault, StoreFaults, WriteFault};

use crate::{context, failed};

const URL: &str = "memory://models/digits.safetensors";

fn network() -> NeuralNetwork {
    NeuralNetwork::dense(6, &[5], 3).unwrap()
}

fn parameters(seed: u64) -> Vec<f32> {
    network().initialize(seed).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A store that all processes see, and what happens to it.
fn store() -> (Arc<dyn ObjectStore>, StoreFaults) {
    let faults = StoreFaults::new();
    (Arc::new(FaultStore::in_memory(faults.clone())), faults)
}

/// What a program of one process comes to that has such a store.
fn with_store<R: Send + 'static>(
    objects: &Arc<dyn ObjectStore>,
    program: impl Fn(&Context) -> R + Send + Sync + 'static,
) -> R {
    let cluster = TestCluster {
        objects: Some(Arc::clone(objects)),
        ..TestCluster::new(1)
    };
    cluster
        .run(move |context| Ok(program(context)))
        .unwrap()
        .results
        .remove(0)
}

#[test]
fn a_file_is_the_one_that_a_path_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models/of today/digits.safetensors");
    let plain = path.to_str().unwrap();
    let url = format!("file://{}", plain.replace(' ', "%20"));
    let context = context(1);
    for (seed, to, from) in [(1, &*url, plain), (2, plain, &*url)] {
        network().save_to(&context, to, &parameters(seed)).unwrap();
        assert_eq!(network().load_from(&context, from).unwrap(), parameters(seed));
        assert_eq!(network().load(&path).unwrap(), parameters(seed));
    }
    assert_eq!(
        names(path.parent().unwrap()),
        ["digits.safetensors"],
        "nothing is left beside it"
    );
}

#[test]
fn what_cannot_be_a_file_of_the_network_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.safetensors");
    let url = format!("file://{}", path.display());
    let context = context(1);
    let refused = |network: NeuralNetwork, url: &str| {
        let error = network.load_from(&context, url).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(path.parent().unwrap().to_str().unwrap()), "{message}");
        message
    };
    let none = refused(network(), &url);
    assert!(none.contains("there is no such file"), "{none}");

    network().save_to(&context, &url, &parameters(1)).unwrap();
    let wider = refused(NeuralNetwork::dense(6, &[4], 3).unwrap(), &url);
    assert!(
        wider.contains("layers.0.weight has shape [5, 6], expected [4, 6]"),
        "{wider}"
    );
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = network().load_from(&context, &url).unwrap_err();
        assert!(matches!(error, Error::ModelFile { .. }), "cut at {length}: {error}");
    }
    // A hole takes no room.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(200_000_000).unwrap();
    let longer = refused(network(), &url);
    assert!(longer.contains("which no file of this network is"), "{longer}");

    fs::write(folder.path().join("other.safetensors"), whole).unwrap();
    let two = refused(network(), &format!("{}/*.safetensors", folder.path().display()));
    assert!(two.contains("it stands for 2 files; name one"), "{two}");
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("digits.safetensors").to_str().unwrap().to_owned();
    let small = Context::new(Config::default().with_threads(1).with_read_bytes_max(100)).unwrap();
    let error = network().save_to(&small, &url, &parameters(1)).unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("`read_size`"), "{error}");
    let error = network().save_to(&small, &url, &[1.0]).unwrap_err();
    assert!(matches!(error, Error::Length { .. }), "{error}");
    assert!(names(folder.path()).is_empty());

    network().save_to(&context(1), &url, &parameters(1)).unwrap();
    let error = network().load_from(&small, &url).unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("`read_size`"), "{error}");
}

#[test]
fn a_store_that_fails_keeps_what_it_has_and_is_named() {
    let (objects, faults) = store();
    with_store(&objects, move |context| {
        network().save_to(context, URL, &parameters(1)).unwrap();
        assert_eq!(faults.writes_count(), 1, "whole in one request");
        faults.on_every_write(Some(WriteFault::FailBefore));
        let error = network().save_to(context, URL, &parameters(2)).unwrap_err().to_string();
        assert!(
            error.contains(URL) && error.contains("check the address and the connection"),
            "{error}"
        );
        assert_eq!(network().load_from(context, URL).unwrap(), parameters(1));

        for fault in [
            ReadFault::Busy,
            ReadFault::BreakAfter(100),
            ReadFault::Short(100),
            ReadFault::Missing,
        ] {
            let what = format!("{fault:?}");
            faults.on_read(0, fault);
            let error = network().load_from(context, URL).unwrap_err().to_string();
            assert!(error.contains(URL), "{what}: {error}");
        }
        assert_eq!(network().load_from(context, URL).unwrap(), parameters(1));
    });
}

#[test]
fn one_process_writes_and_reads_for_all_whoever_dies() {
    for chaos in ["", "kill=worker:0@report:1", "kill=worker:1@report:2"] {
        let (objects, faults) = store();
        let cluster = TestCluster {
            objects: Some(objects),
            ..TestCluster::new(3)
        };
        let run = cluster.with_chaos(Chaos::parse(chaos).unwrap()).run(move |context| {
            network().save_to(context, URL, &parameters(1)).map_err(failed)?;
            network().load_from(context, URL).map_err(failed)
        });
        let results = run.unwrap().results;
        assert!(
            results.iter().all(|result| *result == parameters(1)) && results.len() >= 2,
            "{chaos}"
        );
        if chaos.is_empty() {
            assert_eq!((faults.writes_count(), faults.reads_count(), results.len()), (1, 1, 3));
        }
    }
}

#[test]
fn what_stores_cannot_do_is_said_to_all_processes() {
    let run = TestCluster::new(2).run(|context| {
        let error = network().save_to(context, "http://localhost/digits", &parameters(1));
        Ok(error.unwrap_err().to_string())
    });
    for message in run.unwrap().results {
        assert!(
            message.contains("http://localhost/digits: http(s) is read only"),
            "{message}"
        );
    }
}
