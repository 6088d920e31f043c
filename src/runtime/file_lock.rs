//! Locks of files between processes: held as long as the file is open, and given back however a process ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks a file for this holder alone, and doesn't wait for it; false while another has it.
///
/// # Errors
/// The system has no such lock to give.
pub fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        // SAFETY: `flock` takes a descriptor, which the file keeps open, and touches no memory of this process.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(false),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}
