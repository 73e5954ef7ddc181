//! LAMB, which looks at all parameters of a tensor.

use distdl_dl::{Lamb, Optimizer};
use distdl_engine::Parameters;

use super::{COUNT, RATE, SCALE, gradient_sum, steps};

/// Algorithm 2 of the paper, for all parameters as one tensor.
fn lamb(step: f64, gradients: &[f64], parameters: &mut [f64], state: &mut [[f64; 2]]) {
    let directions = parameters.iter().zip(gradients).zip(state.iter_mut());
    let directions = directions.map(|((parameter, gradient), [mean, square])| {
        *mean = 0.8 * *mean + 0.2 * gradient;
        *square = 0.99 * *square + 0.01 * gradient * gradient;
        let mean = *mean / (1.0 - 0.8f64.powf(step + 1.0));
        let square = *square / (1.0 - 0.99f64.powf(step + 1.0));
        mean / (square.sqrt() + 1e-6) + 0.03 * parameter
    });
    let directions: Vec<f64> = directions.collect();
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let rate = f64::from(RATE) * norm(parameters) / norm(&directions);
    parameters
        .iter_mut()
        .zip(directions)
        .for_each(|(parameter, direction)| *parameter -= rate * direction);
}

pub(crate) fn some_lamb() -> Lamb {
    Lamb {
        betas: (0.8, 0.99),
        weight_decay: 0.03,
        ..Lamb::default()
    }
}

#[test]
fn fifty_steps_of_lamb_follow_its_paper_in_f64() {
    let got = steps(&some_lamb(), &[20, 90]);
    let mut parameters: Vec<f64> = (0..COUNT)
        .map(|index| f64::from((index as f32 * 0.37).sin() * 3.0))
        .collect();
    let mut state = [[0.0; 2]; COUNT];
    for (step, got) in got.iter().enumerate() {
        let gradients = parameters.iter().enumerate().map(|(index, parameter)| {
            f64::from(gradient_sum(step as u64, index, *parameter as f32)) * f64::from(SCALE)
        });
        lamb(
            step as f64,
            &gradients.collect::<Vec<f64>>(),
            &mut parameters,
            &mut state,
        );
        for (got, parameter) in got.iter().zip(&parameters) {
            assert!(
                (f64::from(*got) - parameter).abs() < 1e-4,
                "step {step}: {got} but {parameter}"
            );
        }
    }
    assert!(
        (parameters[7] - f64::from((7.0 * 0.37_f32).sin() * 3.0)).abs() > 0.1,
        "nothing was tested"
    );
}

#[test]
fn a_tensor_of_zeros_moves_as_far_as_the_rate_says() {
    let parameters = Parameters::with_state(vec![0.0; 4], 2).unwrap();
    let mut claimed = parameters.claim(1, 0..4).unwrap();
    let mut values = claimed.values();
    values.totals = &[0.0, 4.0];
    some_lamb().apply(0, RATE, SCALE, &[1.0; 4], &mut values).unwrap();
    for value in values.after.iter() {
        assert!((value + RATE).abs() < 1e-6, "{value}");
    }
}

/// As one of which no value had a part in the loss.
#[test]
fn a_tensor_without_a_direction_stays_where_it_is() {
    let parameters = Parameters::with_state(vec![2.0; 4], 2).unwrap();
    let mut claimed = parameters.claim(1, 0..4).unwrap();
    let mut values = claimed.values();
    values.totals = &[16.0, 0.0];
    let without_decay = some_lamb().without_decay().unwrap();
    without_decay.apply(0, RATE, SCALE, &[0.0; 4], &mut values).unwrap();
    assert_eq!(values.after[..], [2.0; 4]);
}
