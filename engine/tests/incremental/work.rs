//! The work that a change costs, in records.

use super::*;

type Recipe = Box<dyn for<'r, 's> Fn(&'r LiveScope<'s>, &LiveInput<(u64, u64)>) -> LiveRecords<'s, u64> + Send + Sync>;

/// Records that operators took in for a commit of `changes` new records among `records`, by operator. All records are
/// chains of ten edges, and a change adds a short one.
fn costs(records: u64, changes: u64) -> Vec<(&'static str, u64)> {
    let recipes: Vec<(&'static str, Recipe)> = vec![
        ("map", Box::new(|scope, edges| edges.read(scope).map(|(from, _)| from))),
        (
            "distinct",
            Box::new(|scope, edges| edges.read(scope).map(|(from, _)| from / 10).distinct()),
        ),
        (
            "count",
            Box::new(|scope, edges| edges.read(scope).map(|(from, _)| from / 10).count().map(|(key, _)| key)),
        ),
        (
            "totals",
            Box::new(|scope, edges| {
                let totals = edges.read(scope).totals(|(_, to)| (0u8, vec![(*to % 1000) as i32]));
                totals.map(|(_, totals)| totals.count as u64)
            }),
        ),
        (
            "reduce",
            Box::new(|scope, edges| {
                let groups = edges.read(scope).map(|(from, to)| (from / 10, to));
                groups
                    .reduce(|_, values| values.last().map(|(value, _)| **value))
                    .map(|(_, value)| value)
            }),
        ),
        (
            "join",
            Box::new(|scope, edges| {
                let edges = edges.read(scope);
                let back = edges.clone().map(|(from, to)| (to, from));
                back.join(edges).map(|(middle, _)| middle)
            }),
        ),
        (
            "iterate",
            Box::new(|scope, edges| {
                let edges = edges.read(scope);
                let roots = edges.clone().map(|(from, _)| from).filter(|from| from % 10 == 0);
                roots.iterate(move |reached| {
                    let next = reached.clone().map(|node| (node, ())).join(edges);
                    next.map(|(_, ((), to))| to).concat(reached).distinct()
                })
            }),
        ),
    ];
    let cost = |(name, recipe): (&'static str, Recipe)| {
        let live = live();
        let edges = live.input::<(u64, u64)>("edges");
        let read = edges.clone();
        let view = live.view(name, 1, move |scope| recipe(scope, &read)).unwrap();
        (0..records).for_each(|node| edges.insert((node, node + 1)).unwrap());
        live.commit().unwrap();
        let before = live.figures().records;
        let first = 10 * records.div_ceil(10) + 10;
        (0..changes).for_each(|change| edges.insert((first + 10 * change, first + 10 * change + 1)).unwrap());
        live.commit().unwrap();
        assert!(!view.contents().unwrap().is_empty());
        (name, live.figures().records - before)
    };
    recipes.into_iter().map(cost).collect()
}

#[test]
fn the_work_of_a_commit_goes_with_the_change_and_not_with_what_is_there() {
    let (few, many) = (costs(1_000, 10), costs(20_000, 10));
    let twice = costs(1_000, 20);
    for (((operator, few), (_, many)), (_, twice)) in few.into_iter().zip(many).zip(twice) {
        assert_eq!(few, many, "`{operator}`: among 1,000 and among 20,000 records");
        assert!(few > 0 && few <= 10 * 30, "`{operator}`: {few} records for 10 changes");
        assert!(
            twice <= 2 * few,
            "`{operator}`: {few} records for 10 changes, {twice} for 20"
        );
    }
}

#[test]
fn a_change_that_is_taken_back_before_its_commit_costs_nothing() {
    let live = live();
    let numbers = live.input::<u64>("numbers");
    let read = numbers.clone();
    let _view = live
        .view("numbers", 1, move |scope| read.read(scope).distinct())
        .unwrap();
    (0..100).for_each(|number| numbers.insert(number).unwrap());
    assert_eq!(live.commit().unwrap(), 100);
    let before = live.figures();
    numbers.insert(7).unwrap();
    numbers.retract(7).unwrap();
    assert_eq!(live.commit().unwrap(), 0);
    assert_eq!(live.figures(), before);
}
