//! Every layer beats those below it, and every mistake is named with its place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod code;
mod flags;
mod section;

use super::layers::{KEYS, is_of_service};
use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn flags(arguments: &[&str]) -> Flags {
    Program::try_parse_from([&["program"], arguments].concat())
        .map(|program| program.flags)
        .unwrap()
}

fn message(text: &str, pairs: &[(&str, &str)]) -> String {
    Config::from_layers(Some(file(text).path()), variables(pairs), &Flags::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn each_layer_beats_those_below_it() {
    let config = Config::from_layers(None, [], &Flags::default()).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.threads > 0 && config.memory_bytes_max > 0);

    let file = file("seed = 1\nthreads = 1\nmemory = \"1MB\"\nbatch_records = 10\n");
    let read = |pairs: &[(&str, &str)], arguments: &[&str]| {
        Config::from_layers(Some(file.path()), variables(pairs), &flags(arguments)).unwrap()
    };
    let config = read(&[], &[]);
    assert_eq!(
        (
            config.seed,
            config.threads,
            config.memory_bytes_max,
            config.batch_records
        ),
        (1, 1, 1_000_000, 10)
    );
    let pairs = [
        ("DISTDL_SEED", "2"),
        ("DISTDL_THREADS", "2"),
        ("DISTDL_MEMORY", "2KiB"),
        ("PATH", "x"),
    ];
    let config = read(&pairs, &[]);
    assert_eq!(
        (
            config.seed,
            config.threads,
            config.memory_bytes_max,
            config.batch_records
        ),
        (2, 2, 2048, 10)
    );
    let config = read(&pairs, &["--seed", "3", "--threads=3"]);
    assert_eq!((config.seed, config.threads, config.memory_bytes_max), (3, 3, 2048));
    let config = config.with_seed(4);
    assert_eq!((config.seed, config.threads), (4, 3));
}

/// Nothing as it is by default, but for what only a variable sets.
fn with_every_setting() -> Config {
    Config {
        threads: 3,
        memory_bytes_max: 5,
        disk_bytes_max: 6 << 30,
        keep_shuffles_after: Duration::from_millis(90),
        spill_folder: Some("/spill".into()),
        cache_folder: Some("/cache".into()),
        cache_bytes_max: 8 << 20,
        cache_grows_only: vec!["s3://logs/".into(), "s3://b/x".into()],
        read_ahead_bytes_max: 1 << 20,
        read_bytes_max: 12,
        list_objects_max: 13,
        line_bytes_max: 14,
        requests_max: 15,
        request_timeout: Duration::from_millis(16),
        memo_bytes_max: 9 << 20,
        cut_lineage_every: Some(40),
        seed: u64::MAX,
        progress: Progress::On,
        log: Log::Debug,
        json: true,
        batch_records: 7,
        processes: 4,
        parameter_workers: 1,
        spares: 2,
        events: Some("/events".into()),
        chaos: Some("kill=name@step:1,stop=worker:0@block:2".into()),
        lease: Duration::from_millis(50),
        restarts: 0,
        grace: Duration::from_millis(70),
        parameter_copies: 1,
        speculate_after: Some(Duration::from_millis(80)),
        shared_memory: false,
        unlike_machines: true,
        token_file: Some("/token".into()),
        gpu: GpuUse::Off,
        cudnn: true,
        cuda_libraries: Some("/cuda".into()),
        gpu_processes: Some(3),
        gpu_memory_bytes_max: Some(11),
        precision: Precision::Bf16,
        join: None,
    }
}

#[test]
fn every_key_is_read_from_file_and_variables() {
    let expected = with_every_setting();
    let text = "threads = 3\nmemory = 5\ndisk = \"6 GiB\"\nkeep_shuffles_after = 90\nspill_folder = \"/spill\"\ncache = \"/cache\"\n\
                cache_size = \"8 MiB\"\ncache_grows_only = \"s3://logs/, s3://b/x\"\nread_ahead = \"1 MiB\"\nread_size = 12\nlist_count = 13\nline_size = 14\nrequests = 15\nrequest_timeout = 16\nmemo_size = \"9 MiB\"\ncut_lineage_every = 40\nseed = \"18446744073709551615\"\n\
                progress = \"on\"\nlog = \"debug\"\njson = true\nbatch_records = 7\nprocesses = 4\nparameter_workers = 1\nspares = 2\n\
                events = \"/events\"\nchaos = \"kill=name@step:1,stop=worker:0@block:2\"\nlease = 50\nrestarts = 0\n\
                grace = 70\nparameter_copies = 1\nspeculate_after = 80\nshared_memory = false\nunlike_machines = true\ntoken_file = \"/token\"\n\
                [device]\ngpu = \"off\"\ncudnn = true\ncuda_libraries = \"/cuda\"\ngpu_processes = 3\ngpu_memory = 11\nprecision = \"bf16\"";
    let from_file = Config::from_layers(Some(file(text).path()), [], &Flags::default()).unwrap();
    assert_eq!(from_file, expected);
    let pairs = [
        ("DISTDL_THREADS", "3"),
        ("DISTDL_MEMORY", "5"),
        ("DISTDL_DISK", "6g"),
        ("DISTDL_KEEP_SHUFFLES_AFTER", "90"),
        ("DISTDL_SPILL_FOLDER", "/spill"),
        ("DISTDL_CACHE", "/cache"),
        ("DISTDL_CACHE_SIZE", "8m"),
        ("DISTDL_CACHE_GROWS_ONLY", "s3://logs/,s3://b/x"),
        ("DISTDL_READ_AHEAD", "1m"),
        ("DISTDL_READ_SIZE", "12"),
        ("DISTDL_LIST_COUNT", "13"),
        ("DISTDL_LINE_SIZE", "14"),
        ("DISTDL_REQUESTS", "15"),
        ("DISTDL_REQUEST_TIMEOUT", "16"),
        ("DISTDL_MEMO_SIZE", "9m"),
        ("DISTDL_CUT_LINEAGE_EVERY", "40"),
        ("DISTDL_SEED", "18446744073709551615"),
        ("DISTDL_PROGRESS", "ON"),
        ("DISTDL_LOG", "Debug"),
        ("DISTDL_JSON", "true"),
        ("DISTDL_BATCH_RECORDS", "7"),
        ("DISTDL_PROCESSES", "4"),
        ("DISTDL_PARAMETER_WORKERS", "1"),
        ("DISTDL_SPARES", "2"),
        ("DISTDL_EVENTS", "/events"),
        ("DISTDL_CHAOS", "kill=name@step:1,stop=worker:0@block:2"),
        ("DISTDL_LEASE", "50"),
        ("DISTDL_RESTARTS", "0"),
        ("DISTDL_GRACE", "70"),
        ("DISTDL_PARAMETER_COPIES", "1"),
        ("DISTDL_SPECULATE_AFTER", "80"),
        ("DISTDL_SHARED_MEMORY", "false"),
        ("DISTDL_UNLIKE_MACHINES", "true"),
        ("DISTDL_TOKEN_FILE", "/token"),
        ("DISTDL_GPU", "off"),
        ("DISTDL_CUDNN", "true"),
        ("DISTDL_CUDA_LIBRARIES", "/cuda"),
        ("DISTDL_GPU_PROCESSES", "3"),
        ("DISTDL_GPU_MEMORY", "11"),
        ("DISTDL_PRECISION", "BF16"),
    ];
    assert_eq!(
        Config::from_layers(None, variables(&pairs), &Flags::default()).unwrap(),
        expected
    );
    let code = Config::default()
        .with_threads(3)
        .with_memory_bytes_max(5)
        .with_disk_bytes_max(6 << 30)
        .with_keep_shuffles_after(Duration::from_millis(90))
        .with_spill_folder("/spill")
        .with_cache_folder("/cache")
        .with_cache_bytes_max(8 << 20)
        .with_cache_grows_only(["s3://logs/", "s3://b/x"])
        .with_read_ahead_bytes_max(1 << 20)
        .with_read_bytes_max(12)
        .with_list_objects_max(13)
        .with_line_bytes_max(14)
        .with_requests_max(15)
        .with_request_timeout(Duration::from_millis(16))
        .with_memo_bytes_max(9 << 20)
        .with_cut_lineage_every(40)
        .with_seed(u64::MAX)
        .with_progress(Progress::On)
        .with_log(Log::Debug)
        .with_json(true)
        .with_batch_records(7)
        .with_processes(4)
        .with_parameter_workers(1)
        .with_spares(2)
        .with_events("/events")
        .with_chaos("kill=name@step:1,stop=worker:0@block:2")
        .with_lease(Duration::from_millis(50))
        .with_restarts(0)
        .with_grace(Duration::from_millis(70))
        .with_parameter_copies(1)
        .with_speculate_after(Duration::from_millis(80))
        .with_shared_memory(false)
        .with_unlike_machines(true)
        .with_token_file("/token")
        .with_gpu(GpuUse::Off)
        .with_cudnn(true)
        .with_cuda_libraries("/cuda")
        .with_gpu_processes(3)
        .with_gpu_memory_bytes_max(11)
        .with_precision(Precision::Bf16);
    assert_eq!(code, expected);
}

#[test]
fn what_is_written_to_a_file_is_read_again() {
    let largest = Config {
        disk_bytes_max: u64::MAX,
        memory_bytes_max: u64::MAX,
        ..Config::default()
    };
    for config in [Config::default(), with_every_setting(), largest] {
        let again = Config::from_layers(Some(file(&config.to_toml()).path()), [], &Flags::default());
        assert_eq!(again.unwrap(), config);
    }
}

#[test]
fn a_line_of_any_length_is_not_shown_whole() {
    let text = message(&format!("threads = {}", "9 ".repeat(100_000)), &[]);
    assert!(text.contains("is not TOML: ") && text.len() < 2_000, "{}", text.len());
}

#[test]
fn what_kubernetes_says_of_a_service_is_no_setting() {
    let of_service = [
        ("DISTDL_SERVICE_HOST", "10.0.0.1"),
        ("DISTDL_SERVICE_PORT_HTTP", "80"),
        ("DISTDL_PORT", "tcp://10.0.0.1:80"),
        ("DISTDL_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("DISTDL_NAME_SERVICE_HOST", "10.0.0.1"),
        ("DISTDL_NAME_SERVICE_PORT", "7171"),
        ("DISTDL_NAME_SERVICE_PORT_HTTP", "80"),
        ("DISTDL_NAME_PORT", "tcp://10.0.0.1:80"),
        ("DISTDL_NAME_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("DISTDL_THREADS_PORT_80_TCP", "tcp://10.0.0.1:80"),
    ];
    let config = Config::from_layers(None, variables(&of_service), &Flags::default());
    assert_eq!(config.unwrap(), Config::default());
    let near = message("", &[("DISTDL_PORTS", "1")]);
    assert!(near.contains("DISTDL_PORTS"), "{near}");
    assert!(
        KEYS.iter()
            .all(|key| !is_of_service(&format!("_{}", key.to_ascii_uppercase())))
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let error = message("thread = 2", &[]);
    assert!(
        error.contains("key `thread` in the file /") && error.contains("did you mean `threads`?"),
        "{error}"
    );
    let error = message("[memory_limits]\nmax = 1", &[]);
    assert!(
        error.contains("`memory_limits`") && error.contains("did you mean `memory`?"),
        "{error}"
    );
    let error = message("", &[("DISTDL_BATCHRECORDS", "1")]);
    assert!(
        error.contains("variable DISTDL_BATCHRECORDS") && error.contains("`DISTDL_BATCH_RECORDS`?"),
        "{error}"
    );
    for (text, wrong, right) in [
        ("gpu = \"on\"", "key `gpu`", "`device.gpu`"),
        ("[device]\ngpus = \"on\"", "key `device.gpus`", "`device.gpu`"),
        ("device = 1", "key `device`", "`device.gpu`"),
        ("[device]\nthreads = 1", "key `device.threads`", "`threads`"),
    ] {
        let error = message(text, &[]);
        assert!(error.contains(wrong) && error.contains(right), "{error}");
    }
    let error = message("", &[("DISTDL_DEVICE_GPU", "on")]);
    assert!(error.contains("did you mean `DISTDL_GPU`?"), "{error}");
    let error = message("zzz = 1", &[]);
    assert!(
        !error.contains("did you mean") && error.contains("threads, memory, disk"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_is_named_with_its_place_and_what_is_allowed() {
    for (text, value, allowed) in [
        ("threads = 0", "`0`", "from 1 to 1024"),
        ("threads = 1.5", "`1.5`", "from 1 to 1024"),
        ("threads = [1]", "`sequence`", "from 1 to 1024"),
        ("threads = {a = 1}", "`map`", "from 1 to 1024"),
        ("memory = \"lots\"", "`lots`", "512MB"),
        ("memory = -1", "`-1`", "512MB"),
        ("disk = true", "`true`", "512MB"),
        ("seed = -1", "`-1`", "from 0 to"),
        ("progress = \"maybe\"", "`maybe`", "`auto`"),
        ("json = 1", "`1`", "`true` or `false`"),
        ("spill_folder = \"\"", "``", "path of a folder"),
        ("cache = \"\"", "``", "path of a folder"),
        ("cache_size = \"much\"", "`much`", "512MB"),
        ("cache_grows_only = \"a,,b\"", "`a,,b`", "separated by commas"),
        ("batch_records = 0", "`0`", "from 1 to"),
        ("processes = 0", "`0`", "from 1 to 256"),
        ("parameter_workers = 257", "`257`", "from 0 to 256"),
        ("spares = -1", "`-1`", "from 0 to 256"),
        ("events = \"\"", "``", "path of a file"),
        ("chaos = \"\"", "``", "kill=worker:1@step:37"),
        ("lease = 49", "`49`", "from 50"),
        ("restarts = -1", "`-1`", "from 0"),
        ("grace = \"1s\"", "`1s`", "milliseconds"),
        ("parameter_copies = 3", "`3`", "1 or 2"),
        ("device.gpu = \"yes\"", "`yes`", "`auto` (if there is one)"),
        ("device.cudnn = 2", "`2`", "`true` or `false`"),
        ("device.cuda_libraries = \"\"", "``", "path of a folder"),
        ("device.precision = \"f16\"", "`f16`", "`tf32`"),
    ] {
        let error = message(text, &[]);
        let key = text.split(' ').next().unwrap();
        assert!(error.contains(&format!("key `{key}` in the file /")), "{error}");
        assert!(error.contains(value) && error.contains(allowed), "{error}");
    }
    let error = message("threads = 2", &[("DISTDL_THREADS", "many")]);
    assert!(
        error.starts_with("environment variable DISTDL_THREADS: `many`"),
        "{error}"
    );
    let unchecked = Flags {
        threads: Some(0),
        ..Flags::default()
    };
    let error = Config::from_layers(None, [], &unchecked).unwrap_err().to_string();
    assert!(error.starts_with("flag --threads: `0`"), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_named_with_the_remedy() {
    for (text, what, remedy) in [
        (
            "processes = 2\nparameter_workers = 2",
            "2 parameter workers of 2 processes",
            "lower `parameter_workers`",
        ),
        ("parameter_workers = 1", "1 parameter workers of 1", "raise `processes`"),
        ("spares = 1", "no use for spares", "leave out `spares`"),
        (
            "chaos = \"slow=thread:1@times:2,kill=name@step:1\"",
            "only one process",
            "leave out `chaos`",
        ),
    ] {
        let error = message(text, &[]);
        assert!(error.contains(what) && error.contains(remedy), "{error}");
        // A member of a cluster of which this host has one process.
        let config = Config::from_layers(
            Some(file(text).path()),
            variables(&[("DISTDL_JOIN", "x")]),
            &Flags::default(),
        );
        assert_eq!(config.unwrap().join, Some(Secret::new("x")));
    }
    let code = Config::default().with_processes(2).with_parameter_workers(3);
    assert!(code.check().is_err());
}

#[test]
fn only_a_variable_says_to_which_cluster_a_process_belongs() {
    let error = message("join = \"1-00\"", &[]);
    assert!(
        error.contains("no such key") && !error.contains("token_file, join"),
        "{error}"
    );
    let config = Config::from_layers(None, variables(&[("DISTDL_JOIN", "1-c0ffee")]), &Flags::default()).unwrap();
    assert!(!format!("{config:?}").contains("c0ffee"));
}

#[test]
fn several_processes_share_the_machine() {
    let one = Config::default();
    let two = Config::from_layers(None, variables(&[("DISTDL_PROCESSES", "2")]), &Flags::default()).unwrap();
    assert_eq!(two.memory_bytes_max, one.memory_bytes_max / 2);
    assert_eq!(two.threads, (one.threads / 2).max(1));
    let many = Config::from_layers(
        None,
        variables(&[("DISTDL_PROCESSES", "256")]),
        &flags(&["--threads=7"]),
    )
    .unwrap();
    assert_eq!(many.threads, 7);
}

#[test]
fn files_that_cannot_be_read_are_errors_unless_only_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    assert!(Config::from_layers(Some(&missing), [], &Flags::default()).is_ok());

    let named = |path: &Path| Flags {
        config: Some(path.to_owned()),
        ..Flags::default()
    };
    let error = Config::from_layers(None, [], &named(&missing)).unwrap_err().to_string();
    assert!(error.contains("missing.toml") && error.contains("--config"), "{error}");
    let error = Config::from_layers(None, [], &named(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("name a file, not a folder"), "{error}");
    let error = message("threads == 4", &[]);
    assert!(error.contains("not TOML") && error.contains("line 1"), "{error}");

    let binary = file("");
    std::fs::write(binary.path(), [0xff]).unwrap();
    let error = Config::from_layers(Some(binary.path()), [], &Flags::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn a_file_is_read_up_to_a_limit() {
    for (length, is_read) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let long = file(&"\n".repeat(length));
        let read = Config::from_layers(Some(long.path()), [], &Flags::default());
        match read {
            Ok(_) => assert!(is_read, "{length} bytes"),
            Err(error) => assert!(!is_read && error.to_string().contains("1048576"), "{error}"),
        }
    }
}

#[test]
fn a_file_without_permission_is_an_error_that_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let locked = file("threads = 1");
    std::fs::set_permissions(locked.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(locked.path()).is_ok() {
        eprintln!("!! SKIPPED: files without permission: the superuser may read everything");
        return;
    }
    let error = Config::from_layers(Some(locked.path()), [], &Flags::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("the right to read it"), "{error}");
}

#[test]
fn sizes_are_read_with_their_units() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("1000", Some(1000)),
        ("512MB", Some(512_000_000)),
        ("2GiB", Some(2 << 30)),
        ("2g", Some(2 << 30)),
        (" 1.5 kib ", Some(1536)),
        ("7B", Some(7)),
        ("1TB", Some(1_000_000_000_000)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("99999999999TiB", None),
        ("1.5", None),
        ("1.5.5MB", None),
        ("-1", None),
        ("MB", None),
        ("1e3", None),
        ("lots", None),
        ("", None),
    ] {
        assert_eq!(size(text), bytes, "{text}");
    }
}

#[test]
fn a_context_is_one_process() {
    let config = Config {
        processes: 3,
        ..Config::default()
    };
    let error = crate::Context::new(config).unwrap_err().to_string();
    assert!(error.contains("asks for 3") && error.contains("distdl::run"), "{error}");
}
