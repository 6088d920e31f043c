//! A backend as one snapshot has it.

use std::sync::Arc;

use super::backend::Backend;

/// A backend with what the control plane says of it now.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its share of the traffic against the others'; 0: none.
    pub weight: u32,
    /// Requests in flight there, at most; 0: any number.
    pub max_connections: usize,
    /// How much of its weight counts already, 1–100; less than 100 while it starts slowly.
    pub ramp_percent: u32,
    /// It may get traffic now.
    pub eligible: bool,
    /// It may serve the sessions that are bound to it, whether it is eligible or not.
    pub serves_sessions: bool,
    /// It gets traffic only when no other can.
    pub backup: bool,
    /// It is in the proxy's own zone.
    pub local: bool,
}

impl Member {
    /// One that gets traffic like any other.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self {
            backend,
            weight: 1,
            max_connections: 0,
            ramp_percent: 100,
            eligible: true,
            serves_sessions: true,
            backup: false,
            local: false,
        }
    }

    /// Its weight in hundredths, as far as it counts now.
    pub(super) fn share(&self) -> u32 {
        self.weight * self.ramp_percent
    }
}
