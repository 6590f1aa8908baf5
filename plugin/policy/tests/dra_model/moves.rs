//! What can happen in a state, one event at a time.

use super::state::{Claim, Device, Holder, State};
use super::world::World;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// The scheduler allocates a device to a claim, by the slices that it has seen.
    Allocate(u8, u8),
    /// The kubelet calls Prepare.
    Prepare(u8),
    /// The driver writes a claim into its record, if it does so after the answer.
    Record(u8),
    /// The VM of a claim's pod opens its device.
    VmStarts(u8),
    /// The claim's pod ends. Its VM continues to hold the device if it hangs.
    End { claim: u8, hangs: bool },
    /// The claim's pod is deleted by force.
    Force(u8),
    /// The kubelet calls Unprepare.
    Unprepare(u8),
    /// A process of no pod opens a device.
    ForeignOpens(u8),
    /// The process of no pod closes the device.
    ForeignCloses(u8),
    /// A device is unbound from its VFIO driver. If it is held, the unbind waits, and the device has no driver meanwhile.
    Unbind(u8),
    /// A device is bound to its VFIO driver.
    Bind(u8),
    /// The driver's monitor checks the node.
    MonitorPass,
    /// More than the settling time passes.
    TimePasses,
    /// The driver sends what it wants to have stored.
    Write,
    /// The write arrives.
    WriteArrives,
    /// The driver gives the write up.
    WriteTimesOut,
    /// A write arrives that the driver has given up.
    LateWriteArrives,
    /// The scheduler sees what is stored.
    SchedulerSees,
    /// The API server does not answer any more.
    ApiServerGoes,
    /// The API server answers again.
    ApiServerReturns,
    /// The driver is killed and starts again.
    DriverRestarts,
}

impl World {
    /// Appends the events that can happen in a state.
    pub(super) fn moves(&self, state: &State, moves: &mut Vec<Move>) {
        self.moves_of_claims(state, moves);
        self.moves_of_devices(state, moves);
        moves.extend([Move::MonitorPass, Move::TimePasses, Move::SchedulerSees]);
        match (&state.write, state.answers) {
            (None, true) => moves.push(Move::Write),
            (Some(_), true) => moves.push(Move::WriteArrives),
            (Some(_), false) => moves.push(Move::WriteTimesOut),
            (None, false) => {}
        }
        if state.late.is_some() && state.answers {
            moves.push(Move::LateWriteArrives);
        }
        if self.bounds.outages {
            moves.push(if state.answers { Move::ApiServerGoes } else { Move::ApiServerReturns });
        }
        // What a killed driver has sent has arrived, or it never does.
        if state.restarts < self.bounds.restarts {
            moves.push(Move::DriverRestarts);
        }
    }

    fn moves_of_claims(&self, state: &State, moves: &mut Vec<Move>) {
        for (number, claim) in (0..).zip(&state.claims) {
            match *claim {
                // Claims that have not come differ in nothing, so only the first of them comes.
                Claim::ToCome if number == 0 || state.claim(number - 1) != Claim::ToCome => {
                    let devices = self.allocatable(state, &state.seen);
                    moves.extend(devices.into_iter().map(|device| Move::Allocate(number, device)));
                }
                Claim::Allocated(_) => {
                    moves.extend([Move::Prepare(number), Move::End { claim: number, hangs: false }]);
                }
                Claim::Prepared(device) | Claim::Forced(device) => {
                    let runs = state.device(device).holder == Holder::Claim(number);
                    moves.push(Move::End { claim: number, hangs: false });
                    moves.push(if runs {
                        Move::End { claim: number, hangs: true }
                    } else {
                        Move::VmStarts(number)
                    });
                    moves.push(Move::Record(number));
                    if self.bounds.forces {
                        moves.push(Move::Force(number));
                    }
                }
                Claim::Ended { .. } => moves.push(Move::Unprepare(number)),
                Claim::ToCome | Claim::Gone => {}
            }
        }
    }

    fn moves_of_devices(&self, state: &State, moves: &mut Vec<Move>) {
        for device in state.all_devices() {
            match state.device(device) {
                Device { holder: Holder::Foreign, .. } => moves.push(Move::ForeignCloses(device)),
                Device { bound: true, holder: Holder::None } if !self.is_held(state, device) => {
                    moves.push(Move::ForeignOpens(device));
                }
                _ => {}
            }
            if self.bounds.binds {
                match state.device(device) {
                    Device { bound: true, .. } => moves.push(Move::Unbind(device)),
                    Device { holder: Holder::None, .. } => moves.push(Move::Bind(device)),
                    Device { .. } => {}
                }
            }
        }
    }
}
