//! A PC with VMX and EPT in Bochs, booted by GRUB from a CD, or by its firmware.

use super::desk::Desk;
use super::{Clock, Machine, Session};
use crate::firmware::{Chain, Drive, Medium};
use crate::image::CYLINDER;
use crate::setup::bochs::Bochs;
use crate::setup::grub::Grub;
use anyhow::{Context, Result, anyhow, bail};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Memory that a machine may have, in MiB: what is below PCI's devices.
pub const BOCHS_MEMORY_MAX_MIB: u64 = 3072;
/// As much of it Bochs 3.0 keeps in memory of its own, in MiB; if the machine touches more, some of it goes into a file.
const MEMORY_KEPT_MIB: u64 = 2048;
/// How long Bochs may take until it has connected its serial ports.
const CONNECT: Duration = Duration::from_secs(20);
/// What Bochs says, as a "panic", when the machine switches itself off properly.
const POWER_OFF: [&str; 2] = ["shutdown requested", "soft power off"];

/// Bochs' log starts each line with the count: `00217827059p[UNMAP ] >>PANIC<< text`.
pub fn ticks(log: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(">>PANIC<<"))?;
    line[..line.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// Makes the CD and switches the machine on.
pub fn start(bochs: &Bochs, grub: &Grub, machine: &Machine) -> Result<Session> {
    let desk = Desk::new()?;
    let media = [Medium { file: desk.cd(grub, machine)?, drive: Drive::Cd }];
    let bios = desk.folder().join("bios");
    fs::write(&bios, machine.trouble.bios(fs::read(&bochs.bios)?)?)?;
    switch_on(bochs, machine, desk, Some(&bios), &media)
}

/// Makes the media that firmware boots, and switches the machine on.
pub fn start_chain(bochs: &Bochs, chain: &Chain, machine: &Machine) -> Result<Session> {
    let desk = Desk::new()?;
    let media = chain.media(machine, desk.folder())?;
    let mut session = switch_on(bochs, machine, desk, chain.firmware.as_deref(), &media)?;
    session.firmware = chain.firmware.is_some();
    session.tries_again = chain.firmware.is_some();
    Ok(session)
}

/// Bochs' words for what is in the drives.
fn drives(media: &[Medium]) -> Result<String> {
    let mut lines = String::new();
    for (index, Medium { file, drive }) in media.iter().enumerate() {
        let place = ["ata0-master", "ata0-slave", "ata1-master", "ata1-slave"].get(index);
        let place = place.context("a PC has four drives")?;
        let kind = match drive {
            Drive::Cd => "type=cdrom, status=inserted".into(),
            Drive::Disk | Drive::HybridDisk => {
                // A disk of whole cylinders; a stick is larger than the image on it, too.
                let size = fs::metadata(file)?.len().next_multiple_of(CYLINDER);
                fs::OpenOptions::new().write(true).open(file)?.set_len(size)?;
                format!("type=disk, mode=flat, cylinders={}, heads=16, spt=63", size / CYLINDER)
            }
        };
        lines.push_str(&format!("{place}: path={}, {kind}\n", file.display()));
    }
    let first = if media.first().is_some_and(|medium| medium.drive == Drive::Cd) { "cdrom" } else { "disk" };
    Ok(format!("ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n{lines}boot: {first}"))
}

/// Starts Bochs with a ROM, its BIOS unless there is another, and something to boot from.
fn switch_on(bochs: &Bochs, machine: &Machine, desk: Desk, rom: Option<&Path>, media: &[Medium]) -> Result<Session> {
    let rom = rom.unwrap_or(&bochs.bios);
    if machine.memory_mib > BOCHS_MEMORY_MAX_MIB {
        bail!(
            "a machine in Bochs has at most {BOCHS_MEMORY_MAX_MIB} MiB of memory, and this takes {}",
            machine.memory_mib
        );
    }
    // Bochs connects to these as it starts, so nothing that a port says is lost, and no port number can be taken twice.
    let ports = [listen()?, listen()?];
    let config = desk.folder().join("bochsrc");
    fs::write(
        &config,
        configuration(bochs, machine, &desk, (rom, &drives(media)?), [port(&ports[0])?, port(&ports[1])?]),
    )?;
    let mut command = bochs.command();
    command.args(["-q", "-f"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if machine.extras.screen {
        give_terminal(&mut command)?;
    }
    let mut child = command.spawn().context("the emulator does not start")?;
    // With it our copies of what it inherits go.
    drop(command);
    let streams = accept(&ports[0], &mut child).and_then(|log| Ok((log, accept(&ports[1], &mut child)?)));
    let (log, console) = match streams {
        Ok(streams) => streams,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(match desk.last_words() {
                words if words.is_empty() => error,
                words => anyhow!("Bochs does not start: {words}"),
            });
        }
    };
    let keys = console.try_clone()?;
    let mut session = Session::new(child, log, console, keys);
    session.desk = Some(desk);
    Ok(session)
}

/// Gives Bochs a terminal that nobody looks at.
fn give_terminal(command: &mut Command) -> Result<()> {
    // Not the one that rules whoever runs this.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let mut own = File::from(openpt(flags).context("no terminal is to be had")?);
    unlockpt(&own)?;
    let other = ioctl_tiocgptpeer(&own, flags)?;
    command.env("TERM", "vt100").stdin(other.try_clone()?).stdout(other);
    // It ends with Bochs, who would wait for a terminal that is full.
    std::thread::spawn(move || std::io::copy(&mut own, &mut std::io::sink()));
    Ok(())
}

fn configuration(
    bochs: &Bochs,
    machine: &Machine,
    desk: &Desk,
    (rom, medium): (&Path, &str),
    ports: [u16; 2],
) -> String {
    // The rfb display waits for nobody and needs neither a terminal nor a window. The term display does not mind graphics, which
    // it does not show, but for saying so as a panic.
    let (display, panic) = match machine.extras.screen {
        false => ("rfb, options=\"timeout=0\"", ""),
        true => ("term", ", term=report"),
    };
    let clock = if machine.clock == Clock::User { "slowdown" } else { "none" };
    format!(
        "memory: guest={}, host={}\nromimage: file={}\nvgaromimage: file={}\n\
         cpu: model={}, count={}, ips=50000000, reset_on_triple_fault=0\n\
         {medium}\n\
         display_library: {display}\nsound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{}\ncom2: enabled=1, mode=socket-client, dev=127.0.0.1:{}\n\
         log: {}\npanic: action=fatal{panic}\nerror: action=ignore\ninfo: action=ignore\ndebug: action=ignore\n\
         clock: sync={clock}\n",
        machine.memory_mib,
        machine.memory_mib.min(MEMORY_KEPT_MIB),
        rom.display(),
        bochs.vga_bios.display(),
        machine.machine,
        machine.cpus,
        ports[0],
        ports[1],
        desk.log().display(),
    )
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no local port is free for the serial line")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn port(listener: &TcpListener) -> Result<u16> {
    Ok(listener.local_addr()?.port())
}

/// Waits for Bochs to connect, unless it ends before.
fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    let started = Instant::now();
    while started.elapsed() < CONNECT {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("Bochs ended before its machine was on: {status}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("Bochs has not connected its serial ports within {} s", CONNECT.as_secs())
}

/// Bochs' own log says last why it ended: `00217827059p[UNMAP ] >>PANIC<< text`.
pub fn last_words(log: &str) -> String {
    match log.lines().rev().find_map(|line| line.split_once(">>PANIC<<")) {
        Some((_, text)) if POWER_OFF.iter().any(|proper| text.contains(proper)) => String::new(),
        Some((_, text)) => format!("Bochs: {}", text.trim()),
        None => "Bochs gave no reason".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Emulator, Event};
    use crate::paths;
    use crate::setup::{self, Cache};
    use crate::trouble::Trouble;
    use crate::verdict::Verdict;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_power_off_is_no_accident() {
        let log = "00000000000i[] x\n00217827059p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested\n";
        assert_eq!(last_words(log), "");
        assert_eq!((ticks(log), ticks("")), (Some(217_827_059), None));
        assert_eq!(last_words("03027004776p[ACPI  ] >>PANIC<< ACPI control: soft power off"), "");
        let fault = "00289p[CPU0  ] >>PANIC<< exception(): 3rd (14) exception with no resolution\n";
        assert_eq!(last_words(fault), "Bochs: exception(): 3rd (14) exception with no resolution");
        assert_eq!(last_words(""), "Bochs gave no reason");
    }

    /// A Multiboot2 kernel at 2 MiB that copies COM2 to itself up to the end of a line, taking its time for every byte, then
    /// says so on COM1 and switches off. 32-bit code.
    #[rustfmt::skip]
    const ECHO: [u8; 141] = [
        // Multiboot2 header: magic, i386, its length, checksum, end tag.
        0xd6, 0x50, 0x52, 0xe8, 0, 0, 0, 0, 0x18, 0, 0, 0, 0x12, 0xaf, 0xad, 0x17, 0, 0, 0, 0, 8, 0, 0, 0,
        0xb0, 0x03, 0x66, 0xba, 0xfb, 0x03, 0xee, 0x66, 0xba, 0xfb, 0x02, 0xee, // 8N1 on both ports
        0x66, 0xba, 0xfd, 0x02, 0xec, 0xa8, 0x01, 0x74, 0xf7, // until COM2 has a byte
        0xb9, 0x20, 0x4e, 0x00, 0x00, 0xe2, 0xfe, // count to 20,000: more bytes arrive meanwhile
        0x66, 0xba, 0xf8, 0x02, 0xec, 0xee, 0x88, 0xc3, // in, out, keep it
        0x66, 0xba, 0xfd, 0x02, 0xec, 0xa8, 0x40, 0x74, 0xf7, // until it is sent
        0x80, 0xfb, 0x0a, 0x75, 0xda, // again unless it was the end of the line
        0xbe, 0x73, 0x00, 0x20, 0x00, // the text
        0xac, 0x84, 0xc0, 0x74, 0x10, 0x66, 0xba, 0xf8, 0x03, 0xee, // its next byte to COM1
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x40, 0x74, 0xf7, 0xeb, 0xeb, // until it is sent
        0x66, 0xba, 0x00, 0x89, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf4, // the second text to port 0x8900
        0xf4, 0xeb, 0xfd, // halt
        b'P', b'O', b'S', b'T', b'E', b'R', b'N', b'-', b'E', b'N', b'D', b':', b' ', b'o', b'k', b'\n', 0,
        b'S', b'h', b'u', b't', b'd', b'o', b'w', b'n', 0,
    ];

    /// A 32-bit ELF file that loads `code` at 2 MiB and starts it behind its header.
    fn kernel(code: &[u8]) -> Vec<u8> {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0];
        let size = code.len() as u32;
        // Version, entry, program headers right behind this one, section headers behind the code, flags, sizes and numbers of
        // headers. GRUB takes no file without section headers.
        for word in [1_u32, 0x20_0018, 52, 88 + size, 0, 52 | 32 << 16, 1 | 40 << 16, 1] {
            elf.extend(word.to_le_bytes());
        }
        for word in [1_u32, 88, 0x20_0000, 0x20_0000, size, size, 5, 4] {
            elf.extend(word.to_le_bytes());
        }
        // GRUB looks for a Multiboot2 header at multiples of eight bytes only.
        elf.extend([0; 4]);
        elf.extend_from_slice(code);
        elf.extend([0; 40]);
        elf
    }

    #[test]
    #[ignore = "boots Bochs, which is fetched first"]
    fn both_serial_lines_work_and_lose_nothing() {
        let cache = Cache::open().unwrap();
        let emulator = Emulator::Bochs(setup::bochs::find(&cache).unwrap(), setup::grub::find(&cache).unwrap());
        let file = paths::bare().join("echo-test");
        crate::bundle::write_if_changed(&file, &kernel(&ECHO)).unwrap();
        let machine = Machine {
            kernel: file.clone(),
            initrd: Some(file),
            machine: crate::machine::PC,
            cpus: 2,
            memory_mib: 256,
            clock: Clock::Free,
            append: None,
            load_only: false,
            trouble: Trouble::Nothing,
            extras: crate::machine::Extras::NONE,
        };
        let mut session = Session::start(&emulator, &machine).unwrap();
        // This kernel listens from the start, and says nothing before.
        session.listen();
        let text: String = (0..500).map(|n| char::from(b'a' + (n % 26) as u8)).chain(['\n']).collect();
        session.keyboard().type_in(text.as_bytes());
        let mut console = String::new();
        let verdict = session.follow(Some(Duration::from_secs(20)), &AtomicBool::new(false), |event, _| {
            if let Event::Console(bytes) = event {
                console.push_str(&String::from_utf8_lossy(bytes));
            }
            true
        });
        assert_eq!(verdict, Verdict::Ok, "{console:?}");
        assert_eq!(console, text);
    }
}
