//! Blocks that a shortcut goes round.

use distdl_dl::{Conv2d, Dense, Flatten, Image, Input, Loss, MaxPool2d, NeuralNetwork};

const IMAGE: Image = Image {
    channels: 2,
    height: 6,
    width: 5,
};

#[test]
fn a_block_adds_what_it_makes_to_what_it_was_given() {
    let parameters = [2.0, 3.0, 0.25, 5.0, 0.5, 1.0, 0.0];
    let predict = |network: distdl_dl::Result<NeuralNetwork>, input: f32| {
        let (network, one) = (network.unwrap(), [input]);
        let parameters = &parameters[..network.parameter_count()];
        network
            .predict_batch(parameters, &one, 1, &mut network.workspace(1))
            .unwrap()[0]
    };
    let dense = || Dense::linear(1);
    let network = || NeuralNetwork::new(Input(1));
    let identity = network().residual(|block| block.hidden(dense()));
    let expected = 10.0 + (2.0 * 10.0 + 3.0);
    assert_eq!(predict(identity.output(Flatten, Loss::L1), 10.0), expected);
    // Its layers are numbered as they are written; the shortcut's comes behind them.
    let through = network().residual_with(dense(), |block| block.hidden(dense()));
    let expected = (2.0 * 10.0 + 3.0) + (0.25 * 10.0 + 5.0);
    assert_eq!(predict(through.output(Flatten, Loss::L1), 10.0), expected);
    let nested = network().residual(|block| block.residual(|inner| inner.hidden(dense())).hidden(dense()));
    let inner = 10.0 + (2.0 * 10.0 + 3.0);
    assert_eq!(
        predict(nested.output(Flatten, Loss::L1), 10.0),
        10.0 + (0.25 * inner + 5.0)
    );
}

#[test]
fn a_block_that_does_not_fit_its_shortcut_is_an_error() {
    let refusal = |builder: distdl_dl::NetworkBuilder| {
        let made = builder.output(Dense::linear(2), Loss::L1);
        made.unwrap_err().to_string()
    };
    let network = || NeuralNetwork::new(IMAGE).hidden(Conv2d::new(3, 1));
    let wider = network().residual(|block| block.hidden(Conv2d::new(4, 1)));
    assert!(
        refusal(wider)
            .contains("layer 2 (sum): expected a block and a shortcut that end in one shape, here 3x6x5, got 4x6x5")
    );
    let flat = network().residual_with(Dense::linear(9), |block| block.hidden(Flatten));
    let message = refusal(flat);
    assert!(
        message.contains("layer 3 (sum)") && message.contains("got 9"),
        "{message}"
    );
    let within = network().residual(|block| block.hidden(Flatten).hidden(MaxPool2d::new(2)));
    assert!(refusal(within).contains("layer 2 (max_pool_2d): expected an image"));
    let empty = network().residual(|block| block);
    let message = refusal(empty);
    assert!(
        message.contains("layer 1 (block): expected a layer at least, got none"),
        "{message}"
    );
    let other = network().residual(|_| NeuralNetwork::new(IMAGE).hidden(Flatten));
    let message = refusal(other);
    assert!(
        message.contains("layer 1 (block)") && message.contains("got another builder"),
        "{message}"
    );
    let before = NeuralNetwork::new(IMAGE)
        .hidden(MaxPool2d::new(9))
        .residual(|block| block);
    assert!(refusal(before).contains("layer 0 (max_pool_2d)"));
}
