//! Somebody else's web server with a picture on it: what `media_url` points to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

/// Width and height of the picture, in pixels.
const SIZE: (u32, u32) = (240, 150);
/// The header of a Windows bitmap with 24 bits a pixel, the one picture format that needs no library.
const HEADER_BYTES: u32 = 54;

/// Serves the picture, whatever is asked for, until the process ends.
///
/// # Errors
/// There is no free port.
pub fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let picture = bitmap();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0_u8; 4096];
            let _ = stream.read(&mut head);
            let length = picture.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: image/bmp\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&picture));
        }
    });
    Ok(address)
}

/// An evening sky, from dark at the top to warm at the bottom.
fn bitmap() -> Vec<u8> {
    let (width, height) = SIZE;
    let pixels_bytes = width * height * 3;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"BM");
    for number in [
        HEADER_BYTES + pixels_bytes,
        0,
        HEADER_BYTES,
        40,
        width,
        height,
        1 | 24 << 16,
        0,
        pixels_bytes,
        2835,
        2835,
        0,
        0,
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    // Rows from the bottom up; 240 pixels are 720 bytes, so none needs padding.
    for row in 0..height {
        let height_up = row * 255 / height;
        let shade = |low: u32, high: u32| (low + (high * height_up + 128) / 255).min(255) as u8;
        let sun = |column: u32| {
            let (across, up) = (i64::from(column) - 165, i64::from(row) - 52);
            across * across + up * up < 26 * 26
        };
        for column in 0..width {
            let colour = if sun(column) {
                [120, 215, 255]
            } else {
                [shade(90, 60), 150 - shade(0, 90), 240 - shade(0, 195)]
            };
            bytes.extend_from_slice(&colour);
        }
    }
    bytes
}
