//! Stack traces that may be taken inside malloc and inside signal handlers: no lock, no allocation, no fault.
//!
//! * [`unwind`]: one step up by the unwind tables that every module has, whose instructions are numbered in [`call_frame`]. [`rule`] is what
//!   they say, [`rules`] what they said before.
//! * [`walk`]: from step to step. [`evidence`]: what the outcome rested on. [`remembered`]: outcomes that are known by their evidence.
//! * [`depot`]: traces by number.
//! * [`stack`]: reading a stack whose bounds nobody knows.
//! * [`module`]: which module an address lies in.
//! * [`symbol`]: which function; for reports only, because it reads files. [`variable`]: where a variable is, by its name.
//!
//! Where there is no table (code made at run time), the frame pointer is followed.

mod call_frame;
pub(crate) mod depot;
mod evidence;
mod module;
pub(crate) mod remembered;
mod rule;
mod rules;
mod stack;
mod symbol;
mod unwind;
pub(crate) mod variable;
mod walk;

use core::fmt::{self, Write};
use depot::{Depot, TraceId};
pub(crate) use module::Module;
use remembered::Remembered;
pub(crate) use rules::Rules;
pub(crate) use stack::Window;
pub(crate) use symbol::note_sandbox;
use walk::Walk;

/// Frames that are kept, innermost first.
pub(crate) const DEPTH: usize = 24;

/// The calls that led somewhere: addresses within the calling instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub(crate) frames: [usize; DEPTH],
    pub(crate) length: usize,
}

/// A thread, and the calls that led to what it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<T = Trace> {
    pub(crate) thread: i32,
    pub(crate) trace: T,
}

/// A trace that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Taken {
    /// The depot has it.
    Numbered(TraceId),
    /// The depot has no room.
    Whole(Trace),
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

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        self.frames == other.frames
    }
}

impl Trace {
    pub(crate) const NONE: Self = Self { frames: [0; DEPTH], length: 0 };

    /// The calls that led here, without those inside a library that is the allocator.
    #[inline(never)]
    pub(crate) fn here(window: &mut Window, thread: i32) -> Self {
        Self::from(Registers::here(), None, window, thread, true)
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

impl Taken {
    /// The calls that led here, without those inside a library that is the allocator.
    #[inline(never)]
    pub(crate) fn here(
        rules: &Rules,
        depot: &Depot,
        remembered: &mut Remembered,
        window: &mut Window,
        thread: i32,
    ) -> Self {
        let registers = Registers::here();
        window.settle(thread, registers.stack_pointer);
        if let Some(known) = remembered.find(&registers, window) {
            return Self::Numbered(known);
        }
        // By reference: this frame, which the registers are of, must be there as long as the walk lasts.
        Self::take(&registers, rules, depot, remembered, window, thread)
    }

    #[cold]
    #[inline(never)]
    fn take(
        registers: &Registers,
        rules: &Rules,
        depot: &Depot,
        remembered: &mut Remembered,
        window: &mut Window,
        thread: i32,
    ) -> Self {
        let mut trace = Trace::NONE;
        let mut walk = Walk::new(Some(rules), window, remembered.evidence());
        trace.length = walk.run(*registers, thread, true, &mut trace.frames);
        let Some(number) = depot.number(&trace) else { return Self::Whole(trace) };
        remembered.keep(registers.stack_pointer, number);
        Self::Numbered(number)
    }
}

/// Writes the calls that led to a place to `frames`, innermost first; returns how many.
pub(crate) fn walk(
    registers: Registers,
    rules: Option<&Rules>,
    window: &mut Window,
    thread: i32,
    skips_own: bool,
    frames: &mut [usize],
) -> usize {
    Walk::new(rules, window, None).run(registers, thread, skips_own, frames)
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
        // Whoever names a file must not move the cursor of whoever reads the report.
        for letter in name.utf8_chunks().flat_map(|part| part.valid().chars()) {
            out.write_char(if letter.is_control() { '?' } else { letter })?;
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
    use super::depot::{DEPOT_BYTES, Depot};
    use super::remembered::{REMEMBERED_BYTES, Remembered};
    use super::{Registers, Rules, Taken, Trace, Window};
    use crate::os::mapping;
    use crate::random::Random;

    #[inline(never)]
    fn deep(levels: usize, window: &mut Window) -> Trace {
        let trace = if levels == 0 { Trace::here(window, 1) } else { deep(levels - 1, window) };
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

    /// All that traces are taken with.
    struct Tools {
        rules: Rules,
        depot: Depot,
        remembered: Remembered,
        window: Window,
        /// Which functions call which, one digit a call.
        path: u32,
        numbered: u32,
    }

    impl Tools {
        fn new() -> Box<Self> {
            let (depot, mut remembered) = (Depot::empty(), Remembered::NOWHERE);
            depot.settle(mapping::reserve(0, DEPOT_BYTES).expect("address space")).expect("memory");
            remembered.settle(mapping::reserve(0, REMEMBERED_BYTES));
            let window = Window::UNKNOWN;
            Box::new(Self { rules: Rules::new(), depot, remembered, window, path: 0, numbered: 0 })
        }

        /// The trace by memory, if there is one, and by a walk, of the same place. The innermost two frames are those of the
        /// functions that take them and of this one.
        #[inline(never)]
        fn take(&mut self) {
            let Self { rules, depot, remembered, window, .. } = self;
            let taken = Taken::here(rules, depot, remembered, window, 1);
            let whole = Trace::here(window, 1);
            let taken = match taken {
                Taken::Numbered(number) => {
                    self.numbered += 1;
                    self.depot.trace(number).expect("the depot has it")
                }
                Taken::Whole(trace) => trace,
            };
            assert_eq!((&taken.frames[2..], taken.length), (&whole.frames[2..], whole.length), "{:o}", self.path);
        }
    }

    /// Functions with frames of different sizes that call each other on a path.
    macro_rules! callers {
        ($($name:ident $words:literal)+) => {
            $(#[inline(never)]
            fn $name(tools: &mut Tools, path: u32) {
                let mut frame = [path as usize; $words];
                core::hint::black_box(&mut frame);
                if path == 0 { tools.take() } else { CALLERS[path as usize % CALLERS.len()](tools, path / 8) }
                if path % 3 == 0 { tools.take() }
                core::hint::black_box(&mut frame);
            })+
            const CALLERS: [fn(&mut Tools, u32); 8] = [$($name),+];
        };
    }
    callers! { one 1 other_one 1 two 2 three 3 seven 7 many 100 more 1000 third_one 1 }

    #[test]
    fn a_remembered_walk_is_the_one_that_would_be_taken() {
        let mut tools = Tools::new();
        let mut random = Random::from_number(1);
        let mut taken = 0;
        for round in 0..6_000 {
            // A few paths often, and others once.
            tools.path = if round % 4 == 0 { random.u64() as u32 >> (round % 20) } else { random.below(600) };
            let path = tools.path;
            one(&mut tools, path);
            taken += 1;
        }
        assert!(tools.numbered > taken, "{} of {taken}", tools.numbered);
        tools.remembered.unmap();
        tools.depot.unmap();
    }

    #[test]
    fn a_walk_is_remembered() {
        let mut tools = Tools::new();
        for _ in 0..1000 {
            let Tools { rules, depot, remembered, window, .. } = &mut *tools;
            Taken::here(rules, depot, remembered, window, 1);
        }
        // As many ways as the compiler makes of the loop, which it may unroll.
        assert!((1..=16).contains(&tools.remembered.kept()), "{}", tools.remembered.kept());
        tools.remembered.unmap();
        tools.depot.unmap();
    }
}
