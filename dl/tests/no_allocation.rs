//! A training step allocates nothing. In a process of its own, for its counting allocator.
#![allow(unsafe_code)] // an allocator is unsafe to write
#![allow(clippy::unwrap_used, clippy::expect_used)]

use distdl_dl::{
    Activate, Activation, Adam, AdamW, AvgPool2d, Batch, BatchNorm, Conv2d, Dense, Dropout, Embedding, Features,
    Flatten, Gelu, Image, Input, LayerNorm, Loss, MaxPool2d, NeuralNetwork, Optimizer, SampleTargets, Samples, shuffle,
};
use distdl_engine::Parameters;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter is thread-local and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of_steps(
    network: &NeuralNetwork,
    optimizer: &dyn Optimizer,
    samples: &Samples,
    warm_up: usize,
) -> usize {
    let parameters = Parameters::with_state(network.initialize(1).unwrap(), optimizer.state_slots()).unwrap();
    let mut gradient = vec![0.0; parameters.len()];
    let mut workspace = network.workspace(128);
    let mut batch = Batch::new(samples, 128);
    let order = shuffle(1, 0, 0, samples.len() as u32);
    let mut before = 0;
    for (step, rows) in [128, 128, 64, 100, 1, 128].into_iter().enumerate() {
        if step == warm_up {
            before = ALLOCATIONS.get();
        }
        batch.gather(&[samples], order[..rows].iter().copied()).unwrap();
        network
            .gradient(
                &parameters.read(step as u64).unwrap(),
                batch.features(),
                batch.targets(),
                rows,
                &mut workspace,
                &mut gradient,
            )
            .unwrap();
        let mut claimed = parameters.claim(step as u64 + 1, 0..gradient.len()).unwrap();
        optimizer
            .apply(0, 0.1, 1.0 / rows as f32, &gradient, &mut claimed.values())
            .unwrap();
        assert!(claimed.finish());
    }
    ALLOCATIONS.get() - before
}

/// Allocations of a batch of 100 rows in pieces of 32, as many times as are seen, one count each.
fn allocations_in_pieces(network: &NeuralNetwork, samples: &Samples) -> [usize; 3] {
    let parameters = network.initialize(1).unwrap();
    let (mut workspace, mut batch) = (network.workspace(32), Batch::new(samples, 32));
    let mut gradient = vec![0.0; parameters.len()];
    let order = shuffle(1, 0, 0, 100);
    [0; 3].map(|_| {
        let before = ALLOCATIONS.get();
        gradient.fill(0.0);
        for piece in order.chunks(32) {
            batch.gather(&[samples], piece.iter().copied()).unwrap();
            let (inputs, targets, rows) = (batch.features(), batch.targets(), batch.rows());
            network
                .add_gradient(&parameters, inputs, targets, rows, &mut workspace, &mut gradient)
                .unwrap();
        }
        ALLOCATIONS.get() - before
    })
}

#[test]
fn a_step_allocates_nothing() {
    let bytes = (0..200 * 784).map(|index| (index % 251) as u8).collect();
    let labels = (0..200).map(|row| row % 10).collect();
    let features = Features::U8 {
        bytes,
        scale: 1.0 / 255.0,
    };
    let samples = Samples::new(784, features, SampleTargets::Labels(labels)).unwrap();
    for activation in [
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softmax,
    ] {
        for loss in [Loss::SoftmaxCrossEntropy, Loss::MeanSquaredError] {
            let network = NeuralNetwork::new(Input(784))
                .hidden(Dense::new(256, activation))
                .hidden(Dense::new(128, activation))
                .output(Dense::linear(10), loss)
                .unwrap();
            assert_eq!(
                allocations_of_steps(&network, &Adam::default(), &samples, 1),
                0,
                "{network}"
            );
        }
    }

    let network = NeuralNetwork::new(Image {
        channels: 1,
        height: 28,
        width: 28,
    })
    .hidden(Conv2d::new(4, 5).with_activation(Activation::LeakyRelu))
    .hidden(BatchNorm::default())
    .hidden(MaxPool2d::new(2))
    .hidden(Conv2d::new(3, 3).with_stride(2).with_padding(1))
    .residual(|block| block.hidden(Conv2d::new(3, 1)))
    .hidden(AvgPool2d::new(2))
    .hidden(Flatten)
    .hidden(Dropout::new(0.5))
    .hidden(Dense::relu(12).with_connections(|input, output| input % 12 >= output))
    .hidden(LayerNorm::default())
    .hidden(Gelu)
    .hidden(Activate(Activation::Softplus))
    .output(Dense::linear(10), Loss::BinaryCrossEntropyWithLogits)
    .unwrap();
    assert_eq!(
        allocations_of_steps(&network, &AdamW::default(), &samples, 1),
        0,
        "{network}"
    );

    let words = NeuralNetwork::new(Input(784))
        .hidden(Embedding::new(251, 2))
        .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let bytes = (0..200 * 784).map(|index| (index % 251) as u8).collect();
    let labels = SampleTargets::Labels((0..200).map(|row| row % 10).collect());
    let indices = Samples::new(784, Features::U8 { bytes, scale: 1.0 }, labels).unwrap();
    assert_eq!(
        allocations_of_steps(&words, &Adam::default(), &indices, 1),
        0,
        "{words}"
    );

    let [first, later @ ..] = allocations_in_pieces(&network, &samples);
    assert!(first > 0, "the first piece makes the buffer that the others use");
    assert_eq!(later, [0, 0], "{network}");
}
