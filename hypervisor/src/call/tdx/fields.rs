//! Fields of a TD, as `TDG.VM.RD` and `TDG.VM.WR` see them.

use super::Call;
use crate::measure::DIGEST_SIZE;
use abi::tdx::{ATTRIBUTES, RTMRS, XFAM, field, td_ctls};
use core::sync::atomic::Ordering;

/// 64-bit words of a measurement.
const DIGEST_WORDS: u64 = DIGEST_SIZE as u64 / 8;

/// Every field and how many words it has, in the order of class and code.
const FIELDS: [(u64, u64); 17] = [
    (field::NUM_VCPUS, 1),
    (field::NUM_L2_VMS, 1),
    (field::ATTRIBUTES, 1),
    (field::XFAM, 1),
    (field::MAX_VCPUS, 1),
    (field::GPAW, 1),
    (field::NOTIFY_ENABLES, 1),
    (field::CONFIG_FLAGS, 1),
    (field::TD_CTLS, 1),
    (field::TOPOLOGY_ENUM_CONFIGURED, 1),
    (field::MRTD, DIGEST_WORDS),
    (field::MRCONFIGID, DIGEST_WORDS),
    (field::MROWNER, DIGEST_WORDS),
    (field::MROWNERCONFIG, DIGEST_WORDS),
    (field::RTMR, DIGEST_WORDS * RTMRS as u64),
    (field::SERVTD_HASH, DIGEST_WORDS),
    (field::SERVTD_NUM, 1),
];

/// The bits of TD_CTLS that a guest may write. Nothing but their value depends on them: Postern raises no virtualization
/// exception that they could save.
pub const WRITABLE_CONTROLS: u64 = td_ctls::ENUM_TOPOLOGY | td_ctls::VIRT_CPUID2 | td_ctls::REDUCE_VE | td_ctls::LOCK;

/// What tells fields apart.
const fn key(id: u64) -> (u64, u64) {
    (id & field::CLASS, id & field::CODE)
}

/// One word of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    position: usize,
    /// The field's identifier.
    pub field: u64,
    /// Which of its words.
    pub index: u64,
}

impl Element {
    /// The first of all.
    pub const FIRST: Self = Self { position: 0, field: FIELDS[0].0, index: 0 };

    /// The word with an identifier; none when there is no such.
    pub fn find(id: u64) -> Option<Self> {
        let (class, code) = key(id);
        FIELDS.iter().enumerate().find_map(|(position, &(field, count))| {
            let (field_class, first) = key(field);
            let index = code.checked_sub(first).filter(|index| class == field_class && *index < count)?;
            Some(Self { position, field, index })
        })
    }

    /// Its identifier.
    pub const fn id(self) -> u64 {
        self.field + self.index
    }

    /// The one after it.
    pub fn next(self) -> Option<Self> {
        if self.index + 1 < FIELDS[self.position].1 {
            return Some(Self { index: self.index + 1, ..self });
        }
        let position = self.position + 1;
        FIELDS.get(position).map(|&(field, _)| Self { position, field, index: 0 })
    }

    /// The bits that a guest may write.
    pub const fn writable(self) -> u64 {
        match self.field {
            field::TD_CTLS => WRITABLE_CONTROLS,
            // There are none that would ever come, so there is one value.
            field::NOTIFY_ENABLES => 1,
            _ => 0,
        }
    }

    /// Its value; none while another CPU holds a lock.
    pub fn read(self, call: &Call<'_>) -> Option<u64> {
        let vm = call.vm;
        Some(match self.field {
            field::NUM_VCPUS | field::MAX_VCPUS => vm.config.vcpu_count,
            field::ATTRIBUTES => ATTRIBUTES,
            field::XFAM => XFAM,
            field::TD_CTLS => vm.controls.load(Ordering::Relaxed),
            // vCPU n has the identifier n.
            field::TOPOLOGY_ENUM_CONFIGURED => 1,
            field::MRTD => word(vm.launch.try_lock()?.digest(), self.index),
            field::RTMR => {
                let register = (self.index / DIGEST_WORDS) as usize;
                word(&vm.extensible.try_lock()?.get(register)?, self.index % DIGEST_WORDS)
            }
            _ => 0,
        })
    }
}

fn word(digest: &[u8; DIGEST_SIZE], index: u64) -> u64 {
    let bytes = digest[index as usize * 8..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes)
}
