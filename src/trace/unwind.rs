//! One step up the stack by a module's unwind table (`.eh_frame`, DWARF call frame information): code compiled without frame
//! pointers can be followed by nothing else.
//!
//! The formats are those of the Linux Standard Base ("Exception Frames") and DWARF 5, section 6.4. Only what compilers
//! write for x86-64 is understood; anything else ends the walk. Every read is checked against the module's bounds.

use super::call_frame::{
    ADVANCE_LOC, ADVANCE_LOC_MOST, ADVANCE_LOC1, ADVANCE_LOC2, ADVANCE_LOC4, DEF_CFA, DEF_CFA_EXPRESSION,
    DEF_CFA_OFFSET, DEF_CFA_OFFSET_SF, DEF_CFA_REGISTER, DEF_CFA_SF, EXPRESSION, GNU_ARGS_SIZE, NOP, OFFSET,
    OFFSET_EXTENDED, OFFSET_EXTENDED_SF, OFFSET_MOST, OPERAND, REGISTER, REMEMBER_STATE, RESTORE, RESTORE_EXTENDED,
    RESTORE_MOST, RESTORE_STATE, SAME_VALUE, SET_LOC, UNDEFINED, VAL_EXPRESSION, VAL_OFFSET, VAL_OFFSET_SF,
};
use super::module::Module;
use super::rule::{Base, Place, Rule};

const FRAME_POINTER: u64 = 6;
const STACK_POINTER: u64 = 7;
const RETURN_ADDRESS: u64 = 16;

/// States that can be remembered at a time.
const REMEMBERED: usize = 8;

/// Reads values one after the other.
#[derive(Clone, Copy)]
struct Reader<'a> {
    module: &'a Module,
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn take<T: Copy>(&mut self) -> Option<T> {
        let next = self.at.checked_add(size_of::<T>())?;
        if next > self.end {
            return None;
        }
        let value = self.module.read(self.at)?;
        self.at = next;
        Some(value)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte: u8 = self.take()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn signed(&mut self) -> Option<i64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte: u8 = self.take()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                if byte & 0x40 != 0 && shift < 64 {
                    value |= !0 << shift;
                }
                return Some(value.cast_signed());
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        let next = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        (next <= self.end).then(|| self.at = next)
    }

    /// A pointer in one of the encodings that compilers use.
    fn pointer(&mut self, encoding: u8) -> Option<usize> {
        let from = self.at;
        let value = match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => self.take::<u64>()?,
            0x02 => u64::from(self.take::<u16>()?),
            0x03 => u64::from(self.take::<u32>()?),
            0x0a => i64::from(self.take::<i16>()?).cast_unsigned(),
            0x0b => i64::from(self.take::<i32>()?).cast_unsigned(),
            _ => return None,
        } as usize;
        match encoding & 0x70 {
            0x00 => Some(value),
            0x10 => Some(from.wrapping_add(value)),
            _ => None,
        }
    }
}

/// A common information entry: what several functions share.
struct Common {
    code_align: u64,
    data_align: i64,
    encoding: u8,
    augmented: bool,
    signal: bool,
    start: usize,
    end: usize,
}

impl Common {
    /// An offset in bytes that is given in units of the data's alignment.
    fn factored(&self, offset: i64) -> Option<i32> {
        i32::try_from(offset.wrapping_mul(self.data_align)).ok()
    }
}

/// An entry's first address behind its length, and its end.
fn extent(module: &Module, entry: usize) -> Option<(usize, usize)> {
    let length: u32 = module.read(entry)?;
    // Zero ends the table; all ones would be the 64-bit format, which nobody writes.
    if length == 0 || length == u32::MAX {
        return None;
    }
    Some((entry + 4, (entry + 4).checked_add(length as usize)?))
}

fn common(module: &Module, entry: usize) -> Option<Common> {
    let (at, end) = extent(module, entry)?;
    let mut reader = Reader { module, at, end };
    if reader.take::<u32>()? != 0 {
        return None;
    }
    let version: u8 = reader.take()?;
    let mut names = Reader { ..reader };
    while reader.take::<u8>()? != 0 {}
    if version == 4 {
        reader.skip(2)?;
    }
    let code_align = reader.unsigned()?;
    let data_align = reader.signed()?;
    let register = if version == 1 { u64::from(reader.take::<u8>()?) } else { reader.unsigned()? };
    if register != RETURN_ADDRESS {
        return None;
    }
    let mut common =
        Common { code_align, data_align, encoding: 0, augmented: false, signal: false, start: reader.at, end };
    loop {
        match names.take::<u8>()? {
            0 => break,
            b'z' => {
                common.augmented = true;
                let length = reader.unsigned()?;
                common.start = reader.at.checked_add(usize::try_from(length).ok()?)?;
            }
            b'R' => common.encoding = reader.take()?,
            b'L' => reader.skip(1)?,
            b'P' => {
                let encoding: u8 = reader.take()?;
                reader.pointer(encoding & 0x0f)?;
            }
            b'S' => common.signal = true,
            // What follows is unknown, but its length is known.
            _ if common.augmented => break,
            _ => return None,
        }
    }
    Some(common)
}

/// Finds the entry of the function that a code address lies in, by the sorted table of `.eh_frame_hdr`.
fn entry_of(module: &Module, pc: usize) -> Option<usize> {
    let header = module.unwind_table;
    let [version, _, count_encoding, table_encoding]: [u8; 4] = module.read(header)?;
    // What every linker writes: a 32-bit count, and 32-bit pairs relative to the header.
    if version != 1 || count_encoding != 0x03 || table_encoding != 0x3b {
        return None;
    }
    let count: u32 = module.read(header + 8)?;
    let relative = |at: usize| Some(header.wrapping_add_signed(module.read::<i32>(at)? as isize));
    let (mut low, mut high) = (0_usize, count as usize);
    while low < high {
        let middle = low.midpoint(high);
        if relative(header + 12 + middle * 8)? <= pc { low = middle + 1 } else { high = middle }
    }
    relative(header + 12 + low.checked_sub(1)? * 8 + 4)
}

#[derive(Clone, Copy)]
struct State {
    rule: Rule,
    /// Whether the frame's address is told in a way that is not understood.
    unknown: bool,
}

impl State {
    fn set(&mut self, register: u64, place: Place) {
        match register {
            RETURN_ADDRESS => self.rule.return_address = place,
            FRAME_POINTER => self.rule.frame_pointer = place,
            _ => {}
        }
    }

    fn set_base(&mut self, register: u64) {
        self.unknown = false;
        self.rule.indirect = false;
        match register {
            STACK_POINTER => self.rule.base = Base::StackPointer,
            FRAME_POINTER => self.rule.base = Base::FramePointer,
            _ => self.unknown = true,
        }
    }

    fn set_offset(&mut self, offset: i64) {
        match i32::try_from(offset) {
            Ok(offset) => self.rule.offset = offset,
            Err(_) => self.unknown = true,
        }
    }
}

/// An expression of the forms that compilers write: a register and an offset, perhaps looked up in memory.
fn expression(reader: &mut Reader<'_>) -> Option<Option<(Base, i32, bool)>> {
    let length = reader.unsigned()?;
    let mut inner = Reader { ..*reader };
    reader.skip(length)?;
    inner.end = reader.at;
    let base = match inner.take::<u8>()? {
        0x76 => Base::FramePointer,
        0x77 => Base::StackPointer,
        _ => return Some(None),
    };
    let Some(offset) = inner.signed().and_then(|offset| i32::try_from(offset).ok()) else { return Some(None) };
    Some(match inner.take::<u8>() {
        None => Some((base, offset, false)),
        // DW_OP_deref, and nothing behind it.
        Some(0x06) if inner.at == inner.end => Some((base, offset, true)),
        Some(_) => None,
    })
}

/// Runs instructions up to the place in the code; `None` when one is not understood.
fn run(
    reader: &mut Reader<'_>,
    common: &Common,
    state: &mut State,
    initial: &State,
    mut at: usize,
    pc: usize,
) -> Option<()> {
    let mut remembered = [*state; REMEMBERED];
    let mut depth = 0_usize;
    let advance = |at: usize, delta: u64| at.wrapping_add(delta.wrapping_mul(common.code_align) as usize);
    while reader.at < reader.end {
        let instruction: u8 = reader.take()?;
        match instruction {
            // The three commonest have their first operand in themselves.
            ADVANCE_LOC..=ADVANCE_LOC_MOST => at = advance(at, u64::from(instruction & OPERAND)),
            OFFSET..=OFFSET_MOST => {
                let offset = reader.unsigned()?.cast_signed();
                state.set(u64::from(instruction & OPERAND), Place::AtFrame(common.factored(offset)?));
            }
            RESTORE..=RESTORE_MOST => restore(state, initial, u64::from(instruction & OPERAND)),
            SET_LOC => at = reader.pointer(common.encoding)?,
            ADVANCE_LOC1 => at = advance(at, u64::from(reader.take::<u8>()?)),
            ADVANCE_LOC2 => at = advance(at, u64::from(reader.take::<u16>()?)),
            ADVANCE_LOC4 => at = advance(at, u64::from(reader.take::<u32>()?)),
            RESTORE_EXTENDED => restore(state, initial, reader.unsigned()?),
            REMEMBER_STATE => {
                *remembered.get_mut(depth)? = *state;
                depth += 1;
            }
            RESTORE_STATE => {
                depth = depth.checked_sub(1)?;
                *state = *remembered.get(depth)?;
            }
            NOP => {}
            GNU_ARGS_SIZE => {
                reader.unsigned()?;
            }
            DEF_CFA..=DEF_CFA_EXPRESSION | DEF_CFA_SF..=DEF_CFA_OFFSET_SF => {
                define_frame(instruction, reader, common, state)?
            }
            _ => define_register(instruction, reader, common, state)?,
        }
        if at > pc {
            return Some(());
        }
    }
    Some(())
}

/// An instruction that says where the frame is.
fn define_frame(instruction: u8, reader: &mut Reader<'_>, common: &Common, state: &mut State) -> Option<()> {
    match instruction {
        DEF_CFA => {
            state.set_base(reader.unsigned()?);
            state.set_offset(reader.unsigned()?.cast_signed());
        }
        DEF_CFA_REGISTER => state.set_base(reader.unsigned()?),
        DEF_CFA_OFFSET => state.set_offset(reader.unsigned()?.cast_signed()),
        DEF_CFA_EXPRESSION => match expression(reader)? {
            Some((base, offset, indirect)) => {
                state.unknown = false;
                state.rule = Rule { base, offset, indirect, ..state.rule };
            }
            None => state.unknown = true,
        },
        DEF_CFA_SF => {
            state.set_base(reader.unsigned()?);
            state.set_offset(reader.signed()?.wrapping_mul(common.data_align));
        }
        DEF_CFA_OFFSET_SF => state.set_offset(reader.signed()?.wrapping_mul(common.data_align)),
        _ => return None,
    }
    Some(())
}

/// An instruction that says where the caller's value of a register is.
fn define_register(instruction: u8, reader: &mut Reader<'_>, common: &Common, state: &mut State) -> Option<()> {
    let register = reader.unsigned()?;
    let place = match instruction {
        OFFSET_EXTENDED => Place::AtFrame(common.factored(reader.unsigned()?.cast_signed())?),
        OFFSET_EXTENDED_SF => Place::AtFrame(common.factored(reader.signed()?)?),
        SAME_VALUE => Place::Same,
        UNDEFINED => Place::Undefined,
        EXPRESSION => match expression(reader)? {
            Some((base, offset, false)) => Place::At(base, offset),
            _ => Place::Undefined,
        },
        VAL_EXPRESSION => {
            expression(reader)?;
            Place::Undefined
        }
        VAL_OFFSET_SF => {
            reader.signed()?;
            Place::Undefined
        }
        // In another register, which is not followed; or a value that is in none.
        REGISTER | VAL_OFFSET => {
            reader.unsigned()?;
            Place::Undefined
        }
        _ => return None,
    };
    state.set(register, place);
    Some(())
}

fn restore(state: &mut State, initial: &State, register: u64) {
    match register {
        RETURN_ADDRESS => state.rule.return_address = initial.rule.return_address,
        FRAME_POINTER => state.rule.frame_pointer = initial.rule.frame_pointer,
        _ => {}
    }
}

/// How to find the caller of the code at an address of a module.
pub(super) fn rule(module: &Module, pc: usize) -> Option<Rule> {
    let entry = entry_of(module, pc)?;
    let (at, end) = extent(module, entry)?;
    let mut reader = Reader { module, at, end };
    let distance: u32 = reader.take()?;
    let common = common(module, at.checked_sub(distance as usize)?)?;
    let start = reader.pointer(common.encoding)?;
    let length = reader.pointer(common.encoding & 0x0f)?;
    if !(start..start.wrapping_add(length)).contains(&pc) {
        return None;
    }
    if common.augmented {
        let length = reader.unsigned()?;
        reader.skip(length)?;
    }
    let rule = Rule {
        base: Base::StackPointer,
        offset: 8,
        indirect: false,
        return_address: Place::Undefined,
        frame_pointer: Place::Same,
        signal: common.signal,
    };
    let mut state = State { rule, unknown: true };
    let mut first = Reader { module, at: common.start, end: common.end };
    let before = state;
    run(&mut first, &common, &mut state, &before, 0, usize::MAX)?;
    let initial = state;
    run(&mut reader, &common, &mut state, &initial, start, pc)?;
    (!state.unknown).then_some(state.rule)
}
