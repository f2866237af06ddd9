//! Real processes on a temporary directory: started with free ports, asked for their ready line, ended by their pid.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use carillon_node::clock::Clock;
use carillon_node::tokens::{Claims, dev_key};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{confined, secure};

/// How long anything may take that should take milliseconds: generous, because test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The two ways in which every scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// Gateway and router in one process, joined by rings.
    OneProcess,
    /// Gateway and router as processes of their own, joined by QUIC.
    Tiers,
}

impl Deployment {
    /// Which driver serves the sockets where a test does not say: each scenario runs on both of them, because `auto` takes
    /// `uring`. The environment variable `CARILLON_TEST_DRIVER` names one for all tests.
    const fn driver(self) -> &'static str {
        match self {
            Deployment::OneProcess => "auto",
            Deployment::Tiers => "monoio",
        }
    }
}

/// One process.
pub struct Process {
    child: Child,
    /// Addresses of its ready line, by name.
    pub ready: serde_json::Value,
    stderr: PathBuf,
}

impl Process {
    /// Starts `binary` and waits for its ready line.
    ///
    /// # Panics
    /// With the end of its standard error, when it ends or stays silent.
    #[must_use]
    pub fn start(binary: &str, arguments: &[String], stderr: PathBuf) -> Process {
        Process::try_start(binary, arguments, stderr).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// The same, for whoever tries again.
    ///
    /// # Errors
    /// The end of its standard error, when it ends or stays silent.
    ///
    /// # Panics
    /// When there is no such binary.
    pub fn try_start(binary: &str, arguments: &[String], stderr: PathBuf) -> Result<Process, String> {
        let handed_on = ["LD_LIBRARY_PATH", confined::VARIABLE];
        let variables = handed_on.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Process::try_start_with(binary, arguments, variables, stderr)
    }

    /// The same, with these variables and no others.
    ///
    /// # Errors
    /// The end of its standard error, when it ends or stays silent.
    ///
    /// # Panics
    /// When there is no such binary.
    pub fn try_start_with(
        binary: &str,
        arguments: &[String],
        variables: impl IntoIterator<Item = (&'static str, OsString)>,
        stderr: PathBuf,
    ) -> Result<Process, String> {
        let logged_before = std::fs::metadata(&stderr).map_or(0, |file| file.len());
        let mut child = Command::new(binary)
            .args(arguments)
            .args(["--set", "log.format=json"])
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&stderr).expect("stderr file"))
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = lines.recv_timeout(PATIENCE).unwrap_or_default();
        let Ok(ready) = serde_json::from_str::<serde_json::Value>(&line) else {
            let _ = child.kill();
            let status = child.wait();
            let log = tail_from(&stderr, logged_before);
            return Err(format!("no ready line from {arguments:?} but {line:?}, {status:?}:\n{log}"));
        };
        Ok(Process { child, ready, stderr })
    }

    /// An address of the ready line.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.ready.get(name).and_then(|value| value.as_str());
        text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name} in {}", self.ready))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// The status with which it ended by itself; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGSTOP: it stands still, and nothing that it holds is given back.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on where it stood.
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            // One that has ended is not reaped before `wait`: the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end:\n{}", tail(&self.stderr));
            // There is no portable wait with a deadline; this polls the process table.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of what it logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of process {}:\n{}", self.child.id(), tail(&self.stderr));
        }
    }
}

fn tail(path: &Path) -> String {
    tail_from(path, 0)
}

/// What was logged after the first `from` bytes; of that the end.
fn tail_from(path: &Path, from: u64) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let _ = file.seek(SeekFrom::Start(from));
        let _ = file.read_to_string(&mut text);
    }
    let start = text.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
    text.split_off(start)
}

/// A running Carillon.
pub struct Server {
    binary: String,
    deployment: Deployment,
    settings: Vec<String>,
    directory: TempDir,
    data_dir: PathBuf,
    /// The gateway's process; in [`Deployment::OneProcess`] the only one.
    pub gateway: Option<Process>,
    /// The router's process, in [`Deployment::Tiers`].
    pub router: Option<Process>,
    gateway_address: Option<SocketAddr>,
    router_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
}

impl Server {
    /// Starts one with these `--set`s on a new directory.
    #[must_use]
    pub fn start(binary: &str, deployment: Deployment, settings: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data_dir = directory.path().join("data");
        Server::start_on(binary, deployment, settings, directory, data_dir)
    }

    /// Starts one on this data directory, which stays when it ends.
    #[must_use]
    pub fn start_at(binary: &str, deployment: Deployment, settings: &[&str], data_dir: &Path) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Server::start_on(binary, deployment, settings, directory, data_dir.to_owned())
    }

    fn start_on(
        binary: &str,
        deployment: Deployment,
        settings: &[&str],
        directory: TempDir,
        data_dir: PathBuf,
    ) -> Server {
        let mut server = Server {
            binary: binary.to_owned(),
            deployment,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            directory,
            data_dir,
            gateway: None,
            router: None,
            gateway_address: None,
            router_address: None,
            admin_address: None,
        };
        if deployment == Deployment::Tiers {
            server.start_router();
        }
        server.start_gateway();
        server
    }

    /// Starts the router again, on the address it had.
    pub fn start_router(&mut self) {
        let mut arguments = self.arguments(Some("router"));
        arguments.extend(set("router.listen", self.router_address));
        let process = Process::start(&self.binary, &arguments, self.path("router.log"));
        self.router_address = Some(process.address("router"));
        self.router = Some(process);
    }

    /// Starts the gateway (or the one process) again, on the address it had.
    pub fn start_gateway(&mut self) {
        let mut arguments = self.arguments((self.deployment == Deployment::Tiers).then_some("gateway"));
        arguments.extend(set("gateway.listen", self.gateway_address));
        if self.deployment == Deployment::Tiers {
            arguments.extend(["--set".into(), format!("gateway.routers={}", self.router())]);
        } else {
            arguments.extend(set("router.listen", self.router_address));
        }
        let process = Process::start(&self.binary, &arguments, self.path("gateway.log"));
        self.gateway_address = Some(process.address("gateway"));
        self.admin_address = Some(process.address("admin"));
        if self.deployment == Deployment::OneProcess {
            self.router_address = Some(process.address("router"));
        }
        self.gateway = Some(process);
    }

    /// One more gateway of [`Deployment::Tiers`], on the same router and data directory: its process and where clients
    /// connect.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn another_gateway(&self) -> (Process, SocketAddr) {
        self.gateway_before(self.router())
    }

    /// The same, before the router at this address: of something on the way to it, perhaps.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn gateway_before(&self, router: SocketAddr) -> (Process, SocketAddr) {
        let mut arguments = self.arguments(Some("gateway"));
        arguments.extend(set("gateway.listen", None));
        arguments.extend(["--set".into(), format!("gateway.routers={router}")]);
        let process = Process::start(&self.binary, &arguments, self.path("another.log"));
        let address = process.address("gateway");
        (process, address)
    }

    fn arguments(&self, tier: Option<&str>) -> Vec<String> {
        let mut arguments: Vec<String> = tier.into_iter().map(str::to_owned).collect();
        arguments.extend(["--data-dir".into(), self.data_dir().display().to_string()]);
        for setting in
            ["admin.listen=127.0.0.1:0", "store.segment_bytes=4194304", "store.reserve_bytes=1048576"]
        {
            arguments.extend(["--set".into(), setting.into()]);
        }
        let asked = std::env::var_os("CARILLON_TEST_DRIVER").map(|driver| driver.display().to_string());
        let driver = |name: &str| ["--set".into(), format!("io.driver={name}")];
        arguments.extend(driver(self.deployment.driver()));
        for setting in &self.settings {
            arguments.extend(["--set".into(), setting.clone()]);
        }
        arguments.extend(asked.iter().flat_map(|name| driver(name)));
        for setting in secure::settings() {
            arguments.extend(["--set".into(), setting]);
        }
        arguments
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// Ends everything, the gateway first, and waits for it.
    ///
    /// # Panics
    /// When a process does not end, or not well.
    pub fn stop(&mut self) {
        for process in self.gateway.iter_mut().chain(&mut self.router) {
            let status = process.terminate();
            assert!(status.success(), "{status}:\n{}", process.log_tail());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where clients connect.
    ///
    /// # Panics
    /// Before the gateway was started.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.gateway_address.expect("the gateway was started")
    }

    /// Where the gateway's metrics are.
    ///
    /// # Panics
    /// Before the gateway was started.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin_address.expect("the gateway was started")
    }

    /// Where the router listens.
    ///
    /// # Panics
    /// Before it was started.
    #[must_use]
    pub fn router(&self) -> SocketAddr {
        self.router_address.expect("the router was started")
    }

    /// Kills everything with SIGKILL and starts it again on the same directory and addresses.
    pub fn crash_and_restart(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.kill();
        }
        if self.deployment == Deployment::Tiers {
            self.crash_and_restart_router();
        }
        self.start_gateway();
    }

    /// Kills only the router.
    pub fn crash_and_restart_router(&mut self) {
        if let Some(router) = &mut self.router {
            router.kill();
        }
        self.start_router();
    }

    /// Kills only the gateway.
    pub fn crash_and_restart_gateway(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.kill();
        }
        self.start_gateway();
    }

    /// A token of the development key.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn token(&self, user: u64, device: &str) -> String {
        self.token_with(user, device, 3_600, "")
    }

    /// A token that expires in `ttl_s` seconds, with a scope.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn token_with(&self, user: u64, device: &str, ttl_s: i64, scope: &str) -> String {
        development_token(&self.data_dir(), user, device, ttl_s, scope)
    }
}

/// A token of the development key in this data directory, that expires in `ttl_s` seconds, with a scope.
///
/// # Panics
/// When the key cannot be read.
#[must_use]
pub fn development_token(data_dir: &Path, user: u64, device: &str, ttl_s: i64, scope: &str) -> String {
    let now_s = Clock.wall_ms() / 1_000;
    let claims = Claims {
        user_id: user,
        device_id: device.to_owned(),
        issued_s: now_s.saturating_sub(120),
        expires_s: now_s.saturating_add_signed(ttl_s),
        name: None,
        scope: scope.to_owned(),
    };
    dev_key(data_dir).expect("the development key").sign(&claims).expect("signed")
}

fn set(key: &str, address: Option<SocketAddr>) -> [String; 2] {
    let address = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
    ["--set".into(), format!("{key}={address}")]
}

/// What a command that ends by itself left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` after a signal.
    pub status: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Runs a command to its end, with these variables and no others.
///
/// # Panics
/// When it does not end.
#[must_use]
pub fn command(binary: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut child = Command::new(binary)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (mut stdout, mut stderr) = pipes;
    let (sender, texts) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let (mut out, mut errors) = (String::new(), String::new());
        std::thread::scope(|scope| {
            scope.spawn(|| stdout.read_to_string(&mut out));
            scope.spawn(|| stderr.read_to_string(&mut errors));
        });
        let _ = sender.send((out, errors));
    });
    let Ok((stdout, stderr)) = texts.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{arguments:?} does not end");
    };
    Ended { status: child.wait().expect("wait").code(), stdout, stderr }
}
