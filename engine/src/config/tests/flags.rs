//! Flags of the command line.

use clap::CommandFactory;

use super::*;

#[test]
fn flags_are_read_and_explained() {
    let given = flags(&[
        "--config",
        "f",
        "--threads",
        "2",
        "--memory",
        "2GiB",
        "--cache=c",
        "--seed",
        "9",
        "--progress",
        "off",
        "--json",
        "--processes=4",
        "--parameter-workers=1",
        "--spares=2",
        "--events=e",
        "--chaos=kill=name@step:1",
        "--chaos=cut=1-2@step:1,cut=1-3@step:1",
        "--lease=60",
        "--restarts=3",
        "--grace=70",
        "--parameter-copies=1",
        "--speculate-after=80",
        "--cut-lineage-every=30",
        "--gpu=on",
        "--cudnn",
        "--cuda-libraries=l",
        "--gpu-processes=0",
        "--gpu-memory=3MB",
        "--precision=tf32",
    ]);
    let expected = Flags {
        config: Some("f".into()),
        threads: Some(2),
        memory: Some(2 << 30),
        cache: Some("c".into()),
        cut_lineage_every: Some(30),
        seed: Some(9),
        progress: Some(Progress::Off),
        json: Some(true),
        processes: Some(4),
        parameter_workers: Some(1),
        spares: Some(2),
        events: Some("e".into()),
        chaos: vec!["kill=name@step:1".into(), "cut=1-2@step:1,cut=1-3@step:1".into()],
        lease: Some(Duration::from_millis(60)),
        restarts: Some(3),
        grace: Some(Duration::from_millis(70)),
        parameter_copies: Some(1),
        speculate_after: Some(Duration::from_millis(80)),
        gpu: Some(GpuUse::On),
        cudnn: Some(true),
        cuda_libraries: Some("l".into()),
        gpu_processes: Some(0),
        gpu_memory: Some(3_000_000),
        precision: Some(Precision::Tf32),
    };
    assert_eq!(given, expected);
    let all = Flags {
        config: None,
        ..given.clone()
    };
    let config = Config::from_layers(None, [], &all).unwrap();
    let chaos = "kill=name@step:1,cut=1-2@step:1,cut=1-3@step:1";
    assert_eq!(config.chaos.as_deref(), Some(chaos));
    let passed_on = Config::from_layers(None, all.variables().unwrap(), &Flags::default()).unwrap();
    assert_eq!(passed_on, config);
    let json = Config::from_layers(None, variables(&[("DISTDL_JSON", "true")]), &flags(&["--json=false"])).unwrap();
    assert!(!json.json);
    for (argument, words) in [
        ("--threads=0", "a whole number from 1 to 1024"),
        ("--memory=lots", "512MB"),
        ("--cache=", "path of a folder"),
        ("--seed=-1", "a whole number"),
        ("--cut-lineage-every=0", "a whole number from 1"),
        ("--progress=maybe", "auto, on, off"),
        ("--thread=1", "--threads"),
        ("--processes=257", "a whole number from 1 to 256"),
        ("--lease=49", "milliseconds from 50"),
        ("--parameter-copies=3", "1 or 2"),
        ("--join=x", "--json"),
        ("--gpu=yes", "auto, on, off"),
        ("--cuda-libraries=", "path of a folder"),
        ("--precision=f16", "f32, tf32, bf16"),
        ("--chaos=", "kill=worker:1@step:37"),
    ] {
        let error = Program::try_parse_from(["program", argument])
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{argument}: {error}");
    }
    Program::command().debug_assert();
    let help = Program::command().render_help().to_string();
    for flag in [
        "--config",
        "--threads",
        "--memory",
        "--seed",
        "--progress",
        "--json",
        "--processes",
        "--chaos",
    ] {
        assert!(help.contains(flag), "{help}");
    }
    assert!(!help.to_lowercase().contains("join"), "{help}");
}

#[test]
fn the_documentation_has_a_row_for_each_key_with_its_flag() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let command = Program::command();
    let names: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let row = |key: &str| {
        let cell = format!("| `{key}` | ");
        text.lines()
            .find_map(|line| line.strip_prefix(&cell))
            .unwrap_or_else(|| panic!("docs/configuration.md has no row for `{key}`"))
    };
    for key in super::layers::KEYS {
        let name = super::layers::without_section(key).replace('_', "-");
        let flag = row(key).split('|').next().unwrap().trim();
        match names.contains(&name.as_str()) {
            true => assert!(
                flag.starts_with(&format!("`--{name}")),
                "the row of `{key}` lacks its flag"
            ),
            false => assert_eq!(flag, "", "`{key}` has no flag"),
        }
    }
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 5);
    assert_eq!(rows.count(), super::layers::KEYS.len(), "rows of other than the keys");
}
