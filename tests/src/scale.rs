//! What a message costs with one gateway, two and three: each in a network namespace of its own, before one router, at the
//! same rate a gateway. CPU time is that of the gateways' own threads, by their own clocks; a message crosses gateways
//! as often as chance wants it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::http::request;
use crate::issuer::{Issuer, claims, publish};
use crate::server::Process;

/// Messages a second and clients before each gateway.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Messages a second.
    pub rate: u32,
    /// Connected clients.
    pub clients: u32,
    /// How long, in seconds.
    pub seconds: u32,
}

/// What was seen with so many gateways.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// How many.
    pub gateways: usize,
    /// Commands that all of them sent to the router.
    pub messages: u64,
    /// CPU time of all their threads for one of these, in microseconds.
    pub micros: f64,
}

/// The binaries that are measured.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `carillon`.
    pub server: PathBuf,
    /// `loadgen`.
    pub loadgen: PathBuf,
}

/// The first two numbers of every address here: of a private range (RFC 1918), and hardly anybody's.
const NET: [u8; 2] = [10, 213];
/// Where the router is, for all gateways.
const ROUTER: SocketAddr = address(0, 1, 7400);
/// The tool of iproute2.
const IP: &str = "/usr/sbin/ip";
const TOKEN_TTL_S: i64 = 3_600;
const FIRST_USER: u64 = 1_000;

const fn address(third: u8, fourth: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(NET[0], NET[1], third, fourth)), port)
}

/// Network namespaces with one link each to this one. Gone when dropped.
struct Net {
    names: Vec<String>,
}

impl Net {
    fn new(count: u8) -> Result<Net, String> {
        let mut net = Net { names: Vec::new() };
        ip(&format!("address add {}/32 dev lo", ROUTER.ip()))?;
        for number in 1..=count {
            let name = format!("carillon-scale-{number}");
            ip(&format!("netns add {name}"))?;
            net.names.push(name.clone());
            let (here, there) = (address(number, 1, 0).ip(), address(number, 2, 0).ip());
            ip(&format!("link add carillon{number} type veth peer name eth0 netns {name}"))?;
            ip(&format!("address add {here}/30 dev carillon{number}"))?;
            ip(&format!("link set carillon{number} up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} address add {there}/30 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} route add default via {here}"))?;
        }
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The links go with their namespaces. What is not there needs no taking down.
        for name in &self.names {
            let _ = ip(&format!("netns delete {name}"));
        }
        let _ = ip(&format!("address delete {}/32 dev lo", ROUTER.ip()));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new(IP).args(arguments.split(' ')).stdin(Stdio::null()).output();
    match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&done.stderr).trim())),
        Err(error) => Err(format!("ip {arguments}: {error}; it needs iproute2, and root")),
    }
}

/// Measures with 1 to `gateways_max` gateways. `said` hears of each result as it comes.
///
/// # Errors
/// What could not be set up, or a run in which a promise was broken.
pub fn measure(
    binaries: &Binaries,
    gateways_max: u8,
    load: Load,
    state: &Path,
    mut said: impl FnMut(&Cost),
) -> Result<Vec<Cost>, String> {
    let _net = Net::new(gateways_max)?;
    let mut costs = Vec::new();
    for count in 1..=gateways_max {
        let directory = state.join(format!("{count}-gateways"));
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let cost = one(binaries, count, load, &directory)?;
        said(&cost);
        costs.push(cost);
    }
    Ok(costs)
}

/// How far the cost of a message with several gateways is from that with one, as the largest share of it.
#[must_use]
pub fn deviation(costs: &[Cost]) -> f64 {
    let one = costs.first().map_or(f64::NAN, |cost| cost.micros);
    costs.iter().map(|cost| (cost.micros / one - 1.0).abs()).fold(0.0, f64::max)
}

fn one(binaries: &Binaries, count: u8, load: Load, directory: &Path) -> Result<Cost, String> {
    let settings = directory.join("carillon.toml");
    let (issuer, keys) = (Issuer::new("scale"), directory.join("jwks.json"));
    publish(&keys, &[&issuer]);
    let text = format!(
        "data_dir = \"{}\"\nauth.jwks = \"{}\"\n[limits]\nsend_per_s = 0\nconversation_per_s = 0\naddress_per_s = 0\n",
        directory.join("data").display(),
        keys.display()
    );
    std::fs::write(&settings, text).map_err(|error| error.to_string())?;
    let common = |tier: &str| {
        let config = format!("--config={}", settings.display());
        vec![tier.to_owned(), config, "--set".to_owned()]
    };
    let mut arguments = common("router");
    arguments.extend([format!("router.listen={ROUTER}"), "--set=admin.listen=127.0.0.1:0".to_owned()]);
    let server = binaries.server.display().to_string();
    let mut router = Process::try_start(&server, &arguments, directory.join("router.log"))?;
    let mut gateways = Vec::new();
    for number in 1..=count {
        let mut arguments: Vec<String> =
            ["netns", "exec", &format!("carillon-scale-{number}"), &server].map(str::to_owned).to_vec();
        arguments.extend(common("gateway"));
        arguments.extend([
            format!("gateway.listen={}", address(number, 2, 8080)),
            format!("--set=admin.listen={}", address(number, 2, 9100)),
            format!("--set=gateway.routers={ROUTER}"),
            format!("--set=data_dir={}", directory.join(format!("gateway-{number}")).display()),
            format!("--set=tls.dir={}", directory.join("data/tls").display()),
        ]);
        gateways.push(Process::try_start(IP, &arguments, directory.join(format!("gateway-{number}.log")))?);
    }
    let read = |name: &str| -> u64 { (1..=count).map(|number| metric(number, name)).sum() };
    let before = (read("carillon_gateway_cpu_nanoseconds_total"), read("carillon_gateway_submits_total"));
    let loaded = put_under_load(binaries, count, load, &issuer, directory);
    let after = (read("carillon_gateway_cpu_nanoseconds_total"), read("carillon_gateway_submits_total"));
    gateways.iter_mut().for_each(Process::kill);
    router.kill();
    loaded?;
    let messages = after.1 - before.1;
    let micros = (after.0 - before.0) as f64 / 1_000.0 / messages.max(1) as f64;
    Ok(Cost { gateways: usize::from(count), messages, micros })
}

fn metric(gateway: u8, name: &str) -> u64 {
    let page = request(address(gateway, 2, 9100), "GET", "/metrics", None, &[], None).text;
    let lines = page.lines().filter(|line| !line.starts_with('#') && line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters")]
    let sum = values.sum::<f64>() as u64;
    sum
}

fn put_under_load(
    binaries: &Binaries,
    count: u8,
    load: Load,
    issuer: &Issuer,
    directory: &Path,
) -> Result<(), String> {
    let clients = load.clients * u32::from(count);
    let mut tokens = String::new();
    for user in (FIRST_USER..).take(clients as usize) {
        let mut claims = claims(user, "scale", TOKEN_TTL_S);
        claims["scope"] = "admin".into();
        let _ = writeln!(tokens, "{}", issuer.token(&claims));
    }
    let file = directory.join("tokens");
    std::fs::write(&file, tokens).map_err(|error| error.to_string())?;
    let servers: Vec<String> = (1..=count).map(|number| address(number, 2, 8080).to_string()).collect();
    let done = Command::new(&binaries.loadgen)
        .args(["--server", &servers.join(","), "--clients", &clients.to_string()])
        .args(["--rate", &(load.rate * u32::from(count)).to_string()])
        .args(["--duration", &format!("{}s", load.seconds), "--mix", "one_to_one=1", "--receipts", "none"])
        .arg("--tokens")
        .arg(&file)
        .output()
        .map_err(|error| format!("{}: {error}", binaries.loadgen.display()))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let _ = std::fs::write(directory.join("loadgen.txt"), &said);
    // 3: the generator was late, on a machine that is too small for both; what was sent was sent all the same.
    match done.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(format!("loadgen: {}\n{said}", done.status)),
    }
}
