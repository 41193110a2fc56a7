//! Emulated devices: the local APIC in Postern, the rest in the host.

use crate::require;
use crate::world::World;
use abi::tdx::vmcall;
use alloc::string::String;
use payloads::{apic, attempt, cpu, interrupt, pc, percpu, tdcall, timer};

/// Pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

/// Whether the timer's interrupt comes.
pub fn timer_still_works() -> Result<(), String> {
    let before = percpu::this().counted(timer::INTID);
    timer::fire_at(timer::now());
    let end = timer::now() + timer::ticks(1000);
    while percpu::this().counted(timer::INTID) == before {
        require!(timer::now() < end, "the timer interrupt does not come any more");
    }
    let stuck = apic::in_service();
    require!(stuck.is_none(), "vector {stuck:x?} is in service for ever");
    Ok(())
}

/// A string instruction on a port is an exception, as it would have Postern touch memory.
pub fn port_strings(world: &World) -> Result<(), String> {
    let page = world.page();
    crate::world::write(page, 0x2020_2020_2020_2020);
    for port in [0x80u16, 0x1234, 0xffff] {
        let found = attempt!("outsb"; in("dx") port, inout("rsi") page => _,);
        require!(found.is_err_and(|abort| abort.error() == 30), "OUTSB gives {found:x?}");
        let found = attempt!("insb"; in("dx") port, inout("rdi") page => _,);
        require!(found.is_err_and(|abort| abort.error() == 30), "INSB gives {found:x?}");
        let found = attempt!("rep outsd"; in("dx") port, inout("rsi") page => _, inout("rcx") 4u64 => _,);
        require!(found.is_err_and(|abort| abort.error() == 30), "REP OUTSD gives {found:x?}");
        let found = attempt!("rep insw"; in("dx") port, inout("rdi") page => _, inout("rcx") u64::MAX >> 1 => _,);
        require!(found.is_err_and(|abort| abort.error() == 30), "REP INSW gives {found:x?}");
    }
    crate::expect!("memory", crate::world::read(page), 0x2020_2020_2020_2020);
    Ok(())
}

/// Ports of all kinds, but those that end the guest or mix up the console.
pub fn port_garbage(_: &World) -> Result<(), String> {
    let mut random = Random(3);
    for _ in 0..500 {
        let port = random.next() as u16;
        if !(pc::COM1 - 4..pc::COM1 + 8).contains(&port) && !(pc::SLEEP_CONTROL - 4..pc::IDLE + 4).contains(&port) {
            cpu::outb(port, random.next() as u8);
            cpu::outl(port, random.next() as u32);
            core::hint::black_box((cpu::inb(port), cpu::inl(port)));
        }
    }
    for (size, write, port) in
        [(0, 0, 0x80), (3, 0, 0x80), (8, 1, 0x80), (1, 2, 0x80), (1, 0, 1 << 16), (4, 0, u64::MAX)]
    {
        let [code, ..] = tdcall::vmcall(vmcall::IO, [size, write, port, 0]);
        require!(code != 0, "IO of size {size}, direction {write}, port {port:#x} is accepted");
    }
    Ok(())
}

/// RequestMMIO with every kind of size, direction and address.
pub fn mmio_garbage(world: &World) -> Result<(), String> {
    let shared = tdcall::shared_bit();
    let bad = [
        (0, 0, 0xfec0_0000 | shared),
        (3, 0, 0xfec0_0000 | shared),
        (16, 0, 0xfec0_0000 | shared),
        (4, 2, 0xfec0_0000 | shared),
        (4, u64::MAX, 0xfec0_0000 | shared),
        (4, 0, 0xfec0_0000),
        (4, 0, world.ram.start),
        (4, 0, u64::MAX - 3),
        (4, 0, 1 << tdcall::width() | shared),
        (8, 0, 1 << 63),
    ];
    for (size, write, address) in bad {
        let [code, ..] = tdcall::vmcall(vmcall::MMIO, [size, write, address, 0]);
        require!(code != 0, "MMIO of size {size}, direction {write}, at {address:#x} is accepted");
    }
    let mut random = Random(5);
    for _ in 0..500 {
        // Not the mailbox, through which the host does what it is told.
        let address = 0xfec0_0000 + (random.next() & 0x1_fffc);
        let size = 1 << (random.next() & 3);
        let [_, ..] = tdcall::vmcall(vmcall::MMIO, [size, random.next() & 1, address | shared, random.next()]);
    }
    Ok(())
}

fn try_command(value: u64) {
    let index = apic::register::COMMAND;
    let _ = attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,);
}

/// Interrupt commands of every mode and to everybody. Vectors are those that are counted; NMIs are counted as well.
pub fn command_garbage(_: &World) -> Result<(), String> {
    let mut random = Random(7);
    for _ in 0..3000 {
        let value = random.next() << 20 ^ random.next();
        try_command(value & !0xff | 0x40 | value & 0xf);
    }
    // Vectors that cannot be sent. Those up to 31 can, but nobody could tell them from exceptions.
    for vector in 0..16 {
        try_command(u64::from(cpu::affinity() as u32) << 32 | vector);
    }
    interrupt::init_cpu();
    timer_still_works()
}

/// Rubbish in all x2APIC registers, then the ordinary set-up.
pub fn apic_garbage(_: &World) -> Result<(), String> {
    cpu::mask_interrupts();
    let mut random = Random(11);
    for index in (0x800u32..0x840).chain(0x840..0x8ff).filter(|index| *index != apic::register::COMMAND) {
        for value in [0, u64::MAX, random.next(), 0x1_00ff, 15] {
            // Vectors 16 to 31 may be sent, but nobody can tell them from exceptions.
            let value = if value & 0xe0 == 0 && value & 0x10 != 0 { value | 0x20 } else { value };
            let _ = attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,);
            let _ = attempt!("rdmsr"; in("ecx") index, out("eax") _, out("edx") _,);
        }
    }
    (0..300).for_each(|_| apic::end());
    interrupt::init_cpu();
    timer::stop();
    cpu::unmask_interrupts();
    timer_still_works()
}
