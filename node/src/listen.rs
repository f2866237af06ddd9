//! Opening a door: one place where a listening address becomes a socket, or the sentence that says why not.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use crate::exit::Fatal;

/// How long an address that is in use is tried again. The kernel closes the sockets of a killed process's io_uring a moment
/// after the process itself is gone, and a supervisor starts the next one at once.
const IN_USE_WAIT_MAX: Duration = Duration::from_secs(2);
/// And how often.
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// Listens for TCP on the address that `key` holds. Port 0 takes a free one: ask the listener which.
///
/// # Errors
/// Status 2 with the key, the address and what to set instead, when it is in use for more than two seconds.
pub fn tcp(key: &str, address: &str) -> Result<TcpListener, Fatal> {
    let resolved = resolve(key, address)?;
    patiently(|| TcpListener::bind(resolved)).map_err(|error| refused(key, address, &error))
}

/// Opens what may be in use for a moment longer.
fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let attempts_count = IN_USE_WAIT_MAX.as_millis() / IN_USE_PAUSE.as_millis();
    for _ in 0..attempts_count {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(IN_USE_PAUSE),
            outcome => return outcome,
        }
    }
    open()
}

/// Binds UDP (for QUIC) on the address that `key` holds.
///
/// # Errors
/// As for [`tcp`].
pub fn udp(key: &str, address: &str) -> Result<UdpSocket, Fatal> {
    let resolved = resolve(key, address)?;
    patiently(|| UdpSocket::bind(resolved)).map_err(|error| refused(key, address, &error))
}

/// The first socket address behind `host:port`.
///
/// # Errors
/// Status 2 when it is not an address, or the name is unknown.
pub fn resolve(key: &str, address: &str) -> Result<SocketAddr, Fatal> {
    let because = match address.to_socket_addrs() {
        Ok(mut found) => match found.next() {
            Some(first) => return Ok(first),
            None => "the name has no address".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    Err(Fatal::config(format!(
        "{key} \"{address}\" is not an address to listen on ({because}): write host:port, such as \
         --set {key}=127.0.0.1:0 for any free port"
    )))
}

fn refused(key: &str, address: &str, error: &io::Error) -> Fatal {
    Fatal::config(match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{key} {address} is in use: choose another with --set {key}=…")
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "{key} {address} is not permitted to this user: choose a port above 1023 with --set {key}=…"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{key} {address} is not an address of this machine: choose another with --set {key}=…")
        }
        _ => format!("{key} {address} cannot be opened ({error}): choose another with --set {key}=…"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_one_sentence_that_names_the_key() {
        let first = tcp("admin.listen", "127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let fatal = tcp("admin.listen", &address).unwrap_err();
        assert_eq!(
            fatal.sentence,
            format!("admin.listen {address} is in use: choose another with --set admin.listen=…")
        );
        assert_eq!(fatal.status, crate::exit::CONFIG);

        let first = udp("router.listen", "127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        assert!(udp("router.listen", &address).unwrap_err().sentence.starts_with("router.listen"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for wrong in ["", "8080", "127.0.0.1", "127.0.0.1:99999"] {
            let fatal = tcp("gateway.listen", wrong).unwrap_err();
            assert!(fatal.sentence.contains("write host:port"), "{wrong}: {fatal}");
        }
        assert!(
            tcp("gateway.listen", "192.0.2.1:0").unwrap_err().sentence.contains("not an address of this")
        );
    }
}
