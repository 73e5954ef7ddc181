#![allow(missing_docs, clippy::unwrap_used)]
use distdl_engine::{Config, Context};

fn context(threads: usize) -> Context {
    Context::new(Config::default().with_threads(threads)).unwrap()
}

#[test]
fn pipelines() {
    for threads in [1, 2, 3] {
        let ctx = context(threads);
        let numbers = ctx.range(0..10_000, 7);
        assert_eq!(
            numbers.map(|x| x * 2).collect().unwrap(),
            (0..10_000).map(|x| x * 2).collect::<Vec<u64>>()
        );
        let mut sums = numbers
            .map(|x| (x % 10, x))
            .reduce_by_key(|a, b| a + b)
            .collect()
            .unwrap();
        sums.sort_unstable();
        let mut expected = vec![(0u64, 0u64); 10];
        for x in 0..10_000u64 {
            expected[(x % 10) as usize].0 = x % 10;
            expected[(x % 10) as usize].1 += x;
        }
        assert_eq!(sums, expected);
        let pairs = numbers.map(|x| (x.wrapping_mul(0x9E37_79B9_7F4A_7C15), x));
        let sorted = pairs.sort_by_key().collect().unwrap();
        let mut expected = pairs.collect().unwrap();
        expected.sort();
        assert_eq!(sorted, expected);
        let left = numbers.map(|x| (x % 100, x));
        let joined = left.join(&ctx.range(0..50, 3).map(|x| (x, x + 1)));
        assert_eq!(joined.count().unwrap(), 5000);
        assert_eq!(
            numbers.zip_with_index().filter(|(x, i)| x == i).count().unwrap(),
            10_000
        );
        assert_eq!(numbers.distinct().count().unwrap(), 10_000);
        assert_eq!(numbers.repartition(3).count().unwrap(), 10_000);
        println!("{}", joined.explain());
        let error = numbers
            .map(|x| if x == 77 { panic!("boom {x}") } else { x })
            .count()
            .unwrap_err();
        println!("{error}");
        assert_eq!(numbers.take(5).unwrap(), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn deep() {
    let ctx = context(2);
    let mut d = ctx.range(0..100, 3);
    for _ in 0..10_000 {
        d = d.map(|x| x + 1);
    }
    assert_eq!(d.take(1).unwrap(), [10_000]);
    println!("{}", d.explain());
    let mut u = ctx.range(0..2, 1);
    for _ in 0..1000 {
        u = u.union(&ctx.range(0..2, 1));
    }
    assert_eq!(u.count().unwrap(), 2002);
    let mut m = ctx.range(0..10, 1);
    for _ in 0..2000 {
        m = m.map_partitions(|x| x.map(|x| x + 1));
    }
    assert_eq!(m.take(1).unwrap(), [2000]);
}
