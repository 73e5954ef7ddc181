//! What lanes are given, and what they and shards may not do.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;
use std::time::Duration;

use distdl_storage::testing::WAIT_MAX;

use super::*;
use crate::batch::stream_of;
use crate::config::Config;
use crate::id::ShuffleId;
use crate::iteration::Tallies;
use crate::parameters::{ShardBefore, ShardValues};
use crate::square_sum::SquareSum;
use crate::task::TaskContext;

#[test]
fn what_a_lane_keeps_on_disk_finds_the_room_of_kept_outputs() {
    let config = Config::default().with_threads(1).with_disk_bytes_max(400);
    let context = Context::new(config.with_keep_shuffles_after(Duration::ZERO)).unwrap();
    let dataset = context.parallelize(vec![0_u64; 4], 1);
    let (resources, id) = (context.resources(), dataset.id());
    let shuffle = ShuffleId {
        child: id,
        dependency: 0,
    };
    let outputs = &resources.outputs;
    outputs.begin();
    let mut keeping = outputs.keep(&resources.store, shuffle, 0);
    outputs.put(&mut keeping, 0, &[1; 180], false);
    outputs.finish(keeping.unwrap());
    let load = dataset.loader(|partition| {
        let spill = partition.store.spill()?;
        let rows = partition.writer.write(|| spill.append(&[2; 300]))?;
        Ok(spill.read_one(&rows)?)
    });
    let task = TaskContext::new(Arc::clone(resources), id, 0, Arc::default());
    let loaded = (load.function)(&task, 0, stream_of(0..4_u64, 4));
    let loaded = loaded.map_err(|error| format!("{error:?}")).unwrap();
    assert_eq!(loaded.downcast_ref(), Some(&vec![2_u8; 300]));
    assert!(outputs.held().is_empty());
}

/// What a lane or shard does at a point that has a name.
type At = Arc<dyn Fn(&'static str) -> Result<()> + Send + Sync>;

struct Does(At, &'static str);

impl Drop for Does {
    fn drop(&mut self) {
        let Self(at, dropped) = self;
        assert!(at(dropped).is_ok(), "{dropped}");
    }
}

impl Lane for Does {
    fn step(&mut self, _: u64, _: &[f32], update: &mut [f32]) -> Result<Tallies> {
        update.fill(1.0);
        (self.0)("lane").map(|()| Tallies::default())
    }
}

impl ShardUpdate for Does {
    fn measure(&mut self, _: usize, _: &StepReport, _: &[f32], _: &ShardBefore<'_>, _: &mut [SquareSum]) -> Result<()> {
        (self.0)("measure")
    }

    fn apply(&mut self, _: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
        shard.after.copy_from_slice(sum);
        (self.0)("shard")
    }
}

/// An iteration whose lanes and shards do something. It may hang for ever: then this panics.
fn iterate_with(context: &Context, at: At) -> Result<()> {
    let (answer, answered) = channel();
    let context = context.clone();
    std::thread::spawn(move || {
        let parameters = Arc::new(Parameters::new(vec![0.0; 3]));
        let lane = Arc::clone(&at);
        let make_lane = move |_| -> Result<Box<dyn Lane>> {
            lane("lane's maker")?;
            Ok(Box::new(Does(Arc::clone(&lane), "lane's end")))
        };
        let make_shard = move |_| -> Result<Box<dyn ShardUpdate>> {
            at("shard's maker")?;
            Ok(Box::new(Does(Arc::clone(&at), "shard's end")))
        };
        let iteration = Iteration::new(2, 2).with_measures([1]);
        answer.send(context.iterate(iteration, &parameters, make_lane, make_shard, &mut |_| ()))
    });
    answered.recv_timeout(WAIT_MAX).unwrap()
}

#[test]
fn an_action_called_by_a_lane_or_shard_is_refused() {
    let context = Context::new(Config::default().with_threads(2)).unwrap();
    for place in ["lane's maker", "lane", "shard's maker", "measure", "shard"] {
        let numbers = context.range(0..5, 2);
        let nested = iterate_with(
            &context,
            Arc::new(move |here| match here == place {
                true => numbers.count().map(drop),
                false => Ok(()),
            }),
        );
        assert!(matches!(nested, Err(EngineError::NestedAction)), "{place}: {nested:?}");
    }
    assert_eq!(context.range(0..5, 2).count().unwrap(), 5);
    iterate_with(&context, Arc::new(|_| Ok(()))).unwrap();
}

#[test]
fn a_panic_where_a_lane_or_shard_is_dropped_is_an_error_and_the_workers_go_on() {
    let context = Context::new(Config::default().with_threads(2)).unwrap();
    let fails_at = |places: &'static [&'static str]| {
        let at = move |here: &'static str| match places.contains(&here) {
            true => Err(EngineError::invalid(format!("no more at the {here}"), "test")),
            false => Ok(()),
        };
        let outcome = iterate_with(&context, Arc::new(at)).unwrap_err();
        assert_eq!(context.range(0..5, 2).count().unwrap(), 5, "{outcome}");
        outcome
    };
    for place in [&["lane's end"], &["shard's end"]] {
        let error = fails_at(place);
        assert!(matches!(error, EngineError::Panic { .. }), "{error}");
        assert!(error.to_string().contains(place[0]), "{error}");
    }
    for places in [&["lane", "lane's end"], &["shard", "shard's end"]] {
        let error = fails_at(places).to_string();
        assert!(error.contains("no more at"), "the first error counts: {error}");
    }
}
