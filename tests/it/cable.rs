//! A network cable to a server, which can be pulled out: what was sent then arrives nowhere, and nobody is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Forwards connections to a server while it is plugged in.
pub(crate) struct Cable {
    address: SocketAddr,
    pulled: Arc<AtomicBool>,
}

impl Cable {
    /// To the server at an address.
    pub(crate) fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pulled = Arc::new(AtomicBool::new(false));
        let (server, ends) = (server.to_owned(), pulled.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Who connects while it is pulled waits, as one does for a host that is not there.
                let Ok(far) = TcpStream::connect(&server) else {
                    continue;
                };
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let (from, to, pulled) = (from.unwrap(), to.unwrap(), ends.clone());
                    std::thread::spawn(move || forward(from, to, &pulled));
                }
            }
        });
        Self { address, pulled }
    }

    /// Where it is plugged in.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls it out, or plugs it in again. What was under way then is lost with its connection.
    pub(crate) fn pull(&self, out: bool) {
        self.pulled.store(out, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, pulled: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut bytes = vec![0; 64 << 10];
    let mut lost = false;
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(_) if pulled.load(Ordering::SeqCst) => lost = true,
            // Of a connection that lost something nothing more can be understood.
            Ok(_) if lost => break,
            Ok(count) => {
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    drop(to.shutdown(std::net::Shutdown::Both));
    drop(from.shutdown(std::net::Shutdown::Both));
}
