//! `AUDIT`.

use super::{Call, Reply};
use crate::{Postern, Refused};
use abi::host;
use guestmem::Budget;

/// See [`host::AUDIT`].
pub const CALL: Call = Call {
    number: host::AUDIT,
    name: "AUDIT",
    arguments: &["cursor, 0 at first"],
    results: &["next cursor", "violations in this part"],
    summary: "Checks the frame database against all tables, a part at a time.",
    run,
};

/// Units of work in one call: keeps it within the published bound.
const UNITS: u64 = 4;

fn run(postern: &Postern, [cursor, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let vms = postern.vms.all()?;
    let memory = |owner: guestmem::OwnerId| {
        let vm = vms.get(usize::from(owner.get()).checked_sub(1)?)?;
        vm.as_ref().map(|vm| &vm.memory)
    };
    let audit = postern.core.audit(&memory, cursor, &mut Budget::new(UNITS));
    for violation in audit.first.iter().flatten() {
        log::error!("audit: {violation:?}");
    }
    let status = if audit.next.is_some() { host::MORE } else { host::OK };
    Ok(Reply { status, values: [audit.next.unwrap_or(0), audit.violations, 0] })
}
