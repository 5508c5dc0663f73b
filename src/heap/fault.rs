//! SIGSEGV, explained: which chunk an access that faulted belongs to, and where it lies.
//!
//! The handler prints a report, puts back the action that was there before, and returns: the instruction faults again,
//! and whatever the program (or the system) does about it happens as it would have without testudo (but see
//! [`nobody_else_would_see_it`]). A handler that the
//! program installs later takes this one's place, as it would have taken the default's.

use super::core::Core;
use crate::guarded::GUARDED_MAX;
use crate::os::process::{self, Errno};
use crate::os::report_copy;
use crate::primary::region::ZERO_SIZED;
use crate::primary::zero_sized;
use crate::report;
use crate::size_class::MIN_ALIGN;
use crate::text::Text;
use crate::trace::{Registers, Trace, Window};
use crate::violation::{Kind, Operation, Violation};
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The heap whose chunks are known here; zero until the handler is installed.
static HEAP: AtomicUsize = AtomicUsize::new(0);

/// Whether a fault is being, or has been, explained: the first one is what matters.
static EXPLAINING: AtomicBool = AtomicBool::new(false);

/// What the program, or the system, would have done. Written once, before the handler can run.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written before the handler is installed, by the one thread that makes the heap, and only read from then on.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));

/// Installs the handler for the process-wide heap at an address.
pub(crate) fn explain_from_now_on(heap: usize) {
    let _errno = Errno::keep();
    // SAFETY: plain structures, valid places, and a handler of the type that SA_SIGINFO asks for. The old action is stored first, by a
    // call of its own, because the new one may run at once.
    unsafe {
        if libc::sigaction(libc::SIGSEGV, core::ptr::null(), (*BEFORE.0.get()).as_mut_ptr()) == 0 {
            HEAP.store(heap, Ordering::Release);
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            // On the alternate stack, if the program has one: the fault may be that the stack is full.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGSEGV, &raw const action, core::ptr::null_mut());
        }
    }
}

extern "C" fn on_fault(signal: libc::c_int, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let _errno = Errno::keep();
    // SAFETY: as in `explain_from_now_on`: the action was stored before this handler could run.
    unsafe { libc::sigaction(libc::SIGSEGV, (*BEFORE.0.get()).as_ptr(), core::ptr::null_mut()) };
    // SAFETY: the kernel gives a valid structure; the address is part of it for faults.
    let (code, address) = unsafe { ((*information).si_code, (*information).si_addr().addr()) };
    if code <= 0 {
        tell_command("was sent SIGSEGV");
        // Sent by somebody: returning would swallow it.
        // SAFETY: no memory is involved. The signal is blocked until this handler returns.
        unsafe { libc::raise(signal) };
        return;
    }
    if !explain_fault(address, context) {
        // What the kernel says of a fault that is not one of a page's: x86 knows no address then.
        tell_command(if code == libc::SI_KERNEL { "faulted without an address" } else { "faulted" });
    }
    if nobody_else_would_see_it() {
        process::abort();
    }
}

/// Tells `testudo run`, if that runs the program, what it could not see itself (`fault_of` in `run/explain.rs` reads it).
#[inline(never)]
fn tell_command(what: &str) {
    let mut text = Text::<64>::new();
    let _ = writeln!(text, "testudo: process {} {what}", process::process_number());
    report_copy::append(text.as_bytes());
}

/// Whether the program has no handler of its own for a fault, but one for an abort: a fuzzer's runtime (libFuzzer) that
/// found this handler in place and so installed none. By the default action the input that it must save would be lost.
fn nobody_else_would_see_it() -> bool {
    // SAFETY: plain structures and valid places; the old action was stored before this handler could run.
    unsafe {
        let mut on_abort: libc::sigaction = core::mem::zeroed();
        (*(*BEFORE.0.get()).as_ptr()).sa_sigaction == libc::SIG_DFL
            && libc::sigaction(libc::SIGABRT, core::ptr::null(), &raw mut on_abort) == 0
            && !matches!(on_abort.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
    }
}

/// Reports the fault, if it is at one of the heap's chunks and the first; whether one is, or was, reported.
fn explain_fault(address: usize, context: *mut libc::c_void) -> bool {
    let heap = HEAP.load(Ordering::Acquire);
    if heap == 0 || EXPLAINING.swap(true, Ordering::AcqRel) {
        return true;
    }
    // SAFETY: the process-wide heap is never destroyed.
    let core = unsafe { Core::at(heap) };
    let operation = if is_write(context) { Operation::Write } else { Operation::Read };
    if let Some(violation) = core.explain(address, operation) {
        let thread = process::thread_number();
        let mut window = Window::UNKNOWN;
        let here = Trace::from(registers(context), None, &mut window, thread, false);
        report::write(&violation, core.guarded.history(address).as_ref(), &here);
    } else {
        // Not the heap's: the next one may be.
        EXPLAINING.store(false, Ordering::Release);
        return false;
    }
    true
}

/// Whether the access was a write: bit 1 of the page fault's error code.
#[cfg(target_arch = "x86_64")]
fn is_write(context: *mut libc::c_void) -> bool {
    // SAFETY: the kernel gives a valid context.
    let general = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    general.get(libc::REG_ERR as usize).is_some_and(|error| error & 2 != 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn is_write(_: *mut libc::c_void) -> bool {
    false
}

/// Where the thread was.
#[cfg(target_arch = "x86_64")]
fn registers(context: *mut libc::c_void) -> Registers {
    // SAFETY: as above.
    let general = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register = |number: libc::c_int| general.get(number as usize).map_or(0, |value| value.cast_unsigned() as usize);
    Registers {
        pc: register(libc::REG_RIP),
        stack_pointer: register(libc::REG_RSP),
        frame_pointer: register(libc::REG_RBP),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: *mut libc::c_void) -> Registers {
    Registers { pc: 0, stack_pointer: 0, frame_pointer: 0 }
}

impl Core {
    /// What is wrong with an access that faulted; `None` when the address has nothing to do with this heap's chunks.
    fn explain(&self, address: usize, operation: Operation) -> Option<Violation> {
        let told = |chunk: usize, size: usize, live: bool, origin| {
            let offset = address.wrapping_sub(chunk).cast_signed();
            let (kind, detail) = match offset {
                ..0 if !live => (Kind::UseAfterFree, "the access lies in front of a chunk that was given back"),
                _ if !live => (Kind::UseAfterFree, "the access lies in or behind a chunk that was given back"),
                ..0 => (Kind::Underflow, "the access lies in front of the chunk, in a guard page"),
                _ => (Kind::Overflow, "the access lies behind the chunk, in a guard page"),
            };
            Some(Violation::new(kind, operation, address, detail).chunk(size, Some(origin)).at(offset))
        };
        if let Some((chunk, live)) = self.guarded.chunk_near(address) {
            return told(chunk.address, chunk.size, live, chunk.origin);
        }
        if let Some(region) = self.arena.region_of(address) {
            if region.class() == ZERO_SIZED && region.slots() != 0 {
                let detail = "the access lies among chunks of no bytes";
                let chunk = address & !(MIN_ALIGN - 1);
                let origin = match self.zero_sized.try_lock()?.find(&self.arena, region, chunk) {
                    zero_sized::Found::Live(origin) => Some(origin),
                    zero_sized::Found::Freed | zero_sized::Found::Nothing => None,
                };
                return Some(Violation::new(Kind::ZeroSized, operation, address, detail).chunk(0, origin));
            }
            return None;
        }
        let entry = self.secondary.chunk_near(address)?;
        // Far away from the chunk, in the gap that is part of its mapping, nothing can be said.
        let near = address.wrapping_add(GUARDED_MAX) >= entry.chunk;
        if near { told(entry.chunk, entry.size, entry.live, entry.origin) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::private::Heap;
    use super::{explain_fault, explain_from_now_on};
    use crate::options::Options;
    use crate::os::mapping::PAGE;
    use crate::violation::{Kind, Operation};
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};

    /// What is said of an access at so many bytes behind the start of a chunk: the rule, and where it lies.
    type Told = Option<(Kind, Option<isize>)>;

    fn told(heap: &Heap, chunk: NonNull<u8>, at: isize) -> Told {
        let address = chunk.addr().get().wrapping_add_signed(at);
        let violation = heap.core().explain(address, Operation::Read)?;
        assert_eq!((violation.address, violation.operation), (address, Operation::Read));
        Some((violation.kind, violation.offset))
    }

    /// A heap and a chunk of it, and how to free that.
    fn heap(sample_rate: u32, layout: Layout) -> (Heap, NonNull<u8>) {
        let heap = Heap::new(Options { sample_rate, ..Options::DEFAULT }).expect("a heap");
        let chunk = heap.allocate(layout).expect("memory");
        (heap, chunk)
    }

    fn free(heap: &Heap, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the tests do not use what they give back.
        unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
    }

    #[test]
    fn an_access_beside_a_chunk_with_guards_is_told_by_its_side_and_by_whether_the_chunk_is_live() {
        for (sample_rate, size) in [(1, 5000), (0, 300_000)] {
            let layout = Layout::from_size_align(size, 16).expect("a layout");
            let (heap, chunk) = heap(sample_rate, layout);
            let behind = size.cast_signed();
            assert_eq!(told(&heap, chunk, behind), Some((Kind::Overflow, Some(behind))), "{size} bytes");
            assert_eq!(told(&heap, chunk, -20), Some((Kind::Underflow, Some(-20))), "{size} bytes");
            free(&heap, chunk, layout);
            for at in [-20, 0, 1, behind] {
                assert_eq!(told(&heap, chunk, at), Some((Kind::UseAfterFree, Some(at))), "{size} bytes");
            }
        }
    }

    #[test]
    fn an_access_through_a_chunk_of_no_bytes_is_told_live_or_not() {
        let layout = Layout::from_size_align(0, 1).expect("a layout");
        let (heap, chunk) = heap(0, layout);
        let origin = || heap.core().explain(chunk.addr().get(), Operation::Write)?.chunk?.origin;
        assert_eq!(told(&heap, chunk, 0), Some((Kind::ZeroSized, None)));
        assert!(origin().is_some());
        free(&heap, chunk, layout);
        assert_eq!(told(&heap, chunk, 0), Some((Kind::ZeroSized, None)));
        assert!(origin().is_none(), "it is not live any more");
    }

    /// The program's own mistakes with its own addresses.
    #[test]
    fn of_an_access_that_is_beside_no_chunk_with_guards_nothing_is_told() {
        let layout = Layout::from_size_align(100, 16).expect("a layout");
        let (heap, chunk) = heap(0, layout);
        assert_eq!(told(&heap, chunk, 0), None, "small chunks have none");
        let here = 0_u8;
        assert_eq!(told(&heap, NonNull::from(&here), 0), None);
        assert_eq!(told(&heap, NonNull::dangling(), PAGE.cast_signed()), None);
    }

    /// Where the program's own handler, below, was called for.
    static FAULT: AtomicUsize = AtomicUsize::new(0);

    /// The program's own handler: another thread faults before it ends, at the same address, and the program ends with status 7.
    extern "C" fn fault_again_and_leave(_: libc::c_int, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: as the kernel calls it.
        let address = unsafe { (*information).si_addr().addr() };
        explain_fault(address, context);
        let status = if address == FAULT.load(Ordering::Relaxed) { 7 } else { 8 };
        // SAFETY: ends the process, which has nothing to put in order.
        unsafe { libc::_exit(status) }
    }

    /// What a child that reads from an address writes to stderr, once the handler is installed for its heap; and its status.
    fn what_a_child_says_that_reads(heap: &Heap, address: usize) -> (String, i32) {
        FAULT.store(address, Ordering::Relaxed);
        let mut ends = [0; 2];
        // SAFETY: a pipe of the test's own, whose ends are owned from here on.
        let (mut output, input) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
        };
        // SAFETY: the child calls nothing that another thread can have left locked, and ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: plain structures and valid places; the fault is the point.
            unsafe {
                libc::dup2(input.as_raw_fd(), 2);
                // The test harness's, which is short, is for its own handler: code that is not optimised needs more.
                let mut none: libc::stack_t = core::mem::zeroed();
                none.ss_flags = libc::SS_DISABLE;
                libc::sigaltstack(&raw const none, core::ptr::null_mut());
                let mut action: libc::sigaction = core::mem::zeroed();
                action.sa_sigaction = fault_again_and_leave as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGSEGV, &raw const action, core::ptr::null_mut());
                explain_from_now_on(core::ptr::from_ref(heap.core()).expose_provenance());
                core::ptr::with_exposed_provenance::<u8>(address).read_volatile();
                libc::_exit(0);
            }
        }
        drop(input);
        let (mut said, mut status) = (String::new(), 0);
        output.read_to_string(&mut said).expect("the child's report");
        // SAFETY: waits for the test's own child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status), "{said}");
        (said, libc::WEXITSTATUS(status))
    }

    #[test]
    fn a_fault_is_explained_once_and_then_the_program_s_own_handler_is_called() {
        let layout = Layout::from_size_align(5000, 16).expect("a layout");
        let (heap, chunk) = heap(1, layout);
        let address = chunk.addr().get();
        assert_eq!(what_a_child_says_that_reads(&heap, address), (String::new(), 0), "it is live");
        free(&heap, chunk, layout);
        let (said, status) = what_a_child_says_that_reads(&heap, address);
        assert_eq!((said.matches("testudo: read after free at").count(), status), (1, 7), "{said}");
    }
}
