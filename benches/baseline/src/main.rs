//! `baseline`: what a good engineer would write instead of Carillon, as the measure of it. One process: tokio and
//! tungstenite, rooms in memory, one writer with group commit into SQLite (WAL, synchronous FULL). It speaks as much of
//! `carillon.v1.json` as the load generator's loads need, and prints the same ready line.
//!
//! - [`connection`]: one task per WebSocket; reads frames, hands commands to the writer, sends what comes back.
//! - [`writer`]: one thread; the only one who changes anything: rooms, sequence numbers. Many commands, one commit.
//! - [`teller`]: one task; who is connected, and what they are told once it is durable.
//! - [`database`]: the statements.
//! - [`frames`]: what is said, as JSON.
//! - [`rest`]: conversations are made and histories read over HTTP on the same port.
//! - [`tokens`]: who a client is.

mod connection;
mod database;
mod frames;
mod rest;
mod rooms;
mod teller;
mod tokens;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::tokens::Door;
use crate::writer::Writer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Commands on their way to the writer; above that, connections stop reading.
const COMMANDS_MAX: usize = 4_096;
/// Transactions that are durable and not told yet; above that, the writer waits.
const DURABLE_MAX: usize = 16;
/// HTTP connections that wait to be served.
const VISITORS_MAX: usize = 64;

/// The alternative to Carillon that a good engineer would write: one process, SQLite.
#[derive(Parser)]
#[command(name = "baseline")]
struct Arguments {
    /// What it promises
    #[arg(value_enum)]
    form: Form,
    /// Where its database lies, and the development key
    #[arg(long, value_name = "DIR", default_value = "baseline-data")]
    data_dir: PathBuf,
    /// WebSocket and REST
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Threads that serve connections, beside the writer's own
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
}

/// What the alternative promises.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Durable before acknowledged, and delivered to whoever is there; no tokens, no idempotency, no history
    Plain,
    /// Tokens are checked, a repeated client_msg_id is one message, histories can be read, delivered receipts are
    /// stored and told to the sender
    Equal,
}

/// What every connection needs.
pub struct House {
    pub form: Form,
    pub door: Door,
    pub writer: mpsc::Sender<writer::Command>,
    pub database: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&arguments.data_dir)?;
    let door = match arguments.form {
        Form::Plain => Door::open(),
        Form::Equal => Door::keyed(&arguments.data_dir)?,
    };
    let database = arguments.data_dir.join("baseline.sqlite");
    let connection = database::open(&database, arguments.form)?;
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let form = arguments.form;
    let (durable, told) = mpsc::channel(DURABLE_MAX);
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
        if let Err(error) = Writer::run(&connection, form, inbox, &durable) {
            // What was not committed was not acknowledged.
            eprintln!("baseline: the database failed: {error}");
            std::process::exit(74);
        }
    })?;
    let house = Arc::new(House { form, door, writer: commands, database });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.workers.max(1))
        .thread_name("worker")
        .enable_all()
        .build()?;
    runtime.spawn(teller::run(told));
    runtime.block_on(accept(arguments.listen, house))
}

async fn accept(listen: SocketAddr, house: Arc<House>) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen).await?;
    let (visitors, waiting) = mpsc::channel(VISITORS_MAX);
    tokio::spawn(rest::serve(waiting, house.clone()));
    println!(r#"{{"event":"ready","gateway":"{}"}}"#, listener.local_addr()?);
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // A connection that was gone before it was taken, or no descriptor left: the others go on.
            Err(error) => {
                eprintln!("baseline: accept: {error}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        stream.set_nodelay(true)?;
        let (house, visitors) = (house.clone(), visitors.clone());
        tokio::spawn(async move {
            if is_upgrade(&stream).await {
                connection::serve(stream, &house).await;
            } else {
                // Full or gone: the visitor sees a closed connection.
                let _ = visitors.send((stream, address)).await;
            }
        });
    }
}

/// Whether a request is for the WebSocket, by its first bytes, which stay in the socket.
async fn is_upgrade(stream: &TcpStream) -> bool {
    const PREFIX: &[u8] = b"GET /v1/ws";
    let mut first = [0; PREFIX.len()];
    stream.peek(&mut first).await.is_ok() && first == PREFIX
}
