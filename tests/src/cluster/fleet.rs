//! The processes of a cluster: started, killed, stopped, paused, asked for their metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::Siege;
use super::plan::{Fault, What, Who};
use crate::http::request;
use crate::server::Process;

/// How processes of the database are handled: they are no children of ours.
#[derive(Clone, Debug)]
pub struct Databases {
    /// A command for the shell. `{action}` is `kill`, `start`, `pause` or `resume`, `{number}` counts from 0.
    pub command: String,
    /// How many there are.
    pub count: usize,
}

impl Databases {
    fn act(&self, action: &str, number: usize) -> Result<(), String> {
        let text = self.command.replace("{action}", action).replace("{number}", &number.to_string());
        match Command::new("sh").args(["-c", &text]).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{text}: {status}")),
            Err(error) => Err(format!("{text}: {error}")),
        }
    }
}

/// How often a process is started until it is given up, as a supervisor would.
const STARTS_MAX: u32 = 5;

/// A process and where it listens, whether it runs or not.
struct Member {
    tier: &'static str,
    name: String,
    process: Option<Process>,
    address: Option<SocketAddr>,
}

/// The name of a process that is beside the plan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    Gateway(usize),
    Router(usize),
}

/// See the module.
pub(super) struct Fleet {
    binary: String,
    settings: Vec<String>,
    state: PathBuf,
    databases: Option<Databases>,
    routers: Vec<Member>,
    gateways: Vec<Member>,
    pub(super) starts_again: u32,
}

impl Fleet {
    pub(super) fn start(siege: &Siege) -> Result<Fleet, String> {
        let prefix = format!("cluster-{:016x}", carillon_node::random::seed());
        let mut fleet = Fleet {
            binary: siege.binary.clone(),
            settings: vec![
                "store.engine=fdb".to_owned(),
                format!("store.cluster_file={}", siege.cluster_file.display()),
                format!("store.key_prefix={prefix}"),
            ],
            state: siege.state.clone(),
            databases: siege.databases.clone(),
            routers: Vec::new(),
            gateways: Vec::new(),
            starts_again: 0,
        };
        for _ in 0..siege.routers {
            fleet.add_router()?;
        }
        for _ in 0..siege.gateways {
            fleet.add_gateway()?;
        }
        Ok(fleet)
    }

    /// One router more.
    pub(super) fn add_router(&mut self) -> Result<Guest, String> {
        let number = self.routers.len();
        self.routers.push(Member {
            tier: "router",
            name: format!("router-{number}"),
            process: None,
            address: None,
        });
        self.start_router(number)?;
        Ok(Guest::Router(number))
    }

    /// One gateway more, which is told of the routers that were there first.
    pub(super) fn add_gateway(&mut self) -> Result<Guest, String> {
        let number = self.gateways.len();
        self.gateways.push(Member {
            tier: "gateway",
            name: format!("gateway-{number}"),
            process: None,
            address: None,
        });
        self.start_gateway(number)?;
        Ok(Guest::Gateway(number))
    }

    /// Ends what was added last.
    pub(super) fn leave(&mut self, guest: Guest) -> Result<(), String> {
        let members = match guest {
            Guest::Gateway(_) => &mut self.gateways,
            Guest::Router(_) => &mut self.routers,
        };
        members.pop().map_or(Ok(()), |mut member| member.stop())
    }

    /// Everything that was not killed runs.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for member in self.routers.iter_mut().chain(&mut self.gateways) {
            if let Some(process) = &mut member.process
                && let Some(status) = process.ended()
            {
                return Err(format!(
                    "{} ended by itself with {status}:\n{}",
                    member.name,
                    process.log_tail()
                ));
            }
        }
        Ok(())
    }

    fn start_router(&mut self, number: usize) -> Result<(), String> {
        let mut settings = self.settings.clone();
        settings.push("limits.send_per_s=0".to_owned());
        let member = &mut self.routers[number];
        self.starts_again += member.start(&self.binary, &self.state, &settings)?;
        Ok(())
    }

    fn start_gateway(&mut self, number: usize) -> Result<(), String> {
        let routers: Vec<String> = self
            .routers
            .iter()
            .filter_map(|router| router.address)
            .map(|address| address.to_string())
            .collect();
        // Beats that come often let clients find out soon that nobody is there.
        let settings = [
            format!("gateway.routers={}", routers.join(",")),
            "limits.send_per_s=0".to_owned(),
            "limits.heartbeat_interval_ms=1000".to_owned(),
        ];
        let member = &mut self.gateways[number];
        self.starts_again += member.start(&self.binary, &self.state, &settings)?;
        Ok(())
    }

    /// Where clients connect.
    pub(super) fn gateways(&self) -> Vec<SocketAddr> {
        self.gateways.iter().filter_map(|gateway| gateway.address).collect()
    }

    /// The data directory of all: the development key is in it.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.state.join("data")
    }

    /// A line of a process's page of metrics, by how it begins; 0 when there is none.
    pub(super) fn metric(&self, guest: Guest, begins: &str) -> f64 {
        let member = match guest {
            Guest::Gateway(number) => &self.gateways[number],
            Guest::Router(number) => &self.routers[number],
        };
        let Some(process) = &member.process else { return 0.0 };
        let page = request(process.address("admin"), "GET", "/metrics", None, &[], None).text;
        let value = page.lines().find_map(|line| line.strip_prefix(begins)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    pub(super) fn begin(&mut self, fault: &Fault) -> Result<(), String> {
        let member = match fault.who {
            Who::Gateway(number) => &mut self.gateways[number],
            Who::Router(number) => &mut self.routers[number],
            Who::Database(number) => {
                let action = if fault.what == What::Pause { "pause" } else { "kill" };
                return self.databases.as_ref().map_or(Ok(()), |databases| databases.act(action, number));
            }
        };
        match (fault.what, &mut member.process) {
            (What::Kill, Some(process)) => process.kill(),
            (What::Pause, Some(process)) => process.pause(),
            (What::Stop, _) => return member.stop(),
            (_, None) => {}
        }
        Ok(())
    }

    pub(super) fn end(&mut self, fault: &Fault) -> Result<(), String> {
        match (fault.who, fault.what) {
            (Who::Gateway(number), What::Pause) => self.gateways[number].wake(),
            (Who::Router(number), What::Pause) => self.routers[number].wake(),
            (Who::Gateway(number), _) => self.start_gateway(number)?,
            (Who::Router(number), _) => self.start_router(number)?,
            (Who::Database(number), what) => {
                let action = if what == What::Pause { "resume" } else { "start" };
                return self.databases.as_ref().map_or(Ok(()), |databases| databases.act(action, number));
            }
        }
        Ok(())
    }
}

impl Member {
    fn wake(&self) {
        if let Some(process) = &self.process {
            process.wake();
        }
    }

    /// SIGTERM, after which it ends as it should.
    fn stop(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate();
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} was stopped and ended with {status}:\n{}", self.name, process.log_tail()))
        }
    }

    /// Starts it, on the address it had. Returns how often it had to be tried again.
    fn start(&mut self, binary: &str, state: &std::path::Path, settings: &[String]) -> Result<u32, String> {
        self.process = None;
        let address = self.address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let data_dir = state.join("data").display().to_string();
        let mut arguments = vec![self.tier.to_owned(), "--data-dir".to_owned(), data_dir];
        let own = [format!("{}.listen={address}", self.tier), "admin.listen=127.0.0.1:0".to_owned()];
        for setting in own.iter().chain(settings) {
            arguments.extend(["--set".to_owned(), setting.clone()]);
        }
        let mut again = 0;
        loop {
            let log = state.join(format!("{}.log", self.name));
            match Process::try_start(binary, &arguments, log) {
                Ok(process) => {
                    self.address = Some(process.address(self.tier));
                    self.process = Some(process);
                    return Ok(again);
                }
                Err(failed) if again + 1 >= STARTS_MAX => return Err(failed),
                Err(_) => again += 1,
            }
        }
    }
}
