//! A host between two others that passes their TCP and UDP on, and may do with it what it likes.
//!
//! ```text
//!   a (dials) ── 192.168.81.2:6783  middle  192.168.82.1:6783 ── b (is dialled)
//! ```
//!
//! To `a` the middle is `b` and to `b` it is `a`; neither has another way to the other.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::host::Host;
use crate::lab::namespace::Namespace;

/// How long a thread waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// Where bytes are going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the host that dials.
    There,
    /// From the host that is dialled.
    Back,
}

/// What becomes of a datagram: those to be sent instead. `None` means that nothing came for a
/// moment, so that what was held may go.
type Datagrams = Box<dyn FnMut(Way, Option<&[u8]>) -> Vec<Vec<u8>> + Send>;
/// What becomes of bytes of a TCP connection, given how many went that way before.
type Bytes = Box<dyn FnMut(Way, usize, &mut [u8]) + Send>;

/// The host in the middle; stops when it is dropped.
pub(crate) struct Middle {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    datagrams: Arc<Mutex<Datagrams>>,
    bytes: Arc<Mutex<Bytes>>,
    near: UdpSocket,
    far: UdpSocket,
    ends: [SocketAddr; 2],
}

impl Middle {
    /// Takes its place on the middle of a line of three hosts, and passes everything on as it is.
    pub(crate) fn new([a, middle, b]: &[Rc<Host>; 3]) -> Self {
        let address = |host: &Host, index: usize| -> SocketAddr {
            let text = format!("{}:6783", host.address(index));
            text.parse().expect("an address of the lab")
        };
        let ends = [address(a, 0), address(b, 0)];
        let (near, far) = (address(middle, 0), address(middle, 1));
        let bind = |own: SocketAddr| {
            let socket = middle.namespace.within(|| UdpSocket::bind(own));
            let socket = socket.expect("nothing else listens there");
            socket.set_read_timeout(Some(LOOK)).expect("a valid time");
            socket
        };
        let mut this = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            datagrams: Arc::new(Mutex::new(Box::new(|_, datagram| {
                datagram.map(<[u8]>::to_vec).into_iter().collect()
            }))),
            bytes: Arc::new(Mutex::new(Box::new(|_, _, _| {}))),
            near: bind(near),
            far: bind(far),
            ends,
        };
        this.relay_datagrams();
        this.relay_connections(&middle.namespace, near);
        this
    }

    /// From now on does this with datagrams.
    pub(crate) fn on_datagrams(
        &self,
        tamper: impl FnMut(Way, Option<&[u8]>) -> Vec<Vec<u8>> + Send + 'static,
    ) {
        *lock(&self.datagrams) = Box::new(tamper);
    }

    /// From now on passes datagrams on as they are.
    pub(crate) fn pass_datagrams(&self) {
        self.on_datagrams(|_, datagram| datagram.map(<[u8]>::to_vec).into_iter().collect());
    }

    /// From now on passes datagrams on and keeps a copy of those that go one way.
    pub(crate) fn record_datagrams(&self, wanted: Way) -> Arc<Mutex<Vec<Vec<u8>>>> {
        let record = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&record);
        self.on_datagrams(move |way, datagram| {
            let datagram: Vec<Vec<u8>> = datagram.map(<[u8]>::to_vec).into_iter().collect();
            if way == wanted {
                lock(&kept).extend(datagram.iter().cloned());
            }
            datagram
        });
        record
    }

    /// From now on does this with bytes of TCP connections.
    pub(crate) fn on_bytes(&self, tamper: impl FnMut(Way, usize, &mut [u8]) + Send + 'static) {
        *lock(&self.bytes) = Box::new(tamper);
    }

    /// Sends a datagram of its own, from where the host at the far end expects the other.
    pub(crate) fn inject(&self, way: Way, datagram: &[u8]) {
        send(&self.near, &self.far, self.ends, way, datagram);
    }

    fn relay_datagrams(&mut self) {
        for way in [Way::There, Way::Back] {
            let clone = |socket: &UdpSocket| socket.try_clone().expect("descriptors are left");
            let (near, far, ends) = (clone(&self.near), clone(&self.far), self.ends);
            let (stop, datagrams) = (Arc::clone(&self.stop), Arc::clone(&self.datagrams));
            self.threads.push(std::thread::spawn(move || {
                let mut bytes = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let from = if way == Way::There { &near } else { &far };
                    let received = from.recv(&mut bytes).ok();
                    let received = received.map(|length| &bytes[..length]);
                    let sent = (lock(&datagrams))(way, received);
                    for datagram in sent {
                        send(&near, &far, ends, way, &datagram);
                    }
                }
            }));
        }
    }

    fn relay_connections(&mut self, namespace: &Namespace, near: SocketAddr) {
        let (stop, bytes, target) = (
            Arc::clone(&self.stop),
            Arc::clone(&self.bytes),
            self.ends[1],
        );
        // A thread started inside stays inside.
        let thread = namespace.within(move || {
            let listener = TcpListener::bind(near).expect("nothing else listens there");
            let nonblocking = listener.set_nonblocking(true);
            nonblocking.expect("an option of every socket");
            std::thread::spawn(move || {
                let mut pumps = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let Ok((dialler, _)) = listener.accept() else {
                        std::thread::sleep(LOOK);
                        continue;
                    };
                    let Ok(dialled) = TcpStream::connect(target) else {
                        continue;
                    };
                    let clone = |s: &TcpStream| s.try_clone().expect("descriptors are left");
                    let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
                    let there = (clone(&dialler), clone(&dialled));
                    pumps.push(pump(Way::There, there, stop.clone(), bytes.clone()));
                    pumps.push(pump(Way::Back, (dialled, dialler), stop, bytes));
                }
                for pump in pumps {
                    pump.join().expect("a pump saw no error");
                }
            })
        });
        self.threads.push(thread);
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

fn send(near: &UdpSocket, far: &UdpSocket, ends: [SocketAddr; 2], way: Way, datagram: &[u8]) {
    // Losing a datagram is what networks do.
    let _ = match way {
        Way::There => far.send_to(datagram, ends[1]),
        Way::Back => near.send_to(datagram, ends[0]),
    };
}

/// Carries one direction of a connection until it ends.
fn pump(
    way: Way,
    (mut from, mut to): (TcpStream, TcpStream),
    stop: Arc<AtomicBool>,
    tamper: Arc<Mutex<Bytes>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        from.set_nonblocking(false)
            .expect("an option of every socket");
        from.set_read_timeout(Some(LOOK)).expect("a valid time");
        let mut bytes = vec![0; 16_384];
        let mut carried = 0;
        while !stop.load(Ordering::Relaxed) {
            let length = match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => break,
            };
            (lock(&tamper))(way, carried, &mut bytes[..length]);
            carried += length;
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        // Either may be gone already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    })
}

/// Whether a read only took too long.
pub(crate) fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    [TimedOut, WouldBlock].contains(&error.kind())
}

/// Locks, also after a panic elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
