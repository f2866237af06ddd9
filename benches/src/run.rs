//! One load against one server of its own.

#![expect(clippy::disallowed_methods, reason = "it reads files and starts processes")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

/// Runs until one has to say something.
const TRIES_MAX: usize = 8;

/// Appends of the disk's probe, and how long each is.
const PROBES: usize = 200;
const PROBE_BYTES: usize = 4_096;

/// A server that can be started, again and again.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it is called in tables.
    pub name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Subject {
    /// The `carillon` of a directory, as one process, without a limit of what one user may send.
    #[must_use]
    pub fn carillon(name: &str, directory: &Path) -> Subject {
        const SETTINGS: &[&str] = &[
            "gateway.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            "router.listen=127.0.0.1:0",
            "log.format=json",
            "limits.send_per_s=0",
        ];
        let arguments = SETTINGS.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]);
        let program = directory.join("carillon");
        Subject { name: name.to_owned(), program, arguments: arguments.collect() }
    }

    /// And with a setting, as `--set` takes it.
    #[must_use]
    pub fn with(mut self, setting: &str) -> Subject {
        self.arguments.extend(["--set".to_owned(), setting.to_owned()]);
        self
    }

    /// `benches/baseline`, in one of its forms.
    #[must_use]
    pub fn baseline(program: &Path, form: &str) -> Subject {
        let arguments = [form, "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
        Subject { name: format!("baseline {form}"), program: program.to_owned(), arguments }
    }
}

/// The report of a load, in the words of the generator, against a server that is started for it in a fresh directory.
/// Again when a run says nothing: the machine may have been busy for a moment.
///
/// # Errors
/// Why the last try said nothing.
pub fn report(subject: &Subject, loadgen: &Path, words: &[String]) -> Result<Value, String> {
    for _ in 1..TRIES_MAX {
        match report_once(subject, loadgen, words, &[0]) {
            Err(words) => eprintln!("{}: once more: {words}", subject.name),
            report => return report,
        }
    }
    report_once(subject, loadgen, words, &[0])
}

/// The generator's exit status when it could not do what it was asked to: its promises were kept all the same.
const INVALID: i32 = 3;

/// The same of a load that is more than server and generator can do together: once, and that it could not is no error.
///
/// # Errors
/// A promise was broken, or there is no report.
pub fn report_of_overload(subject: &Subject, loadgen: &Path, words: &[String]) -> Result<Value, String> {
    report_once(subject, loadgen, words, &[0, INVALID])
}

fn report_once(subject: &Subject, loadgen: &Path, words: &[String], good: &[i32]) -> Result<Value, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
    let data = directory.path().join("data");
    let (server, gateway) = Server::start(subject, &data)?;
    let report = directory.path().join("report.json");
    let ended = Command::new(loadgen)
        .args(["--server", &gateway, "--server-pid", &server.0.id().to_string()])
        .arg("--data-dir")
        .arg(data)
        .arg("--report")
        .arg(&report)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("loadgen does not start: {error}"))?;
    let text = std::fs::read_to_string(&report).map_err(|error| format!("no report, {ended}: {error}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|error| format!("the report: {error}"))?;
    if !ended.code().is_some_and(|code| good.contains(&code)) {
        return Err(format!("{} because {}", report["verdict"], report["invalid_because"]));
    }
    Ok(report)
}

/// Microseconds of the server's CPU for each acknowledged message of a step of a report, all of its threads together.
#[must_use]
pub fn cpu_us_per_message(step: &Value) -> f64 {
    let tiers = step["cpu_us_per_message"].as_object();
    tiers.map_or(f64::NAN, |tiers| tiers.values().filter_map(Value::as_f64).sum())
}

/// How long the disk beneath temporary directories takes to append 4 KiB durably: every time, in milliseconds.
///
/// # Errors
/// What the disk says.
pub fn disk_ms() -> std::io::Result<Vec<f64>> {
    let directory = tempfile::tempdir()?;
    let mut file = File::create(directory.path().join("probe"))?;
    (0..PROBES)
        .map(|_| {
            let since = Instant::now();
            file.write_all(&[0x5a; PROBE_BYTES])?;
            file.sync_data()?;
            Ok(since.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

/// A server that ends with its scope.
struct Server(Child);

impl Server {
    /// And where its gateway listens.
    fn start(subject: &Subject, data: &Path) -> Result<(Server, String), String> {
        let mut command = Command::new(&subject.program);
        command.args(&subject.arguments).arg("--data-dir").arg(data);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let program = subject.program.display();
        let mut child = command.spawn().map_err(|error| format!("{program} does not start: {error}"))?;
        let stdout = child.stdout.take();
        let server = Server(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| format!("the ready line: {error}"))?;
        }
        let ready: Value =
            serde_json::from_str(&line).map_err(|error| format!("the ready line {line:?}: {error}"))?;
        let gateway = ready["gateway"].as_str().ok_or("the ready line names no gateway")?.to_owned();
        Ok((server, gateway))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
