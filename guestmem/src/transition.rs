//! The one table that says which change of hands is legal. Everything else in Postern asks it.

use crate::{OwnerId, Record, Refusal, State};

/// What somebody wants to happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Event {
    /// Boot: the frame becomes Postern's.
    Claim,
    /// Host: gives the frame to Postern's pool.
    Topup,
    /// Host: gives the frame to a VM as metadata.
    DonateMeta,
    /// Host: gives the frame to a guest, to arrive zeroed.
    Donate,
    /// Host: gives the frame to a guest with its content, which is measured.
    Load,
    /// Postern: the frame has been wiped or measured and appears in the guest as private.
    Arrive,
    /// Postern: the frame has been wiped and appears in the guest as shared.
    ArriveShared,
    /// Guest: lets the host access the page.
    Share,
    /// Guest: takes the page back.
    Unshare,
    /// Guest: begins to share a whole block.
    Open,
    /// Postern: the block has been wiped and is shared.
    Opened,
    /// Guest: begins to take a whole block back.
    Close,
    /// Postern: the block has been wiped and is private.
    Closed,
    /// Postern: the page is private again, but the guest has said that it will accept such pages first.
    Defer,
    /// Guest: accepts the page.
    Accept,
    /// Host or Postern: holds the frame where it is.
    Pin,
    /// Host or Postern: undoes one pin.
    Unpin,
    /// Postern: begins to use a frame of the host's.
    Lend,
    /// Postern: is done with it.
    EndLend,
    /// Guest: gives the page back to the host.
    Relinquish,
    /// Host: takes back a page of a VM that is being taken down.
    Reclaim,
    /// Postern: the frame has been wiped and is the host's again.
    Return,
    /// Postern: the metadata frame of a VM without guest frames has been wiped and is the host's again.
    ReturnMeta,
    /// Hardware: the frame has failed.
    Poison,
}

impl Event {
    /// Every event, in the order of its number.
    pub const ALL: [Self; 24] = [
        Self::Claim,
        Self::Topup,
        Self::DonateMeta,
        Self::Donate,
        Self::Load,
        Self::Arrive,
        Self::ArriveShared,
        Self::Share,
        Self::Unshare,
        Self::Open,
        Self::Opened,
        Self::Close,
        Self::Closed,
        Self::Defer,
        Self::Accept,
        Self::Pin,
        Self::Unpin,
        Self::Lend,
        Self::EndLend,
        Self::Relinquish,
        Self::Reclaim,
        Self::Return,
        Self::ReturnMeta,
        Self::Poison,
    ];

    /// Whether only the owner in the frame's record can cause the event.
    const fn is_the_owners(self) -> bool {
        !matches!(
            self,
            Self::Claim
                | Self::Topup
                | Self::DonateMeta
                | Self::Donate
                | Self::Load
                | Self::Pin
                | Self::Unpin
                | Self::Lend
                | Self::EndLend
                | Self::Poison
        )
    }

    /// Whether pins forbid the event: those that take a frame away from somebody who could have pinned it.
    const fn needs_no_pins(self) -> bool {
        matches!(
            self,
            Self::Claim
                | Self::Topup
                | Self::DonateMeta
                | Self::Donate
                | Self::Load
                | Self::Lend
                | Self::Unshare
                | Self::Close
        )
    }
}

/// What the table says of one event in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Legal, and leads to this state.
    To(State),
    /// Illegal, and this is the answer.
    Refuse(Refusal),
}

const STATES: usize = State::ALL.len();
const EVENTS: usize = Event::ALL.len();

/// The transition table, by state and event.
pub static TABLE: [[Rule; EVENTS]; STATES] = {
    let mut table = [[Rule::Refuse(Refusal::Busy); EVENTS]; STATES];
    let mut state = 0;
    while state < STATES {
        let mut event = 0;
        while event < EVENTS {
            table[state][event] = rule(State::ALL[state], Event::ALL[event]);
            event += 1;
        }
        state += 1;
    }
    table
};

const fn rule(state: State, event: Event) -> Rule {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Host | S::Postern, E::Claim) | (S::Host, E::Topup) => Rule::To(S::Postern),
        (S::Host, E::DonateMeta) => Rule::To(S::Meta),
        (S::Host, E::Donate | E::Load) => Rule::To(S::Moving),
        (S::Moving, E::Arrive) => Rule::To(S::Private),
        (S::Moving, E::ArriveShared) => Rule::To(S::Shared),
        (S::Private | S::Pending, E::Share) => Rule::To(S::Shared),
        (S::Shared, E::Unshare) => Rule::To(S::Private),
        (S::Private | S::Pending, E::Open) => Rule::To(S::Opening),
        (S::Opening, E::Opened) => Rule::To(S::Shared),
        (S::Shared, E::Close) => Rule::To(S::Closing),
        (S::Closing, E::Closed) => Rule::To(S::Private),
        (S::Private, E::Defer) => Rule::To(S::Pending),
        (S::Pending, E::Accept) => Rule::To(S::Private),
        (S::Host | S::Shared, E::Pin | E::Unpin) => Rule::To(state),
        (S::Host, E::Lend) => Rule::To(S::Lent),
        (S::Lent, E::EndLend) => Rule::To(S::Host),
        // What the host could see already is not wiped on its way back, and keeps its pins.
        (S::Shared, E::Relinquish | E::Reclaim) => Rule::To(S::Host),
        (S::Private | S::Pending, E::Relinquish) => Rule::To(S::Returning),
        (S::Private | S::Pending | S::Moving | S::Opening | S::Closing, E::Reclaim) => Rule::To(S::Returning),
        (S::Returning, E::Return) => Rule::To(S::Host),
        (S::Meta, E::ReturnMeta) => Rule::To(S::Host),
        (S::Host | S::Private | S::Pending | S::Shared | S::Moving, E::Poison) => Rule::To(S::Poisoned),
        // Poison stays poison when its VM goes; only the name of the owner is struck out.
        (S::Poisoned, E::Reclaim | E::Poison) => Rule::To(S::Poisoned),
        _ => Rule::Refuse(refusal(state, event)),
    }
}

const fn refusal(state: State, event: Event) -> Refusal {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Absent, _) => Refusal::NotRam,
        (S::Poisoned, _) => Refusal::Poisoned,
        (S::Shared, E::Share | E::Open) | (S::Private | S::Pending, E::Unshare | E::Close) => Refusal::WrongVisibility,
        (S::Shared, E::Accept) => Refusal::WrongVisibility,
        // In motion on the guest's own behalf, or on its way to it: it will be what it is to be soon.
        (
            S::Moving | S::Opening | S::Closing | S::Returning,
            E::Share | E::Unshare | E::Open | E::Close | E::Accept | E::Relinquish | E::Poison,
        ) => Refusal::Busy,
        _ => Refusal::NotOwner(state),
    }
}

/// The states, a bit each, from which `event` leads to `to`: the table for who knows already that the frame is the owner's and
/// that nothing pins it.
pub(crate) const fn sources(event: Event, to: State) -> u16 {
    let mut states = 0;
    let mut index = 0;
    while index < STATES {
        if let Rule::To(next) = rule(State::ALL[index], event)
            && next as u8 == to as u8
        {
            states |= 1 << index;
        }
        index += 1;
    }
    states
}

/// Decides whether `by` (nobody: the host or Postern) may cause `event` on a frame with this record, and what state
/// that leads to.
///
/// # Errors
/// What the table answers, [`Refusal::NotOwner`] when the frame is another VM's, [`Refusal::Pinned`] when pins forbid it.
#[inline]
pub fn permit(record: Record, event: Event, by: Option<OwnerId>) -> Result<State, Refusal> {
    match TABLE[record.state as usize][event as usize] {
        Rule::Refuse(refusal) => Err(refusal),
        Rule::To(_) if event.is_the_owners() && record.owner != by => Err(Refusal::NotOwner(record.state)),
        Rule::To(_) if event.needs_no_pins() && record.pins() != 0 => Err(Refusal::Pinned),
        Rule::To(state) => Ok(state),
    }
}

/// The table as Markdown, one row for each event; cells are the next state, `-` is a refusal with
/// [`Refusal::NotOwner`], other refusals are spelled out in lower case.
#[cfg(any(test, feature = "fake"))]
pub fn render() -> String {
    let mut text = String::from("| event |");
    for state in State::ALL {
        text += &format!(" {state:?} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(STATES);
    text.push('\n');
    for event in Event::ALL {
        let marks = [(event.is_the_owners(), "°"), (event.needs_no_pins(), "*")];
        let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, mark)| *mark).collect();
        text += &format!("| {event:?}{marks} |");
        for state in State::ALL {
            text += &match TABLE[state as usize][event as usize] {
                Rule::To(next) => format!(" **{next:?}** |"),
                Rule::Refuse(Refusal::NotOwner(_)) => " - |".to_string(),
                Rule::Refuse(other) => format!(" {} |", format!("{other:?}").to_lowercase()),
            };
        }
        text.push('\n');
    }
    text
}

/// Where the table begins and ends in a document.
#[cfg(any(test, feature = "fake"))]
const MARKERS: [&str; 2] = ["<!-- transition table: rendered, do not edit -->\n", "<!-- end of transition table -->"];

/// Puts a rendered table between the markers of a document; none if it has no markers.
#[cfg(any(test, feature = "fake"))]
pub fn insert(page: &str, table: &str) -> Option<String> {
    let start = page.find(MARKERS[0])? + MARKERS[0].len();
    let end = start + page[start..].find(MARKERS[1])?;
    Some([&page[..start], table, &page[end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gfn;

    const A: Option<OwnerId> = OwnerId::new(1);
    const B: Option<OwnerId> = OwnerId::new(2);

    fn record(state: State, owner: Option<OwnerId>, count: u16) -> Record {
        Record { state, owner, gfn: Gfn::new(7), count, wiped: false }
    }

    #[test]
    fn numbers_are_indices() {
        assert!(State::ALL.iter().enumerate().all(|(index, &state)| state as usize == index));
        assert!(Event::ALL.iter().enumerate().all(|(index, &event)| event as usize == index));
    }

    #[test]
    fn sources_are_the_columns_of_the_table() {
        for event in Event::ALL {
            for to in State::ALL {
                for state in State::ALL {
                    let leads = TABLE[state as usize][event as usize] == Rule::To(to);
                    assert_eq!(sources(event, to) >> state as u8 & 1 == 1, leads, "{state:?} {event:?} {to:?}");
                }
            }
        }
    }

    #[test]
    fn c1_only_the_host_gives_and_only_what_it_owns() {
        for state in State::ALL {
            for event in [Event::Topup, Event::DonateMeta, Event::Donate, Event::Load] {
                assert_eq!(
                    permit(record(state, None, 0), event, None).is_ok(),
                    state == State::Host,
                    "{state:?} {event:?}"
                );
            }
        }
    }

    #[test]
    fn b3_nothing_gets_from_one_owner_to_another_without_a_state_in_motion() {
        // Except what the host could see all along, and metadata, which is wiped before it is in any table.
        let guest = [State::Private, State::Pending, State::Shared, State::Opening, State::Closing];
        for event in Event::ALL {
            for state in guest {
                let Rule::To(next) = TABLE[state as usize][event as usize] else { continue };
                assert!(next != State::Host || state == State::Shared, "{state:?} {event:?}");
                assert!(next != State::Postern && next != State::Meta);
            }
            if let Rule::To(next) = TABLE[State::Host as usize][event as usize] {
                assert!(!guest.contains(&next), "{event:?}");
            }
        }
    }

    #[test]
    fn c5_every_motion_ends_in_one_step() {
        let ends = [
            (State::Moving, Event::Arrive),
            (State::Opening, Event::Opened),
            (State::Closing, Event::Closed),
            (State::Returning, Event::Return),
        ];
        for (state, event) in ends {
            let next = permit(record(state, A, 0), event, A).unwrap();
            assert!(matches!(next, State::Host | State::Private | State::Shared));
        }
    }

    #[test]
    fn c7_the_owners_events_are_refused_to_everybody_else() {
        for state in State::ALL {
            for event in Event::ALL.into_iter().filter(|event| event.is_the_owners()) {
                if permit(record(state, A, 0), event, A).is_ok() {
                    for other in [None, B] {
                        assert_eq!(permit(record(state, A, 0), event, other), Err(Refusal::NotOwner(state)));
                    }
                }
            }
        }
    }

    #[test]
    fn d2_pins_forbid_whatever_takes_the_frame_away() {
        for event in [Event::Topup, Event::DonateMeta, Event::Donate, Event::Load] {
            assert_eq!(permit(record(State::Host, None, 1), event, None), Err(Refusal::Pinned));
        }
        for event in [Event::Unshare, Event::Close] {
            assert_eq!(permit(record(State::Shared, A, 1), event, A), Err(Refusal::Pinned));
        }
        // The host keeps access in these, so they need not wait for it.
        for event in [Event::Relinquish, Event::Reclaim] {
            assert_eq!(permit(record(State::Shared, A, 1), event, A), Ok(State::Host));
        }
    }

    #[test]
    fn d5_what_is_not_ram_is_refused_as_such() {
        for event in Event::ALL {
            assert_eq!(permit(record(State::Absent, None, 0), event, None), Err(Refusal::NotRam));
        }
    }

    #[test]
    fn poison_never_leaves() {
        for event in Event::ALL {
            match TABLE[State::Poisoned as usize][event as usize] {
                Rule::To(next) => assert_eq!(next, State::Poisoned),
                Rule::Refuse(refusal) => assert_eq!(refusal, Refusal::Poisoned),
            }
        }
    }
}
