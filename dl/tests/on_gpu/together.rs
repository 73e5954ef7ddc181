//! Several trainings on one GPU.

use distdl_dl::{Loss, TrainingOptions};
use distdl_engine::{Context, Placement};

use crate::fixtures::{FEATURES, SAMPLES, STEPS, begin, bytes, on_the_gpu, options, small, train_for, wide};
use crate::gpu::TestGpu;

const SAMPLE_BYTES: u64 = (SAMPLES * (FEATURES + 4)) as u64;

/// What a lane's samples take there, of which there are so many: memory comes in pieces.
fn room_of(samples: usize) -> u64 {
    let parts = [samples * FEATURES, samples * 4];
    parts.iter().map(|bytes| bytes.next_multiple_of(512) as u64).sum()
}

/// The second has what the first leaves, which is less than it wants, and all once the first has gone; with the same
/// bits.
#[test]
fn a_second_training_has_the_room_that_the_first_leaves() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let by_lanes = TrainingOptions {
        placement: Some(Placement {
            lanes: vec![0; 3],
            shards: vec![0],
        }),
        ..options()
    };
    let whole = TrainingOptions { lanes: 1, ..options() };
    // Of three lanes one of the two shorter has room beside the first training, of one none.
    for (options, all, left, left_bytes) in [
        (
            by_lanes,
            room_of(21) + 2 * room_of(10),
            room_of(10),
            10 * (FEATURES + 4),
        ),
        (whole, room_of(SAMPLES), room_of(SAMPLES) - 1, 0),
    ] {
        let expected = on_the_gpu(gpu.config(), &network, &bytes(), options.clone()).parameters;
        let other_gpu = gpu.take_memory_but(1, 0);
        let context = Context::new(gpu.config().with_gpu_memory_bytes_max(all + left)).unwrap();
        let begun = || begin(&context, &network, &bytes(), options.clone()).unwrap();
        let before = gpu.bytes();
        let mut first = begun();
        train_for(3, &mut first).unwrap();
        let needed = (gpu.bytes() - before) as u64;
        assert_eq!(first.gpu_figures().unwrap().sample_bytes, SAMPLE_BYTES);
        drop(first);

        // No byte more than both need, where lanes are alike.
        let needed_by_both = match left_bytes {
            0 => 2 * needed,
            left_bytes => 2 * needed - SAMPLE_BYTES + left_bytes as u64,
        };
        let this_gpu = gpu.take_memory_but(0, needed_by_both as usize);
        let mut both = [begun(), begun()];
        for _ in 0..STEPS / 3 {
            for training in &mut both {
                train_for(3, training).unwrap();
            }
        }
        let figures = both.each_ref().map(|training| training.gpu_figures().unwrap());
        assert_eq!(
            figures.each_ref().map(|figures| figures.sample_bytes),
            [SAMPLE_BYTES, left_bytes as u64]
        );
        assert_eq!(figures.each_ref().map(|figures| figures.lost), [0, 0]);
        let [first, mut second] = both;
        assert_eq!(first.parameters(), expected);
        assert_eq!(second.parameters(), expected);
        drop(first);
        let steps = second.gpu_figures().unwrap().graph_steps + second.gpu_figures().unwrap().eager_steps;
        train_for(2, &mut second).unwrap();
        let figures = second.gpu_figures().unwrap();
        assert_eq!(figures.sample_bytes, SAMPLE_BYTES);
        let resident_steps = if options.lanes == 1 { 2 } else { 0 };
        assert_eq!(figures.graph_steps + figures.eager_steps - steps, resident_steps);
        drop((second, context, this_gpu, other_gpu));
    }
    gpu.assert_nothing_is_left();
}

/// What a training has for its next steps it gives up for another that has no room for its own.
#[test]
fn trainings_that_take_turns_give_each_other_the_room_of_their_passes() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = wide();
    for options in [options(), TrainingOptions { lanes: 1, ..options() }] {
        let expected = on_the_gpu(gpu.config(), &network, &bytes(), options.clone()).parameters;
        let other_gpu = gpu.take_memory_but(1, 0);
        let context = Context::new(gpu.config()).unwrap();
        let begun = || begin(&context, &network, &bytes(), options.clone()).unwrap();
        let before = gpu.bytes();
        let mut first = begun();
        train_for(3, &mut first).unwrap();
        let needed = (gpu.bytes() - before) as u64;
        drop(first);

        // Samples of both stay, and there are passes of one at a time.
        let samples = if options.lanes == 1 {
            room_of(SAMPLES)
        } else {
            room_of(21) + 2 * room_of(10)
        };
        let this_gpu = gpu.take_memory_but(0, (needed + samples) as usize);
        let mut both = [begun(), begun()];
        for _ in 0..STEPS / 3 {
            for training in &mut both {
                train_for(3, training).unwrap();
            }
        }
        for training in both {
            let figures = training.gpu_figures().unwrap();
            assert_eq!((figures.lost, figures.sample_bytes), (0, SAMPLE_BYTES));
            assert_eq!(training.parameters(), expected);
        }
        drop((context, this_gpu, other_gpu));
    }
    gpu.assert_nothing_is_left();
}
