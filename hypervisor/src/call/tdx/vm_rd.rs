//! `TDG.VM.RD`: reads a field. Version 1 also says which field comes next, so that all can be found.

use super::fields::Element;
use super::{Answer, Call};
use abi::tdx::{field, register::*, status};
use arch::machine::Vcpu;

#[inline(never)]
pub fn run(call: &Call<'_>, registers: &mut Vcpu, version: u64) -> Answer {
    let (vm, id) = (registers.x(RCX), registers.x(RDX));
    let element = Element::find(id);
    let value = match element.filter(|_| version <= 1 && vm == 0 && id != field::NONE) {
        Some(element) => match element.read(call) {
            Some(value) => Some(value),
            None => return Answer::Again,
        },
        None => None,
    };
    // Linux looks at the value whatever the status says.
    registers.set_x(R8, value.unwrap_or(0));
    let next = match value {
        Some(_) => element.and_then(Element::next),
        None if version == 1 && vm == 0 && id == field::NONE => Some(Element::FIRST),
        None => None,
    };
    if version >= 1 {
        registers.set_x(RDX, next.map_or(field::NONE, Element::id));
    }
    match (version, vm, value, next) {
        (2.., ..) => Answer::invalid(RAX),
        (_, 1.., ..) => Answer::invalid(RCX),
        (.., Some(_), _) => Answer::SUCCESS,
        (.., Some(_)) => Answer::Status(status::METADATA_FIRST_FIELD_ID_IN_CONTEXT),
        _ => Answer::Status(status::METADATA_FIELD_ID_INCORRECT),
    }
}
