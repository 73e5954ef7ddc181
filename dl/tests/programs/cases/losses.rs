use distdl_dl::BatchReport;
use distdl_dl::kernels::element_loss::{self as of_elements, ElementLoss};
use distdl_dl::kernels::programs::Grid;
use distdl_dl::kernels::softmax_cross_entropy as of_classes;

use super::{SHAPES, close, close_wide, labels, numbers, same};
use crate::runner::{Runner, change, count, kind, read};

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
