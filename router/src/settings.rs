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
    /// `limits.*`
    pub limits: LimitsSettings,
    /// `presence.*`
    pub presence: PresenceSettings,
    /// `typing.*`
    pub typing: TypingSettings,
    /// `receipts.*`
    pub receipts: ReceiptsSettings,
}

/// `router.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// Address for gateways of other processes.
    pub listen: String,
    /// Where others reach this router; empty: at `listen`.
    pub advertise: String,
    /// Threads that read the store.
    pub readers: usize,
}

/// `store.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// `embedded`, `memory` or `fdb`.
    pub engine: String,
    /// FoundationDB's cluster file.
    pub cluster_file: String,
    /// The store's name in its cluster.
    pub key_prefix: String,
    /// How long events are kept.
    pub retention: Retention,
    /// Bound of the embedded store's overlay.
    pub overlay_bytes: u64,
    /// Free space that is kept.
    pub reserve_bytes: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
}

/// How long events are kept.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// For ever.
    Unlimited,
}

/// `fanout.*`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FanoutSettings {
    /// What a turn may look at.
    pub turn_users_max: usize,
    /// Members up to which an event is handed on in the turn of its commit.
    pub direct_max: usize,
    /// Members above which it waits behind the events of smaller conversations.
    pub queue_min: usize,
}

/// `conversations.*`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConversationsSettings {
    /// The most members of a group.
    pub max_members: u64,
}

/// `limits.*`, as far as the router holds it: what has to hold across gateways. The section is shared with the gateway,
/// whose keys are let pass.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct LimitsSettings {
    /// Commands of one user a second; 0: no limit. The gateway's defaults name it, and tell clients.
    #[serde(default)]
    pub send_per_s: u64,
    /// Commands of one user at once.
    #[serde(default)]
    pub send_burst: u64,
    /// Changes of one conversation a second; 0: no limit.
    pub conversation_per_s: u64,
    /// Changes of one conversation at once.
    pub conversation_burst: u64,
}

/// `presence.*`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PresenceSettings {
    /// Milliseconds from the loss of the last connection.
    pub offline_after_ms: u64,
    /// Users.
    pub transitions_per_turn: usize,
    /// Of whom one may hear.
    pub scope: PresenceScope,
}

/// Of whom one may hear.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PresenceScope {
    /// Users with whom one shares a conversation.
    Shared,
    /// Users with whom one has a conversation of two.
    #[serde(rename = "open_1to1")]
    OpenOneToOne,
}

/// `typing.*`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TypingSettings {
    /// Members.
    pub members_max: usize,
}

/// `receipts.*`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsSettings {
    /// In groups of more than [`SMALL_GROUP_MEMBERS_MAX`](carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX).
    pub large: LargeReceipts,
}

/// What senders in large groups hear.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LargeReceipts {
    /// How many members got so far.
    Counted,
    /// Nothing.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_all_keys_and_no_others() {
        let settings: Settings = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(settings.conversations.max_members, 1_000);
        assert_eq!(settings.store.retention, Retention::Unlimited);
        assert_eq!(settings.router.listen, "127.0.0.1:7400");
    }
}
