//! Time as data. Nothing in this crate reads a clock: whoever stands at a border reads it once a turn and hands it in.

use std::time::Duration;

/// A point on a monotonic clock, in nanoseconds since an epoch that only this process knows. It orders what happens
/// inside one process and is never stored, sent or compared with another process's (G16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `duration` after this one; the far future when that cannot be represented.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The moment `millis` milliseconds after this one.
    #[must_use]
    pub fn after_ms(self, millis: u64) -> Time {
        Time(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time in milliseconds since the Unix epoch, UTC. For display and token expiry only: never for order,
/// ownership or the idempotency window (G16).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct WallMs(pub u64);

#[cfg(feature = "schema")]
impl schemars::JsonSchema for WallMs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "integer",
            "minimum": 0,
            "description": "Milliseconds since the Unix epoch, UTC, by the server's clock.",
        })
    }
}
