use distdl_dl::kernels::programs::Grid;
use distdl_dl::{Adagrad, Adam, AdamW, Lamb, Optimizer, RmsProp, Sgd};
use distdl_engine::{Parameters, ShardBefore, SquareSum};

use super::{numbers, same};
use crate::runner::Argument::{self, Absent};
use crate::runner::{Runner, change, count, kind, number, read};

const RATE: f32 = 0.03;
const SCALE: f32 = 1.0 / 7.0;
const SIZES: [usize; 5] = [0, 1, 63, 257, 70_001];

/// Parameters and the slots of their state.
struct Values(Vec<Vec<f32>>);

impl Values {
    /// State is never negative where it is a mean of squares.
    fn new(size: usize, slots: usize) -> Self {
        let slot = |slot| numbers(size, 1.0, slot).iter().map(|value| value.abs()).collect();
        let parameters = std::iter::once(numbers(size, 1.0, 100));
        Self(parameters.chain((0..slots as u32).map(slot)).collect())
    }

    /// After a step on the CPU.
    fn stepped(&self, optimizer: &dyn Optimizer, step: u64, scale: f32, gradient: &[f32]) -> Self {
        let (values, slots) = self.0.split_first().unwrap();
        if values.is_empty() {
            return Self(self.0.clone());
        }
        let parameters = Parameters::with_state(values.clone(), slots.len()).unwrap();
        for (slot, state) in slots.iter().enumerate() {
            parameters.install_state(0, slot, 0, state).unwrap();
        }
        let before = ShardBefore {
            values,
            state: slots.iter().map(Vec::as_slice).collect(),
            totals: &[],
        };
        let mut measures = vec![SquareSum::default(); optimizer.measures()];
        optimizer
            .measure(step, scale, gradient, &before, &mut measures)
            .unwrap();
        let totals: Vec<f64> = measures.iter().map(SquareSum::value).collect();
        let mut next = parameters.claim(1, 0..values.len()).unwrap();
        let mut shard = next.values();
        shard.totals = &totals;
        optimizer.apply(step, RATE, scale, gradient, &mut shard).unwrap();
        assert!(next.finish_with_state());
        let after = parameters.read(1).unwrap();
        let state = (0..slots.len()).map(|slot| after.state(slot).unwrap().to_vec());
        Self(std::iter::once(after.to_vec()).chain(state).collect())
    }
}

/// Compares a step of `optimizer` with a kernel that is given numbers, the gradient, the parameters and the slots that
/// `places` name, of which some may be absent.
fn check(
    runner: &dyn Runner,
    optimizer: &dyn Optimizer,
    step: u64,
    kernel: &str,
    numbers_of: &[Argument<'static>],
    places: &[bool],
) {
    for (size, limit) in SIZES.into_iter().flat_map(|size| [(size, None), (size, Some(0.37))]) {
        let gradient = numbers(size, 2.0, 50);
        let mut values = Values::new(size, optimizer.state_slots());
        let scale = limit.map_or(SCALE, |limit| SCALE * limit);
        let expected = values.stepped(optimizer, step, scale, &gradient);
        let mut arguments = vec![count(size)];
        arguments.extend(numbers_of.iter().map(|argument| match argument {
            Argument::Kind(value) => kind(*value),
            Argument::Number(value) => number(*value),
            _ => unreachable!("numbers and kinds"),
        }));
        arguments.push(read(&gradient));
        let (parameters, slots) = values.0.split_first_mut().unwrap();
        arguments.push(change(parameters));
        let mut slots = slots.iter_mut();
        arguments.extend(places.iter().map(|is_there| match is_there {
            true => change(slots.next().unwrap()),
            false => Absent,
        }));
        assert!(slots.next().is_none(), "a slot for which there is no place");
        let limit = limit.as_slice();
        arguments.push(if limit.is_empty() { Absent } else { read(limit) });
        runner.run(kernel, Grid::of_elements(size), &mut arguments);
        for (expected, got) in expected.0.iter().zip(&values.0) {
            same(runner, &format!("{optimizer:?}"), expected, got);
        }
    }
}

pub(crate) fn sgd(runner: &dyn Runner) {
    let plain = [RATE, SCALE].map(number);
    check(runner, &Sgd::default(), 3, "update_plain", &plain, &[]);
    for (momentum, dampening, weight_decay, nesterov) in [
        (0.9, 0.0, 0.0, false),
        (0.9, 0.0, 0.1, true),
        (0.7, 0.2, 0.1, false),
        (0.0, 0.0, 0.1, false),
    ] {
        let sgd = Sgd {
            momentum,
            dampening,
            weight_decay,
            nesterov,
        };
        let options = [
            number(RATE),
            number(SCALE),
            number(weight_decay as f32),
            number(momentum as f32),
            number((1.0 - dampening) as f32),
            kind(nesterov.into()),
        ];
        check(runner, &sgd, 3, "update_momentum", &options, &[momentum > 0.0]);
    }
}

pub(crate) fn adam(runner: &dyn Runner) {
    for (is_decoupled, amsgrad) in [(false, false), (false, true), (true, false), (true, true)] {
        let ((mean, square), eps, decay) = ((0.9_f64, 0.999_f64), 1e-8, 0.05);
        let betas = (mean, square);
        let [adam, adam_w]: [Box<dyn Optimizer>; 2] = [
            Box::new(Adam {
                betas,
                eps,
                weight_decay: decay,
                amsgrad,
            }),
            Box::new(AdamW {
                betas,
                eps,
                weight_decay: decay,
                amsgrad,
            }),
        ];
        // The third step. Powers are those of the optimizer, which squares.
        let power = |base: f64| base * (base * base);
        let (weight_decay, shrink) = match is_decoupled {
            true => (0.0, (1.0 - f64::from(RATE) * decay) as f32),
            false => (decay as f32, 1.0),
        };
        let options = [
            (f64::from(RATE) / (1.0 - power(mean))) as f32,
            SCALE,
            weight_decay,
            shrink,
            (1.0 - mean) as f32,
            square as f32,
            (1.0 - square) as f32,
            (1.0 - power(square)).sqrt() as f32,
            eps as f32,
        ];
        let optimizer = if is_decoupled { &adam_w } else { &adam };
        let places = [true, true, amsgrad];
        check(runner, &**optimizer, 2, "update_adam", &options.map(number), &places);
    }
}

pub(crate) fn rms_prop(runner: &dyn Runner) {
    for (centered, momentum) in [(false, 0.0), (false, 0.9), (true, 0.0), (true, 0.9)] {
        let rms_prop = RmsProp {
            weight_decay: 0.1,
            momentum,
            centered,
            ..RmsProp::default()
        };
        let (kept, epsilon) = (rms_prop.alpha, rms_prop.eps);
        let options = [
            RATE,
            SCALE,
            0.1,
            kept as f32,
            (1.0 - kept) as f32,
            epsilon as f32,
            momentum as f32,
        ];
        let places = [true, centered, momentum > 0.0];
        check(runner, &rms_prop, 2, "update_rms_prop", &options.map(number), &places);
    }
}

pub(crate) fn adagrad(runner: &dyn Runner) {
    for (step, begin) in [(0, 0.3), (2, 0.0)] {
        let adagrad = Adagrad {
            lr_decay: 0.1,
            weight_decay: 0.1,
            initial_accumulator_value: 0.3,
            ..Adagrad::default()
        };
        let rate = (f64::from(RATE) / (1.0 + step as f64 * adagrad.lr_decay)) as f32;
        let options = [rate, SCALE, 0.1, begin, adagrad.eps as f32];
        check(runner, &adagrad, step, "update_adagrad", &options.map(number), &[true]);
    }
}

/// What the kernels make of a gradient that is measured between them.
pub(crate) fn lamb(runner: &dyn Runner) {
    let lamb = Lamb::default();
    let power = |base: f64| base * (base * base);
    let (mean, square) = lamb.betas;
    let options = [
        SCALE,
        lamb.weight_decay as f32,
        (1.0 - mean) as f32,
        square as f32,
        (1.0 - square) as f32,
        (1.0 - power(mean)) as f32,
        (1.0 - power(square)).sqrt() as f32,
        lamb.eps as f32,
    ];
    for (size, limit) in [(1, 1.0), (257, 1.0), (70_001, 0.37_f32)] {
        let gradient = numbers(size, 2.0, 50);
        let mut values = Values::new(size, 2);
        let expected = values.stepped(&lamb, 2, SCALE * limit, &gradient);
        let mut direction = gradient.clone();
        let [parameters, means, squares] = &mut values.0[..] else {
            unreachable!("parameters and two slots")
        };
        let mut arguments = vec![count(size)];
        arguments.extend(options.map(number));
        arguments.extend([change(&mut direction), read(parameters), change(means), change(squares)]);
        let limit = [limit];
        arguments.push(read(&limit));
        runner.run("update_lamb_direction", Grid::of_elements(size), &mut arguments);
        let totals = [&parameters[..], &direction].map(|values| {
            let mut total = SquareSum::default();
            total.add(values);
            [total.value()]
        });
        let mut arguments = [
            count(size),
            number(RATE),
            read(&direction),
            change(parameters),
            read(&totals[0]),
            read(&totals[1]),
        ];
        runner.run("update_lamb", Grid::of_elements(size), &mut arguments);
        for (expected, got) in expected.0.iter().zip(&values.0) {
            same(runner, &format!("{lamb:?}"), expected, got);
        }
    }
}

pub(crate) fn statistics(runner: &dyn Runner) {
    for size in SIZES {
        let (sums, before) = (numbers(size, 2.0, 50), numbers(size, 1.0, 100));
        let pairs = before.iter().zip(&sums);
        let expected: Vec<f32> = pairs
            .map(|(before, sum)| before + 0.1 * (sum * SCALE - before))
            .collect();
        let mut got = before.clone();
        let mut given = [count(size), number(SCALE), number(0.1), read(&sums), change(&mut got)];
        runner.run("update_statistics", Grid::of_elements(size), &mut given);
        same(runner, "update_statistics", &expected, &got);
    }
}
