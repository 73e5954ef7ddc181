use distdl_dl::BatchReport;
use distdl_dl::kernels::element_loss::{self as of_elements, ElementLoss};
use distdl_dl::kernels::programs::Grid;
use distdl_dl::kernels::softmax_cross_entropy::{self as of_classes, Smoothed};

use super::{SHAPES, close, close_wide, labels, numbers, same};
use crate::runner::{Argument, Runner, change, count, kind, read, wide};

/// What a kernel gives for each row.
struct Rows {
    losses: Vec<f64>,
    correct: Vec<f64>,
}

impl Rows {
    fn new(rows: usize) -> Self {
        Self {
            losses: vec![f64::NAN; rows],
            correct: vec![f64::NAN; rows],
        }
    }

    fn check(&self, runner: &dyn Runner, what: &str, expected: &BatchReport) {
        let losses = self.losses.iter().sum();
        close_wide(runner, what, 1e-6, &[expected.loss_sum], &[losses]);
        let correct = self.correct.iter().sum::<f64>();
        assert_eq!(Some(correct), expected.correct.map(|correct| correct as f64), "{what}");
    }
}

pub(crate) fn softmax_cross_entropy(runner: &dyn Runner) {
    for (rows, classes) in SHAPES {
        // Whole numbers, so that some rows have several largest.
        let logits: Vec<f32> = numbers(rows * classes, 9.0, 1)
            .iter()
            .map(|logit| logit.round())
            .collect();
        let labels = labels(rows, classes);
        let (mut expected, mut got) = (vec![f32::NAN; logits.len()], vec![f32::NAN; logits.len()]);
        let report = of_classes::forward_backward(&logits, &labels, classes, &mut expected).unwrap();
        let mut of = Rows::new(rows);
        let mut arguments = [
            count(rows),
            count(classes),
            read(&logits),
            read(&labels),
            change(&mut got),
            change(&mut of.losses),
            change(&mut of.correct),
        ];
        runner.run("softmax_cross_entropy", Grid::of_rows(rows, classes), &mut arguments);
        close(runner, "gradient of cross-entropy", 1e-6, &expected, &got);
        of.check(runner, "cross-entropy", &report);
    }
}

pub(crate) fn weighted_cross_entropy(runner: &dyn Runner) {
    let shapes = SHAPES
        .into_iter()
        .flat_map(|shape| [(shape, 0.0), (shape, 0.3), (shape, 1.0)]);
    for ((rows, classes), label_smoothing) in shapes {
        let logits: Vec<f32> = numbers(rows * classes, 9.0, 1)
            .iter()
            .map(|logit| logit.round())
            .collect();
        let labels = labels(rows, classes);
        // Every third class does not count.
        let weights: Vec<f32> = (0..classes)
            .map(|class| (class % 3) as f32 * 0.7 + 0.1 * f32::from(class == 0))
            .collect();
        for class_weights in [&weights[..], &[]] {
            let of = Smoothed {
                class_weights,
                label_smoothing,
            };
            let (mut expected, mut got) = (vec![f32::NAN; logits.len()], vec![f32::NAN; logits.len()]);
            let report = of.forward_backward(&logits, &labels, classes, &mut expected).unwrap();
            let mut rows_of = Rows::new(rows);
            run_weighted(runner, &of, (&logits, &labels), &mut got, &mut rows_of);
            close(runner, "gradient of weighted cross-entropy", 1e-6, &expected, &got);
            rows_of.check(runner, "weighted cross-entropy", &report);
        }
    }
}

fn run_weighted(
    runner: &dyn Runner,
    of: &Smoothed<'_>,
    (logits, labels): (&[f32], &[u32]),
    gradient: &mut [f32],
    rows_of: &mut Rows,
) {
    let classes = logits.len().checked_div(labels.len()).unwrap_or(3);
    let smoothing = f64::from(of.label_smoothing);
    let all: f64 = match of.class_weights {
        [] => classes as f64,
        weights => weights.iter().map(|weight| f64::from(*weight)).sum(),
    };
    let class_weights = match of.class_weights {
        [] => Argument::Absent,
        weights => read(weights),
    };
    let mut arguments = [
        count(labels.len()),
        count(classes),
        wide(smoothing / classes as f64),
        wide(1.0 - smoothing),
        wide(all),
        class_weights,
        read(logits),
        read(labels),
        change(gradient),
        change(&mut rows_of.losses),
        change(&mut rows_of.correct),
    ];
    runner.run(
        "weighted_cross_entropy",
        Grid::of_rows(labels.len(), classes),
        &mut arguments,
    );
}

/// Logits of a class that does not count may be infinite, but not too large; a label that is no class, or what is not a
/// number, is no loss.
pub(crate) fn ends_of_weighted_cross_entropy(runner: &dyn Runner) {
    let of = Smoothed {
        class_weights: &[1.0, 0.0, 2.0],
        label_smoothing: 0.1,
    };
    let (least, most) = (f32::NEG_INFINITY, f32::INFINITY);
    let logits = [1.0, least, 2.0, 1.0, 3.0, 2.0, f32::NAN, 1.0, 2.0, 1.0, most, 0.0];
    let labels = [0, 1, 2, 2];
    let (mut expected, mut got) = ([f32::NAN; 12], [f32::NAN; 12]);
    let report = of.forward_backward(&logits, &labels, 3, &mut expected).unwrap();
    let mut rows_of = Rows::new(4);
    run_weighted(runner, &of, (&logits, &labels), &mut got, &mut rows_of);
    close(runner, "gradient at the ends", 1e-6, &expected, &got);
    rows_of.check(runner, "the ends", &report);
    assert!(rows_of.losses[..2].iter().all(|loss| loss.is_finite()));
    run_weighted(runner, &of, (&[1.0; 6], &[3, 0]), &mut [0.0; 6], &mut rows_of);
    assert!(rows_of.losses[0].is_nan() && rows_of.losses[1].is_finite() && rows_of.correct[0] == 0.0);
}

pub(crate) fn a_label_that_is_no_class(runner: &dyn Runner) {
    let (logits, mut gradient, mut of) = (numbers(6, 1.0, 2), [0.0_f32; 6], Rows::new(2));
    let mut arguments = [
        count(2),
        count(3),
        read(&logits),
        read(&[3_u32, 0]),
        change(&mut gradient),
        change(&mut of.losses),
        change(&mut of.correct),
    ];
    runner.run("softmax_cross_entropy", Grid::of_rows(2, 3), &mut arguments);
    assert!(of.losses[0].is_nan() && of.losses[1].is_finite(), "{:?}", of.losses);
}

pub(crate) fn element_loss(runner: &dyn Runner) {
    for (loss, (rows, columns)) in ElementLoss::ALL
        .into_iter()
        .flat_map(|loss| SHAPES.map(|shape| (loss, shape)))
    {
        let (outputs, targets) = (numbers(rows * columns, 9.0, 3), numbers(rows * columns, 1.0, 4));
        let (mut expected, mut got) = (vec![f32::NAN; outputs.len()], vec![f32::NAN; outputs.len()]);
        let report = of_elements::forward_backward(loss, &outputs, &targets, columns, &mut expected).unwrap();
        let mut losses = vec![f64::NAN; rows];
        let mut arguments = [
            kind(loss as u32),
            count(rows),
            count(columns),
            read(&outputs),
            read(&targets),
            change(&mut got),
            change(&mut losses),
        ];
        runner.run("element_loss", Grid::of_rows(rows, columns), &mut arguments);
        same(runner, &format!("gradient of {loss:?}"), &expected, &got);
        close_wide(
            runner,
            &format!("{loss:?}"),
            1e-12,
            &[report.loss_sum],
            &[losses.iter().sum()],
        );
    }
}

pub(crate) fn element_loss_labels(runner: &dyn Runner) {
    for (loss, (rows, columns)) in ElementLoss::ALL
        .into_iter()
        .flat_map(|loss| SHAPES.map(|shape| (loss, shape)))
    {
        let outputs: Vec<f32> = numbers(rows * columns, 9.0, 5)
            .iter()
            .map(|output| output.round())
            .collect();
        let labels = labels(rows, columns);
        let (mut expected, mut got) = (vec![f32::NAN; outputs.len()], vec![f32::NAN; outputs.len()]);
        let report = of_elements::forward_backward_labels(loss, &outputs, &labels, columns, &mut expected).unwrap();
        let mut of = Rows::new(rows);
        let mut arguments = [
            kind(loss as u32),
            count(rows),
            count(columns),
            read(&outputs),
            read(&labels),
            change(&mut got),
            change(&mut of.losses),
            change(&mut of.correct),
        ];
        runner.run("element_loss_labels", Grid::of_rows(rows, columns), &mut arguments);
        same(runner, &format!("gradient of {loss:?} by labels"), &expected, &got);
        of.check(runner, &format!("{loss:?} by labels"), &report);
    }
}
