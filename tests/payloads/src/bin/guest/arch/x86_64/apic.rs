//! The guest's local APIC: who may interrupt whom, in which order, and what its registers say meanwhile.

use crate::functional::interrupts::eventually;
use crate::world::World;
use crate::{expect, require, smp};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use payloads::apic::{self, register};
use payloads::cpu::{self, rdmsr, wrmsr};
use payloads::exception::{self, Abort};
use payloads::{attempt, interrupt, percpu, timer};

/// Vectors of three classes.
const LOW: u32 = 0x45;
const MIDDLE: u32 = 0x52;
const HIGH: u32 = 0x61;

fn try_wrmsr(index: u32, value: u64) -> Result<(), Abort> {
    attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,)
}

fn try_rdmsr(index: u32) -> Result<(), Abort> {
    attempt!("rdmsr"; in("ecx") index, out("eax") _, out("edx") _,)
}

fn is_requested(vector: u32) -> bool {
    rdmsr(register::REQUESTED + vector / 32) >> (vector % 32) & 1 != 0
}

/// Runs `work` with interrupts held back by RFLAGS.IF.
fn masked(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    cpu::mask_interrupts();
    let result = work();
    cpu::unmask_interrupts();
    result
}

/// Every register that there is can be read, and no other; what cannot be written is refused, reserved bits too.
pub fn registers(_: &World) -> Result<(), String> {
    let readable =
        |msr: u32| matches!(msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x839 | 0x83e);
    for msr in (0x800..=0x8ff).chain([timer::DEADLINE]) {
        let found = try_rdmsr(msr);
        require!(found.is_ok() == (readable(msr) || msr == timer::DEADLINE), "RDMSR of {msr:#x}: {found:x?}");
        require!(found.is_ok() || found.is_err_and(|abort| abort.is_protection()), "RDMSR of {msr:#x}: {found:x?}");
    }
    expect!("the identifier", rdmsr(register::ID), percpu::index() as u64);
    expect!("the version", rdmsr(0x803), 0x5_0015);
    expect!("the logical identifier", rdmsr(0x80d), 1 << percpu::index());
    expect!("the spurious vector", rdmsr(register::SPURIOUS), 0x1ff);
    let reserved = [
        (register::TASK_PRIORITY, 1 << 8),
        (register::TASK_PRIORITY, 1 << 32),
        (register::END, 1),
        (register::END, 1 << 32),
        (register::SPURIOUS, 1 << 12),
        (register::ERRORS, 1),
        (register::COMMAND, 1 << 13),
        (register::TIMER, 3 << 17),
        (register::SELF, 1 << 8),
        (register::SELF, 1 << 40),
    ];
    let read_only = [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839].map(|msr| (msr, 0));
    let absent = [0x800, 0x809, 0x80c, 0x80e, 0x829, 0x82f, 0x831, 0x83a, 0x840, 0x8ff].map(|msr| (msr, 0));
    for (msr, value) in reserved.into_iter().chain(read_only).chain(absent) {
        let found = try_wrmsr(msr, value);
        require!(found.is_err_and(|abort| abort.is_protection()), "WRMSR of {value:#x} to {msr:#x}: {found:x?}");
    }
    expect!("the priority after all that", rdmsr(register::TASK_PRIORITY), 0);
    Ok(())
}

/// An interrupt to oneself comes at once, or as soon as RFLAGS.IF lets it in; an illegal vector is an error.
pub fn self_ipi(_: &World) -> Result<(), String> {
    let area = percpu::this();
    for round in 0..50 {
        let before = area.counted(LOW);
        wrmsr(register::SELF, LOW.into());
        require!(eventually(|| area.counted(LOW) == before + 1), "round {round}: it did not come");
        expect!("in service afterwards", apic::in_service().unwrap_or(0), 0);
        masked(|| {
            wrmsr(register::SELF, LOW.into());
            // Once more is no more: it is an edge.
            wrmsr(register::SELF, LOW.into());
            require!(is_requested(LOW), "round {round}: it is not requested");
            expect!("taken although masked", area.counted(LOW), before + 1);
            Ok(())
        })?;
        require!(eventually(|| area.counted(LOW) == before + 2), "round {round}: it did not come when unmasked");
        require!(!is_requested(LOW), "round {round}: it is still requested");
    }
    const ERROR: u32 = 0x837;
    wrmsr(register::ERRORS, 0);
    wrmsr(ERROR, HIGH.into());
    let before = area.counted(HIGH);
    wrmsr(register::SELF, 15);
    require!(eventually(|| area.counted(HIGH) == before + 1), "no error interrupt");
    wrmsr(ERROR, 1 << 16);
    wrmsr(register::ERRORS, 0);
    expect!("the error status", rdmsr(register::ERRORS), 1 << 5);
    wrmsr(register::ERRORS, 0);
    Ok(())
}

fn write_cr8(class: u64) {
    // SAFETY: the task priority holds interrupts back, no more.
    unsafe { core::arch::asm!("mov cr8, {0}", in(reg) class, options(nostack, preserves_flags)) };
}

fn read_cr8() -> u64 {
    let class: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {0}, cr8", out(reg) class, options(nostack, preserves_flags)) };
    class
}

/// The task priority holds its class and those below back, by its register and by CR8, which are one.
pub fn priority(_: &World) -> Result<(), String> {
    let area = percpu::this();
    let raise: [fn(u64); 2] = [|class| wrmsr(register::TASK_PRIORITY, class << 4), write_cr8];
    for (set, lower) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (raise[a], raise[b])) {
        let before = [LOW, MIDDLE, HIGH].map(|vector| area.counted(vector));
        let seen = || [LOW, MIDDLE, HIGH].map(|vector| area.counted(vector));
        let plus = |more: [u32; 3]| core::array::from_fn(|n| before[n] + more[n]);
        set(5);
        expect!("CR8", read_cr8(), 5);
        expect!("the task priority", rdmsr(register::TASK_PRIORITY), 0x50);
        expect!("the processor priority", rdmsr(0x80a), 0x50);
        [LOW, MIDDLE, HIGH].iter().for_each(|vector| wrmsr(register::SELF, u64::from(*vector)));
        require!(eventually(|| area.counted(HIGH) == before[2] + 1), "a higher class does not come");
        timer::delay(1);
        require!(seen() == plus([0, 0, 1]), "held back: {:?} after {before:?}", seen());
        require!(is_requested(LOW) && is_requested(MIDDLE), "they are not requested");
        lower(4);
        require!(eventually(|| seen() == plus([0, 1, 1])), "one class lower: {:?} after {before:?}", seen());
        timer::delay(1);
        require!(seen() == plus([0, 1, 1]), "and no more: {:?} after {before:?}", seen());
        lower(0);
        require!(eventually(|| seen() == plus([1, 1, 1])), "none held back: {:?} after {before:?}", seen());
    }
    Ok(())
}

/// What the handler below has seen: vectors as they begin, and with bit 8 set as they end.
static ORDER: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static EVENTS: AtomicUsize = AtomicUsize::new(0);

fn event(what: u64) {
    let at = EVENTS.fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = ORDER.get(at) {
        slot.store(what, Ordering::Relaxed);
    }
}

/// Lets others in while it handles; the middle one asks for one above and one below.
fn nesting(vector: u32) {
    if ![LOW, MIDDLE, HIGH].contains(&vector) {
        return;
    }
    event(vector.into());
    if vector == MIDDLE {
        wrmsr(register::SELF, LOW.into());
        wrmsr(register::SELF, HIGH.into());
    }
    cpu::unmask_interrupts();
    // What is in service shows, the priority with it.
    event(u64::from(apic::in_service().unwrap_or(0)) | rdmsr(0x80a) << 16);
    cpu::mask_interrupts();
    event(u64::from(vector) | 1 << 8);
}

/// A higher class interrupts a handler, a lower one waits for its end; each end is that of the highest in service.
pub fn order(_: &World) -> Result<(), String> {
    exception::on_interrupt(nesting);
    let result = (0..20).try_for_each(|round| {
        EVENTS.store(0, Ordering::Relaxed);
        wrmsr(register::SELF, MIDDLE.into());
        require!(eventually(|| EVENTS.load(Ordering::Relaxed) >= 9), "round {round}: they did not all come");
        let found: Vec<u64> = ORDER.iter().take(9).map(|slot| slot.load(Ordering::Relaxed)).collect();
        let [low, middle, high] = [LOW, MIDDLE, HIGH].map(u64::from);
        let inside = |vector: u64| vector | (vector & 0xf0) << 16;
        let end = |vector: u64| vector | 1 << 8;
        let wanted = [middle, high, inside(high), end(high), inside(middle), end(middle), low, inside(low), end(low)];
        require!(found == wanted, "round {round}: {found:x?} instead of {wanted:x?}");
        Ok(())
    });
    exception::on_interrupt(|_| {});
    result
}

/// A timer that expires while RFLAGS.IF holds it back waits; one whose entry is masked is lost.
pub fn masked_timer(_: &World) -> Result<(), String> {
    let area = percpu::this();
    for _ in 0..10 {
        let before = area.counted(timer::INTID);
        masked(|| {
            timer::fire_at(timer::now() + timer::ticks(1));
            timer::delay(3);
            expect!("the deadline that is over", rdmsr(timer::DEADLINE), 0);
            require!(is_requested(timer::INTID), "it is not requested");
            expect!("taken although masked", area.counted(timer::INTID), before);
            Ok(())
        })?;
        require!(eventually(|| area.counted(timer::INTID) == before + 1), "it did not come when unmasked");
        let entry = rdmsr(register::TIMER);
        wrmsr(register::TIMER, entry | 1 << 16);
        timer::fire_at(timer::now() + timer::ticks(1));
        timer::delay(3);
        wrmsr(register::TIMER, entry);
        timer::delay(1);
        expect!("interrupts of a masked entry", area.counted(timer::INTID), before + 1);
    }
    Ok(())
}

/// Rounds of the storm, in each of which every vector of [`interrupt::SOFTWARE`] goes to the other vCPU.
const ROUNDS: u32 = 100;
static STARTED: AtomicUsize = AtomicUsize::new(0);

fn counts(index: usize) -> Vec<u32> {
    interrupt::SOFTWARE.map(|vector| percpu::of(index).counted(vector)).collect()
}

/// Sends all vectors to `other` again and again, each time when it has taken the last ones; whether it took each once.
fn storm(other: usize) -> Result<(), String> {
    STARTED.fetch_add(1, Ordering::AcqRel);
    require!(eventually(|| STARTED.load(Ordering::Acquire) >= 2), "the other vCPU does not begin");
    let before = counts(other);
    for round in 1..=ROUNDS {
        interrupt::SOFTWARE.for_each(|vector| interrupt::send(vector, other));
        let all = || counts(other).iter().zip(&before).all(|(now, before)| now - before >= round);
        require!(eventually(all), "round {round}: {:?} after {before:?}", counts(other));
    }
    let found = counts(other);
    let exactly = found.iter().zip(&before).all(|(now, before)| now - before == ROUNDS);
    require!(exactly, "{ROUNDS} of each: {found:?} after {before:?}");
    STARTED.fetch_add(1, Ordering::AcqRel);
    // It goes on taking what the other still sends.
    require!(eventually(|| STARTED.load(Ordering::Acquire) >= 4), "the other vCPU does not end");
    Ok(())
}

static OTHER: spin::mutex::SpinMutex<Option<Result<(), String>>> = spin::mutex::SpinMutex::new(None);

fn answer_storm(_: usize) {
    let result = storm(0);
    *OTHER.lock() = Some(result);
}

/// Two vCPUs send each other all they can at the same time: nothing is lost, and nothing comes twice.
pub fn ipi_storm(world: &World) -> Result<(), String> {
    if world.machine.cpus.len() < 2 {
        return Ok(());
    }
    STARTED.store(0, Ordering::Release);
    smp::start(1, answer_storm).map_err(|code| format!("starting the other vCPU answers {code}"))?;
    let mine = storm(1);
    require!(eventually(|| payloads::power::is_off(1)), "the other vCPU does not go off");
    mine.map_err(|why| format!("to the other: {why}"))?;
    let other = OTHER.lock().take();
    other.unwrap_or(Err(String::from("it has not said"))).map_err(|why| format!("from the other: {why}"))
}
