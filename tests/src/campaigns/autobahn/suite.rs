//! The Autobahn test suite as a process: found or installed, told what to test, and its index of results read.
//!
//! It is written for Python 2.7, and pins everything that it needs. It is installed from the package index once, beside the
//! server under test, in a directory of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::campaigns::Skipped;

/// The one whose cases are counted here.
const PACKAGE: &str = "autobahntestsuite==25.10.1";
const DIRECTORY: &str = "autobahntestsuite-25.10.1";
/// Names the interpreter, where it is none of the usual ones.
const PYTHON_VARIABLE: &str = "CARILLON_TEST_PYTHON27";
/// Starts it: what is in its directory are packages, and what makes some of them one.
const START: &str =
    "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite import wstest; wstest.run()";
/// A suite that says nothing for so long is stuck: its longest case is given up after less.
const SILENCE: Duration = Duration::from_secs(600);
/// How much of what it said is told when it fails.
const TOLD_BYTES_MAX: usize = 1_000;

/// See the module.
pub(super) struct Suite {
    python: PathBuf,
    directory: PathBuf,
}

/// What the suite says of a case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Outcome {
    /// Of what was answered.
    pub(super) behavior: String,
    /// Of how the connection ended.
    #[serde(rename = "behaviorClose")]
    pub(super) behavior_close: String,
}

impl Suite {
    /// The suite, installed now where it is not yet.
    pub(super) fn find(server: &Path) -> Result<Suite, Skipped> {
        let Some(python) = interpreters().into_iter().find(|python| is_2_7(python)) else {
            return Err(Skipped(format!(
                "the suite needs Python 2.7, and there is none on PATH or in pyenv; {PYTHON_VARIABLE} may name it"
            )));
        };
        let directory = server.with_file_name(DIRECTORY);
        if !directory.is_dir() {
            install(&python, &directory)?;
        }
        Ok(Suite { python, directory })
    }

    /// Plays these cases against a server.
    pub(super) fn play(
        &self,
        address: SocketAddr,
        driver: &str,
        cases: &[&str],
        mut said: impl FnMut(&str),
    ) -> Result<BTreeMap<String, Outcome>, String> {
        let state = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
        let (specification, reports) = (state.path().join("spec.json"), state.path().join("reports"));
        let url = format!("ws://{address}{}", carillon_protocol::handshake::PATH);
        let wanted = json!({
            "outdir": reports,
            "servers": [{ "agent": driver, "url": url }],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        });
        std::fs::write(&specification, wanted.to_string()).map_err(|error| error.to_string())?;
        let log = state.path().join("log");
        let mut suite = self.start(&specification, &log)?;
        let ended = listen(&mut suite, driver, &mut said);
        let _ = suite.kill();
        let status = suite.wait().map_err(|error| error.to_string())?;
        ended?;
        let index = std::fs::read_to_string(reports.join("index.json"));
        let text = index.map_err(|_| format!("no report, {status}: {}", tail(&log)))?;
        let mut agents: BTreeMap<String, BTreeMap<String, Outcome>> =
            serde_json::from_str(&text).map_err(|error| format!("its report: {error}"))?;
        Ok(agents.remove(driver).unwrap_or_default())
    }

    fn start(&self, specification: &Path, log: &Path) -> Result<Child, String> {
        let log = File::create(log).map_err(|error| error.to_string())?;
        Command::new(&self.python)
            .args(["-u", "-s", "-c", START])
            .arg(&self.directory)
            .args(["--mode", "fuzzingclient", "--spec"])
            .arg(specification)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.python.display()))
    }
}

/// Follows the suite to its end, case by case.
fn listen(suite: &mut Child, driver: &str, said: &mut impl FnMut(&str)) -> Result<(), String> {
    let output = suite.stdout.take().ok_or("no output")?;
    let (sender, lines) = crossbeam_channel::unbounded();
    // Ends with the suite's output.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut cases_count = 0_u32;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                if let Some(case) = line.strip_prefix("Running test case ID ") {
                    cases_count += 1;
                    let case = case.split(' ').next().unwrap_or_default();
                    said(&format!("{driver}: case {case}, {cases_count} begun"));
                }
            }
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                return Err(format!("the suite is stuck after {cases_count} cases"));
            }
        }
    }
}

/// Where a Python 2.7 may be.
fn interpreters() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::var_os(PYTHON_VARIABLE).into_iter().map(PathBuf::from).collect();
    found.extend([PathBuf::from("python2.7"), PathBuf::from("python2")]);
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let versions = versions.into_iter().flatten().flatten().map(|version| version.path());
    found.extend(versions.map(|version| version.join("bin/python2.7")).filter(|python| python.is_file()));
    found
}

fn is_2_7(python: &Path) -> bool {
    let asked = Command::new(python)
        .args(["-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// Installs the suite, whole or not at all.
fn install(python: &Path, directory: &Path) -> Result<(), Skipped> {
    let skipped = |why: String| Skipped(format!("{PACKAGE} cannot be installed: {why}"));
    let partial = directory.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    eprintln!("  installing {PACKAGE} into {}", directory.display());
    let output = Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&partial)
        .arg(PACKAGE)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| skipped(error.to_string()))?;
    if !output.status.success() {
        return Err(skipped(end(&String::from_utf8_lossy(&output.stderr)).to_owned()));
    }
    std::fs::rename(&partial, directory).map_err(|error| skipped(error.to_string()))
}

fn tail(path: &Path) -> String {
    end(&std::fs::read_to_string(path).unwrap_or_default()).to_owned()
}

fn end(text: &str) -> &str {
    let from = text.len().saturating_sub(TOLD_BYTES_MAX);
    &text[text.ceil_char_boundary(from)..]
}
