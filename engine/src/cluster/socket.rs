//! How processes reach each other: a Unix socket that leaves no file on one host, TCP between hosts.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::identity::Address;

/// Asked of the kernel for each direction of a Unix socket, in bytes; it gives what it is allowed to. Those of TCP are
/// left alone: the kernel adapts them to the path, and stops doing so once they are set.
const LOCAL_BUFFER_BYTES: usize = 4 << 20;
/// After so long without a word a connection over the network is tried, and three times more within as long.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
/// How long [`Listener::close`] tries to reach its own `accept`.
const WAKE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long nobody is let in after that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// People hear of the first failure in a row, and then each time that there are so many times as many.
const TOLD_LESS_BY: u64 = 8;

/// A connected stream of bytes. All operations take `&self`: one thread may read while another writes and a third
/// shuts it down.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over the network; small frames are sent at once.
    Tcp(TcpStream),
    /// On this host.
    Local(UnixStream),
}

impl Socket {
    fn tcp(stream: TcpStream) -> Self {
        // Without it small frames are only slower. Some systems refuse it on a connection that is gone already.
        let _ = stream.set_nodelay(true);
        // Without it a connection over which nothing is said outlives the other host.
        let _ = SockRef::from(&stream).set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_TIME)
                .with_interval(KEEPALIVE_TIME / 3)
                .with_retries(3),
        );
        Self::Tcp(stream)
    }

    /// Breaks the connection once the other host has confirmed nothing of what was sent for so long; without this the
    /// kernel tries for a quarter of an hour. Only where the other side reads all the time: one that does not looks the
    /// same.
    pub(crate) fn set_user_timeout(&self, #[cfg_attr(not(target_os = "linux"), expect(unused))] time: Duration) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(stream) = self {
            // Where it is refused, a host that is gone is noticed late.
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(time));
        }
    }

    fn local(stream: UnixStream) -> Self {
        let socket = SockRef::from(&stream);
        // Larger buffers save switches between the two processes; smaller ones are only slower.
        let _ = socket.set_send_buffer_size(LOCAL_BUFFER_BYTES);
        let _ = socket.set_recv_buffer_size(LOCAL_BUFFER_BYTES);
        Self::Local(stream)
    }

    /// Where the other end is, for people.
    pub(crate) fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => address.to_string(),
                Err(_) => "somebody who is gone".to_owned(),
            },
            Self::Local(_) => "this host".to_owned(),
        }
    }

    /// Another handle of the same connection.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Local(stream) => stream.try_clone().map(Self::Local),
        }
    }

    /// Ends the connection in both directions, for all its handles: reads and writes that are blocked return. What was
    /// closed already stays so.
    pub(crate) fn shutdown(&self) {
        // Fails only if the connection is gone already, which is what was wanted.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }

    /// Tells the peer that nothing more will be sent; what it sends can still be read.
    pub(crate) fn shutdown_write(&self) {
        let _ = SockRef::from(self).shutdown(Shutdown::Write);
    }

    /// Limits each read; one that takes longer fails with `WouldBlock` or `TimedOut`. `None` waits for ever.
    ///
    /// # Errors
    /// For a limit of zero, or if the connection is gone.
    pub(crate) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(limit),
            Self::Local(stream) => stream.set_read_timeout(limit),
        }
    }

    /// As [`Self::set_read_timeout`], for writes.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(limit),
            Self::Local(stream) => stream.set_write_timeout(limit),
        }
    }
}

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Local(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(buffer),
            Socket::Local(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write(bytes),
            Socket::Local(stream) => (&*stream).write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write_vectored(pieces),
            Socket::Local(stream) => (&*stream).write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Two ends of one connection within this process.
///
/// # Errors
/// If the process has too many open files.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
    let (left, right) = UnixStream::pair()?;
    Ok((Socket::local(left), Socket::local(right)))
}

/// Bytes from the operating system that nobody can guess: for names, nonces and tokens.
///
/// # Errors
/// If the operating system has none.
pub(crate) fn random_bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Whether people hear of a failure, the so manieth in a row.
pub(super) fn is_told(failures: u64) -> bool {
    let times = failures.checked_ilog(TOLD_LESS_BY);
    times.is_some_and(|times| TOLD_LESS_BY.pow(times) == failures)
}

fn next_of<S>(mut accept: impl FnMut() -> io::Result<S>, is_closed: impl Fn() -> bool) -> Option<S> {
    let mut failures = 0;
    loop {
        match accept() {
            Ok(socket) => return Some(socket),
            Err(_) if is_closed() => return None,
            Err(error) => {
                failures += 1;
                if is_told(failures) {
                    tracing::warn!("a connection waits: {error}");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    #[cfg(target_os = "linux")]
    Local(UnixListener),
}

/// Where connections of others arrive. One thread accepts; any thread closes.
#[derive(Debug)]
pub(crate) struct Listener {
    bound: Bound,
    address: Address,
    closed: AtomicBool,
}

impl Listener {
    /// Listens on this host only: on Linux at a random name in the abstract namespace of Unix sockets, elsewhere, or
    /// where that is not allowed, at a free port of 127.0.0.1. The name cannot be guessed but can be listed by other
    /// users of the host: what keeps them out is the handshake.
    ///
    /// # Errors
    /// If neither can be had.
    pub(crate) fn bind_local() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(listener) = Self::bind_abstract() {
            return Ok(listener);
        }
        Self::bind_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)
    }

    /// Listens where a listener of this host was before that is gone.
    ///
    /// # Errors
    /// `AddrInUse` as long as it is not gone.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn bind_again(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(at) => Self::bind_tcp(*at, None),
            #[cfg(target_os = "linux")]
            Address::Local(name) => Self::bind_name(name.clone()),
            #[cfg(not(target_os = "linux"))]
            Address::Local(name) => Err(without_files(name)),
        }
    }

    #[cfg(target_os = "linux")]
    fn bind_abstract() -> io::Result<Self> {
        Self::bind_name(format!("distdl-{:032x}", u128::from_le_bytes(random_bytes()?)))
    }

    #[cfg(target_os = "linux")]
    fn bind_name(name: String) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(&name)?)?;
        Ok(Self::new(Bound::Local(listener), Address::Local(name)))
    }

    /// Listens on the network at `at`; port 0 takes a free one. `advertise` is the address by which others reach this
    /// host, if that is another one.
    ///
    /// # Errors
    /// If the port is taken, the address is not of this host, or others could not know the address: `at` is
    /// unspecified (0.0.0.0) and `advertise` is not given.
    pub(crate) fn bind_tcp(at: SocketAddr, advertise: Option<IpAddr>) -> io::Result<Self> {
        let seen = advertise.unwrap_or(at.ip());
        if seen.is_unspecified() {
            let text =
                format!("{seen} is no address that other processes could connect to; advertise one of this host");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Self::bind_seen(at, seen)
    }

    /// Listens on the network at `at`, which may be all addresses of this host (0.0.0.0): nobody is told the address,
    /// as people say to each process where it is.
    ///
    /// # Errors
    /// If the port is taken or the address is not of this host.
    pub(crate) fn bind_anywhere(at: SocketAddr) -> io::Result<Self> {
        Self::bind_seen(at, at.ip())
    }

    fn bind_seen(at: SocketAddr, seen: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        let port = listener.local_addr()?.port();
        Ok(Self::new(
            Bound::Tcp(listener),
            Address::Tcp(SocketAddr::new(seen, port)),
        ))
    }

    fn new(bound: Bound, address: Address) -> Self {
        Self {
            bound,
            address,
            closed: AtomicBool::new(false),
        }
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> Address {
        self.address.clone()
    }

    /// Waits for the next connection; `None` once it is closed. What hinders that for a while, as when the process has
    /// too many open files, costs time but no connection: it stays in the queue.
    pub(crate) fn next(&self) -> Option<Socket> {
        next_of(|| self.accept(), || self.is_closed())
    }

    /// The same, once.
    ///
    /// # Errors
    /// `NotConnected` once it is closed; otherwise if the process or the host has too many open files, in which case
    /// the connection stays in the queue and the caller does well to close others first.
    pub(crate) fn accept(&self) -> io::Result<Socket> {
        while !self.is_closed() {
            match self.accept_one() {
                _ if self.is_closed() => break,
                // The connecting side has given up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                accepted => return accepted,
            }
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, "the listener is closed"))
    }

    fn accept_one(&self) -> io::Result<Socket> {
        match &self.bound {
            Bound::Tcp(listener) => Ok(Socket::tcp(listener.accept()?.0)),
            #[cfg(target_os = "linux")]
            Bound::Local(listener) => Ok(Socket::local(listener.accept()?.0)),
        }
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets a blocked [`Self::accept`], and every later one, return an error. May be called from any thread, and again.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // On Linux this wakes `accept` and turns newcomers away; elsewhere only a connection wakes it.
        let _ = match &self.bound {
            Bound::Tcp(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
            #[cfg(target_os = "linux")]
            Bound::Local(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        };
        if let Some(address) = self.own_address() {
            let _ = connect(&address, WAKE_TIME_MAX);
        }
    }

    /// Where this process reaches it, which need not be where others do.
    fn own_address(&self) -> Option<Address> {
        let Bound::Tcp(listener) = &self.bound else {
            return Some(self.address());
        };
        let mut at = listener.local_addr().ok()?;
        match at.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(Address::Tcp(at))
    }
}

/// Connects to `address` within `timeout`.
///
/// # Errors
/// If nobody listens there, if it takes longer (`TimedOut`), or if this host has no such sockets.
pub(crate) fn connect(address: &Address, timeout: Duration) -> io::Result<Socket> {
    let timeout = timeout.max(Duration::from_millis(1));
    match address {
        Address::Tcp(at) => connect_tcp(at, timeout),
        #[cfg(target_os = "linux")]
        Address::Local(name) => connect_local(name, timeout),
        #[cfg(not(target_os = "linux"))]
        Address::Local(name) => Err(without_files(name)),
    }
}

#[cfg(not(target_os = "linux"))]
fn without_files(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("`{name}` is a socket without a file, which only Linux has; let the processes listen on TCP"),
    )
}

fn connect_tcp(at: &SocketAddr, timeout: Duration) -> io::Result<Socket> {
    let stream = TcpStream::connect_timeout(at, timeout)?;
    // On loopback a connection to a free port may meet itself, if the kernel picks the same port for this side.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("nobody listens at {at}"),
        ));
    }
    Ok(Socket::tcp(stream))
}

#[cfg(target_os = "linux")]
fn connect_local(name: &str, timeout: Duration) -> io::Result<Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // If the queue of the listener is full, the kernel waits as long as for a write.
    socket.set_write_timeout(Some(timeout))?;
    socket
        .connect(&socket2::SockAddr::unix(format!("\0{name}"))?)
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "the listener does not accept"),
            _ => error,
        })?;
    socket.set_write_timeout(None)?;
    Ok(Socket::local(UnixStream::from(std::os::fd::OwnedFd::from(socket))))
}

#[cfg(test)]
mod tests;
