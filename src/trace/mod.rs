//! Stack traces that may be taken inside malloc and inside signal handlers: no lock, no allocation, no fault.
//!
//! * [`unwind`]: one step up by the unwind tables that every module has.
//! * [`stack`]: reading a stack whose bounds nobody knows.
//! * [`module`]: which module an address lies in.
//! * [`symbol`]: which function; for reports only, because it reads files. [`variable`]: where a variable is, by its name.
//!
//! Where there is no table (code made at run time), the frame pointer is followed.

mod module;
mod stack;
mod symbol;
mod unwind;
pub(crate) mod variable;

use core::fmt::{self, Write};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use module::Module;
pub(crate) use stack::Window;
pub(crate) use symbol::note_sandbox;
use unwind::{Base, Place, Rule};

/// Frames that are kept, innermost first.
pub(crate) const DEPTH: usize = 24;

/// Frames that are walked beyond those that are kept, for those of the allocator.
const MORE_STEPS: usize = 40;

/// The calls that led somewhere: addresses within the calling instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub(crate) frames: [usize; DEPTH],
    pub(crate) length: usize,
}

/// A thread, and the calls that led to what it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) thread: i32,
    pub(crate) trace: Trace,
}

/// Who allocated a chunk, and who gave it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) allocated: Option<Caller>,
    pub(crate) freed: Option<Caller>,
}

/// Registers of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub(crate) pc: usize,
    pub(crate) stack_pointer: usize,
    pub(crate) frame_pointer: usize,
}

impl Registers {
    /// Those of the caller.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let (pc, stack_pointer, frame_pointer);
            // SAFETY: reads three registers.
            unsafe {
                core::arch::asm!(
                    "lea {pc}, [rip]",
                    "mov {sp}, rsp",
                    "mov {fp}, rbp",
                    pc = out(reg) pc,
                    sp = out(reg) stack_pointer,
                    fp = out(reg) frame_pointer,
                    options(nomem, nostack, preserves_flags),
                );
            }
            Self { pc, stack_pointer, frame_pointer }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Self { pc: 0, stack_pointer: 0, frame_pointer: 0 }
        }
    }
}

/// What was worked out before: rules by address, and where the allocator's own code lies. Racing threads may lose an entry, never
/// mix two up. Zeroes are a valid one that knows nothing.
pub(crate) struct Rules {
    places: [[AtomicU64; 2]; RULES],
    /// End and start of the library that is the allocator; the end is zero as long as nobody asked.
    own: [AtomicUsize; 2],
}

/// 64 KiB, of which only what is used is ever touched: a walk costs a tenth when every rule is found here.
const RULES: usize = 4096;

impl Rules {
    fn place(&self, pc: usize) -> &[AtomicU64; 2] {
        let hash = (pc as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RULES.ilog2());
        &self.places[hash as usize & (RULES - 1)]
    }

    /// The addresses of the allocator's own code.
    fn own(&self) -> Range<usize> {
        let [end, start] = &self.own;
        match end.load(Ordering::Acquire) {
            0 => {
                let own = own_code();
                start.store(own.start, Ordering::Relaxed);
                end.store(own.end, Ordering::Release);
                own
            }
            end => start.load(Ordering::Relaxed)..end,
        }
    }

    fn get(&self, pc: usize) -> Option<Rule> {
        let [key, packed] = self.place(pc);
        let packed = packed.load(Ordering::Relaxed);
        (packed != 0 && key.load(Ordering::Relaxed) ^ packed == pc as u64).then(|| unpack(packed))
    }

    fn put(&self, pc: usize, rule: &Rule) {
        if let Some(packed) = pack(rule) {
            let [key, place] = self.place(pc);
            key.store(pc as u64 ^ packed, Ordering::Relaxed);
            place.store(packed, Ordering::Relaxed);
        }
    }
}

/// The addresses of the library that is the allocator; none, and not zero, where the allocator is a part of the program.
#[cold]
fn own_code() -> Range<usize> {
    match Module::around(Registers::here().pc) {
        Some(module) if module.is_own_library() => module.addresses(),
        _ => 1..1,
    }
}

/// The usual kind of rule in a word that is not zero: 24 bits each for the offsets of frame and frame pointer.
fn pack(rule: &Rule) -> Option<u64> {
    let field =
        |offset: i32| (-(1 << 23)..1 << 23).contains(&offset).then_some(u64::from(offset.cast_unsigned()) & 0xff_ffff);
    if rule.indirect || rule.signal {
        return None;
    }
    let last = match rule.return_address {
        Place::AtFrame(-8) => 0,
        // Nobody called: the end of every walk.
        Place::Undefined => 1,
        _ => return None,
    };
    let (saved, offset) = match rule.frame_pointer {
        Place::Same => (0, 0),
        Place::AtFrame(offset) => (1, field(offset)?),
        _ => return None,
    };
    let base = u64::from(rule.base == Base::FramePointer);
    Some(1 << 63 | last << 50 | saved << 49 | base << 48 | offset << 24 | field(rule.offset)?)
}

fn unpack(packed: u64) -> Rule {
    let field = |shift: u32| (((packed >> shift) as u32) << 8).cast_signed() >> 8;
    Rule {
        base: if packed >> 48 & 1 == 1 { Base::FramePointer } else { Base::StackPointer },
        offset: field(0),
        indirect: false,
        return_address: if packed >> 50 & 1 == 1 { Place::Undefined } else { Place::AtFrame(-8) },
        frame_pointer: if packed >> 49 & 1 == 1 { Place::AtFrame(field(24)) } else { Place::Same },
        signal: false,
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        self.frames == other.frames
    }
}

impl Trace {
    pub(crate) const NONE: Self = Self { frames: [0; DEPTH], length: 0 };

    /// The calls that led here, without those inside a library that is the allocator.
    #[inline(never)]
    pub(crate) fn here(rules: Option<&Rules>, window: &mut Window, thread: i32) -> Self {
        Self::from(Registers::here(), rules, window, thread, true)
    }

    /// The calls that led to a place.
    #[inline(always)]
    pub(crate) fn from(
        registers: Registers,
        rules: Option<&Rules>,
        window: &mut Window,
        thread: i32,
        skips_own: bool,
    ) -> Self {
        let mut trace = Self::NONE;
        trace.length = walk(registers, rules, window, thread, skips_own, &mut trace.frames);
        trace
    }
}

/// Writes the calls that led to a place to `frames`, innermost first; returns how many.
pub(crate) fn walk(
    mut registers: Registers,
    rules: Option<&Rules>,
    window: &mut Window,
    thread: i32,
    skips_own: bool,
    frames: &mut [usize],
) -> usize {
    let own = match rules {
        _ if !skips_own => 1..1,
        Some(rules) => rules.own(),
        None => own_code(),
    };
    let mut length = 0;
    // The first address is that of the next instruction to run; those of callers are return addresses.
    let mut returned = 0;
    window.settle(thread, registers.stack_pointer);
    for _ in 0..frames.len() + MORE_STEPS {
        let at = registers.pc.wrapping_sub(returned);
        if !own.contains(&at) {
            let Some(place) = frames.get_mut(length) else { break };
            *place = at;
            length += 1;
        }
        let Some((next, signal)) = step(&registers, at, rules, window) else { break };
        if signal {
            window.settle(thread, next.stack_pointer);
        }
        returned = usize::from(!signal);
        registers = next;
    }
    length
}

/// The caller of a frame, and whether it was interrupted by a signal instead of calling.
fn step(registers: &Registers, at: usize, rules: Option<&Rules>, window: &mut Window) -> Option<(Registers, bool)> {
    let rule = match rules.and_then(|rules| rules.get(at)) {
        Some(rule) => Some(rule),
        None => {
            let rule = Module::around(at).and_then(|module| unwind::rule(&module, at));
            if let (Some(rules), Some(rule)) = (rules, &rule) {
                rules.put(at, rule);
            }
            rule
        }
    };
    let Some(rule) = rule else {
        // No table: the frame pointer may lead on.
        let frame = registers.frame_pointer;
        if frame < registers.stack_pointer {
            return None;
        }
        let next = Registers {
            pc: window.word(frame.checked_add(8)?)?,
            stack_pointer: frame.checked_add(16)?,
            frame_pointer: window.word(frame)?,
        };
        return (next.pc != 0).then_some((next, false));
    };
    let base = |base| match base {
        Base::StackPointer => registers.stack_pointer,
        Base::FramePointer => registers.frame_pointer,
    };
    let mut frame = base(rule.base).wrapping_add_signed(rule.offset as isize);
    if rule.indirect {
        frame = window.word(frame)?;
    }
    let mut value = |place, same| match place {
        Place::Same => same,
        Place::Undefined => None,
        Place::AtFrame(offset) => window.word(frame.wrapping_add_signed(offset as isize)),
        Place::At(from, offset) => window.word(base(from).wrapping_add_signed(offset as isize)),
    };
    let pc = value(rule.return_address, None)?;
    let frame_pointer = value(rule.frame_pointer, Some(registers.frame_pointer)).unwrap_or_default();
    // A stack only ends upwards; but a signal handler may run on another one.
    if pc == 0 || frame <= registers.stack_pointer && !rule.signal {
        return None;
    }
    Some((Registers { pc, stack_pointer: frame, frame_pointer }, rule.signal))
}

/// One line of a trace: `#3 0x… function+0x… (/path/of/module+0x…)`, of which `addr2line` and `llvm-symbolizer` understand the part
/// in parentheses. The function is left out where its module's file does not name it.
pub(crate) fn write_frame(out: &mut dyn Write, number: usize, address: usize) -> fmt::Result {
    write!(out, "    #{number} {address:#x}")?;
    if let Some(function) = Module::around(address).and_then(|module| symbol::name(&module, address)) {
        write!(out, " {function}")?;
    }
    let mut path = [0; 256];
    if let Some((name, offset)) = place_of(address, &mut path) {
        out.write_str(" (")?;
        for part in name.utf8_chunks() {
            out.write_str(part.valid())?;
        }
        write!(out, "+{offset:#x})")?;
    }
    out.write_str("\n")
}

/// The file of the module that an address lies in, and the address in that file's own terms. The program's own path is read
/// into `path`.
pub(crate) fn place_of(address: usize, path: &mut [u8; 256]) -> Option<(&[u8], usize)> {
    let module = Module::around(address)?;
    let offset = address.wrapping_sub(module.displacement());
    let name = match module.name() {
        [] => program_path(path),
        name => name,
    };
    Some((name, offset))
}

/// The path of the program.
fn program_path(place: &mut [u8; 256]) -> &[u8] {
    // SAFETY: a terminated path and a place of so many bytes.
    let length = unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), place.as_mut_ptr().cast(), place.len()) };
    usize::try_from(length).ok().and_then(|length| place.get(..length)).unwrap_or(b"program")
}

#[cfg(test)]
mod tests {
    use super::{Base, Place, Registers, Rule, Trace, Window, pack, unpack};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_a_rule_loses_nothing(
            offset in -(1 << 23)..1_i32 << 23, saved in prop::option::of(-(1 << 23)..1_i32 << 23), framed: bool, last: bool,
        ) {
            let rule = Rule {
                base: if framed { Base::FramePointer } else { Base::StackPointer },
                offset,
                indirect: false,
                return_address: if last { Place::Undefined } else { Place::AtFrame(-8) },
                frame_pointer: saved.map_or(Place::Same, Place::AtFrame),
                signal: false,
            };
            prop_assert_eq!(pack(&rule).map(unpack), Some(rule));
        }
    }

    #[inline(never)]
    fn deep(levels: usize, window: &mut Window) -> Trace {
        let trace = if levels == 0 { Trace::here(None, window, 1) } else { deep(levels - 1, window) };
        core::hint::black_box(trace)
    }

    #[test]
    fn a_trace_goes_up_to_the_start_of_the_thread_and_has_a_frame_for_each_call() {
        let mut window = Window::UNKNOWN;
        let shallow = deep(0, &mut window).length;
        let deeper = deep(3, &mut window).length;
        assert!(shallow > 3, "{shallow}");
        assert!(deeper == shallow + 3 || deeper == super::DEPTH, "{shallow} and {deeper}");
    }

    #[test]
    fn nonsense_in_registers_ends_the_walk() {
        let here = Registers::here();
        for wrong in [0, 1, 8, usize::MAX, usize::MAX - 7, here.pc, here.stack_pointer + 1, here.stack_pointer & !7] {
            for registers in [
                Registers { pc: wrong, ..here },
                Registers { stack_pointer: here.stack_pointer, frame_pointer: wrong, pc: 0 },
                Registers { frame_pointer: wrong, ..here },
            ] {
                let mut window = Window::UNKNOWN;
                let trace = Trace::from(registers, None, &mut window, 1, false);
                assert!(trace.length <= super::DEPTH);
            }
        }
    }
}
