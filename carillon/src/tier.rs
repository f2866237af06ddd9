//! The tiers of a cluster.

/// Which tiers this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// A gateway and a router.
    Both,
    /// Only the gateway.
    Gateway,
    /// Only the router.
    Router,
}

impl Tier {
    /// Whether clients connect here.
    #[must_use]
    pub fn has_gateway(self) -> bool {
        self != Tier::Router
    }

    /// Whether conversations are ordered here.
    #[must_use]
    pub fn has_router(self) -> bool {
        self != Tier::Gateway
    }
}
