//! tokio on one thread, and tungstenite as one uses it: a task a connection; what came together is answered together.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Refused, listen};

/// Instead of 128 KiB each, which would be resident with the first read.
const BUFFER_BYTES: usize = 2_048;

pub fn serve(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listen()?)?;
        ready(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(converse(stream));
        }
    })
}

/// Until the peer ends it.
async fn converse(stream: TcpStream) -> Result<(), tungstenite::Error> {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        answer(&mut socket, message?).await?;
        while let Some(Some(message)) = socket.next().now_or_never() {
            answer(&mut socket, message?).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn answer(
    socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>,
    message: Message,
) -> Result<(), tungstenite::Error> {
    if message.is_binary() || message.is_text() { socket.feed(message).await } else { Ok(()) }
}
