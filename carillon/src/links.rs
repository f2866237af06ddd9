//! What joins the tiers: certificates, addresses, the rings inside this process and the QUIC connections of it.

mod meters;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use carillon_gateway::io::link::Uplinks;
use carillon_link::quic::{Listener, Options, Switchboard};
use carillon_link::tls::{self, Identity, Role};
use carillon_link::{Mailbox, Peer, local};
use carillon_node::exit::Fatal;
use carillon_node::metrics::Registry;
use carillon_node::random;
use carillon_router::Settings as RouterSettings;
use tokio::runtime::Handle;

use crate::tier::Tier;

/// How often the files of certificates are looked at.
const CERTIFICATES_PERIOD: Duration = Duration::from_secs(5);

/// How long the far ends of all connections may take to hear that they are closed.
const GOODBYE_TIME_MAX: Duration = Duration::from_millis(500);

/// Bytes of a ring between a gateway shard and the router, each way: room for a few thousand small frames.
const RING_BYTES: usize = 4 << 20;

/// Where the certificates of this process lie.
pub(crate) struct Certificates {
    directory: PathBuf,
    /// Whether they are made when there are none.
    is_ours: bool,
}

impl Certificates {
    /// In the directory of the setting `tls.dir`; else in the data directory.
    pub(crate) fn of(setting: &str, data_dir: &Path) -> Certificates {
        match setting {
            "" => Certificates { directory: data_dir.join("tls"), is_ours: true },
            setting => Certificates { directory: setting.into(), is_ours: false },
        }
    }

    /// The certificate for a role, and later those that come in its place.
    ///
    /// # Errors
    /// Status 2: they cannot be read or used.
    pub(crate) fn identity(&self, role: Role, runtime: &Handle) -> Result<Identity, Fatal> {
        let failed =
            |error: tls::TlsError| Fatal::config(format!("tls.dir {}: {error}", self.directory.display()));
        if self.is_ours {
            tls::ensure_development(&self.directory).map_err(failed)?;
        }
        let identity = Identity::load(&self.directory, role).map_err(failed)?;
        identity.keep_fresh(runtime, CERTIFICATES_PERIOD);
        Ok(identity)
    }
}

/// How connections are made, each with other moments of trying again.
pub(crate) fn quic_options() -> Options {
    Options { jitter_seed: random::seed(), ..Options::default() }
}

/// A router that cannot even be looked for would be waited for in vain.
///
/// # Errors
/// Status 2, with an example.
pub(crate) fn check_routers(tier: Tier, routers: &[String]) -> Result<(), Fatal> {
    let example = "as in --set gateway.routers=127.0.0.1:7400";
    if tier == Tier::Gateway && routers.is_empty() {
        return Err(Fatal::config(format!("gateway.routers is empty: say where the routers are, {example}")));
    }
    match routers.iter().find(|router| !is_address(router)) {
        Some(router) => {
            Err(Fatal::config(format!("gateway.routers \"{router}\" is not host:port, {example}")))
        }
        None => Ok(()),
    }
}

/// Where others reach the router of this process, which listens at this address; empty when that is not known and nobody
/// has to know.
///
/// # Errors
/// Status 2: it is not known, or no address.
pub(crate) fn advertised(settings: &RouterSettings, listens_at: SocketAddr) -> Result<String, Fatal> {
    let advertise = settings.router.advertise.as_str();
    let example = "as in --set router.advertise=10.0.0.5:7400";
    match advertise {
        // Routers that share a store tell each other, and all gateways, where they are.
        "" if settings.store.engine == "fdb" && listens_at.ip().is_unspecified() => {
            Err(Fatal::config(format!(
                "router.advertise is empty, and router.listen {} does not say where gateways and other routers reach \
                 this one: set router.advertise, {example}",
                settings.router.listen
            )))
        }
        // "Everywhere" is no place to be looked for: a gateway would find itself. It knows the way by which it came.
        "" if listens_at.ip().is_unspecified() => Ok(String::new()),
        "" => Ok(listens_at.to_string()),
        advertise if is_address(advertise) => Ok(advertise.to_owned()),
        advertise => {
            Err(Fatal::config(format!("router.advertise \"{advertise}\" is not host:port, {example}")))
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// The lanes of this process's gateway: over a ring to the router beside it, if that is how they are joined, and over
/// QUIC to all others.
pub(crate) struct GatewayLinks {
    board: Switchboard,
    ring: OnceLock<Ring>,
}

struct Ring {
    router: Mailbox,
    shards: Vec<Mailbox>,
}

/// The router at the other end of the ring. Others have higher numbers.
const LOCAL: Peer = Peer(0);

impl GatewayLinks {
    /// For a gateway with a ring to the router beside it.
    pub(crate) fn with_ring() -> GatewayLinks {
        GatewayLinks { board: Switchboard::new(Peer(LOCAL.0 + 1)), ring: OnceLock::new() }
    }

    /// For a gateway that reaches these routers over QUIC, by the numbers that they have here.
    pub(crate) fn over_quic(routers: &[String]) -> GatewayLinks {
        let board = Switchboard::new(Peer(0));
        for router in routers {
            let _ = board.meet(router);
        }
        GatewayLinks { board, ring: OnceLock::new() }
    }

    /// Joins the shards with the router in this process.
    pub(crate) fn join(&self, router: Mailbox, shards: Vec<Mailbox>) {
        let ring = self.ring.get_or_init(|| Ring { router, shards });
        for shard in &ring.shards {
            // A shard that gets none now asks for it: its mailbox is empty at start, so this does not happen.
            let _ = local::connect(RING_BYTES, shard, &ring.router, LOCAL);
        }
    }

    /// Connects the shards with all that are met.
    ///
    /// # Errors
    /// Status 2: there are too many shards.
    pub(crate) fn connect(
        &self,
        runtime: &Handle,
        identity: Identity,
        shards: Vec<Mailbox>,
    ) -> Result<(), Fatal> {
        self.board
            .start(runtime, identity, shards, quic_options())
            .map_err(|error| Fatal::config(format!("cannot connect to routers: {error}")))
    }
}

impl Uplinks for GatewayLinks {
    fn meet(&self, address: &str) {
        let _ = self.board.meet(address);
    }

    fn part(&self, peer: Peer) {
        self.board.part(peer);
    }

    fn replace(&self, peer: Peer, shard: u16) -> bool {
        match self.ring.get() {
            Some(ring) if peer == LOCAL => ring
                .shards
                .get(usize::from(shard))
                .is_some_and(|shard| local::connect(RING_BYTES, shard, &ring.router, LOCAL)),
            // Over QUIC new lanes come by themselves.
            _ => true,
        }
    }
}

/// Shows on the page of metrics what goes through from now on.
pub(crate) fn publish(
    runtime: &Handle,
    registry: &Registry,
    gateway: Option<&GatewayLinks>,
    router: &Switchboard,
    listener: Option<&Listener>,
) {
    let mut counters = vec![(Role::Router, router.counters())];
    counters.extend(gateway.map(|links| (Role::Router, links.board.counters())));
    if let Some(listener) = listener {
        counters.extend([Role::Router, Role::Gateway].map(|role| (role, listener.counters(role))));
    }
    meters::publish(runtime, registry, counters);
}

/// Tells all far ends that their lanes are closed, so that they need not wait for silence.
pub(crate) fn say_goodbye(
    runtime: &Handle,
    gateway: Option<&GatewayLinks>,
    router: &Switchboard,
    listener: Option<Listener>,
) {
    let close_gateway = async {
        if let Some(links) = gateway {
            links.board.close().await;
        }
    };
    let close_listener = async {
        if let Some(listener) = listener {
            listener.close().await;
        }
    };
    let _ = runtime.block_on(async {
        let all = async { tokio::join!(close_gateway, router.close(), close_listener) };
        tokio::time::timeout(GOODBYE_TIME_MAX, all).await
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::SettingsArguments;

    #[test]
    fn routers_are_addresses() {
        let check = |tier, routers: &[&str]| {
            let routers: Vec<String> = routers.iter().map(|router| (*router).to_owned()).collect();
            check_routers(tier, &routers).is_ok()
        };
        for good in ["127.0.0.1:7400", "router.example.org:7400", "[::1]:7400"] {
            assert!(check(Tier::Gateway, &[good]), "{good}");
        }
        for wrong in ["", "router", "router:", ":7400", "127.0.0.1:0", "127.0.0.1:70000"] {
            assert!(!check(Tier::Gateway, &["127.0.0.1:7400", wrong]), "{wrong}");
        }
        assert!(check(Tier::Both, &[]) && !check(Tier::Gateway, &[]));
    }

    /// Others reach a router where its settings say, else where it listens; nobody reaches 0.0.0.0.
    #[test]
    fn a_router_that_shares_its_store_says_where_it_is() {
        let config = crate::configure::load(&SettingsArguments::default(), "router", &[]).unwrap();
        let advertised = |engine: &str, advertise: &str, listens_at: &str| {
            let mut settings = crate::configure::router_settings(&config).unwrap();
            settings.store.engine = engine.to_owned();
            settings.router.advertise = advertise.to_owned();
            settings.router.listen = listens_at.to_owned();
            advertised(&settings, listens_at.parse().unwrap()).map_err(|fatal| fatal.sentence)
        };
        for engine in ["embedded", "fdb"] {
            let is = |advertise, listens_at, expected: &str| {
                assert_eq!(advertised(engine, advertise, listens_at).as_deref(), Ok(expected));
            };
            is("", "10.0.0.5:7400", "10.0.0.5:7400");
            is("a.example.org:7400", "0.0.0.0:7400", "a.example.org:7400");
            is("[fd00::5]:1", "[::]:7400", "[fd00::5]:1");
        }
        assert_eq!(
            advertised("embedded", "", "0.0.0.0:7400").ok().as_deref(),
            Some(""),
            "nobody else has to find it"
        );
        for (advertise, listens_at) in [("", "0.0.0.0:7400"), ("", "[::]:7400"), ("here", "10.0.0.5:7400")] {
            let told = advertised("fdb", advertise, listens_at).unwrap_err();
            assert!(told.contains("router.advertise") && told.contains("--set"), "{told}");
        }
    }
}
