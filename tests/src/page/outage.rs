//! The server is killed under the page, and comes back.

use serde_json::{Value, json};

use super::chromium::{Browser, Tab};
use super::{ALICE, BOB, STATE, Trial, Verdict, bubble, open_chat, say, sign_in, talk_to};
use crate::http::request;
use crate::server::{Deployment, Server};

/// Messages before, during and after each outage.
const EACH_COUNT: usize = 4;
/// Outages.
const KILLS: usize = 2;

/// FR5: SIGKILL in the middle of a chat. The page shows that it reconnects; what is written meanwhile waits, grey, and
/// arrives exactly once and in order when the server is back on its data directory.
///
/// # Errors
/// What was lost, doubled, or not shown.
pub fn kill_and_return(trial: &Trial, browser: &mut Browser) -> Verdict {
    let mut server = Server::start(&trial.binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let alice = sign_in(browser, server.address(), ALICE)?;
    let bob = sign_in(browser, server.address(), BOB)?;
    talk_to(browser, &alice, BOB)?;
    open_chat(browser, &bob, ALICE)?;
    let mut said = Vec::new();
    for kill in 0..KILLS {
        say_some(browser, &alice, &mut said, &format!("before {kill}"))?;
        // Not waited for: the kill meets what is on its way.
        server.gateway.as_mut().map(crate::server::Process::kill).ok_or("no server")?;
        for tab in [&alice, &bob] {
            browser.until(tab, "document.querySelector('#state').textContent.startsWith('reconnecting')")?;
            browser.until(tab, "document.querySelector('#banner #retry').checkVisibility()")?;
        }
        let first = said.len();
        say_some(browser, &alice, &mut said, &format!("during {kill}"))?;
        for text in said.iter().skip(first) {
            browser.until(&alice, &format!("{}?.dataset.status === 'pending'", bubble(text)))?;
        }
        server.start_gateway();
        for tab in [&alice, &bob] {
            // Whoever is impatient presses the button; it must not be needed, so only one of them does.
            browser.evaluate(&bob, "document.querySelector('#retry').click()")?;
            browser.until(tab, &format!("{STATE} === 'online'"))?;
            browser.until(tab, "document.querySelector('#banner').hidden")?;
        }
        say_some(browser, &alice, &mut said, &format!("after {kill}"))?;
        let last = said.last().ok_or("nothing was said")?;
        browser.until(&bob, &bubble(last))?;
        browser.until(&alice, &format!("{}?.dataset.status === 'read'", bubble(last)))?;
    }
    browser.until(&alice, "!document.querySelector('#messages [data-status=pending]')")?;
    let texts = "[...document.querySelectorAll('#messages .text')].map((one) => one.textContent)";
    for (who, tab) in [(ALICE, &alice), (BOB, &bob)] {
        let shown = browser.evaluate(tab, texts)?;
        if shown != json!(said) {
            return Err(format!("{who} sees {shown}, said was {said:?}"));
        }
    }
    let stored = history(browser, &alice, &server)?;
    if stored != said {
        return Err(format!("stored is {stored:?}, said was {said:?}"));
    }
    browser.close(&alice)?;
    browser.close(&bob)?;
    Ok(format!("{KILLS} kills, {} messages, each there once and in order", said.len()))
}

fn say_some(browser: &mut Browser, tab: &Tab, said: &mut Vec<String>, what: &str) -> Result<(), String> {
    for number in 0..EACH_COUNT {
        let text = format!("{what}, {number}");
        say(browser, tab, &text)?;
        said.push(text);
    }
    Ok(())
}

/// What the server has, oldest first.
fn history(browser: &mut Browser, tab: &Tab, server: &Server) -> Result<Vec<String>, String> {
    let conversation =
        browser.evaluate(tab, "document.querySelector('#conversations li').dataset.conversation")?;
    let path = format!("/v1/conversations/{}/messages?limit=200", conversation.as_str().unwrap_or_default());
    let answer = request(server.address(), "GET", &path, Some(&server.token(1, "default")), &[], None);
    let messages = answer.body["messages"].as_array().ok_or_else(|| answer.text.clone())?;
    let content = |message: &Value| message["content"].as_str().unwrap_or_default().to_owned();
    Ok(messages.iter().rev().map(content).collect())
}
