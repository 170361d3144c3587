//! What an operator can do about a condition, in words of the command line.
//!
//! The cores say what is so; verbs and flags are named here and in the HTTP routes only.

use ipam::Refusal;
use ipam::refusal::NoRing;
use ipam::rows::RestoreError;
use ipam::status::Phase;

/// Why a request for addresses is not served.
pub(crate) fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NameTaken(text) | Refusal::NoRing(NoRing::NameTaken(text)) => name_taken(text),
        Refusal::NoRing(_)
        | Refusal::Cancelled
        | Refusal::Disabled
        | Refusal::OutOfRange { .. }
        | Refusal::InUse { .. }
        | Refusal::OwnedHere { .. }
        | Refusal::OwnedElsewhere { .. }
        | Refusal::NothingHeld { .. }
        | Refusal::NotHeld { .. }
        | Refusal::NotManaged { .. }
        | Refusal::Disputed(_)
        | Refusal::PeersSilent { .. }
        | Refusal::PeersUnreachable { .. }
        | Refusal::Exhausted { .. }
        | Refusal::TooManyWaiting { .. } => refusal.to_string(),
    }
}

/// Another machine has our name, as the mesh says.
pub(crate) fn name_taken(text: &str) -> String {
    format!("{text}; launch one of the two with another --name, or reset it if it is a copy")
}

/// How far address allocation is: the line of the original.
pub(crate) fn phase(phase: Phase) -> String {
    match phase {
        Phase::OwnersUnreachable => format!("{phase} - use 'rmpeer' if they are dead"),
        Phase::Idle
        | Phase::Priming
        | Phase::AwaitingConsensus { .. }
        | Phase::AwaitingSpace
        | Phase::Ready => phase.to_string(),
    }
}

/// The stored rows of address allocation cannot be used.
pub(crate) fn damaged(error: &RestoreError) -> String {
    format!("{error}; 'weft reset' discards it and starts anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_come_with_what_to_do_about_them() {
        let taken = || "another machine has our peer name 1: x".to_owned();
        let advised = "another machine has our peer name 1: x; \
             launch one of the two with another --name, or reset it if it is a copy";
        assert_eq!(refusal(&Refusal::NameTaken(taken())), advised);
        assert_eq!(refusal(&NoRing::NameTaken(taken()).into()), advised);
        assert_eq!(refusal(&Refusal::Cancelled), "cancelled");
        assert_eq!(
            phase(Phase::OwnersUnreachable),
            "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
        );
        assert_eq!(phase(Phase::Ready), "ready");
        let error = RestoreError {
            row: "ipam/ring".to_owned(),
            reason: "no JSON".to_owned(),
        };
        assert_eq!(
            damaged(&error),
            "stored address data is damaged: row ipam/ring: no JSON; \
             'weft reset' discards it and starts anew"
        );
    }
}
