//! Random places in the address space, for all that the heap reserves.
//!
//! Attack: whoever knows where one thing lies knows where others do. Cost: an entry in the kernel's page tables more, here and there.

use crate::os::environment;
use crate::os::mapping::{self, OutOfMemory, PAGE};
use crate::random::Random;

/// Reserves address space at a random place: more bits than the kernel's own layout randomisation gives.
pub(crate) fn reserve_somewhere(bytes: usize, random: &mut Random) -> Result<usize, OutOfMemory> {
    if environment::address_space_limit() == usize::MAX {
        for _ in 0..4 {
            let hint = random_place(random);
            let got = mapping::reserve(hint, bytes)?;
            if got == hint {
                return Ok(got);
            }
            mapping::unmap(got, bytes);
        }
    }
    mapping::reserve(0, bytes)
}

/// A random page between 20 and 76 TiB: above what programs map at fixed places (Go's heap, and Java's ZGC, whose three views of it lie
/// between 4 and 20 TiB), and so far below programs, which lie from 85 TiB on, that an arena of 8 TiB fits in between.
pub(crate) fn random_place(random: &mut Random) -> usize {
    const LOWEST: u64 = 20 << 40;
    const HIGHEST: u64 = 76 << 40;
    (LOWEST + random.u64() % (HIGHEST - LOWEST)) as usize & !(PAGE - 1)
}

#[cfg(test)]
mod tests {
    use super::{random_place, reserve_somewhere};
    use crate::os::environment;
    use crate::os::mapping::{self, PAGE};
    use crate::random::Random;

    #[test]
    fn random_places_are_pages_above_20_tib_and_below_76_tib() {
        let mut random = Random::from_number(3);
        let mut sevenths = [0; 7];
        for _ in 0..200_000 {
            let place = random_place(&mut random);
            assert!(place.is_multiple_of(PAGE) && (20 << 40..76 << 40).contains(&place));
            sevenths[(place - (20 << 40)) >> 43] += 1;
        }
        assert!(sevenths.iter().all(|count| (25_000..32_000).contains(count)), "{sevenths:?}");
    }

    /// The kernel alone would put one beside the other.
    #[test]
    fn address_space_is_reserved_at_random_places() {
        if environment::address_space_limit() != usize::MAX {
            return;
        }
        let mut random = Random::from_kernel().expect("entropy");
        let mut places: Vec<usize> =
            (0..16).map(|_| reserve_somewhere(PAGE, &mut random).expect("address space")).collect();
        places.iter().for_each(|place| mapping::unmap(*place, PAGE));
        places.sort_unstable();
        // Sixteen draws out of 56 TiB; two within a GiB of each other come once in some hundred runs, three such pairs never.
        assert!(places.windows(2).filter(|pair| pair[1] - pair[0] < 1 << 30).count() < 3, "{places:x?}");
        assert!(places.last().is_some_and(|last| *last < 76 << 40));
    }
}
