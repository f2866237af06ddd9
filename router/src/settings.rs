//! The settings that the router owns, as `router.toml` documents them.

use serde::Deserialize;

/// Every setting with its default and why: hand it to the configuration's builder.
pub const DEFAULTS: &str = include_str!("../router.toml");

/// All sections.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `router.*`
    pub router: RouterSettings,
    /// `store.*`
    pub store: StoreSettings,
    /// `fanout.*`
    pub fanout: FanoutSettings,
    /// `conversations.*`
    pub conversations: ConversationsSettings,
}

/// `router.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// Address for gateways of other processes.
    pub listen: String,
    /// Threads that read the store.
    pub readers: usize,
}

/// `store.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// `embedded` or `memory`.
    pub engine: String,
    /// Bound of the embedded store's overlay.
    pub overlay_bytes: u64,
    /// Free space that is kept.
    pub reserve_bytes: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
}

/// `fanout.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FanoutSettings {
    /// What a turn may look at.
    pub turn_users_max: usize,
}

/// `conversations.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConversationsSettings {
    /// The most members of a group.
    pub max_members: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_all_keys_and_no_others() {
        let settings: Settings = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(settings.conversations.max_members, 1_000);
        assert_eq!(settings.router.listen, "127.0.0.1:7400");
    }
}
