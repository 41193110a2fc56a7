//! Events that an entry delivers to a guest (SDM volume 3, "Event Injection" and "Interrupt 8 - Double Fault Exception
//! (#DF)"): how they are said, which comes first, and what becomes of one that another interrupts.

/// Kind of an event, as the interruption-information fields number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// External interrupt.
    External = 0,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Exception that the CPU raises.
    Hardware = 3,
    /// INT n.
    Software = 4,
    /// INT1.
    PrivilegedSoftware = 5,
    /// INT3 and INTO.
    SoftwareException = 6,
}

/// Vectors of exceptions.
#[expect(missing_docs, reason = "the names are the manual's")]
pub mod vector {
    pub const DEBUG: u8 = 1;
    pub const NMI: u8 = 2;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const ALIGNMENT_CHECK: u8 = 17;
    pub const MACHINE_CHECK: u8 = 18;
    pub const VIRTUALIZATION: u8 = 20;
}

/// The field says something.
pub const VALID: u32 = 1 << 31;
/// There is an error code.
const HAS_ERROR: u32 = 1 << 11;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// Its vector.
    pub vector: u8,
    /// Its error code.
    pub error: Option<u32>,
    /// Bytes of the instruction that caused it, for software's.
    pub length: u32,
}

impl Event {
    /// An interrupt.
    pub const fn external(vector: u8) -> Self {
        Self { kind: Kind::External, vector, error: None, length: 0 }
    }

    /// A non-maskable interrupt.
    pub const NMI: Self = Self { kind: Kind::Nmi, vector: vector::NMI, error: None, length: 0 };

    /// An exception. `protected` is CR0.PE, without which there are no error codes.
    pub const fn exception(number: u8, protected: bool) -> Self {
        let error = match number {
            vector::DOUBLE_FAULT | vector::GENERAL_PROTECTION | vector::ALIGNMENT_CHECK if protected => Some(0),
            _ => None,
        };
        Self { kind: Kind::Hardware, vector: number, error, length: 0 }
    }

    /// The VM-entry interruption-information field.
    pub const fn information(&self) -> u32 {
        let error = if self.error.is_some() { HAS_ERROR } else { 0 };
        VALID | error | (self.kind as u32) << 8 | self.vector as u32
    }

    /// From an information field of an exit, an error code and an instruction length; `None` when there is nothing.
    pub fn from_exit(information: u32, error: u32, length: u32) -> Option<Self> {
        let kind = match information >> 8 & 0b111 {
            0 => Kind::External,
            2 => Kind::Nmi,
            3 => Kind::Hardware,
            4 => Kind::Software,
            5 => Kind::PrivilegedSoftware,
            6 => Kind::SoftwareException,
            _ => return None,
        };
        let software = matches!(kind, Kind::Software | Kind::PrivilegedSoftware | Kind::SoftwareException);
        (information & VALID != 0).then_some(Self {
            kind,
            vector: information as u8,
            error: (information & HAS_ERROR != 0).then_some(error),
            length: if software { length } else { 0 },
        })
    }

    fn class(&self) -> Class {
        match (self.kind, self.vector) {
            (Kind::Hardware, vector::DOUBLE_FAULT) => Class::DoubleFault,
            (Kind::Hardware, 0 | 10..=13) => Class::Contributory,
            // A virtualization exception counts as a page fault.
            (Kind::Hardware, vector::PAGE_FAULT | vector::VIRTUALIZATION) => Class::PageFault,
            _ => Class::Benign,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// What comes of an exception in the delivery of another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collision {
    /// The exception is delivered, and the first event comes again by itself: its instruction is executed again.
    Second,
    /// The exception is delivered, and the first event has to be kept for later.
    Keep,
    /// Both become a double fault.
    DoubleFault,
    /// A fault in the delivery of a double fault: the CPU stops.
    Shutdown,
}

/// Decides what comes of `second` in the delivery of `first`.
pub fn collide(first: &Event, second: &Event) -> Collision {
    match (first.class(), second.class()) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => Collision::Shutdown,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Collision::DoubleFault
        }
        _ if matches!(first.kind, Kind::External | Kind::Nmi) => Collision::Keep,
        _ => Collision::Second,
    }
}

/// Guest interruptibility state (SDM "Guest Non-Register State").
pub mod blocking {
    /// By STI.
    pub const STI: u64 = 1;
    /// By MOV to SS or POP SS.
    pub const MOV_SS: u64 = 1 << 1;
    /// By an NMI that has not ended.
    pub const NMI: u64 = 1 << 3;
}

/// RFLAGS.IF.
const INTERRUPTS: u64 = 1 << 9;

/// What waits for a guest, and whether the guest lets it in.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// An event has to be delivered before anything else.
    pub queued: bool,
    /// An NMI.
    pub nmi: bool,
    /// An interrupt whose priority suffices.
    pub interrupt: bool,
    /// Interruptibility state.
    pub blocking: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// What the entry delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// What is queued, or nothing.
    Queued,
    /// The NMI.
    Nmi,
    /// The interrupt.
    Interrupt,
}

/// Decides what the entry delivers.
pub fn choose(waiting: &Waiting) -> Deliver {
    let shadow = waiting.blocking & (blocking::STI | blocking::MOV_SS) != 0;
    if waiting.queued {
        Deliver::Queued
    } else if waiting.nmi && !shadow && waiting.blocking & blocking::NMI == 0 {
        Deliver::Nmi
    } else if waiting.interrupt && !shadow && waiting.rflags & INTERRUPTS != 0 {
        Deliver::Interrupt
    } else {
        Deliver::Queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GP: Event = Event::exception(13, true);
    const VE: Event = Event::exception(20, true);
    const UD: Event = Event::exception(6, true);
    const DF: Event = Event::exception(8, true);

    #[test]
    fn information_fields() {
        assert_eq!(Event::external(0xec).information(), 0x8000_00ec);
        assert_eq!(Event::NMI.information(), 0x8000_0202);
        assert_eq!(UD.information(), 0x8000_0306);
        assert_eq!(VE.information(), 0x8000_0314);
        assert_eq!((GP.information(), GP.error), (0x8000_0b0d, Some(0)));
        assert_eq!((DF.information(), DF.error), (0x8000_0b08, Some(0)));
        assert_eq!(Event::exception(13, false).information(), 0x8000_030d, "real mode");
    }

    #[test]
    fn what_was_being_delivered_is_delivered_again() {
        for information in [0x8000_00ec, 0x8000_0202, 0x8000_0b0e, 0x8000_0306, 0x8000_0480, 0x8000_0501, 0x8000_0603] {
            let event = Event::from_exit(information, 7, 2).unwrap();
            assert_eq!(event.information(), information);
            assert_eq!(event.error.is_some(), information & 1 << 11 != 0);
            assert_eq!(event.length, if information >> 8 & 7 >= 4 { 2 } else { 0 });
        }
        // Bit 12 is not part of it: undefined, or about NMIs.
        assert_eq!(Event::from_exit(0x8000_1306, 0, 0).unwrap().information(), 0x8000_0306);
        assert_eq!(Event::from_exit(0x306, 0, 0), None);
        assert_eq!(Event::from_exit(0x8000_0100, 0, 0), None);
        assert_eq!(Event::from_exit(0x8000_0700, 0, 0), None);
    }

    #[test]
    fn collisions() {
        let page_fault = Event { kind: Kind::Hardware, vector: 14, error: Some(2), length: 0 };
        let int = Event { kind: Kind::Software, vector: 0x80, error: None, length: 2 };
        let int_13 = Event { vector: 13, ..int };
        assert_eq!(collide(&page_fault, &VE), Collision::DoubleFault);
        assert_eq!(collide(&VE, &VE), Collision::DoubleFault);
        assert_eq!(collide(&page_fault, &GP), Collision::DoubleFault);
        assert_eq!(collide(&GP, &GP), Collision::DoubleFault);
        assert_eq!(collide(&GP, &VE), Collision::Second);
        assert_eq!(collide(&page_fault, &UD), Collision::Second);
        assert_eq!(collide(&UD, &VE), Collision::Second);
        assert_eq!(collide(&int, &VE), Collision::Second);
        assert_eq!(collide(&int_13, &GP), Collision::Second, "INT 13 is not a fault");
        assert_eq!(collide(&Event::external(13), &GP), Collision::Keep);
        assert_eq!(collide(&Event::NMI, &VE), Collision::Keep);
        assert_eq!(collide(&DF, &VE), Collision::Shutdown);
        assert_eq!(collide(&DF, &DF), Collision::Shutdown);
        assert_eq!(collide(&DF, &UD), Collision::Second);
    }

    #[test]
    fn only_what_is_open_is_delivered() {
        let all = Waiting { queued: false, nmi: true, interrupt: true, blocking: 0, rflags: INTERRUPTS };
        assert_eq!(choose(&Waiting { queued: true, ..all }), Deliver::Queued);
        assert_eq!(choose(&all), Deliver::Nmi);
        assert_eq!(choose(&Waiting { blocking: blocking::NMI, ..all }), Deliver::Interrupt);
        assert_eq!(choose(&Waiting { nmi: false, ..all }), Deliver::Interrupt);
        assert_eq!(choose(&Waiting { rflags: 2, ..all }), Deliver::Nmi);
        assert_eq!(choose(&Waiting { rflags: 2, nmi: false, ..all }), Deliver::Queued);
        assert_eq!(choose(&Waiting { nmi: false, interrupt: false, ..all }), Deliver::Queued);
        for shadow in [blocking::STI, blocking::MOV_SS] {
            assert_eq!(choose(&Waiting { blocking: shadow, ..all }), Deliver::Queued);
        }
    }
}
