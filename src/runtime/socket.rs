//! Receiving and sending by the bare system call. libc's `recv` and `send` are points where a thread may be cancelled, which
//! costs each call some 45 instructions in a process with threads; nothing here is ever cancelled so.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

/// Reads what is there, as [`io::Read::read`] does.
#[inline]
pub(super) fn receive(socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    let (address, address_bytes) = (null_mut::<libc::sockaddr>(), null_mut::<libc::socklen_t>());
    // SAFETY: the socket is open while it is borrowed, and the kernel writes no more than `len` bytes to `into`.
    let received = unsafe {
        let (fd, into, len) = (long(socket.as_raw_fd()), into.as_mut_ptr(), into.len());
        libc::syscall(libc::SYS_recvfrom, fd, into, len, long(0), address, address_bytes)
    };
    outcome(received)
}

/// Writes what fits, as [`io::Write::write`] does.
#[inline]
pub(super) fn send(socket: &TcpStream, from: &[u8]) -> io::Result<usize> {
    let address = null_mut::<libc::sockaddr>();
    // SAFETY: the socket is open while it is borrowed, and the kernel reads no more than `len` bytes of `from`.
    let sent = unsafe {
        let (fd, from, len) = (long(socket.as_raw_fd()), from.as_ptr(), from.len());
        libc::syscall(libc::SYS_sendto, fd, from, len, long(libc::MSG_NOSIGNAL), address, long(0))
    };
    outcome(sent)
}

/// A system call's arguments are as wide as its registers.
fn long(number: libc::c_int) -> libc::c_long {
    number.into()
}

fn outcome(bytes: libc::c_long) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn bytes_go_both_ways_and_errors_are_told_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        other.set_nonblocking(true).unwrap();
        let mut room = [0; 8];
        assert_eq!(receive(&other, &mut room).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send(&other, b"hello").unwrap(), 5);
        one.read_exact(&mut room[..5]).unwrap();
        assert_eq!(&room[..5], b"hello");
        one.write_all(b"well").unwrap();
        other.set_nonblocking(false).unwrap();
        assert_eq!(receive(&other, &mut room).unwrap(), 4);
        assert_eq!(&room[..4], b"well");
        drop(one);
        assert_eq!(receive(&other, &mut room).unwrap(), 0, "the end");
        // The first may still go out; the reset that answers it breaks the next, without a signal.
        let broken = (0..1000).find_map(|_| send(&other, b"late").err()).expect("an end");
        assert!(matches!(broken.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{broken}");
    }
}
