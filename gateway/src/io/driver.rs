//! Which driver moves the bytes: chosen once, at start, and told to everybody who asks (log, metric, `/readyz`).

use carillon_node::exit::Fatal;

use super::monoio::{self, Engine};

/// The driver in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// monoio on io_uring.
    Monoio,
    /// monoio on epoll.
    MonoioEpoll,
}

/// Values of the label `driver`.
pub(super) const NAMES: &[&str] = &["monoio", "monoio-epoll"];

impl Driver {
    /// Picks the driver that `io.driver` names. `auto` takes io_uring where the kernel, or the container around this
    /// process, allows it, and says why when it does not.
    ///
    /// # Errors
    /// Status 2 for an unknown name, or for `monoio` where io_uring is refused.
    pub fn choose(setting: &str) -> Result<(Driver, String), Fatal> {
        match setting {
            "auto" => Ok(match monoio::probe_uring() {
                Ok(()) => (Driver::Monoio, "monoio (io_uring)".to_owned()),
                Err(why) => (
                    Driver::MonoioEpoll,
                    format!("monoio-epoll: io_uring is refused here ({why}); expect more CPU per message"),
                ),
            }),
            "monoio" => match monoio::probe_uring() {
                Ok(()) => Ok((Driver::Monoio, "monoio (io_uring)".to_owned())),
                Err(why) => Err(Fatal::config(format!(
                    "io.driver=monoio needs io_uring, which is refused here ({why}): use --set io.driver=auto"
                ))),
            },
            "monoio-epoll" => Ok((Driver::MonoioEpoll, "monoio-epoll".to_owned())),
            other => Err(Fatal::config(format!(
                "io.driver \"{other}\" is not known: use auto, monoio or monoio-epoll"
            ))),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Monoio => "monoio",
            Driver::MonoioEpoll => "monoio-epoll",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Driver::Monoio => 0,
            Driver::MonoioEpoll => 1,
        }
    }

    pub(super) const fn engine(self) -> Engine {
        match self {
            Driver::Monoio => Engine::Uring,
            Driver::MonoioEpoll => Engine::Epoll,
        }
    }
}
