//! The control socket in the data directory: what an administrator asks of a running server, by a command on the same
//! machine. Who may write into the directory may ask, and nobody else: there is no port for it.
//!
//! A question is one line of JSON, and so is each line of the answer. There is one question so far, for a backup.
//!
//! # Invariants
//! - One is answered after the other: two backups at once would only take longer.
//! - Nobody waits for who asks: who is silent for [`PATIENCE`], or does not read, is let go of, and their backup given up.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use carillon_store::backend::embedded::{self, Copied, CopyError};
use carillon_store::txn::Engine;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

const NAME: &str = "control";
/// How long a question, or room for a line of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A path has 4,096 bytes at most.
const QUESTION_BYTES_MAX: u64 = 8 << 10;
/// Between two words of how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// A copy of the store, in this directory.
    Backup(PathBuf),
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// So far.
    Progress { rows: u64, bytes: u64 },
    /// The end.
    Done { rows: u64, bytes: u64 },
    /// It cannot be done; nothing was.
    Refused(String),
    /// It went wrong.
    Failed(String),
}

/// The open socket. Its file is gone when this is dropped.
pub(crate) struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Opens it, and answers from a thread of its own as long as there is an engine. Without it a server serves all the
    /// same: then `None`, and the log says why.
    pub(crate) fn open(
        data_dir: &Path,
        engine: &Arc<dyn Engine>,
        reserve_bytes: u64,
    ) -> Option<ControlSocket> {
        let path = data_dir.join(NAME);
        // The store is ours: a socket that is there was left behind by a process that was killed.
        let _ = std::fs::remove_file(&path);
        let engine = Arc::downgrade(engine);
        let opened = reachable(data_dir).and_then(|(_directory, path)| UnixListener::bind(path)).and_then(
            |listener| {
                std::thread::Builder::new()
                    .name("control-socket".to_owned())
                    .spawn(move || serve(&listener, &engine, reserve_bytes))
            },
        );
        match opened {
            Ok(_) => Some(ControlSocket { path }),
            Err(error) => {
                warn!(%error, path = %path.display(), "there is no control socket, and no backup while this runs");
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A name of the socket that is short enough for an address, whatever the directory's: by its descriptor, which has to stay
/// open meanwhile.
fn reachable(data_dir: &Path) -> io::Result<(File, PathBuf)> {
    let directory = File::open(data_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()));
    Ok((directory, path))
}

fn serve(listener: &UnixListener, engine: &Weak<dyn Engine>, reserve_bytes: u64) {
    for stream in listener.incoming() {
        let answered = stream.and_then(|stream| {
            let Some(engine) = engine.upgrade() else { return Ok(()) };
            answer(&stream, &*engine, reserve_bytes)
        });
        if let Err(error) = answered {
            info!(%error, "whoever asked by the control socket is gone");
        }
    }
}

fn answer(stream: &UnixStream, engine: &dyn Engine, reserve_bytes: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(QUESTION_BYTES_MAX)).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Ok(Question::Backup(into)) if into.is_absolute() => backup(stream, engine, &into, reserve_bytes),
        Ok(Question::Backup(_)) => {
            say(stream, &Answer::Refused("the directory has to be absolute".to_owned()))
        }
        Err(error) => say(stream, &Answer::Refused(format!("this server does not know that: {error}"))),
    }
}

fn backup(stream: &UnixStream, engine: &dyn Engine, into: &Path, reserve_bytes: u64) -> io::Result<()> {
    info!(into = %into.display(), "a backup begins");
    let began = Instant::now();
    let mut said = began;
    let copied = engine.snapshot().map_err(CopyError::Read).and_then(|mut read| {
        embedded::copy(&mut *read, into, reserve_bytes, &mut |copied| {
            if said.elapsed() < PROGRESS {
                return true;
            }
            said = Instant::now();
            let Copied { rows, bytes } = *copied;
            say(stream, &Answer::Progress { rows, bytes }).is_ok()
        })
    });
    match copied {
        Ok(Copied { rows, bytes }) => {
            info!(rows, bytes, seconds = began.elapsed().as_secs(), "the backup is there");
            say(stream, &Answer::Done { rows, bytes })
        }
        Err(error) => {
            warn!(%error, "there is no backup");
            let is_refused = matches!(error, CopyError::NotEmpty(_));
            let words = error.to_string();
            say(stream, &if is_refused { Answer::Refused(words) } else { Answer::Failed(words) })
        }
    }
}

fn say(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks the server that runs on this directory; `each` hears every line of its answer.
///
/// # Errors
/// Nobody listens, or the answer broke off.
pub(crate) fn ask(data_dir: &Path, question: &Question, mut each: impl FnMut(Answer)) -> io::Result<()> {
    let (_directory, path) = reachable(data_dir)?;
    let mut stream = UnixStream::connect(path)?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        each(serde_json::from_str(&line?)?);
    }
    Ok(())
}
