//! Settings that code has made by the fields.

use std::time::Duration;

use crate::config::Config;
use crate::context::Context;
use crate::error::EngineError;

#[test]
fn what_code_sets_is_checked_as_what_a_file_sets_before_anything_starts() {
    type Wrong = fn(&mut Config);
    let wrongs: [(&str, Wrong, &str); 16] = [
        ("threads", |config| config.threads = 0, "from 1 to 1024"),
        ("threads", |config| config.threads = 1025, "from 1 to 1024"),
        ("line_bytes_max", |config| config.line_bytes_max = 0, "from 1"),
        ("list_objects_max", |config| config.list_objects_max = 0, "from 1"),
        ("requests_max", |config| config.requests_max = 0, "from 1"),
        (
            "cut_lineage_every",
            |config| config.cut_lineage_every = Some(0),
            "from 1",
        ),
        ("batch_records", |config| config.batch_records = 0, "from 1 to 16777216"),
        ("processes", |config| config.processes = 0, "from 1 to 256"),
        (
            "parameter_workers",
            |config| config.parameter_workers = 257,
            "from 0 to 256",
        ),
        ("spares", |config| config.spares = 257, "from 0 to 256"),
        ("parameter_copies", |config| config.parameter_copies = 0, "1 or 2"),
        (
            "gpu_processes",
            |config| config.gpu_processes = Some(257),
            "from 0 to 256",
        ),
        ("lease", |config| config.lease = Duration::from_millis(49), "from 50"),
        ("grace", |config| config.grace = Duration::MAX, "to 86400000"),
        (
            "speculate_after",
            |config| config.speculate_after = Some(Duration::MAX),
            "to 86400000",
        ),
        (
            "cache_grows_only",
            |config| config.cache_grows_only.push(" ".into()),
            "beginnings of URLs",
        ),
    ];
    let refused = |config: Config| match Context::new(config) {
        Err(EngineError::Config(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for (field, wrong, allowed) in wrongs {
        let mut config = Config::default();
        wrong(&mut config);
        let error = refused(config);
        let origin = format!("`{field}` of the configuration: ");
        assert!(error.starts_with(&origin) && error.contains(allowed), "{error}");
    }
    let set = Config::default().with_threads(2000);
    assert!(
        refused(set).contains("from 1 to 1024"),
        "what is set is not made another number"
    );
    let together = Config {
        spares: 1,
        ..Config::default()
    };
    assert!(refused(together).contains("no use for spares"));
    let both_ways = Config {
        memory_bytes_max: 0,
        ..Config::default()
    };
    both_ways.check().unwrap();
}
