//! The best models are shown a training, and its checkpoints hold them.

use super::Training;
use crate::best::BestModels;
use crate::error::Result;

impl BestModels {
    /// Shows a training and the value of its model, less for a better one: a [mean
    /// loss](crate::BatchReport::mean_loss), or 1 less the [accuracy](crate::BatchReport::accuracy), of which there is
    /// none where targets are values. What is not finite is worse than any number, and not kept. Checkpoints of the
    /// training hold this from now on, one of several that is shown last. One that was written before this very step is
    /// replaced by one that holds it.
    ///
    /// ```
    /// # use distdl_dl::{BestModels, Features, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
    /// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
    /// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// # let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// # let mut training = network.train(&data, TrainingOptions::default())?;
    /// let mut best = BestModels::new(1).with_patience(2);
    /// best.show(0.5, &mut training)?;
    /// best.show(f64::NAN, &mut training)?; // worse than any number
    /// assert!(best.goes_on());
    /// best.show(0.5, &mut training)?; // no better
    /// assert!(!best.goes_on());
    /// assert_eq!(best.models()[0].value, 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the least change is not finite, or the value is and a parameter is not; if the checkpoint cannot be written;
    /// in a program of several processes also once [`iterate`](Training::iterate) has failed. Then it counts as not
    /// shown, and may be shown again.
    pub fn show(&mut self, value: f64, training: &mut Training) -> Result<()> {
        training.check_unity()?;
        self.check()?;
        if value.is_finite() {
            training.check_parameters()?;
        }
        if training.checkpoints.is_none() {
            self.note(value, training.step(), || training.parameters());
            return Ok(());
        }
        let mut shown = self.clone();
        shown.note(value, training.step(), || training.parameters());
        let before = training.best.replace(shown.clone());
        if let Err(error) = training.write_checkpoint_anew() {
            training.best = before;
            return Err(error);
        }
        *self = shown;
        Ok(())
    }

    /// For programs that show the model of each epoch: whether the training is at the end of an epoch whose model this
    /// was not shown, since a program was stopped behind the checkpoint of that epoch, before it had
    /// [shown](Self::show) it. Then it is to be shown before the next epoch begins, and also behind the last one, so
    /// that what comes out is what would have come out without the stop. Programs of another rhythm look at what they
    /// were [shown last](Self::shown_at).
    pub fn is_due(&self, training: &Training) -> bool {
        training.is_at_end_of_epoch() && self.shown_at() != Some(training.step())
    }

    /// Goes on as the checkpoint says that the training has gone on from: with the models that it holds, and as many
    /// shown in vain. How many are kept, and when there were too many in vain, is as it is here. Without such a
    /// checkpoint, or if it is from before anything was shown, this begins anew.
    #[must_use]
    pub fn resumed(self, training: &Training) -> Self {
        match &training.best {
            Some(best) => self.going_on_as(best),
            None => self,
        }
    }
}
