//! The way up a stack, from frame to frame.

use super::evidence::Evidence;
use super::module::Module;
use super::rule::{Base, Place, Rule};
use super::rules::Rules;
use super::stack::Window;
use super::{Registers, unwind};
use core::ops::Range;

/// Frames that are walked beyond those that are kept, for those of the allocator.
const MORE_STEPS: usize = 40;

/// Where the value of a frame's frame pointer comes from. Most functions only carry their caller's along, whatever that is, so it
/// counts as evidence when, and only when, a frame is found by it.
#[derive(Clone, Copy)]
enum Source {
    /// The register, at the start of the walk.
    Register,
    /// A word of the stack.
    Word(usize),
    /// What is known already.
    Known,
}

/// A walk under way.
pub(super) struct Walk<'a> {
    rules: Option<&'a Rules>,
    window: &'a mut Window,
    evidence: Option<&'a mut Evidence>,
    source: Source,
}

/// The addresses of the library that is the allocator; none, and not zero, where the allocator is a part of the program.
#[cold]
fn own_code() -> Range<usize> {
    match Module::around(Registers::here().pc) {
        Some(module) if module.is_own_library() => module.addresses(),
        _ => 1..1,
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(rules: Option<&'a Rules>, window: &'a mut Window, evidence: Option<&'a mut Evidence>) -> Self {
        Self { rules, window, evidence, source: Source::Register }
    }

    /// Writes the calls that led to a place to `frames`, innermost first; returns how many.
    pub(super) fn run(
        &mut self,
        mut registers: Registers,
        thread: i32,
        skips_own: bool,
        frames: &mut [usize],
    ) -> usize {
        let own = match self.rules {
            _ if !skips_own => 1..1,
            Some(rules) => rules.own(own_code),
            None => own_code(),
        };
        if let Some(evidence) = &mut self.evidence {
            evidence.begin(&registers);
        }
        let mut length = 0;
        // The first address is that of the next instruction to run; those of callers are return addresses.
        let mut returned = 0;
        self.window.settle(thread, registers.stack_pointer);
        for _ in 0..frames.len() + MORE_STEPS {
            let at = registers.pc.wrapping_sub(returned);
            if !own.contains(&at) {
                let Some(place) = frames.get_mut(length) else { break };
                *place = at;
                length += 1;
            }
            let Some((next, signal)) = self.step(&registers, at) else { break };
            if signal {
                self.window.settle(thread, next.stack_pointer);
                // On two stacks, perhaps.
                self.spoil();
            }
            if own.contains(&at)
                && let Some(evidence) = &mut self.evidence
            {
                evidence.left_own();
            }
            returned = usize::from(!signal);
            registers = next;
        }
        length
    }

    fn spoil(&mut self) {
        if let Some(evidence) = &mut self.evidence {
            evidence.spoil();
        }
    }

    /// A word that the outcome rests on.
    fn word(&mut self, address: usize) -> Option<usize> {
        let word = self.window.word(address);
        if let Some(evidence) = &mut self.evidence {
            match word {
                Some(word) => evidence.rests_on(address, word),
                None => evidence.spoil(),
            }
        }
        word
    }

    /// The frame pointer, of which the outcome depends from here on.
    fn frame_pointer(&mut self, registers: &Registers) -> usize {
        if let Some(evidence) = &mut self.evidence {
            match self.source {
                Source::Register => evidence.rests_on_frame_pointer(),
                Source::Word(address) => evidence.rests_on(address, registers.frame_pointer),
                Source::Known => {}
            }
            self.source = Source::Known;
        }
        registers.frame_pointer
    }

    /// A frame pointer that was saved, of which nothing depends as yet.
    fn saved_frame_pointer(&mut self, address: usize) -> Option<usize> {
        self.source = Source::Word(address);
        let word = self.window.word(address);
        if word.is_none() {
            self.spoil();
        }
        word
    }

    fn rule(&self, at: usize) -> Option<Rule> {
        if let Some(rule) = self.rules.and_then(|rules| rules.get(at)) {
            return Some(rule);
        }
        let rule = Module::around(at).and_then(|module| unwind::rule(&module, at));
        if let (Some(rules), Some(rule)) = (self.rules, &rule) {
            rules.put(at, rule);
        }
        rule
    }

    fn base(&mut self, registers: &Registers, base: Base) -> usize {
        match base {
            Base::StackPointer => registers.stack_pointer,
            Base::FramePointer => self.frame_pointer(registers),
        }
    }

    /// The caller of a frame, and whether it was interrupted by a signal instead of calling.
    fn step(&mut self, registers: &Registers, at: usize) -> Option<(Registers, bool)> {
        let Some(rule) = self.rule(at) else {
            // No table: the frame pointer may lead on.
            let frame = self.frame_pointer(registers);
            if frame < registers.stack_pointer {
                return None;
            }
            let next = Registers {
                pc: self.word(frame.checked_add(8)?)?,
                stack_pointer: frame.checked_add(16)?,
                frame_pointer: self.saved_frame_pointer(frame)?,
            };
            return (next.pc != 0).then_some((next, false));
        };
        let mut frame = self.base(registers, rule.base).wrapping_add_signed(rule.offset as isize);
        if rule.indirect {
            frame = self.word(frame)?;
        }
        let mut place = |place| match place {
            Place::Same | Place::Undefined => None,
            Place::AtFrame(offset) => Some(frame.wrapping_add_signed(offset as isize)),
            Place::At(from, offset) => Some(self.base(registers, from).wrapping_add_signed(offset as isize)),
        };
        let (pc, saved) = (place(rule.return_address)?, place(rule.frame_pointer));
        let pc = self.word(pc)?;
        let frame_pointer = match (rule.frame_pointer, saved) {
            (Place::Same, _) => registers.frame_pointer,
            (_, Some(address)) => self.saved_frame_pointer(address).unwrap_or_default(),
            (_, None) => {
                self.source = Source::Known;
                0
            }
        };
        // A stack only ends upwards; but a signal handler may run on another one.
        if pc == 0 || frame <= registers.stack_pointer && !rule.signal {
            return None;
        }
        Some((Registers { pc, stack_pointer: frame, frame_pointer }, rule.signal))
    }
}
