//! Steps of two datasets.

use proptest::prelude::*;

use crate::oracle::{self, Partitions, Placement, Row, compose, digest};
use crate::pipelines::narrow::{Narrow, narrow_step};
use crate::pipelines::wide::{Wide, wide_step};
use crate::pipelines::{Both, both};

#[derive(Debug, Clone)]
pub(crate) enum Pair {
    Union,
    Zip,
    ZipPartitions,
    Cartesian,
    Join,
    LeftOuterJoin,
    RightOuterJoin,
    FullOuterJoin,
    Cogroup,
    Subtract,
    SubtractByKey,
    Intersection,
}

pub(super) fn pair() -> impl Strategy<Value = Pair> {
    use Pair::*;
    prop::sample::select(vec![
        Union,
        Zip,
        ZipPartitions,
        Cartesian,
        Join,
        LeftOuterJoin,
        RightOuterJoin,
        FullOuterJoin,
        Cogroup,
        Subtract,
        SubtractByKey,
        Intersection,
    ])
}

pub(super) fn pair_step(left: Both, right: &Both, step: &Pair, into: Option<usize>) -> Both {
    let more = left.expected.len().max(right.expected.len());
    let like = left.placed.or(right.placed).unwrap_or(Placement::Hash(more));
    let placement = into.map_or(like, Placement::Hash);
    let kept = Some(placement).filter(|_| into.is_none() && like != Placement::Hash(more));
    match step {
        Pair::Union => both(
            left.dataset.union(&right.dataset),
            [left.expected, right.expected.clone()].concat(),
        ),
        Pair::Zip => {
            let flat = |((key, value), (other, more)): (Row, Row)| (key.wrapping_add(other), value ^ more);
            let shape = |both: &Both| both.expected.iter().map(Vec::len).collect::<Vec<_>>();
            let even = shape(&left) == shape(right);
            let right = if even {
                right.clone()
            } else {
                narrow_step(left.clone(), &Narrow::Map(3))
            };
            let rows = left.expected.iter().zip(&right.expected);
            let rows = rows.map(|(left, right)| left.iter().copied().zip(right.iter().copied()).map(flat).collect());
            both(left.dataset.zip(&right.dataset).unwrap().map(flat), rows.collect())
        }
        Pair::ZipPartitions => {
            let count = left.expected.len();
            let right = match right.expected.len() == count {
                true => right.clone(),
                false => wide_step(right.clone(), &Wide::Repartition, Some(count)),
            };
            let flat = |left: &[Row], right: &[Row]| {
                let values = |rows: &[Row]| digest(rows.iter().map(|row| row.1));
                vec![(left.len() as u64, values(left)), (right.len() as u64, values(right))]
            };
            let rows = left.expected.iter().zip(&right.expected);
            let rows = rows.map(|(left, right)| flat(left, right)).collect();
            let zipped = left.dataset.zip_partitions(&right.dataset, move |left, right| {
                flat(&left.collect::<Vec<_>>(), &right.collect::<Vec<_>>())
            });
            both(zipped.unwrap(), rows)
        }
        Pair::Cartesian => {
            // Of many rows the pairs are too many, of many partitions too.
            let few = |both: Both| {
                let few = narrow_step(both, &Narrow::Coalesce(4));
                match few.expected.iter().map(Vec::len).sum::<usize>() {
                    0..40 => few,
                    _ => narrow_step(few, &Narrow::Filter(40)),
                }
            };
            let (left, right) = (few(left), few(right.clone()));
            let flat = |((key, value), (other, more)): (Row, Row)| (key ^ other, compose(value, more));
            let rows = oracle::map(&oracle::cartesian(&left.expected, &right.expected), flat);
            both(left.dataset.cartesian(&right.dataset).map(flat), rows)
        }
        Pair::Join => {
            let flat = |(left, right): Row| left.rotate_left(5) ^ right;
            let rows = oracle::outer_join(&left.expected, &right.expected, placement);
            let rows = chosen(&rows, |left, right| Some(flat((left?, right?))));
            let joined = match into {
                Some(partitions) => left.dataset.join_into(&right.dataset, partitions),
                None => left.dataset.join(&right.dataset),
            };
            both(joined.map_values(flat), rows).keeping(kept)
        }
        Pair::LeftOuterJoin => {
            let flat = |left: u64, right: Option<u64>| left.rotate_left(5) ^ right.unwrap_or(3);
            let rows = oracle::outer_join(&left.expected, &right.expected, placement);
            let rows = chosen(&rows, |left, right| Some(flat(left?, right)));
            let joined = match into {
                Some(partitions) => left.dataset.left_outer_join_into(&right.dataset, partitions),
                None => left.dataset.left_outer_join(&right.dataset),
            };
            both(joined.map_values(move |(left, right)| flat(left, right)), rows).keeping(kept)
        }
        Pair::RightOuterJoin => {
            let flat = |left: Option<u64>, right: u64| left.unwrap_or(5).rotate_left(5) ^ right;
            let rows = oracle::outer_join(&left.expected, &right.expected, placement);
            let rows = chosen(&rows, |left, right| Some(flat(left, right?)));
            let joined = match into {
                Some(partitions) => left.dataset.right_outer_join_into(&right.dataset, partitions),
                None => left.dataset.right_outer_join(&right.dataset),
            };
            both(joined.map_values(move |(left, right)| flat(left, right)), rows).keeping(kept)
        }
        Pair::FullOuterJoin => {
            let flat = |left: Option<u64>, right: Option<u64>| left.unwrap_or(5).rotate_left(5) ^ right.unwrap_or(3);
            let rows = oracle::outer_join(&left.expected, &right.expected, placement);
            let rows = chosen(&rows, |left, right| Some(flat(left, right)));
            let joined = match into {
                Some(partitions) => left.dataset.full_outer_join_into(&right.dataset, partitions),
                None => left.dataset.full_outer_join(&right.dataset),
            };
            both(joined.map_values(move |(left, right)| flat(left, right)), rows).keeping(kept)
        }
        Pair::Cogroup => {
            let flat = |(left, right): (Vec<u64>, Vec<u64>)| compose(digest(left), digest(right));
            let rows = oracle::cogroup(&left.expected, &right.expected, placement);
            let rows = oracle::map(&rows, |(key, values)| (key, flat(values)));
            let grouped = match into {
                Some(partitions) => left.dataset.cogroup_into(&right.dataset, partitions),
                None => left.dataset.cogroup(&right.dataset),
            };
            both(grouped.map_values(flat), rows).keeping(kept)
        }
        Pair::SubtractByKey => {
            let (like, own) = (left.placement(), left.placed);
            let placement = into.map_or(like, Placement::Hash);
            let keys: Vec<u64> = right.expected.concat().iter().map(|row| row.0).collect();
            let rows = oracle::each(&oracle::by_key(&left.expected, placement), |_, rows| {
                rows.into_iter().filter(|row| !keys.contains(&row.0)).collect()
            });
            let rest = match into {
                Some(partitions) => left.dataset.subtract_by_key_into(&right.dataset, partitions),
                None => left.dataset.subtract_by_key(&right.dataset),
            };
            both(rest, rows).keeping(own.filter(|_| into.is_none()))
        }
        Pair::Subtract => {
            // Of two sides that share rows.
            let right = narrow_step(right.clone(), &Narrow::Filter(2));
            let left = pair_step(left, &right, &Pair::Union, None);
            let other = narrow_step(right, &Narrow::Filter(3));
            let partitions = into.unwrap_or(left.expected.len());
            let rows = oracle::subtract(&left.expected, &other.expected.concat(), partitions);
            let rest = match into {
                Some(partitions) => left.dataset.subtract_into(&other.dataset, partitions),
                None => left.dataset.subtract(&other.dataset),
            };
            both(rest, rows)
        }
        Pair::Intersection => {
            let left = pair_step(
                left,
                &narrow_step(right.clone(), &Narrow::Filter(2)),
                &Pair::Union,
                None,
            );
            let partitions = into.unwrap_or(left.expected.len().max(right.expected.len()));
            let other = right.expected.concat();
            let rows = oracle::each(&oracle::distinct(&left.expected, partitions), |_, rows| {
                rows.into_iter().filter(|row| other.contains(row)).collect()
            });
            let shared = match into {
                Some(partitions) => left.dataset.intersection_into(&right.dataset, partitions),
                None => left.dataset.intersection(&right.dataset),
            };
            both(shared, rows)
        }
    }
}

/// What is made of the pairs of an outer join, where something is made of them.
fn chosen(rows: &oracle::Joined, make: impl Fn(Option<u64>, Option<u64>) -> Option<u64>) -> Partitions<Row> {
    let made = |(key, (left, right)): (u64, (Option<u64>, Option<u64>))| Some((key, make(left, right)?));
    oracle::each(rows, |_, rows| rows.into_iter().filter_map(made).collect())
}
