//! What is done to pictures, and how it is drawn.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::shape::Input;

const IMAGE: Image = Image {
    channels: 2,
    height: 3,
    width: 4,
};

const DRAW: Draw = Draw {
    seed: 1,
    step: 2,
    lane: 3,
    first_row: 0,
};

fn picture() -> Vec<f32> {
    (1..=24).map(|pixel| pixel as f32).collect()
}

fn changed(image: Image, change: Change, picture: &[f32]) -> Vec<f32> {
    let mut to = vec![f32::NAN; picture.len()];
    change.transform().apply(image, picture, &mut to).unwrap();
    to
}

#[test]
fn nothing_is_changed_by_nothing() {
    assert_eq!(changed(IMAGE, Change::default(), &picture()), picture());
    let mut pictures = [picture(), picture()].concat();
    let mut augmenter = Augmenter::new(Augmentation::default(), IMAGE.into()).unwrap();
    augmenter.apply(DRAW, &mut pictures).unwrap();
    assert_eq!(pictures, [picture(), picture()].concat());
}

#[test]
fn a_shift_moves_every_channel_by_whole_pixels() {
    let change = Change {
        right: 1,
        down: -1,
        ..Change::default()
    };
    let one_channel = |first: f32| {
        let row = |begin: f32| [0.0, begin, begin + 1.0, begin + 2.0];
        [row(first + 4.0), row(first + 8.0), [0.0; 4]].concat()
    };
    let expected = [one_channel(1.0), one_channel(13.0)].concat();
    assert_eq!(changed(IMAGE, change, &picture()), expected);
}

#[test]
fn a_flip_swaps_left_and_right_and_twice_is_nothing() {
    let flip = Change {
        is_flipped: true,
        ..Change::default()
    };
    let once = changed(IMAGE, flip, &picture());
    assert_eq!(once[..8], [4.0, 3.0, 2.0, 1.0, 8.0, 7.0, 6.0, 5.0]);
    assert_eq!(changed(IMAGE, flip, &once), picture());
}

#[test]
fn a_quarter_turn_goes_against_the_clock() {
    let image = Image {
        channels: 1,
        height: 3,
        width: 3,
    };
    let (turn, picture) = (
        |degrees| Change {
            degrees,
            ..Change::default()
        },
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    );
    let near = |got: Vec<f32>, expected: [f32; 9]| {
        let is_near = got
            .iter()
            .zip(expected)
            .all(|(got, expected)| (got - expected).abs() < 1e-5);
        assert!(is_near, "{got:?} but {expected:?}");
    };
    near(
        changed(image, turn(90.0), &picture),
        [3.0, 6.0, 9.0, 2.0, 5.0, 8.0, 1.0, 4.0, 7.0],
    );
    near(
        changed(image, turn(-90.0), &picture),
        [7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0],
    );
    near(
        changed(image, turn(180.0), &picture),
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    );
    // An eighth: the corner at the upper left comes from (1, 1 - sqrt 2), above the pixel of 2.
    let eighth = changed(image, turn(45.0), &picture);
    assert!(
        (f64::from(eighth[0]) - 2.0 * (2.0 - 2f64.sqrt())).abs() < 1e-5,
        "{eighth:?}"
    );
}

#[test]
fn what_is_drawn_is_within_limits_and_reaches_them() {
    let augmentation = Augmentation {
        shift: 2,
        rotate_degrees: 30.0,
        flip: true,
    };
    let changes: Vec<Change> = (0..2000).map(|row| augmentation.draw(DRAW, row)).collect();
    for way in [|change: &Change| change.right, |change: &Change| change.down] {
        let mut counts = [0; 5];
        changes
            .iter()
            .for_each(|change| counts[(way(change) + 2) as usize] += 1);
        assert!(counts.iter().all(|count| (320..480).contains(count)), "{counts:?}");
    }
    let largest = changes.iter().map(|change| change.degrees).fold(0.0, f32::max);
    assert!(changes.iter().all(|change| change.degrees.abs() <= 30.0) && largest > 29.0);
    let flipped = changes.iter().filter(|change| change.is_flipped).count();
    assert!((900..1100).contains(&flipped), "{flipped}");
    let unflipped = Augmentation {
        flip: false,
        ..augmentation
    };
    assert!((0..2000).all(|row| !unflipped.draw(DRAW, row).is_flipped));
}

#[test]
fn a_row_is_changed_alike_whichever_rows_are_with_it() {
    let augmentation = Augmentation {
        shift: 1,
        rotate_degrees: 40.0,
        flip: true,
    };
    let mut augmenter = Augmenter::new(augmentation, IMAGE.into()).unwrap();
    let mut together = picture().repeat(3);
    augmenter.apply(DRAW, &mut together).unwrap();
    for (first_row, expected) in (0..).zip(together.chunks(24)) {
        let mut alone = picture();
        augmenter.apply(Draw { first_row, ..DRAW }, &mut alone).unwrap();
        assert_eq!(alone, expected);
    }
    let other = |draw| {
        let mut pictures = picture().repeat(3);
        Augmenter::new(augmentation, IMAGE.into())
            .unwrap()
            .apply(draw, &mut pictures)
            .unwrap();
        assert_ne!(pictures, together, "{draw:?}");
    };
    other(Draw { seed: 2, ..DRAW });
    other(Draw { step: 3, ..DRAW });
    other(Draw { lane: 4, ..DRAW });
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refusal = |augmentation: Augmentation, input: Shape| augmentation.check(input).unwrap_err().to_string();
    let rows = refusal(Augmentation::default(), Input(784).into());
    assert!(rows.contains("rows of 784 elements; begin it with `Image`"), "{rows}");
    let shift = |shift| Augmentation {
        shift,
        ..Augmentation::default()
    };
    assert!(refusal(shift(3), IMAGE.into()).contains("out of sight"));
    shift(2).check(IMAGE.into()).unwrap();
    for rotate_degrees in [-1.0, 181.0, f32::NAN] {
        let rotation = Augmentation {
            rotate_degrees,
            ..Augmentation::default()
        };
        assert!(refusal(rotation, IMAGE.into()).contains("from 0 to 180"));
    }
}

#[test]
fn what_is_not_turned_has_the_bits_of_an_angle_of_nothing() {
    for degrees in [0.0, -0.0, f32::MIN_POSITIVE] {
        let change = Change {
            degrees,
            ..Change::default()
        };
        let (transform, angle) = (change.transform(), f64::from(degrees).to_radians());
        let bits = [libm::sin(angle), libm::cos(angle)].map(f64::to_bits);
        assert_eq!([transform.sine, transform.cosine].map(f64::to_bits), bits, "{degrees}");
    }
}

#[cfg(feature = "gpu")]
#[test]
fn what_is_drawn_ahead_is_what_is_drawn_when_it_is_asked_for() {
    let augmentation = Augmentation {
        shift: 1,
        rotate_degrees: 40.0,
        flip: true,
    };
    let draw = |step| Draw { step, ..DRAW };
    let expected = |step, rows| augmentation.transforms(draw(step), rows).collect::<Vec<_>>();
    let mut drawn = Drawn::new(augmentation);
    drawn.draw_ahead((5..8).map(|step| (draw(step), 3)));
    assert_eq!(drawn.len(), 3);
    assert_eq!(drawn.take(draw(6), 3), expected(6, 3));
    assert_eq!(drawn.take(draw(6), 3), expected(6, 3), "again");
    // Another number of rows, a step of which nothing was drawn.
    assert_eq!(drawn.take(draw(7), 2), expected(7, 2));
    assert_eq!(drawn.take(draw(9), 3), expected(9, 3));
    drawn.draw_ahead([(draw(5), 3), (draw(10), 1)].into_iter());
    assert_eq!(drawn.len(), 2, "others are forgotten");
    assert_eq!(drawn.take(draw(5), 3), expected(5, 3));
    assert_eq!(drawn.take(draw(10), 1), expected(10, 1));
}
