//! The registers, by the number of their MSR (SDM "x2APIC Register Address Space", with the rules for reserved bits and
//! for what may only be read or only be written in "Reserved Bit Checking").

use super::timer::{DIVIDE_BITS, Mode};
use super::{Apic, GeneralProtection, Inbox, LVT_COUNT, LVT_MASKED, Lvt, icr};
use crate::VcpuMask;

const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
pub(super) const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const LDR: u32 = 0x80d;
/// Spurious-interrupt vector.
pub const SVR: u32 = 0x80f;
const IRR: u32 = 0x820;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
pub(super) const LVT: u32 = 0x832;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;
/// IA32_TSC_DEADLINE, which is outside of the range.
pub const TSC_DEADLINE: u32 = 0x6e0;

/// An integrated APIC of today; the highest entry of the local vector table in bits 23:16 (SDM "Local APIC Version
/// Register").
const VERSION_VALUE: u32 = 0x15 | (LVT_COUNT as u32 - 1) << 16;
/// SVR.8: the APIC is on as far as software says.
pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Reset value of SVR.
const SVR_RESET: u32 = 0xff;
/// SVR: vector, enable, and the focus bit, which CPUs keep and ignore.
const SVR_BITS: u64 = 0x3ff;
/// Delivery status and remote IRR of an entry of the local vector table: read-only and zero, here.
const LVT_STATUS: u64 = 1 << 12 | 1 << 14;

/// Whether the APIC answers for this MSR.
pub fn is_register(msr: u32) -> bool {
    matches!(msr, 0x800..=0x8ff | TSC_DEADLINE)
}

/// Bits of an entry of the local vector table that can be set.
fn lvt_bits(index: usize) -> u64 {
    const VECTOR_AND_MASK: u64 = 0xff | LVT_MASKED as u64;
    const DELIVERY_MODE: u64 = 0b111 << 8;
    match index {
        0 => VECTOR_AND_MASK | 0b11 << 17,
        1 | 2 => VECTOR_AND_MASK | DELIVERY_MODE,
        // Polarity and trigger mode of the two pins.
        3 | 4 => VECTOR_AND_MASK | DELIVERY_MODE | 1 << 13 | 1 << 15,
        _ => VECTOR_AND_MASK,
    }
}

/// Which registers a CPU that has the APIC answers for: (reads, writes) (SDM "Virtualizing MSR-Based APIC Accesses"). Reads
/// give what is in the page, whatever the number, so they are let through for the registers that there are; the current
/// count is no memory. Writes are let through where the CPU does all that has to be done.
pub fn passes(msr: u32) -> (bool, bool) {
    let read = matches!(msr, ID | VERSION | TPR | PPR | LDR | SVR..=ESR | ICR | LVT..=INITIAL_COUNT | DIVIDE);
    (read, matches!(msr, TPR | EOI | SELF_IPI))
}

/// A value without reserved bits.
fn within(value: u64, bits: u64) -> Result<u32, GeneralProtection> {
    if value & !bits == 0 { Ok(value as u32) } else { Err(GeneralProtection) }
}

impl Apic {
    /// What the page has after reset, and what in it never changes.
    pub(super) fn reset_registers(&self) {
        self.page.clear();
        self.page.set(ID, self.index as u32);
        self.page.set(VERSION, VERSION_VALUE);
        self.page.set(LDR, icr::logical_id(self.index));
        self.page.set(SVR, SVR_RESET);
        (LVT..INITIAL_COUNT).for_each(|msr| self.page.set(msr, LVT_MASKED));
    }

    /// RDMSR at `now` of the guest's TSC.
    ///
    /// # Errors
    /// No such register, or one that can only be written.
    pub fn read(&mut self, inboxes: &[Inbox], msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        // What is due has happened.
        self.poll(inboxes, now);
        match msr {
            PPR => Ok(self.ppr(self.status).into()),
            IRR..ESR => {
                if let Some(inbox) = inboxes.get(self.index) {
                    self.pending(inbox);
                }
                Ok(self.page.get(msr).into())
            }
            CURRENT_COUNT => Ok(self.timer.current(now).into()),
            TSC_DEADLINE => Ok(self.timer.tsc_deadline()),
            _ if passes(msr).0 => Ok(self.page.wide(msr)),
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR at `now` of the guest's TSC; returns the vCPUs that have to look at their interrupts.
    ///
    /// # Errors
    /// No such register, one that can only be read, or reserved bits.
    pub fn write(&mut self, inboxes: &[Inbox], msr: u32, value: u64, now: u64) -> Result<VcpuMask, GeneralProtection> {
        self.poll(inboxes, now);
        match msr {
            TPR => self.set_tpr(within(value, 0xff)? as u8),
            EOI => {
                within(value, 0)?;
                self.end();
            }
            SVR => self.set_svr(inboxes, within(value, SVR_BITS)?),
            ESR => {
                within(value, 0)?;
                self.page.set(ESR, core::mem::take(&mut self.errors));
            }
            ICR => {
                within(value & 0xffff_ffff, !icr::RESERVED)?;
                let command = value & !icr::STATUS;
                self.page.set_wide(ICR, command);
                return Ok(self.send(inboxes, command));
            }
            LVT..INITIAL_COUNT => self.set_lvt(msr, value)?,
            INITIAL_COUNT => self.timer.set_initial(within(value, 0xffff_ffff)?, now),
            DIVIDE => self.timer.set_divide(within(value, DIVIDE_BITS.into())?, now),
            // The same as a fixed interrupt with the shorthand for oneself.
            SELF_IPI => return Ok(self.send(inboxes, 1 << 18 | u64::from(within(value, 0xff)?))),
            TSC_DEADLINE => self.timer.set_tsc_deadline(value),
            _ => return Err(GeneralProtection),
        }
        if matches!(msr, LVT | INITIAL_COUNT | DIVIDE) {
            self.page.set(INITIAL_COUNT, self.timer.initial());
            self.page.set(DIVIDE, self.timer.divide());
        }
        // A timer may be due at once.
        self.poll(inboxes, now);
        Ok(0)
    }

    fn set_svr(&mut self, inboxes: &[Inbox], value: u32) {
        self.page.set(SVR, value);
        if value & SVR_ENABLE == 0 {
            (LVT..INITIAL_COUNT).for_each(|msr| self.page.set(msr, self.page.get(msr) | LVT_MASKED));
        }
        if let Some(inbox) = inboxes.get(self.index) {
            inbox.enable(self.is_on());
        }
    }

    fn set_lvt(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let index = (msr - LVT) as usize;
        let mut value = within(value & !LVT_STATUS, lvt_bits(index))?;
        if index == Lvt::Timer as usize {
            self.timer.set_mode(Mode::from_register(value).ok_or(GeneralProtection)?);
        }
        // An APIC that is off keeps them masked (SDM "Local APIC State After It Has Been Software Disabled").
        if !self.is_on() {
            value |= LVT_MASKED;
        }
        self.page.set(msr, value);
        Ok(())
    }
}
