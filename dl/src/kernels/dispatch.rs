//! One loop, compiled for several sets of CPU instructions, chosen at run time.
#![allow(unsafe_code)] // calls functions that need CPU features, after asking the CPU for them

/// A set of CPU instructions that elementwise loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What every CPU of the target has.
    pub const PORTABLE: Level = Level(Set::Portable);

    /// All levels that this CPU has, the best one last. A level can be had only from here, so holding one proves the
    /// CPU has it.
    pub fn available() -> impl Iterator<Item = Level> {
        #[cfg(target_arch = "x86_64")]
        let optional = [(Set::Avx2, has_avx2()), (Set::Avx512, has_avx2() && has_avx512())];
        #[cfg(not(target_arch = "x86_64"))]
        let optional: [(Set, bool); 0] = [];
        let present = optional
            .into_iter()
            .filter_map(|(set, present)| present.then_some(Level(set)));
        std::iter::once(Level::PORTABLE).chain(present)
    }

    /// The best level that this CPU has. The standard library remembers the answer, so this costs a load.
    #[inline]
    pub fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        match (has_avx2(), has_avx512()) {
            (true, true) => return Level(Set::Avx512),
            (true, false) => return Level(Set::Avx2),
            _ => {}
        }
        Level::PORTABLE
    }

    pub(super) fn set(self) -> Set {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl")
}

/// Defines a function that takes a [`Level`] before its own arguments, and runs its body as compiled for that level.
///
/// What the body calls is compiled for it only where it is inlined. A closure of more than a few operations that is
/// handed to a function may not be, whatever that function says of itself: then it runs with what every CPU has. Loops
/// that several bodies share are better macros (kernels/windows). `nm -C` of a program shows closures that were left
/// out.
macro_rules! dispatched {
    (
        $visibility:vis fn $name:ident $(<$generic:ident: $bound:path>)?
        ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $visibility fn $name $(<$generic: $bound>)? (
            level: $crate::kernels::Level,
            $($argument: $type),*
        ) $(-> $result)? {
            #[inline(always)]
            fn portable $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            match level.set() {
                $crate::kernels::dispatch::Set::Portable => portable($($argument),*),
                // SAFETY: a `Level` is only made after the CPU was asked for the features of its set.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::dispatch::Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::dispatch::Set::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
