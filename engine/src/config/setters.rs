//! A configuration in code: one setting after the other. What they are given is checked by [`Config::check`], as what
//! stands in a file is.

use std::path::PathBuf;
use std::time::Duration;

use super::values::faults;
use super::{Config, GpuUse, Log, Precision, Progress};

impl Config {
    /// Sets the number of worker threads, from 1 to 1024.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Sets the most memory for blocks and for what operators hold, in bytes.
    #[must_use]
    pub fn with_memory_bytes_max(self, memory_bytes_max: u64) -> Self {
        Self {
            memory_bytes_max,
            ..self
        }
    }

    /// Sets the most disk for blocks and for what operators put there, in bytes.
    #[must_use]
    pub fn with_disk_bytes_max(self, disk_bytes_max: u64) -> Self {
        Self { disk_bytes_max, ..self }
    }

    /// Sets how long an action runs before what it sends into shuffles is kept.
    #[must_use]
    pub fn with_keep_shuffles_after(self, keep_shuffles_after: Duration) -> Self {
        Self {
            keep_shuffles_after,
            ..self
        }
    }

    /// Sets the folder for blocks on disk.
    #[must_use]
    pub fn with_spill_folder(self, spill_folder: impl Into<PathBuf>) -> Self {
        Self {
            spill_folder: Some(spill_folder.into()),
            ..self
        }
    }

    /// Sets the folder in which remote objects are kept from run to run.
    #[must_use]
    pub fn with_cache_folder(self, cache_folder: impl Into<PathBuf>) -> Self {
        Self {
            cache_folder: Some(cache_folder.into()),
            ..self
        }
    }

    /// Sets the most bytes of remote objects in that folder.
    #[must_use]
    pub fn with_cache_bytes_max(self, cache_bytes_max: u64) -> Self {
        Self {
            cache_bytes_max,
            ..self
        }
    }

    /// Sets the beginnings of URLs whose objects only grow.
    #[must_use]
    pub fn with_cache_grows_only(self, prefixes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            cache_grows_only: prefixes.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// Sets the most bytes that are being fetched ahead of readers.
    #[must_use]
    pub fn with_read_ahead_bytes_max(self, read_ahead_bytes_max: u64) -> Self {
        Self {
            read_ahead_bytes_max,
            ..self
        }
    }

    /// Sets the longest object that is read whole, in bytes.
    #[must_use]
    pub fn with_read_bytes_max(self, read_bytes_max: u64) -> Self {
        Self { read_bytes_max, ..self }
    }

    /// Sets the most objects that one listing may name.
    #[must_use]
    pub fn with_list_objects_max(self, list_objects_max: usize) -> Self {
        Self {
            list_objects_max,
            ..self
        }
    }

    /// Sets the longest line of a text or JSON file, in bytes, at least 1.
    #[must_use]
    pub fn with_line_bytes_max(self, line_bytes_max: u64) -> Self {
        Self { line_bytes_max, ..self }
    }

    /// Sets the most requests to one server or bucket at a time.
    #[must_use]
    pub fn with_requests_max(self, requests_max: usize) -> Self {
        Self { requests_max, ..self }
    }

    /// Sets how long one request to a server may take with all its retries.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            ..self
        }
    }

    /// Sets the most bytes of remembered results in the cache folder.
    #[must_use]
    pub fn with_memo_bytes_max(self, memo_bytes_max: u64) -> Self {
        Self { memo_bytes_max, ..self }
    }

    /// Sets after how many steps a lineage is cut, at least 1.
    #[must_use]
    pub fn with_cut_lineage_every(self, steps: usize) -> Self {
        Self {
            cut_lineage_every: Some(steps),
            ..self
        }
    }

    /// Sets the key of the random numbers of trainings that are given no seed of their own.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets when bars of progress are drawn.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Sets what `distdl::run` writes of what happens.
    #[must_use]
    pub fn with_log(self, log: Log) -> Self {
        Self { log, ..self }
    }

    /// Sets whether reports are JSON lines.
    #[must_use]
    pub fn with_json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// Sets how many records an operator handles at a time, from 1 to 16,777,216.
    #[must_use]
    pub fn with_batch_records(self, batch_records: usize) -> Self {
        Self { batch_records, ..self }
    }

    /// Sets how many processes run the program as one, from 1 to 256. Threads and memory stay as they are: those of
    /// each process.
    #[must_use]
    pub fn with_processes(self, processes: usize) -> Self {
        Self { processes, ..self }
    }

    /// Sets how many of the processes are for parameters only; [`Config::check`] says whether enough are left.
    #[must_use]
    pub fn with_parameter_workers(self, parameter_workers: usize) -> Self {
        Self {
            parameter_workers,
            ..self
        }
    }

    /// Sets how many processes wait to take the place of one that is lost; at most 256.
    #[must_use]
    pub fn with_spares(self, spares: usize) -> Self {
        Self { spares, ..self }
    }

    /// Sets the file for what happens to the processes.
    #[must_use]
    pub fn with_events(self, events: impl Into<PathBuf>) -> Self {
        Self {
            events: Some(events.into()),
            ..self
        }
    }

    /// Sets the faults to make happen, separated by commas.
    #[must_use]
    pub fn with_chaos(self, chaos: impl Into<String>) -> Self {
        Self {
            chaos: faults(&chaos.into()),
            ..self
        }
    }

    /// Sets how long nothing may be heard of a process before it counts as lost; at least 50 ms.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Sets how often lost processes are started again, all together.
    #[must_use]
    pub fn with_restarts(self, restarts: u32) -> Self {
        Self { restarts, ..self }
    }

    /// Sets how long a replacement is waited for before the others go on without it.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Sets how many processes keep each shard of the parameters: 1 or 2.
    #[must_use]
    pub fn with_parameter_copies(self, parameter_copies: u32) -> Self {
        Self {
            parameter_copies,
            ..self
        }
    }

    /// Sets whether processes of one host exchange parameters through memory that they share.
    #[must_use]
    pub fn with_shared_memory(self, shared_memory: bool) -> Self {
        Self { shared_memory, ..self }
    }

    /// Sets whether processes may run on machines that compute other bits than each other.
    #[must_use]
    pub fn with_unlike_machines(self, unlike_machines: bool) -> Self {
        Self {
            unlike_machines,
            ..self
        }
    }

    /// Sets the file with the secret that processes of different hosts show each other.
    #[must_use]
    pub fn with_token_file(self, token_file: impl Into<PathBuf>) -> Self {
        Self {
            token_file: Some(token_file.into()),
            ..self
        }
    }

    /// Sets whether a GPU computes.
    #[must_use]
    pub fn with_gpu(self, gpu: GpuUse) -> Self {
        Self { gpu, ..self }
    }

    /// Sets whether a GPU's convolutions are cuDNN's.
    #[must_use]
    pub fn with_cudnn(self, cudnn: bool) -> Self {
        Self { cudnn, ..self }
    }

    /// Sets the folder in which the libraries of CUDA are looked for first.
    #[must_use]
    pub fn with_cuda_libraries(self, cuda_libraries: impl Into<PathBuf>) -> Self {
        Self {
            cuda_libraries: Some(cuda_libraries.into()),
            ..self
        }
    }

    /// Sets how many processes use a GPU, those of the first places of the cluster.
    #[must_use]
    pub fn with_gpu_processes(self, count: usize) -> Self {
        Self {
            gpu_processes: Some(count),
            ..self
        }
    }

    /// Sets the most bytes of samples that stay in a GPU's memory.
    #[must_use]
    pub fn with_gpu_memory_bytes_max(self, bytes_max: u64) -> Self {
        Self {
            gpu_memory_bytes_max: Some(bytes_max),
            ..self
        }
    }

    /// Sets how a GPU multiplies matrices.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Sets after how long a silence the tasks of a process are computed elsewhere, too.
    #[must_use]
    pub fn with_speculate_after(self, speculate_after: Duration) -> Self {
        Self {
            speculate_after: Some(speculate_after),
            ..self
        }
    }
}
