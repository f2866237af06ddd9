//! The page and the client module in a real browser: Chromium, headless, driven by the DevTools protocol, against a real
//! server that is killed and a network that is cut.
//!
//! # Invariants
//! - The browser is told what a person would do (type, press, click), or asked what is on the screen. No part of the
//!   page or of the module knows that it is tested.
//! - Whatever the page logs as an error or throws makes its scenario fail.

use std::path::PathBuf;

pub mod chat;
pub mod chromium;
pub mod cuts;
pub mod looks;
pub mod outage;
pub mod pictures;
pub mod proxy;
pub mod scripted;

use chromium::{Browser, Tab};

/// What the scenarios are given.
pub struct Trial {
    /// The server's binary.
    pub binary: String,
    /// Where screenshots go; none are kept when absent.
    pub screenshots: Option<PathBuf>,
    /// Where the README's picture goes; it is not made when absent.
    pub picture: Option<PathBuf>,
    /// Decides where connections are cut.
    pub seed: u64,
    /// Messages of the cut run.
    pub messages_count: usize,
    /// Cuts of that run.
    pub cuts_count: u32,
}

/// What a scenario found: a line about what it did, or what is wrong.
pub type Verdict = Result<String, String>;

/// A scenario: the browser is the same for all, everything else is its own.
pub type Scenario = fn(&Trial, &mut Browser) -> Verdict;

/// Every scenario by its name.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("scripted", scripted::frame_by_frame),
    ("chat", chat::two_tabs),
    ("outage", outage::kill_and_return),
    ("cuts", cuts::two_hundred_cuts),
    ("throttle", cuts::throttle),
    ("looks", looks::phone_and_desktop),
    ("size", cuts::size),
];

/// The ready users of the development page, in its order.
pub const ALICE: &str = "alice";
/// See [`ALICE`].
pub const BOB: &str = "bob";
/// See [`ALICE`].
pub const CAROL: &str = "carol";

/// A tab in which `user` has chosen themselves and caught up.
///
/// # Errors
/// It does not come so far.
pub fn sign_in(browser: &mut Browser, address: std::net::SocketAddr, user: &str) -> Result<Tab, String> {
    let tab = browser.open(&format!("http://{address}/"))?;
    browser.until(&tab, &format!("document.querySelector('#user-list [data-user={user}]')"))?;
    browser.click(&tab, &format!("#user-list [data-user={user}]"))?;
    browser.until(&tab, &format!("{STATE} === 'online'"))?;
    Ok(tab)
}

/// What the page shows of its connection.
pub const STATE: &str = "document.querySelector('#state')?.dataset.state";

/// Writes a message into the open conversation and sends it.
///
/// # Errors
/// The browser does not obey.
pub fn say(browser: &mut Browser, tab: &Tab, text: &str) -> Result<(), String> {
    browser.write(tab, "#composer", text)?;
    browser.press_enter(tab)
}

/// Starts a conversation by names, as `tab`'s user.
///
/// # Errors
/// It is not opened.
pub fn talk_to(browser: &mut Browser, tab: &Tab, names: &str) -> Result<(), String> {
    browser.write(tab, "#start-names", names)?;
    browser.press_enter(tab)?;
    // Another chat may have been open: the names go when theirs is.
    let is_open =
        "document.querySelector('#start-names').value === '' && !document.querySelector('#chat').hidden";
    browser.until(tab, is_open).map(drop)
}

/// Opens the conversation that the list shows under this name.
///
/// # Errors
/// There is none.
pub fn open_chat(browser: &mut Browser, tab: &Tab, name: &str) -> Result<(), String> {
    let row = format!("#conversations [data-name=\"{name}\"] button");
    browser.until(tab, &format!("document.querySelector('{row}')"))?;
    browser.click(tab, &row)?;
    browser.until(tab, &format!("document.querySelector('#chat-name').textContent === '{name}'")).map(drop)
}

/// JavaScript for the message with this text, as an element of the list.
#[must_use]
pub fn bubble(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#messages li')]\
         .find((one) => one.querySelector('.text')?.textContent === {})",
        serde_json::Value::from(text)
    )
}
