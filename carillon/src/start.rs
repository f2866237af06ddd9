//! `run`, `gateway`, `router`: opens every door first, so that a configuration that cannot work ends before anything is
//! touched; then the store; then serves until a signal; then drains in the opposite order.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carillon_gateway::io::certificates::Certificate;
use carillon_gateway::io::link::Uplinks;
use carillon_gateway::io::{Choice, Doors, Driver, Gateway, Needs};
use carillon_gateway::rest::{ReadyUser, ReadyUsers};
use carillon_gateway::settings::Settings as GatewaySettings;
use carillon_link::quic::{self, Listener, Switchboard};
use carillon_link::tls::{Identity, Role};
use carillon_link::{Dial, Peer};
use carillon_node::admin::{Admin, Readiness};
use carillon_node::clock::Clock;
use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use carillon_node::metrics::Registry;
use carillon_node::signals::{SERVICE_READY, SERVICE_STOPPING, Signals, notify_service_manager};
use carillon_node::tokens::{self, KeyTable};
use carillon_node::{listen, logging, memory, random};
use carillon_protocol::ids::UserId;
use carillon_router::io::{self as router_io, Tenure};
use carillon_router::settings::Settings as RouterSettings;
use carillon_store::backend::embedded::{Embedded, Options as EmbeddedOptions};
#[cfg(feature = "fdb")]
use carillon_store::backend::fdb;
use carillon_store::backend::memory::{Memory, Options as MemoryOptions};
use carillon_store::error::OpenError;
use carillon_store::txn::Engine;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::control::ControlSocket;
use crate::links::{self, Certificates, GatewayLinks};
use crate::tier::Tier;
use crate::{configure, greeting, token};

/// Starts the tiers and serves until SIGTERM or SIGINT.
///
/// # Errors
/// Status 2 when the configuration cannot work, 74 when the store is damaged or its disk fails.
pub fn start(tier: Tier, config: &Config) -> Result<(), Fatal> {
    if tier == Tier::Gateway {
        memory::take_small_pages();
    }
    let format = config.text("log.format").unwrap_or_default();
    logging::init(logging::Format::of(format)?, config.text("log.level").unwrap_or_default())?;
    let gateway_settings = GatewaySettings::from_config(config)?;
    let router_settings = configure::router_settings(config)?;
    if !ENGINES.contains(&router_settings.store.engine.as_str()) {
        return Err(missing_engine(&router_settings.store.engine));
    }
    let signals = Signals::install().map_err(|error| cannot("listen for signals", &error))?;
    let data_dir = configure::data_dir(config);

    // Doors.
    let registry = Registry::new();
    let readiness = Readiness::new();
    readiness.set("start", false, "starting");
    let doors = tier.has_gateway().then(|| Doors::open(&gateway_settings)).transpose()?;
    let router_address = tier
        .has_router()
        .then(|| {
            let socket = listen::udp("router.listen", &router_settings.router.listen)?;
            socket.local_addr().map_err(|error| cannot("read router.listen", &error))
        })
        .transpose()?;
    let tokens = configure::tokens(config)?;
    let is_development = tokens.is_development();
    let certificate =
        tier.has_gateway().then(|| Certificate::of(&gateway_settings.tls)).transpose()?.flatten();
    if let Some(doors) = &doors {
        refuse_public_development(&tokens, doors.address())?;
    }
    if tier.has_gateway() {
        links::check_routers(tier, &gateway_settings.gateway.routers)?;
    }
    let advertise = router_address.map(|address| links::advertised(&router_settings, address)).transpose()?;
    let driver = tier.has_gateway().then(|| Driver::choose(&gateway_settings.io)).transpose()?;
    let admin =
        Admin::start(config.text("admin.listen").unwrap_or_default(), registry.clone(), readiness.clone())?;

    // The store, then everything that stands on it.
    let keys = Arc::new(configure::keys(config)?);
    // Whom the router dials is connected to when its mailbox is known, below.
    let dial = Arc::new(Switchboard::new(Peer(1)));
    let mut control_socket = None;
    let router = match &advertise {
        Some(advertise) => {
            let engine = open_store(&router_settings, &data_dir)?;
            if router_settings.store.engine == "embedded" {
                control_socket = ControlSocket::open(&data_dir, &engine, router_settings.store.reserve_bytes);
            }
            let needs = router_io::Needs {
                engine,
                tenure: if router_settings.store.engine == "fdb" { Tenure::Shared } else { Tenure::Sole },
                address: advertise.clone(),
                dial: Arc::clone(&dial) as Arc<dyn Dial>,
                // After a failed write or sync nothing may be acknowledged, written or even closed (G14): the process ends
                // here.
                on_failure: Arc::new(|fatal: Fatal| fatal.exit()),
            };
            Some(router_io::start(&router_settings, needs, &registry)?)
        }
        None => None,
    };
    let control = Control::start()?;
    keys.keep_fresh(&control.handle, KEYS_PERIOD);
    let certificates = Certificates::of(&gateway_settings.tls.dir, &data_dir);
    let identity = |role| certificates.identity(role, &control.handle);
    let listener = match (&router, router_address) {
        (Some(router), Some(address)) => {
            let (identity, runtime) = (identity(Role::Router)?, &control.handle);
            let listener = quic::listen(runtime, address, &identity, router.mailbox(), links::quic_options())
                .map_err(|error| cannot("listen on router.listen", &error))?;
            dial.start(runtime, identity, vec![router.mailbox()], links::quic_options())
                .map_err(|error| cannot("connect to other routers", &error))?;
            Some(listener)
        }
        _ => None,
    };
    let gateway_identity = tier.has_gateway().then(|| identity(Role::Gateway)).transpose()?;

    let mut serving = Serving { control, listener, dial, gateway_links: None, gateway: None, router };
    if let (Some(doors), Some(choice), Some(identity)) = (doors, driver, gateway_identity) {
        let Choice { driver, detail, is_fallback } = choice;
        if is_fallback {
            warn!(driver = driver.name(), "sockets are served by {detail}");
        } else {
            info!(driver = driver.name(), "sockets are served by {detail}");
        }
        readiness.set("io", true, detail);
        serving.start_gateway(GatewayStart {
            settings: &gateway_settings,
            driver,
            keys: Arc::clone(&keys),
            registry: &registry,
            identity,
            certificate,
            doors,
        })?;
    }
    serving.publish_links(&registry);
    readiness.set("start", true, "serving");
    announce(tier, config, &keys, is_development, &serving, &admin, &data_dir)?;
    let _ = notify_service_manager(SERVICE_READY);

    signals.wait().map_err(|error| cannot("wait for signals", &error))?;
    info!("draining");
    let _ = notify_service_manager(SERVICE_STOPPING);
    readiness.set("start", false, "draining");
    drop(control_socket);
    serving.drain()?;
    drop(admin);
    info!("drained");
    Ok(())
}

/// How often the files of keys are looked at: a key that was taken away lets nobody in any more within this.
const KEYS_PERIOD: Duration = Duration::from_secs(5);

/// How long tokens of the page are good, in seconds: a day of trying things out.
const PAGE_TTL_S: i64 = 86_400;

/// Who can be tried out on the page of development mode.
fn ready_users(keys: Arc<KeyTable>) -> ReadyUsers {
    Arc::new(move || {
        let now_s = Clock.wall_ms() / 1_000;
        // Two tabs are two devices: each page that is loaded gets one. It keeps its token when it is loaded again.
        let device = format!("page-{:016x}", random::seed());
        let user = |(number, name): (u64, &str)| {
            let token = token::sign(&keys, number, &device, Some(name), false, now_s, PAGE_TTL_S);
            // The development key signs.
            let token = token.ok()?;
            Some(ReadyUser { user: UserId(number), name: name.to_owned(), token })
        };
        [(1, "alice"), (2, "bob"), (3, "carol")].into_iter().filter_map(user).collect()
    })
}

/// How long the router may take to finish what it took, after the gateway has drained: mostly milliseconds, but some seconds
/// when 200,000 have just left and are to be written down on a busy machine. With `gateway.drain_ms` less than what
/// supervisors grant.
const ROUTER_DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long it may take to give everything away to others: until then it serves what is still its own.
const GIVE_AWAY_MAX: Duration = Duration::from_secs(10);

/// Everything that runs, in the order in which it ends.
struct Serving {
    gateway: Option<(Gateway, SocketAddr)>,
    gateway_links: Option<Arc<GatewayLinks>>,
    dial: Arc<Switchboard>,
    listener: Option<Listener>,
    router: Option<router_io::Handle>,
    control: Control,
}

struct GatewayStart<'a> {
    settings: &'a GatewaySettings,
    driver: Driver,
    keys: Arc<KeyTable>,
    registry: &'a Registry,
    identity: Identity,
    certificate: Option<Certificate>,
    doors: Doors,
}

impl Serving {
    fn start_gateway(&mut self, start: GatewayStart<'_>) -> Result<(), Fatal> {
        let settings = start.settings;
        let address = start.doors.address();
        // In one process: rings, unless told otherwise.
        let beside = self.router.as_ref().filter(|_| settings.link.local == "ring");
        let links = Arc::new(match (beside, &self.listener) {
            (Some(_), _) => GatewayLinks::with_ring(),
            (None, Some(listener)) if settings.gateway.routers.is_empty() => {
                GatewayLinks::over_quic(&[listener.local_addr().to_string()])
            }
            (None, _) => GatewayLinks::over_quic(&settings.gateway.routers),
        });
        let ready_users = start.keys.is_development().then(|| ready_users(Arc::clone(&start.keys)));
        let needs = Needs {
            is_development: start.keys.is_development(),
            keys: start.keys,
            epoch: random::seed(),
            seed: random::seed(),
            uplinks: Arc::clone(&links) as Arc<dyn Uplinks>,
            registry: start.registry.clone(),
            certificate: start.certificate,
            ready_users,
        };
        if let Some(certificate) = &needs.certificate {
            certificate.keep_fresh(&self.control.handle);
        }
        let mut gateway = Gateway::start(settings, start.driver, start.doors, &needs)?;
        let mut mailboxes = gateway.mailboxes().to_vec();
        if let Some(hand_offs) = gateway.take_hand_offs() {
            let http = carillon_gateway::io::http::serve(
                &self.control.handle,
                settings,
                &needs,
                hand_offs,
                u16::try_from(mailboxes.len()).unwrap_or(u16::MAX),
            )?;
            mailboxes.extend([http.rest, http.pumps]);
        }
        if let Some(router) = beside {
            links.join(router.mailbox(), mailboxes.clone());
        }
        links.connect(&self.control.handle, start.identity, mailboxes)?;
        self.gateway_links = Some(links);
        self.gateway = Some((gateway, address));
        Ok(())
    }

    fn publish_links(&self, registry: &Registry) {
        let (gateway, listener) = (self.gateway_links.as_deref(), self.listener.as_ref());
        links::publish(&self.control.handle, registry, gateway, &self.dial, listener);
    }

    /// Sockets first, then lanes, then the store. A router among others keeps its lanes until they have everything: on
    /// them its gateways and the others hear who owns what from then on.
    fn drain(self) -> Result<(), Fatal> {
        if let Some((gateway, _)) = self.gateway {
            gateway.drain();
        }
        if let Some(router) = self.router.as_ref().filter(|router| router.is_shared()) {
            router.drain(GIVE_AWAY_MAX);
        }
        let gateway_links = self.gateway_links.as_deref();
        links::say_goodbye(&self.control.handle, gateway_links, &self.dial, self.listener);
        self.control.stop();
        let Some(router) = self.router else { return Ok(()) };
        if !router.is_shared() {
            router.drain(ROUTER_DRAIN_MAX);
        }
        router.close()
    }
}

/// The control thread: a tokio runtime for QUIC and HTTP.
struct Control {
    handle: Handle,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Control {
    fn start() -> Result<Control, Fatal> {
        let failed = |error: std::io::Error| cannot("start the control thread", &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                // What QUIC still has to say (CONNECTION_CLOSE) leaves within this.
                runtime.shutdown_timeout(Duration::from_millis(200));
            })
            .map_err(failed)?;
        Ok(Control { handle, stop, thread })
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// The engines of this binary.
const ENGINES: &[&str] =
    if cfg!(feature = "fdb") { &["embedded", "memory", "fdb"] } else { &["embedded", "memory"] };

fn missing_engine(name: &str) -> Fatal {
    let choice = ENGINES.join(" or ");
    Fatal::config(match name {
        "fdb" => format!(
            "store.engine \"fdb\" is not built into this binary: build it with `cargo build --release --features fdb`, or \
use {choice}"
        ),
        name => format!("store.engine \"{name}\" is not an engine of this binary: use {choice}"),
    })
}

pub(crate) fn not_opened(error: &OpenError) -> Fatal {
    match error {
        OpenError::InUse { .. } | OpenError::Absent { .. } | OpenError::Setting(_) => {
            Fatal::config(error.to_string())
        }
        OpenError::Damaged { .. } | OpenError::Io { .. } | OpenError::Unreachable(_) => {
            Fatal::disk(error.to_string())
        }
    }
}

fn open_store(settings: &RouterSettings, data_dir: &Path) -> Result<Arc<dyn Engine>, Fatal> {
    match settings.store.engine.as_str() {
        "embedded" => {
            let options = EmbeddedOptions {
                segment_bytes: settings.store.segment_bytes,
                overlay_bytes: usize::try_from(settings.store.overlay_bytes).unwrap_or(usize::MAX),
                reserve_bytes: settings.store.reserve_bytes,
                ..EmbeddedOptions::default()
            };
            let engine = Embedded::open(&data_dir.join("store"), options);
            Ok(Arc::new(engine.map_err(|error| not_opened(&error))?))
        }
        #[cfg(feature = "fdb")]
        "fdb" => {
            let options = fdb::Options {
                cluster_file: settings.store.cluster_file.clone(),
                key_prefix: settings.store.key_prefix.clone(),
            };
            let engine = fdb::Fdb::open(&options);
            Ok(Arc::new(engine.map_err(|error| not_opened(&error))?))
        }
        "memory" => {
            warn!("store.engine=memory: nothing survives this process");
            Ok(Arc::new(Memory::new(MemoryOptions::default())))
        }
        other => Err(missing_engine(other)),
    }
}

/// The development key is in a file that every tool of this machine reads, and whoever checks tokens with a secret can make
/// them: neither guards anything on a public address.
fn refuse_public_development(tokens: &tokens::Settings, address: SocketAddr) -> Result<(), Fatal> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let what = if tokens.is_development() {
        "no auth.keys and no auth.jwks are configured: the development key is"
    } else if tokens.has_secret() {
        "auth.keys holds a secret: HS256 is"
    } else {
        return Ok(());
    };
    Err(Fatal::config(format!(
        "gateway.listen {address} is public, and {what} for loopback only. Configure public keys in auth.keys or auth.jwks, \
         or listen on 127.0.0.1"
    )))
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Fatal {
    Fatal::config(format!("cannot {what}: {error}"))
}

/// Prints the ready line (JSON logs) or the greeting (development on a terminal).
fn announce(
    tier: Tier,
    config: &Config,
    keys: &KeyTable,
    is_development: bool,
    serving: &Serving,
    admin: &Admin,
    data_dir: &Path,
) -> Result<(), Fatal> {
    let gateway = serving.gateway.as_ref().map(|(_, address)| *address);
    let router = serving.listener.as_ref().map(Listener::local_addr);
    let format = logging::Format::of(config.text("log.format").unwrap_or_default())?;
    if format == logging::Format::Json {
        let ready = greeting::Ready { gateway, admin: admin.address(), router };
        // Whoever started us may not be reading; that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{}", ready.line());
    }
    info!(?tier, ?gateway, ?router, admin = %admin.address(), "ready");
    if let (Tier::Both, true, Some(gateway)) = (tier, is_development, gateway) {
        let now_s = Clock.wall_ms() / 1_000;
        let has_tls = !config.text("tls.cert").unwrap_or_default().is_empty();
        let base = greeting::Base { gateway, has_tls };
        eprint!("{}", greeting::text(keys, now_s, &base, admin.address(), data_dir)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine that is not there says how it would be.
    #[test]
    fn missing_engines_say_what_to_do() {
        let sentence = missing_engine("paper").sentence;
        assert!(sentence.contains("embedded or memory"), "{sentence}");
        if !ENGINES.contains(&"fdb") {
            let sentence = missing_engine("fdb").sentence;
            assert!(sentence.contains("--features fdb"), "{sentence}");
        }
    }
}
