//! Which driver moves the bytes: chosen once, at start, and told to everybody who asks (log, metric, `/readyz`).

use carillon_node::exit::Fatal;

use super::monoio;
use super::uring::{self, Sizes};
use crate::settings::Io;

/// The driver in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Our own, on io_uring.
    Uring,
    /// monoio on io_uring.
    Monoio,
    /// monoio on epoll.
    MonoioEpoll,
}

/// Values of the label `driver`.
pub(super) const NAMES: &[&str] = &["monoio", "monoio-epoll", "uring"];

/// Which driver it is, and how it came to that.
#[derive(Debug)]
pub struct Choice {
    /// The driver.
    pub driver: Driver,
    /// Its name, and why it is not another, if that is so.
    pub detail: String,
    /// Whether a better one was refused here.
    pub is_fallback: bool,
}

impl Driver {
    /// Picks the driver that `io.driver` names. `auto` takes the first that the kernel, or the container around this process,
    /// allows, and says why not the one before it.
    ///
    /// # Errors
    /// Status 2 for an unknown name, for a driver that is refused here, or for sizes that no ring has.
    pub fn choose(io: &Io) -> Result<Choice, Fatal> {
        Sizes::of(io)?;
        match io.driver.as_str() {
            "auto" => Ok(Driver::first_of(uring::probe(), monoio::probe_uring())),
            "uring" => Driver::Uring.if_allowed(uring::probe()),
            "monoio" => Driver::Monoio.if_allowed(monoio::probe_uring()),
            "monoio-epoll" => Ok(Choice::of(Driver::MonoioEpoll)),
            other => Err(Fatal::config(format!(
                "io.driver \"{other}\" is not known: use auto, uring, monoio or monoio-epoll"
            ))),
        }
    }

    /// The first whose probe went well; the last needs none.
    fn first_of(uring: Result<(), String>, monoio: Result<(), String>) -> Choice {
        let Err(why) = uring else { return Choice::of(Driver::Uring) };
        let choice = Choice::of(if monoio.is_ok() { Driver::Monoio } else { Driver::MonoioEpoll });
        let detail = format!(
            "{}: the driver uring is refused here ({why}); expect more CPU per message",
            choice.detail
        );
        Choice { detail, is_fallback: true, ..choice }
    }

    fn if_allowed(self, probed: Result<(), String>) -> Result<Choice, Fatal> {
        let name = self.name();
        probed.map(|()| Choice::of(self)).map_err(|why| {
            Fatal::config(format!(
                "io.driver={name} needs io_uring, which is refused here ({why}): use --set io.driver=auto"
            ))
        })
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Monoio => "monoio",
            Driver::MonoioEpoll => "monoio-epoll",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Driver::Monoio => 0,
            Driver::MonoioEpoll => 1,
            Driver::Uring => 2,
        }
    }
}

impl Choice {
    fn of(driver: Driver) -> Choice {
        let detail = match driver {
            Driver::Monoio => "monoio (io_uring)".to_owned(),
            Driver::Uring | Driver::MonoioEpoll => driver.name().to_owned(),
        };
        Choice { driver, detail, is_fallback: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best driver that is allowed is taken, and who has to make do with another is told why.
    #[test]
    fn a_fallback_says_why() {
        let refused = || Err("Operation not permitted".to_owned());
        for (uring, monoio, driver) in [
            (Ok(()), Ok(()), Driver::Uring),
            (refused(), Ok(()), Driver::Monoio),
            (refused(), refused(), Driver::MonoioEpoll),
        ] {
            let choice = Driver::first_of(uring, monoio);
            assert_eq!((choice.driver, choice.is_fallback), (driver, driver != Driver::Uring));
            assert!(choice.detail.starts_with(driver.name()));
            assert_eq!(choice.is_fallback, choice.detail.contains("Operation not permitted"), "{choice:?}");
        }
    }
}
