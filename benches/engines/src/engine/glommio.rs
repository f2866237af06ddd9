//! glommio: a task a connection, with a buffer of its own that takes sixteen messages.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use super::Refused;
use crate::frames::Echo;

const BUFFER_BYTES: usize = 2_048;

pub fn serve(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    // Where it runs is decided for all engines alike, before they begin.
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().map_err(|error| error.to_string())?;
    executor.run(async move {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        ready(listener.local_addr().map_err(|error| error.to_string())?);
        loop {
            let stream = listener.accept().await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            glommio::spawn_local(converse(stream)).detach();
        }
    })
}

/// Until the peer ends it.
async fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    let mut echo = Echo::default();
    let mut buffer = [0; BUFFER_BYTES];
    let mut answers = Vec::new();
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return Ok(());
        }
        answers.clear();
        echo.receive(&buffer[..received], &mut answers);
        stream.write_all(&answers).await?;
    }
}
