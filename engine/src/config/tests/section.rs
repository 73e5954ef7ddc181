//! The section of a file.

use super::*;

#[test]
fn the_section_takes_one_line_or_several_and_yields_to_what_is_above_it() {
    let file = file("device.gpu = \"on\"\ndevice.precision = \"tf32\"\n");
    let named = Flags {
        config: Some(file.path().to_owned()),
        ..Flags::default()
    };
    let config = Config::from_layers(None, variables(&[("DISTDL_PRECISION", "f32")]), &named).unwrap();
    assert_eq!((config.gpu, config.precision), (GpuUse::On, Precision::F32));
    let passed_on = named.variables().unwrap();
    assert!(passed_on.contains(&("DISTDL_GPU".into(), "on".into())), "{passed_on:?}");
}
