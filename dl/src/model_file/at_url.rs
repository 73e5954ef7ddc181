//! The same files at URLs, through the stores of a context.

use bytes::Bytes;
use distdl_engine::Context;
use distdl_storage::object::ObjectError;

use super::{Difference, bytes_max, check_bytes, deserialize, serialize};
use crate::error::{Result, check_length};
use crate::network::NeuralNetwork;

impl NeuralNetwork {
    /// Writes all parameters to a safetensors file at a URL such as `s3://bucket/digits.safetensors`,
    /// `file:///models/digits.safetensors` or a plain path: what [`save`](Self::save) writes, whole or not at all, in
    /// place of what was there. The folders that lead to it are made.
    ///
    /// One process writes for all, another one if that dies meanwhile, so all must see the place. One that was taken
    /// for lost while it wrote may wake, and write that again: give models of different steps different names.
    ///
    /// ```
    /// use distdl_dl::NeuralNetwork;
    /// # let context = distdl_engine::Context::new(distdl_engine::Config::default())?;
    ///
    /// let network = NeuralNetwork::dense(784, &[256, 128], 10)?;
    /// let parameters = network.initialize(7)?;
    /// network.save_to(&context, "memory://digits.safetensors", &parameters)?; // or a bucket
    /// assert_eq!(network.load_from(&context, "memory://digits.safetensors")?, parameters);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are not as many parameters as the network has, they are more than `read_size` lets a process read back,
    /// or the place cannot be written; what was there before is then untouched.
    pub fn save_to(&self, context: &Context, url: &str, parameters: &[f32]) -> Result<()> {
        check_length("the parameters", self.parameter_count(), parameters.len())?;
        let bytes = serialize(self.parameter_layout(), parameters)
            .map_err(|problem| Difference::of(problem).in_file(url.as_ref()))?;
        let (bytes, stores, url) = (Bytes::from(bytes), context.stores().clone(), url.to_owned());
        context.range(0..1, 1).run_partitions(move |_, _| {
            let (length, bytes_max) = (bytes.len() as u64, stores.options().read_bytes_max);
            if length > bytes_max {
                let (url, bytes) = (url.clone(), length);
                let error = ObjectError::TooLargeToKeep { url, bytes, bytes_max };
                return Err(distdl_storage::StorageError::from(error).into());
            }
            Ok(stores.write(&url, bytes.clone())?)
        })?;
        Ok(())
    }

    /// The parameters that a safetensors file at a URL holds, of this network: what [`load`](Self::load) takes, from
    /// any place that datasets are read from. One process reads for all, and the name node of several keeps what it
    /// read in its journal while the program runs: up to 3.75 GiB, and within `disk`.
    ///
    /// # Errors
    /// If there is no such file, or `url` stands for several; if it cannot be read, is longer than `read_size` or than
    /// any file of this network, is damaged, or holds tensors of other names, shapes or types; the message lists how
    /// they differ.
    pub fn load_from(&self, context: &Context, url: &str) -> Result<Vec<f32>> {
        let (stores, bytes_max, wanted) = (
            context.stores().clone(),
            bytes_max(self.parameter_layout()),
            url.to_owned(),
        );
        let read = context.range(0..1, 1).run_partitions(move |_, _| {
            let objects = stores.list(&wanted)?;
            let [object] = &objects[..] else {
                let problem = format!("it stands for {} files; name one", objects.len());
                return Ok(Err(Difference::of(problem)));
            };
            Ok(match check_bytes(object.bytes, bytes_max) {
                Ok(()) => Ok(stores.read(object)?),
                Err(difference) => Err(difference),
            })
        })?;
        let bytes: Result<Bytes, Difference> = read
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(Difference::of("nobody has read it".into())));
        let parameters = bytes.and_then(|bytes| deserialize(&bytes, self.parameter_layout()));
        parameters.map_err(|difference| difference.in_file(url.as_ref()))
    }
}
