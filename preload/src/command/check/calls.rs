//! The allocation functions as the preloaded library exports them, found by name at run time: the compiler can neither
//! foresee nor remove what is done with them. Addresses are numbers, because most of what is done here is wrong.

use std::ffi::{CStr, c_void};

/// The address of a symbol of this process.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: a terminated name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        super::trial::give_up(&format!("there is no {}", name.to_string_lossy()));
    }
    found
}

macro_rules! calls {
    ($($name:ident = $symbol:literal ($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        pub fn $name($($argument: $type),*) $(-> $result)? {
            let symbol = symbol($symbol);
            // SAFETY: the symbol is a function of this type. What it is called with may be wrong: that is the attack.
            let function = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) $(-> $result)?>(symbol) };
            // SAFETY: as above.
            unsafe { function($($argument),*) }
        }
    )*};
}

calls! {
    malloc = c"malloc" (size: usize) -> usize;
    calloc = c"calloc" (count: usize, size: usize) -> usize;
    realloc = c"realloc" (chunk: usize, size: usize) -> usize;
    reallocarray = c"reallocarray" (chunk: usize, count: usize, size: usize) -> usize;
    aligned_alloc = c"aligned_alloc" (align: usize, size: usize) -> usize;
    free = c"free" (chunk: usize);
    free_sized = c"free_sized" (chunk: usize, size: usize);
    malloc_trim = c"malloc_trim" (pad: usize) -> i32;
    malloc_usable_size = c"malloc_usable_size" (chunk: usize) -> usize;
    new = c"_Znwm" (size: usize) -> usize;
    new_array = c"_Znam" (size: usize) -> usize;
    new_aligned = c"_ZnwmSt11align_val_t" (size: usize, align: usize) -> usize;
    delete = c"_ZdlPv" (chunk: usize);
    delete_array = c"_ZdaPv" (chunk: usize);
    delete_sized = c"_ZdlPvm" (chunk: usize, size: usize);
}

/// Reads one byte, wherever that is.
pub fn peek(address: usize) -> u8 {
    // SAFETY: none is claimed: where it is wrong, it is the attack.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

/// Writes one byte, wherever that is.
pub fn poke(address: usize, byte: u8) {
    // SAFETY: none is claimed: where it is wrong, it is the attack.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) }
}

/// Writes the same byte `count` times, upwards.
pub fn fill(address: usize, byte: u8, count: usize) {
    for offset in 0..count {
        poke(address + offset, byte);
    }
}

/// The 8 bytes in front of a chunk.
pub fn header(chunk: usize) -> [u8; 8] {
    std::array::from_fn(|index| peek(chunk - 8 + index))
}

/// Puts 8 bytes in front of a chunk.
pub fn set_header(chunk: usize, bytes: [u8; 8]) {
    for (index, byte) in bytes.into_iter().enumerate() {
        poke(chunk - 8 + index, byte);
    }
}
