//! The screen on a terminal of its own: it is drawn, and the terminal is afterwards as it was.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::server::{Script, Server};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// A process on a terminal.
struct Shown {
    child: Child,
    terminal: OwnedFd,
    output: Receiver<String>,
    text: String,
}

impl Shown {
    fn start(server: SocketAddr, dir: &std::path::Path, more: &[&str]) -> Shown {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).and_then(|()| unlockpt(&master)).unwrap();
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        let small = "--clients 6 --group-size 3 --rate 100 --warmup 0s --settle 30s";
        command.args(small.split(' ')).args(more).arg("--data-dir").arg(dir);
        command.arg("--server").arg(server.to_string()).stdin(open()).stdout(open()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let terminal = master.try_clone().unwrap();
        Shown { child, terminal, output: chunks(master), text: String::new() }
    }

    /// Until the text is there, which nothing is any more once the process has ended.
    fn wait_for(&mut self, words: &str) {
        while !self.text.contains(words) {
            self.text += &self.output.recv().unwrap_or_else(|_| panic!("no {words:?} in {:?}", self.text));
        }
    }

    /// Waits for the end; the status, and what was written.
    fn end(mut self) -> (Option<i32>, String) {
        // What nobody reads fills the terminal, and the process would wait: it has ended when nothing comes any more.
        self.text.extend(self.output);
        let status = self.child.wait().unwrap();
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "keys are taken as before: {modes:?}");
        (status.code(), self.text)
    }
}

fn chunks(master: OwnedFd) -> Receiver<String> {
    let (sender, output) = channel();
    std::thread::spawn(move || {
        let (mut master, mut bytes) = (File::from(master), [0; 4096]);
        // A terminal that nobody has open any more is an error.
        while let Ok(len @ 1..) = master.read(&mut bytes) {
            let _ = sender.send(String::from_utf8_lossy(&bytes[..len]).into_owned());
        }
    });
    output
}

#[track_caller]
fn is_as_before(text: &str) -> &str {
    assert_eq!((text.matches(ENTER).count(), text.matches(LEAVE).count()), (1, 1), "{text:?}");
    let (on_screen, behind) = text.split_once(LEAVE).unwrap();
    assert!(on_screen.contains(ENTER) && behind.contains(SHOW_CURSOR), "{text:?}");
    behind
}

#[test]
fn a_terminal_shows_the_run_and_is_as_before_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Script::Behaves, dir.path());
    let mut shown = Shown::start(server, dir.path(), &["--duration", "1s"]);
    shown.wait_for("offered");
    let (status, text) = shown.end();
    let behind = is_as_before(&text);
    // The report stands where it always does.
    assert!(behind.contains("oracle: 0 ") && matches!(status, Some(0 | 3)), "{status:?} {text:?}");
}

#[test]
fn ctrl_c_leaves_the_terminal_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Script::Behaves, dir.path());
    let mut shown = Shown::start(server, dir.path(), &["--duration", "1h"]);
    shown.wait_for("offered");
    let pid = Pid::from_raw(i32::try_from(shown.child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let (status, text) = shown.end();
    is_as_before(&text);
    assert_eq!(status, Some(130), "as a shell shows it");
}

#[test]
fn lines_are_written_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Script::Behaves, dir.path());
    let shown = Shown::start(server, dir.path(), &["--duration", "500ms", "--view", "plain"]);
    let (_, text) = shown.end();
    assert!(text.contains("oracle: 0 ") && !text.contains(ENTER), "{text:?}");
}
