//! The numbers of the call frame instructions, as DWARF 5 has them (table 7.29), without their prefix `DW_CFA_`.

/// What of the first byte is an operand in the three whose highest bits say which they are.
pub(super) const OPERAND: u8 = 0x3f;

pub(super) const NOP: u8 = 0x00;
pub(super) const SET_LOC: u8 = 0x01;
pub(super) const ADVANCE_LOC1: u8 = 0x02;
pub(super) const ADVANCE_LOC2: u8 = 0x03;
pub(super) const ADVANCE_LOC4: u8 = 0x04;
pub(super) const OFFSET_EXTENDED: u8 = 0x05;
pub(super) const RESTORE_EXTENDED: u8 = 0x06;
pub(super) const UNDEFINED: u8 = 0x07;
pub(super) const SAME_VALUE: u8 = 0x08;
pub(super) const REGISTER: u8 = 0x09;
pub(super) const REMEMBER_STATE: u8 = 0x0a;
pub(super) const RESTORE_STATE: u8 = 0x0b;
pub(super) const DEF_CFA: u8 = 0x0c;
pub(super) const DEF_CFA_REGISTER: u8 = 0x0d;
pub(super) const DEF_CFA_OFFSET: u8 = 0x0e;
pub(super) const DEF_CFA_EXPRESSION: u8 = 0x0f;
pub(super) const EXPRESSION: u8 = 0x10;
pub(super) const OFFSET_EXTENDED_SF: u8 = 0x11;
pub(super) const DEF_CFA_SF: u8 = 0x12;
pub(super) const DEF_CFA_OFFSET_SF: u8 = 0x13;
pub(super) const VAL_OFFSET: u8 = 0x14;
pub(super) const VAL_OFFSET_SF: u8 = 0x15;
pub(super) const VAL_EXPRESSION: u8 = 0x16;
pub(super) const GNU_ARGS_SIZE: u8 = 0x2e;
pub(super) const ADVANCE_LOC: u8 = 0x40;
pub(super) const ADVANCE_LOC_MOST: u8 = ADVANCE_LOC | OPERAND;
pub(super) const OFFSET: u8 = 0x80;
pub(super) const OFFSET_MOST: u8 = OFFSET | OPERAND;
pub(super) const RESTORE: u8 = 0xc0;
pub(super) const RESTORE_MOST: u8 = RESTORE | OPERAND;
