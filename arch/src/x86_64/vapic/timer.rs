//! The APIC's timer (SDM "APIC Timer"), in ticks of the guest's TSC.

/// How the timer counts: LVT timer register, bits 18:17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    Deadline,
}

impl Mode {
    /// From the register; `None` for the reserved value.
    pub(super) fn from_register(lvt: u32) -> Option<Self> {
        match lvt >> 17 & 0b11 {
            0 => Some(Self::OneShot),
            1 => Some(Self::Periodic),
            2 => Some(Self::Deadline),
            _ => None,
        }
    }
}

/// Bits of the divide configuration register.
pub(super) const DIVIDE_BITS: u32 = 0b1011;

#[derive(Clone, Debug)]
pub(super) struct Timer {
    /// TSC ticks of one undivided tick.
    ratio: u64,
    mode: Mode,
    initial: u32,
    divide: u32,
    /// When it expires; 0 while it does not run.
    deadline: u64,
}

impl Timer {
    pub(super) fn new(ratio: u64) -> Self {
        Self { ratio: ratio.max(1), mode: Mode::OneShot, initial: 0, divide: 0, deadline: 0 }
    }

    /// TSC ticks of one divided tick. The divisor is 2 to the power of 1 to 7, or 1 (SDM "Divide Configuration Register").
    fn tick(&self) -> u64 {
        let power = ((self.divide & 0b11) | (self.divide >> 1 & 0b100)) + 1;
        self.ratio << (power & 0b111)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial).saturating_mul(self.tick())
    }

    /// Between the deadline and the other modes, a change of mode stops the timer.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if (self.mode == Mode::Deadline) != (mode == Mode::Deadline) {
            self.deadline = 0;
            self.initial = 0;
        }
        self.mode = mode;
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    /// Starts to count down; zero stops. Ignored in deadline mode.
    pub(super) fn set_initial(&mut self, initial: u32, now: u64) {
        if self.mode != Mode::Deadline {
            self.initial = initial;
            self.deadline = if initial == 0 { 0 } else { now.saturating_add(self.period()) };
        }
    }

    /// What is left to count.
    pub(super) fn current(&self, now: u64) -> u32 {
        if self.mode == Mode::Deadline {
            return 0;
        }
        self.deadline.saturating_sub(now).div_ceil(self.tick()) as u32
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Changes the divisor; what is left to count stays.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide & DIVIDE_BITS;
        if self.mode != Mode::Deadline && self.deadline != 0 {
            self.deadline = now.saturating_add(u64::from(left).saturating_mul(self.tick()));
        }
    }

    /// IA32_TSC_DEADLINE: zero unless armed.
    pub(super) fn tsc_deadline(&self) -> u64 {
        if self.mode == Mode::Deadline { self.deadline } else { 0 }
    }

    /// Arms; zero disarms. Ignored in the other modes.
    pub(super) fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.mode == Mode::Deadline {
            self.deadline = deadline;
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.deadline != 0).then_some(self.deadline)
    }

    /// Whether it has expired by now; once, however often it did.
    pub(super) fn poll(&mut self, now: u64) -> bool {
        if self.deadline == 0 || now < self.deadline {
            return false;
        }
        self.deadline = match self.mode {
            Mode::OneShot | Mode::Deadline => 0,
            Mode::Periodic if self.initial == 0 => 0,
            Mode::Periodic => {
                let late = (now - self.deadline) % self.period();
                now.saturating_add(self.period() - late)
            }
        };
        true
    }
}
