//! What the CPU can do and the kernel lets it.
//!
//! On a virtual machine each `cpuid` instruction stops in the hypervisor for microseconds. glibc (2.33 and newer) has asked
//! already and answers from memory; elsewhere the CPU is asked.

use core::arch::global_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

// Weak: zero where the C library has no such function.
global_asm!(".weak __x86_get_cpuid_feature_leaf");

/// A register of `cpuid`'s answer, in the order in which glibc stores them.
#[derive(Clone, Copy)]
pub(crate) enum Register {
    Ebx = 1,
    Ecx = 2,
}

/// `struct cpuid_feature` of glibc's `<sys/platform/x86.h>`.
#[repr(C)]
struct Leaf {
    /// What the CPU says.
    cpuid: [u32; 4],
    /// What of that may be used.
    active: [u32; 4],
}

/// Number of a leaf in glibc's table.
fn number_of(leaf: u32) -> u32 {
    // CPUID_INDEX_1 and CPUID_INDEX_7.
    if leaf == 7 { 1 } else { 0 }
}

/// Whether a feature, the bit of a register of leaf 1 or 7, may be used.
pub(crate) fn has(leaf: u32, register: Register, bit: u32) -> bool {
    let address: usize;
    // SAFETY: loads what the linker filled in: the function's address, or zero.
    unsafe {
        core::arch::asm!(
            "mov {address}, qword ptr [rip + __x86_get_cpuid_feature_leaf@GOTPCREL]",
            address = out(reg) address,
            options(nostack, preserves_flags, readonly),
        );
    }
    if address != 0 {
        // SAFETY: the address of that function, which takes the number of a leaf and returns a constant of glibc's; it is
        // declared so in its public header.
        let leaf = unsafe {
            let get: extern "C" fn(u32) -> *const Leaf = core::mem::transmute(address);
            get(number_of(leaf)).as_ref()
        };
        return leaf.and_then(|leaf| leaf.active.get(register as usize)).is_some_and(|word| word & 1 << bit != 0);
    }
    asked(leaf, register, bit)
}

/// The same, asking the CPU.
fn asked(leaf: u32, register: Register, bit: u32) -> bool {
    /// Leaf 1, ECX: the kernel saves extended state.
    const OSXSAVE: u32 = 1 << 27;
    /// The kernel saves SSE's and AVX's registers.
    const SSE_AND_AVX: u64 = 6;
    if __cpuid(0).eax < leaf {
        return false;
    }
    let answer = __cpuid_count(leaf, 0);
    let word = match register {
        Register::Ebx => answer.ebx,
        Register::Ecx => answer.ecx,
    };
    if word & 1 << bit == 0 {
        return false;
    }
    // What leaf 7 tells of needs registers that the kernel has to save.
    // SAFETY: the instruction exists where OSXSAVE is set.
    leaf != 7 || __cpuid(1).ecx & OSXSAVE != 0 && unsafe { saved_registers() } & SSE_AND_AVX == SSE_AND_AVX
}

/// # Safety
/// The kernel has set OSXSAVE.
#[target_feature(enable = "xsave")]
unsafe fn saved_registers() -> u64 {
    // SAFETY: the caller's promise; register 0 always exists.
    unsafe { _xgetbv(0) }
}

#[cfg(test)]
mod tests {
    use super::{Register, asked, has};

    #[test]
    fn the_c_library_and_the_cpu_agree() {
        for (leaf, register, bit) in [(1, Register::Ecx, 20), (7, Register::Ebx, 5)] {
            assert_eq!(has(leaf, register, bit), asked(leaf, register, bit));
        }
        assert_eq!(has(7, Register::Ebx, 5), std::arch::is_x86_feature_detected!("avx2"));
        assert_eq!(has(1, Register::Ecx, 20), std::arch::is_x86_feature_detected!("sse4.2"));
    }
}
