//! The keyed checksum that seals a header to its address.
//!
//! Attack: a program's overflow, or an attacker with any number of leaked headers, writes a header
//! of its own. A bare CRC is linear, so the difference of two leaked headers could be XORed into a
//! third; and two inputs with the same CRC stay the same however the CRC is mixed afterwards. So the secrets
//! go in first: a 64×64→128-bit multiplication of the keyed address with the keyed fields (the
//! folded multiply of wyhash), and CRC32 with a third secret only compresses its 64 bits to 32.
//! This is not a cryptographic MAC: it makes every try a guess of 32 bits against an
//! allocator that aborts on the first wrong one. Cost: about 2 ns of latency, mostly hidden.

use super::header::{Fields, Header};
use super::windows::{CANARY_FIXED, Windows};
use crate::size_class::HEADER;
use core::sync::atomic::{AtomicU64, Ordering};

/// The secrets of a heap. Never leave the allocator's metadata.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Secrets {
    address: u64,
    fields: u64,
    crc: u64,
    /// Odd, so that no change of a free slot's header cancels out.
    free: u64,
    pub(super) canary: Windows,
}

/// How the 64 mixed bits become 32. A type, so that the choice costs nothing on the fast path.
pub(crate) trait Crc {
    /// CRC32 of `value`, starting from `start`.
    fn crc(start: u64, value: u64) -> u32;
}

/// The CPU's CRC32C instruction. Only for CPUs that have it: asked once, at start.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Instruction;

#[cfg(target_arch = "x86_64")]
impl Crc for Instruction {
    #[inline(always)]
    fn crc(start: u64, value: u64) -> u32 {
        let mut crc = start;
        // SAFETY: register arithmetic only. The instruction exists: `Set::of` chooses this type after asking
        // the CPU. Inline assembly, because a `target_feature` function would not be inlined here.
        unsafe {
            core::arch::asm!("crc32 {0}, {1}", inout(reg) crc, in(reg) value, options(pure, nomem, nostack, preserves_flags));
        }
        crc as u32
    }
}

/// crc32fast's tables (another polynomial, the same properties), for CPUs without the instruction.
pub(crate) struct Portable;

impl Crc for Portable {
    fn crc(start: u64, value: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(start as u32);
        hasher.update(&value.to_le_bytes());
        hasher.finalize()
    }
}

impl Secrets {
    /// Secrets from a random stream.
    pub(crate) fn draw(random: &mut crate::random::Random) -> Self {
        Self {
            address: random.u64(),
            fields: random.u64(),
            crc: random.u64() & 0xffff_ffff,
            canary: Windows::new(random.u64() & !CANARY_FIXED | 0x8080_8080_8080_8080),
            free: random.u64() | 1,
        }
    }

    /// The same secrets, which the compiler takes for others: a check that is not always made must not make it keep
    /// them in registers.
    #[inline(always)]
    pub(crate) fn reloaded(&self) -> &Self {
        let mut address = core::ptr::from_ref(self).expose_provenance();
        // SAFETY: no instructions; the address stays the same.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
            &*core::ptr::with_exposed_provenance(address)
        }
    }

    /// The checksum of the header fields of an allocated chunk at `address`: a header copied from another slot does not pass.
    #[inline(always)]
    pub(crate) fn checksum<C: Crc>(&self, address: usize, fields: u32) -> u32 {
        let product = u128::from(address as u64 ^ self.address) * u128::from(u64::from(fields) ^ self.fields);
        C::crc(self.crc, product as u64 ^ (product >> 64) as u64)
    }

    /// What seals the header of a slot that the program does not have: freed, or never handed out.
    ///
    /// Nothing is ever believed because of such a header: whether a slot is free is known from its state byte. It is there so
    /// that a write to the header of a free slot is noticed, by a dangling pointer or past the end of the chunk in front.
    /// So one multiplication by a secret is enough, of which the upper half depends on every bit of both.
    #[inline(always)]
    pub(crate) fn free_seal(&self, address: usize, fields: u32) -> u32 {
        ((address as u64 ^ u64::from(fields)).wrapping_mul(self.free) >> 32) as u32
    }

    /// What must stand in a header with these fields at `address`, whatever its state.
    #[inline(always)]
    pub(crate) fn expected<C: Crc>(&self, address: usize, fields: Fields) -> u32 {
        if fields.is_allocated() { self.checksum::<C>(address, fields.0) } else { self.free_seal(address, fields.0) }
    }

    /// The canary that fills the slack of the chunk with this header checksum.
    ///
    /// Every byte is even and above 0x7f: never zero, so that a stray terminator is seen, and neither
    /// text nor 0xff, the bytes that overflows are made of. That leaves six random bits a byte.
    #[inline(always)]
    pub(crate) fn canary(&self, checksum: u32) -> u64 {
        self.canary.secret[0] ^ (u64::from(checksum).wrapping_mul(0x1_0000_0001) & !CANARY_FIXED)
    }
}

/// Secrets with the choice of checksum made at run time: for the slow paths.
#[repr(C)]
pub(crate) struct Seal {
    pub(crate) secrets: Secrets,
    pub(crate) has_instruction: bool,
}

impl Seal {
    /// What must stand in a header with these fields at `address`, whatever its state.
    pub(crate) fn expected(&self, address: usize, fields: Fields) -> u32 {
        if fields.is_allocated() { self.checksum(address, fields.0) } else { self.secrets.free_seal(address, fields.0) }
    }

    /// The checksum of the fields of an allocated chunk at `address`.
    pub(crate) fn checksum(&self, address: usize, fields: u32) -> u32 {
        #[cfg(target_arch = "x86_64")]
        if self.has_instruction {
            return self.secrets.checksum::<Instruction>(address, fields);
        }
        self.secrets.checksum::<Portable>(address, fields)
    }

    /// Writes the header of a slot that was never handed out, in front of a chunk that belongs to the caller.
    pub(crate) fn write_fresh(&self, address: usize) {
        write(address, Header::seal(Fields::FRESH, self.secrets.free_seal(address, Fields::FRESH.0)));
    }
}

/// The header in front of a chunk, as it stands.
///
/// One atomic load: a neighbour's owner may be changing it, and every value it ever has is whole.
#[inline(always)]
pub(crate) fn read(chunk: usize) -> Header {
    // SAFETY: callers have established by geometry that a slot begins there and that its header is mapped.
    let place = unsafe { &*core::ptr::with_exposed_provenance::<AtomicU64>(chunk - HEADER) };
    Header(place.load(Ordering::Relaxed))
}

/// Writes the header in front of a chunk.
#[inline(always)]
pub(crate) fn write(chunk: usize, header: Header) {
    // SAFETY: as in `read`; the slot belongs to the caller.
    let place = unsafe { &*core::ptr::with_exposed_provenance::<AtomicU64>(chunk - HEADER) };
    place.store(header.0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::windows::Windows;
    use super::{Crc, Portable, Seal, Secrets};
    use crate::random::Random;
    use proptest::prelude::*;

    fn detects_every_flip_of_one_or_two_bits<C: Crc>() {
        let mut random = Random::from_number(3);
        for _ in 0..20 {
            let secrets = Secrets::draw(&mut random);
            let address = (random.u64() as usize) & 0x7fff_ffff_fff0;
            let fields = random.u32();
            let sealed = secrets.checksum::<C>(address, fields);
            let flip = |bit: u32| {
                if bit < 47 {
                    (1_usize << bit, 0_u32, 0_u32)
                } else if bit < 79 {
                    (0, 1 << (bit - 47), 0)
                } else {
                    (0, 0, 1 << (bit - 79))
                }
            };
            for first in 0..111 {
                for second in first..111 {
                    let (a1, f1, c1) = flip(first);
                    let (a2, f2, c2) = if first == second { (0, 0, 0) } else { flip(second) };
                    let seen = secrets.checksum::<C>(address ^ a1 ^ a2, fields ^ f1 ^ f2);
                    assert_ne!(seen, sealed ^ c1 ^ c2, "bits {first} and {second}");
                }
            }
        }
    }

    fn xor_of_two_headers_forges_no_third<C: Crc>() {
        let mut random = Random::from_number(4);
        for _ in 0..20_000 {
            let secrets = Secrets::draw(&mut random);
            let address = (random.u64() as usize) & 0x7fff_ffff_fff0;
            let (a, b, c) = (random.u32(), random.u32(), random.u32());
            let forged = secrets.checksum::<C>(address, a)
                ^ secrets.checksum::<C>(address, b)
                ^ secrets.checksum::<C>(address, c);
            assert_ne!(forged, secrets.checksum::<C>(address, a ^ b ^ c));
            // The same with addresses: the header of one chunk moved to another by the difference of two.
            let other = address ^ 0x40;
            let moved =
                secrets.checksum::<C>(address, a) ^ secrets.checksum::<C>(other, a) ^ secrets.checksum::<C>(address, b);
            assert_ne!(moved, secrets.checksum::<C>(other, b));
        }
    }

    /// Equal CRC of (address, fields) must not mean equal checksum: the kernel of a CRC is public.
    fn collisions_depend_on_the_secrets<C: Crc>() {
        let mut random = Random::from_number(5);
        let mut equal = 0;
        let (a, b) = ((0x7000_0000_0010, 0x1234_5678), (0x7000_0000_0450, 0x9abc_def0));
        for _ in 0..20_000 {
            let secrets = Secrets::draw(&mut random);
            equal += u32::from(secrets.checksum::<C>(a.0, a.1) == secrets.checksum::<C>(b.0, b.1));
        }
        assert_eq!(equal, 0);
    }

    #[test]
    fn portable_checksum_detects_every_flip_of_one_or_two_bits() {
        detects_every_flip_of_one_or_two_bits::<Portable>();
    }

    #[test]
    fn portable_checksum_is_not_linear() {
        xor_of_two_headers_forges_no_third::<Portable>();
        collisions_depend_on_the_secrets::<Portable>();
    }

    #[cfg(target_arch = "x86_64")]
    mod with_the_instruction {
        use super::super::{Crc, Instruction};

        fn present() -> bool {
            let present = crate::os::process::has_crc32_instruction();
            if !present {
                eprintln!("this CPU has no CRC32 instruction: nothing to test");
            }
            present
        }

        #[test]
        fn instruction_checksum_detects_every_flip_of_one_or_two_bits() {
            if present() {
                super::detects_every_flip_of_one_or_two_bits::<Instruction>();
            }
        }

        #[test]
        fn instruction_checksum_is_not_linear() {
            if present() {
                super::xor_of_two_headers_forges_no_third::<Instruction>();
                super::collisions_depend_on_the_secrets::<Instruction>();
            }
        }

        #[test]
        fn the_instruction_computes_crc32c() {
            if present() {
                // Check value of CRC-32C over "12345678" as one little-endian word, start and end complemented.
                let word = u64::from_le_bytes(*b"12345678");
                assert_eq!(!Instruction::crc(0xffff_ffff, word), 0x6087_809a);
            }
        }
    }

    /// The formula, computed by hand: the two halves of the product are joined by XOR.
    #[test]
    fn the_checksum_is_that_of_the_folded_product() {
        let secrets = Secrets { address: 0x10, fields: 0x30, crc: 0x1234, free: 1, canary: Windows::new(0) };
        let folded = |product_of: (u64, u32)| secrets.checksum::<Portable>(product_of.0 as usize, product_of.1);
        let crc = |value| Portable::crc(0x1234, value);
        assert_eq!(folded((0x10 ^ 5, 0x30 ^ 1)), crc(5), "low half only");
        assert_eq!(folded((0x10 ^ 1 << 63, 0x30 ^ 6)), crc(3), "high half only");
        assert_eq!(folded((0x10 ^ (1 << 63 | 1), 0x30 ^ 3)), crc(1 << 63 | 2), "both, with a bit in common");
        // What is common to address and secret cancels out.
        assert_eq!(folded((0x10 ^ 0x12, 0x30 ^ 0x31)), crc(0x12 * 0x31));
    }

    #[test]
    fn what_is_expected_of_a_header_depends_on_its_state() {
        use super::super::header::{Fields, Origin};
        let secrets = Secrets::draw(&mut Random::from_number(6));
        let (address, live) = (0x7000_0000_0010, Fields::allocated(100, 4, Origin::New));
        assert_eq!(secrets.expected::<Portable>(address, live), secrets.checksum::<Portable>(address, live.0));
        for free in [live.freed(), Fields::FRESH] {
            assert_eq!(secrets.expected::<Portable>(address, free), secrets.free_seal(address, free.0));
        }
    }

    /// Every bit: a write to the header of a free slot is noticed whatever it changes, and one slot's does not pass for another's.
    #[test]
    fn the_seal_of_a_free_slot_depends_on_every_bit_of_its_address_and_fields() {
        let mut random = Random::from_number(9);
        for _ in 0..100 {
            let secrets = Secrets::draw(&mut random);
            let (address, fields) = (random.u64() as usize & 0x7fff_ffff_fff0, random.u32());
            let seal = secrets.free_seal(address, fields);
            assert!((0..47).all(|bit| secrets.free_seal(address ^ 1 << bit, fields) != seal));
            assert!((0..32).all(|bit| secrets.free_seal(address, fields ^ 1 << bit) != seal));
            assert_ne!(Secrets::draw(&mut random).free_seal(address, fields), seal);
        }
    }

    #[test]
    fn with_and_without_the_instruction_a_seal_expects_what_its_secrets_say() {
        use super::super::header::{Fields, Origin};
        let secrets = Secrets::draw(&mut Random::from_number(10));
        let (address, live) = (0x7000_0000_0010, Fields::allocated(100, 4, Origin::New));
        let portable = Seal { secrets, has_instruction: false };
        assert_eq!(portable.expected(address, live), secrets.checksum::<Portable>(address, live.0));
        assert_eq!(portable.checksum(address, live.0), secrets.checksum::<Portable>(address, live.0));
        assert_eq!(portable.expected(address, live.freed()), secrets.free_seal(address, live.freed().0));
        #[cfg(target_arch = "x86_64")]
        if crate::os::process::has_crc32_instruction() {
            use super::Instruction;
            let seal = Seal { secrets, has_instruction: true };
            assert_eq!(seal.expected(address, live), secrets.checksum::<Instruction>(address, live.0));
        }
    }

    #[test]
    fn a_header_is_written_and_read_in_front_of_its_chunk() {
        use super::super::header::{Fields, Header};
        let seal = Seal { secrets: Secrets::draw(&mut Random::from_number(11)), has_instruction: false };
        let mut memory = [!0_u64; 3];
        let chunk = memory.as_mut_ptr().expose_provenance() + 8;
        seal.write_fresh(chunk);
        let sealed = Header::seal(Fields::FRESH, seal.secrets.free_seal(chunk, Fields::FRESH.0));
        assert_eq!(super::read(chunk), sealed);
        assert_eq!(memory, [sealed.0, !0, !0]);
    }

    #[test]
    fn all_secrets_are_random() {
        let mut random = Random::from_number(7);
        let drawn: Vec<Secrets> = (0..64).map(|_| Secrets::draw(&mut random)).collect();
        // Every bit that may vary is seen both ways.
        let varying = |of: fn(&Secrets) -> u64| {
            drawn.iter().map(of).fold(0, |ones, value| ones | value)
                & !drawn.iter().map(of).fold(!0, |all, value| all & value)
        };
        assert_eq!(varying(|secrets| secrets.address), !0);
        assert_eq!(varying(|secrets| secrets.fields), !0);
        assert_eq!(varying(|secrets| secrets.crc), 0xffff_ffff);
        assert_eq!(varying(|secrets| secrets.canary.secret[0]), !super::CANARY_FIXED);
        assert_eq!(varying(|secrets| secrets.free), !1);
        assert!(drawn.iter().all(|secrets| secrets.free & 1 == 1 && secrets.crc >> 32 == 0));
    }

    /// One leaked header, and all of the attacker's computing time: of the secrets that fit it, one for each value of the
    /// CRC's secret alone, hardly two agree about another header. (Scudo's 32-bit cookie can be found from one header.)
    #[test]
    fn one_leaked_header_tells_nothing_about_another() {
        let mut random = Random::from_number(8);
        let truth = Secrets::draw(&mut random);
        let (leaked, wanted) = ((0x7000_0000_0010, 0x0018_0092), (0x7000_0000_0050, 0x0018_0092));
        let header = truth.checksum::<Portable>(leaked.0, leaked.1);
        // A CRC32 is affine in where it starts: 32 starts, each of one bit, tell how to get from one value to any other.
        let of = |secrets: &Secrets, start: u64, place: (usize, u32)| {
            Secrets { crc: start, ..*secrets }.checksum::<Portable>(place.0, place.1)
        };
        let mut predictions = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let guess = Secrets::draw(&mut random);
            let base = of(&guess, 0, leaked);
            let mut rows: Vec<(u32, u64)> =
                (0..32).map(|bit| (of(&guess, 1 << bit, leaked) ^ base, 1 << bit)).collect();
            let (mut missing, mut start) = (header ^ base, 0);
            for column in 0..32 {
                let pivot = (0..rows.len()).find(|&row| rows[row].0 >> column & 1 == 1).expect("a CRC loses nothing");
                let (difference, starts) = rows.swap_remove(pivot);
                for row in rows.iter_mut().filter(|row| row.0 >> column & 1 == 1) {
                    *row = (row.0 ^ difference, row.1 ^ starts);
                }
                if missing >> column & 1 == 1 {
                    (missing, start) = (missing ^ difference, start ^ starts);
                }
            }
            assert_eq!(of(&guess, start, leaked), header, "these secrets fit the leaked header");
            predictions.insert(of(&guess, start, wanted));
        }
        assert!(predictions.len() > 990, "{} of 1000 differ", predictions.len());
    }

    proptest! {
        #[test]
        fn canary_bytes_are_never_zero_nor_text_nor_ff(checksum: u32, seed: u64) {
            let secrets = Secrets::draw(&mut Random::from_number(seed));
            for byte in secrets.canary(checksum).to_le_bytes() {
                prop_assert!(byte > 0x7f && byte != 0xff);
            }
        }
    }
}
