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
    /// allows, and says why not the one before it; `monoio` is the portable one and does without io_uring in the same way.
    ///
    /// # Errors
    /// Status 2 for an unknown name, for a driver that is refused here, or for sizes that no ring has.
    pub fn choose(io: &Io) -> Result<Choice, Fatal> {
        Sizes::of(io)?;
        match io.driver.as_str() {
            "auto" => Ok(Driver::first_of(uring::probe(), monoio::probe_uring())),
            "uring" => Driver::Uring.if_allowed(uring::probe()),
            "monoio" => Ok(Driver::portable(monoio::probe_uring())),
            "monoio-epoll" => Ok(Choice::of(Driver::MonoioEpoll)),
            other => Err(Fatal::config(format!(
                "io.driver \"{other}\" is not known: use auto, uring, monoio or monoio-epoll"
            ))),
        }
    }

    /// The first whose probe went well; the last needs none.
    fn first_of(uring: Result<(), String>, monoio: Result<(), String>) -> Choice {
        match uring {
            Ok(()) => Choice::of(Driver::Uring),
            Err(why) => Driver::portable(monoio).instead_of(Driver::Uring, &why),
        }
    }

    /// monoio on whatever it may have.
    fn portable(monoio: Result<(), String>) -> Choice {
        match monoio {
            Ok(()) => Choice::of(Driver::Monoio),
            Err(why) => Choice::of(Driver::MonoioEpoll).instead_of(Driver::Monoio, &why),
        }
    }

    fn if_allowed(self, probed: Result<(), String>) -> Result<Choice, Fatal> {
        let name = self.name();
        probed.map(|()| Choice::of(self)).map_err(|why| {
            Fatal::config(format!(
                "io.driver={name} needs io_uring, which is refused here ({why}): use --set io.driver=auto, or allow \
                 io_uring_setup, io_uring_enter and io_uring_register in what confines this process (a seccomp profile, or \
                 kernel.io_uring_disabled)"
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

    /// Its name, and what it stands on where that is not the same.
    const fn full_name(self) -> &'static str {
        match self {
            Driver::Monoio => "monoio (io_uring)",
            Driver::Uring | Driver::MonoioEpoll => self.name(),
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
        Choice { driver, detail: driver.full_name().to_owned(), is_fallback: false }
    }

    /// Says why it is not the better one.
    fn instead_of(self, better: Driver, why: &str) -> Choice {
        let (own, better) = (self.driver.full_name(), better.name());
        let detail =
            format!("{own}: the driver {better} is refused here ({why}); expect more CPU per message");
        Choice { detail, is_fallback: true, ..self }
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
        for (monoio, driver) in [(Ok(()), Driver::Monoio), (refused(), Driver::MonoioEpoll)] {
            let choice = Driver::portable(monoio);
            assert_eq!((choice.driver, choice.is_fallback), (driver, driver != Driver::Monoio));
            assert_eq!(
                choice.is_fallback,
                choice.detail.contains("monoio is refused here (Operation"),
                "{choice:?}"
            );
        }
        assert!(Driver::Uring.if_allowed(refused()).is_err());
    }
}
