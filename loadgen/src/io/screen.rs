//! The terminal while a screen is shown on it. It is as it was before whenever that ends: at the end of the run, on SIGINT and
//! SIGTERM, and when any thread panics.
//!
//! # Invariants
//! - There is one terminal, so there is one state of it, for the whole process ([`IS_TAKEN`]): whoever sets it back does so
//!   once, and nothing is drawn after that.
//! - Keys are not read: Ctrl-C stays the signal that it is.

use std::io::{self, IsTerminal as _, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use carillon_node::signals::Signals;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::{Frame, Terminal};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// What a shell shows for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Whether the terminal shows our screen.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// Whoever draws holds it.
static DRAWING: Mutex<()> = Mutex::new(());
/// How the terminal took keys before; nothing when standard input is none.
static BEFORE: OnceLock<Option<Termios>> = OnceLock::new();

/// How long leaving waits for a frame that is being drawn: one that is drawn by the thread that panicked never ends.
const FRAME_WAIT: Duration = Duration::from_millis(1);
const FRAME_WAITS_MAX: u32 = 100;

/// A screen; the terminal is set back when it is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal that standard output is.
    pub(super) fn open() -> io::Result<Screen> {
        if !io::stdout().is_terminal() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "standard output is none"));
        }
        set_back_in_any_case()?;
        let before = BEFORE.get_or_init(|| tcgetattr(io::stdin()).ok());
        IS_TAKEN.store(true, Ordering::SeqCst);
        // From here on dropping it sets everything back.
        let opened = Terminal::new(CrosstermBackend::new(io::stdout())).map(|terminal| Screen { terminal });
        let mut screen = opened.inspect_err(|_| leave())?;
        if let Some(before) = before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        }
        // The terminal's own `clear` asks where the cursor is, and waits for the answer.
        execute!(screen.terminal.backend_mut(), EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        Ok(screen)
    }

    /// Draws a frame. A terminal that cannot be written to is no reason to end the run.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) {
        let _drawing = DRAWING.lock();
        if IS_TAKEN.load(Ordering::SeqCst) {
            let _ = self.terminal.draw(frame);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Once in a process: whatever ends it leaves the terminal as it was.
fn set_back_in_any_case() -> io::Result<()> {
    static IS_SET: AtomicBool = AtomicBool::new(false);
    if IS_SET.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        leave();
        told(panic);
    }));
    let signals = Signals::install()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // That it cannot wait is no reason to end; the next signal does.
        if signals.wait().is_ok() {
            leave();
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(())
}

fn leave() {
    if !IS_TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    for _ in 0..FRAME_WAITS_MAX {
        if DRAWING.try_lock().is_ok() {
            break;
        }
        std::thread::sleep(FRAME_WAIT);
    }
    // Past that frame nobody draws: the terminal is not taken any more.
    let mut out = io::stdout();
    let _ = execute!(out, LeaveAlternateScreen, Show).and_then(|()| out.flush());
    if let Some(Some(before)) = BEFORE.get() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
    }
}
