//! Somebody else's web server with a picture on it: what `media_url` points to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

/// A bell tower in the evening; 320 by 200 pixels.
const PICTURE: &str = include_str!("tower.svg");

/// Serves the picture, whatever is asked for, until the process ends.
///
/// # Errors
/// There is no free port.
pub fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0_u8; 4096];
            let _ = stream.read(&mut head);
            let length = PICTURE.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: image/svg+xml\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{PICTURE}"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(address)
}
