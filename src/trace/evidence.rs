//! What the outcome of a walk rested on: where all of it is the same again, so is the outcome.
//!
//! A walk is a computation. It starts with three registers, takes its steps by rules that hang on code addresses alone, and
//! learns everything else from words of the stack: return addresses, and saved frame pointers where a frame is found by one. So two
//! walks that start alike and find the same values in the words that the first one read take the same steps, one after the other, and
//! the second need not be taken. This holds for frames of changing length too (`alloca`): those are found by a frame
//! pointer, which is then among the words.
//!
//! What could change in between is the code itself, by unloading a library and loading another in its place, which rules that were
//! worked out before do not notice either.

use super::Registers;
use super::depot::TraceId;
use super::stack::Window;
use core::sync::atomic::{Ordering, compiler_fence};

/// Words that a walk may rest on, for those that are worth remembering: two for each frame that is kept, and the allocator's own.
const WORDS: usize = 64;

/// Zeroes are of no walk.
#[repr(C)]
pub(super) struct Evidence {
    stack_pointer: usize,
    pc: usize,
    frame_pointer: usize,
    uses_frame_pointer: bool,
    spoilt: bool,
    length: u16,
    /// Which word is the return address that leads out of the allocator.
    way_out: u16,
    trace: Option<TraceId>,
    /// How far above the stack pointer the words lie, counted in words.
    places: [u32; WORDS],
    values: [usize; WORDS],
}

impl Evidence {
    /// Forgets everything, and starts a walk.
    pub(super) fn begin(&mut self, registers: &Registers) {
        self.trace = None;
        self.stack_pointer = registers.stack_pointer;
        self.pc = registers.pc;
        self.frame_pointer = registers.frame_pointer;
        self.uses_frame_pointer = false;
        self.spoilt = false;
        self.length = 0;
        self.way_out = 0;
    }

    pub(super) fn rests_on_frame_pointer(&mut self) {
        self.uses_frame_pointer = true;
    }

    pub(super) fn rests_on(&mut self, address: usize, value: usize) {
        let number = usize::from(self.length);
        let distance = address.wrapping_sub(self.stack_pointer);
        match (self.places.get_mut(number), self.values.get_mut(number), u32::try_from(distance / 8)) {
            (Some(place), Some(kept), Ok(words)) if distance.is_multiple_of(8) => {
                *place = words;
                *kept = value;
                self.length += 1;
            }
            // Below the stack pointer, or one too many.
            _ => self.spoilt = true,
        }
    }

    /// Something else had a part in it, like a page that could not be read.
    pub(super) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// The last word led from the allocator's code to where it was called, or to more of it.
    pub(super) fn left_own(&mut self) {
        self.way_out = self.length.saturating_sub(1);
    }

    /// How far above the stack pointer the word lies, counted in words, that best tells this walk from others with the same
    /// stack pointer.
    pub(super) fn telling_place(&self) -> Option<(u32, usize)> {
        /// Where the allocator is part of the program: about as many frames are its own.
        const GUESS: u16 = 6;
        let number = if self.way_out == 0 { GUESS.min(self.length.checked_sub(1)?) } else { self.way_out };
        Some((*self.places.get(usize::from(number))?, *self.values.get(usize::from(number))?))
    }

    /// Whether another walk can be judged by it.
    pub(super) fn is_sound(&self) -> bool {
        self.length > 0 && !self.spoilt
    }

    /// Takes over what `other` says, for a trace of this number.
    pub(super) fn copy(&mut self, other: &Self, trace: TraceId) {
        let length = usize::from(other.length).min(WORDS);
        // First, and last, so that a signal handler in the middle finds nothing.
        self.trace = None;
        compiler_fence(Ordering::SeqCst);
        self.places[..length].copy_from_slice(&other.places[..length]);
        self.values[..length].copy_from_slice(&other.values[..length]);
        self.stack_pointer = other.stack_pointer;
        self.pc = other.pc;
        self.frame_pointer = other.frame_pointer;
        self.uses_frame_pointer = other.uses_frame_pointer;
        self.spoilt = other.spoilt;
        self.length = other.length;
        self.way_out = other.way_out;
        compiler_fence(Ordering::SeqCst);
        self.trace = Some(trace);
    }

    /// The trace that a walk from these registers would give, if everything is as it was.
    #[inline]
    pub(super) fn verdict(&self, registers: &Registers, window: &Window) -> Option<TraceId> {
        let trace = self.trace?;
        if self.stack_pointer != registers.stack_pointer
            || self.pc != registers.pc
            || self.uses_frame_pointer && self.frame_pointer != registers.frame_pointer
        {
            return None;
        }
        let words = self.places.iter().zip(&self.values).take(usize::from(self.length));
        // From the outermost, which those that are alike in the innermost differ in.
        words
            .rev()
            .all(|(&place, &value)| window.known_word(registers.stack_pointer, place) == Some(value))
            .then_some(trace)
    }

    /// Whether nothing is remembered here.
    pub(super) fn is_empty(&self) -> bool {
        self.trace.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Registers, TraceId, WORDS, Window};
    use core::num::NonZeroU32;

    const ID: TraceId = TraceId(NonZeroU32::MIN);

    fn nothing() -> Evidence {
        Evidence {
            stack_pointer: 0,
            pc: 0,
            frame_pointer: 0,
            uses_frame_pointer: false,
            spoilt: false,
            length: 0,
            way_out: 0,
            trace: None,
            places: [0; WORDS],
            values: [0; WORDS],
        }
    }

    /// A stack of some words, the registers of a walk up it, and what is known of it.
    fn stack(words: &mut [usize]) -> (Registers, Window) {
        let start = words.as_mut_ptr().expose_provenance();
        let mut window = Window::UNKNOWN;
        window.settle(1, start);
        assert!(window.word(start + (words.len() - 1) * 8).is_some());
        (Registers { pc: 0x40_0000, stack_pointer: start, frame_pointer: 7 }, window)
    }

    /// A walk that read the words at these places.
    fn evidence(registers: &Registers, window: &mut Window, places: &[usize], uses_frame_pointer: bool) -> Evidence {
        let (mut latest, mut kept) = (nothing(), nothing());
        latest.begin(registers);
        for place in places {
            let address = registers.stack_pointer + place * 8;
            latest.rests_on(address, window.word(address).expect("a word"));
        }
        if uses_frame_pointer {
            latest.rests_on_frame_pointer();
        }
        assert!(latest.is_sound());
        kept.copy(&latest, ID);
        kept
    }

    #[test]
    fn any_word_that_was_read_counts_and_no_other() {
        let mut words: Vec<usize> = (100..200).collect();
        let (registers, mut window) = stack(&mut words);
        let places = [3, 10, 11, 42, 99];
        let walk = evidence(&registers, &mut window, &places, false);
        for place in 0..words.len() {
            let address = core::ptr::with_exposed_provenance_mut::<usize>(registers.stack_pointer + place * 8);
            // SAFETY: a word of `words`, whose address was exposed.
            let before = unsafe { address.replace(1) };
            assert_eq!(walk.verdict(&registers, &window).is_none(), places.contains(&place), "place {place}");
            // SAFETY: as above.
            unsafe { address.write(before) };
            assert_eq!(walk.verdict(&registers, &window), Some(ID));
        }
    }

    #[test]
    fn registers_count_and_the_frame_pointer_where_it_was_used() {
        let mut words: Vec<usize> = (100..120).collect();
        let (registers, mut window) = stack(&mut words);
        for used in [false, true] {
            let walk = evidence(&registers, &mut window, &[1, 5], used);
            let other = Registers { frame_pointer: 8, ..registers };
            assert_eq!(walk.verdict(&other, &window).is_none(), used);
            assert_eq!(walk.verdict(&Registers { pc: 1, ..registers }, &window), None);
            let above = Registers { stack_pointer: registers.stack_pointer + 8, ..registers };
            assert_eq!(walk.verdict(&above, &window), None);
        }
    }

    #[test]
    fn what_is_not_known_to_be_readable_is_not_read() {
        let mut words = vec![5; 4096];
        let (registers, mut window) = stack(&mut words);
        let walk = evidence(&registers, &mut window, &[1, 4000], false);
        assert_eq!(walk.verdict(&registers, &window), Some(ID));
        let mut fresh = Window::UNKNOWN;
        assert_eq!(walk.verdict(&registers, &fresh), None);
        fresh.settle(1, registers.stack_pointer);
        assert_eq!(walk.verdict(&registers, &fresh), None);
    }

    #[test]
    fn a_walk_on_too_much_or_below_its_stack_pointer_is_not_sound() {
        let registers = Registers { pc: 1, stack_pointer: 0x1000, frame_pointer: 0 };
        let begun = || {
            let mut walk = nothing();
            walk.begin(&registers);
            walk
        };
        assert!(!begun().is_sound());
        let mut long = begun();
        for number in 0..WORDS {
            long.rests_on(0x1000 + number * 8, 0);
        }
        assert!(long.is_sound());
        long.rests_on(0x1000, 0);
        assert!(!long.is_sound());
        for wrong in [0xff8, 0x1004] {
            let mut walk = begun();
            walk.rests_on(wrong, 0);
            assert!(!walk.is_sound());
        }
    }
}
