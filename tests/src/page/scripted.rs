//! The client module against a server of our own making, inside the page: holes, repeats, early acks, `behind`, `reset`,
//! close codes, in the order in which `scripted.js` writes them down.

use super::chromium::Browser;
use super::{Trial, Verdict};
use crate::server::{Deployment, Server};

const SCRIPT: &str = include_str!("scripted.js");

/// OR4, SC7, FU5b, FU6b: what the module makes of every frame that needs a decision.
///
/// # Errors
/// What it did instead.
pub fn frame_by_frame(trial: &Trial, browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &[]);
    let tab = browser.open(&format!("http://{}/carillon.d.ts", server.address()))?;
    let wrong = browser.evaluate(&tab, SCRIPT)?;
    browser.close(&tab)?;
    let wrong = wrong.as_array().ok_or("the script did not end")?;
    if wrong.is_empty() {
        let steps = SCRIPT.matches("  same(").count();
        return Ok(format!("{steps} expectations"));
    }
    Err(wrong.iter().map(|one| format!("\n  {}", one.as_str().unwrap_or_default())).collect())
}
