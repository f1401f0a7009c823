//! What a change waits for, in words.

use tartan_crds::{TransitionPhase, TransitionStatus, conditions::reason};

use crate::decide::{Problem, listed, plural};

/// Who keeps a pool from going on.
pub struct Late<'a> {
    /// Must receive the new backend.
    pub waiting: Vec<&'a str>,
    /// Must take packets in clear.
    pub held: Vec<&'a str>,
    /// Have leases that still name an end of before.
    pub naming: Vec<&'a str>,
    /// Must not send in clear any more.
    pub unsealed: Vec<&'a str>,
    /// Passed over.
    pub isolated: Vec<&'a str>,
}

pub fn problem(status: &TransitionStatus, late: &Late<'_>) -> Problem {
    let TransitionStatus { to, nodes, moved, .. } = status;
    let Late { waiting, held, naming, unsealed, isolated } = late;
    let (reason, mut text) = match status.phase {
        TransitionPhase::Paused => (
            reason::PAUSED,
            format!("{moved} of {nodes} nodes send by {to}; spec.transition.paused holds the others back"),
        ),
        TransitionPhase::Preparing if waiting.is_empty() && held.is_empty() => (
            reason::WAITING_FOR_RECEPTION,
            format!(
                "the leases of {} still name an end of before, which must be taken out before any node sends by {to}: \
                 {}; if it lasts, the API server or a webhook refuses that they are changed",
                plural(naming.len(), "node"),
                listed(naming)
            ),
        ),
        TransitionPhase::Preparing if waiting.is_empty() => (
            reason::WAITING_FOR_RECEPTION,
            format!(
                "{} must take packets in clear again, and say so, before any node sends by {to}: {}; see their \
                 NodeNetworks, or set spec.transition.deadline to go on without them",
                plural(held.len(), "node"),
                listed(held)
            ),
        ),
        TransitionPhase::Preparing => (
            reason::WAITING_FOR_RECEPTION,
            format!(
                "{} must receive {to} before any node sends by it: {}; see their NodeNetworks, or set \
                 spec.transition.deadline to go on without them",
                plural(waiting.len(), "node"),
                listed(waiting)
            ),
        ),
        TransitionPhase::Moving => (reason::MOVING, format!("{moved} of {nodes} nodes send by {to}")),
        TransitionPhase::Finishing if !unsealed.is_empty() => (
            reason::MOVING,
            format!(
                "all {nodes} nodes send by {to}; the pool is not sealed while {} may send to it in clear: {}",
                plural(unsealed.len(), "node"),
                listed(unsealed)
            ),
        ),
        TransitionPhase::Finishing => (
            reason::MOVING,
            format!("all {nodes} nodes are to send by {to}; some have not said yet that they do"),
        ),
    };
    if !isolated.is_empty() {
        text.push_str(&format!("; past the deadline and not waited for: {}", listed(isolated)));
    }
    Problem::new(reason, text)
}
