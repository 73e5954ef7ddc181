//! Live records in several processes.

use distdl_engine::testing::{Life, TestCluster};

use super::*;

type Found = (Vec<(u64, u64)>, Vec<(u64, u64)>);

/// Sums of the squares of what is there, by remainder, after two commits; `between` them something may happen.
fn program(context: &Context, between: impl Fn()) -> Result<Found> {
    let live = context.live(LiveOptions::default());
    let numbers = live.input::<u64>("numbers");
    let read = numbers.clone();
    let counts = live.view("counts", 6, move |scope| {
        read.read(scope).map(|number| number % 50).count()
    })?;
    (0..200).try_for_each(|number| numbers.insert(number))?;
    live.commit()?;
    let squares = |snapshot: Dataset<(u64, u64)>| {
        let squares = snapshot
            .map(|(key, count)| (key % 7, count * count))
            .reduce_by_key(|left, right| left + right);
        squares.collect()
    };
    let first = squares(counts.snapshot()?)?;
    between();
    // What is counted is an answer that all processes have.
    let removed = context.range(0..30, 3).filter(|number| number % 2 == 0).collect()?;
    removed.into_iter().try_for_each(|number| numbers.retract(number))?;
    live.commit()?;
    Ok((first, squares(counts.snapshot()?)?))
}

#[test]
fn a_process_that_takes_a_dead_ones_place_makes_live_records_again() {
    let expected = program(&context(), || {}).unwrap();
    assert_ne!(expected.0, expected.1);
    for slot in 0..3 {
        let run = TestCluster::new(3).run_lives(move |context, life: &Life| {
            program(context, || {
                if (life.slot, life.number) == (slot, 0) {
                    life.kill();
                }
            })
        });
        let results = run.unwrap().results;
        // The one that takes its place may come when the program has ended.
        assert!((2..=3).contains(&results.len()), "slot {slot}");
        assert!(results.iter().all(|result| *result == expected), "slot {slot}");
    }
}

#[test]
fn all_processes_take_one_listing_however_the_objects_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let run = TestCluster::new(3).run_lives(move |context, life| {
        let live = context.live(LiveOptions::default());
        let objects = live.objects(&format!("{}/*.txt", path.display()));
        let read = objects.clone();
        let names = live.view("names", 2, move |scope| read.read(scope).map(|object| object.url))?;
        let mut found = Vec::new();
        for round in 0..4 {
            // Each process, and each life of it, changes what the others may be listing.
            let name = format!("{round}-{}-{}.txt", life.slot, life.number);
            std::fs::write(path.join(name), "text").unwrap();
            objects.refresh()?;
            live.commit()?;
            if round == 2 && (life.slot, life.number) == (1, 0) {
                life.kill();
            }
            found.push(names.snapshot()?.collect()?);
        }
        Ok(found)
    });
    let results = run.unwrap().results;
    assert!((2..=3).contains(&results.len()), "{results:?}");
    assert!(results.iter().all(|found| *found == results[0]), "{results:?}");
    assert!(
        !results[0][0].is_empty() && results[0][3].len() > results[0][0].len(),
        "{results:?}"
    );
}

#[test]
fn processes_whose_records_differ_are_told() {
    let run = TestCluster::new(2).run_lives(|context, life| {
        let live = context.live(LiveOptions::default());
        let numbers = live.input::<u32>("numbers");
        let read = numbers.clone();
        let view = live.view("numbers", 2, move |scope| read.read(scope))?;
        numbers.insert(life.slot)?;
        live.commit()?;
        view.snapshot()?.count()
    });
    let error = run.unwrap_err().to_string();
    assert!(error.contains("several.rs"), "{error}");
}
