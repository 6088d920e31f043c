//! What lives here: the control plane. The registry of backends, their health and their addresses, and the admin API,
//! all on OS threads of their own. It may block; it reaches the workers only by swapping snapshots in and by the
//! barrier that it is handed, and it never makes a worker wait.

mod crew;
pub mod health;
mod names;
pub mod random;
pub mod registry;
