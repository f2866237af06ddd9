//! How the page looks: on a phone and on a desktop, in light and in dark, with a chat that people could have had.

use super::chromium::{Browser, Tab};
use super::{ALICE, BOB, Trial, Verdict, bubble, open_chat, pictures, say, sign_in, talk_to};
use crate::server::{Deployment, Server};

/// Who says what.
const TALK: [(bool, &str); 9] = [
    (true, "Morning! Did the bells arrive?"),
    (false, "They did. Twenty-three of them, the smallest fits into a coat pocket."),
    (false, "The largest needed a crane."),
    (true, "And is every single one there?"),
    (false, "Counted them twice. None lost, none doubled, and they ring in the order in which I pull."),
    (true, "Then it is a carillon."),
    (
        false,
        "Come by on Saturday? We play at noon, and there will be soup afterwards for all who helped to carry.",
    ),
    (true, "I'll be there 👍"),
    (false, "Bring a hat."),
];

/// The page fits a phone (390 × 844) and a desktop (1280 × 800): nothing sticks out, and what has to be reached is in
/// reach. Screenshots go where they are wanted.
///
/// # Errors
/// What does not fit.
pub fn phone_and_desktop(trial: &Trial, browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let address = server.address();
    let welcome = browser.open(&format!("http://{address}/"))?;
    browser.until(&welcome, "document.querySelectorAll('#user-list button').length >= 2")?;
    let mut shots = Shots { trial, count: 0 };
    for (name, width, height, is_phone) in SCREENS {
        browser.screen(&welcome, width, height, is_phone)?;
        shots.take(browser, &welcome, &format!("welcome-{name}"), width)?;
    }
    browser.close(&welcome)?;

    let alice = sign_in(browser, address, ALICE)?;
    let bob = sign_in(browser, address, BOB)?;
    talk_to(browser, &alice, "bob, carol")?;
    say(browser, &alice, "Who has the key to the tower?")?;
    let group = browser.evaluate(&alice, "document.querySelector('#chat-name').textContent")?;
    open_chat(browser, &bob, group.as_str().unwrap_or_default())?;
    say(browser, &bob, "It hangs behind the door, where it always does.")?;
    talk_to(browser, &alice, BOB)?;
    open_chat(browser, &bob, ALICE)?;
    for (is_alice, text) in TALK {
        let (speaker, listener) = if is_alice { (&alice, &bob) } else { (&bob, &alice) };
        say(browser, speaker, text)?;
        browser.until(listener, &bubble(text))?;
    }
    embellish(browser, &alice, &bob)?;
    browser.until(&alice, "document.querySelector('#messages li.mine[data-status=read]')")?;
    for (name, width, height, is_phone) in SCREENS {
        for is_dark in [false, true] {
            let shade = if is_dark { "dark" } else { "light" };
            browser.screen(&alice, width, height, is_phone)?;
            browser.darken(&alice, is_dark)?;
            browser.evaluate(&alice, "document.querySelector('#scroll').scrollTop = 1e6")?;
            in_reach(browser, &alice, &["#composer", "#send", "#chat-name"])?;
            shots.take(browser, &alice, &format!("chat-{name}-{shade}"), width)?;
        }
        if is_phone {
            browser.darken(&alice, false)?;
            browser.click(&alice, "#back")?;
            in_reach(browser, &alice, &["#start-names", "#conversations li", "#state"])?;
            shots.take(browser, &alice, &format!("list-{name}"), width)?;
        }
    }
    browser.close(&alice)?;
    browser.close(&bob)?;
    Ok(format!("{} screens fit", shots.count))
}

const SCREENS: [(&str, u32, u32, bool); 2] = [("desktop", 1280, 800, false), ("phone", 390, 844, true)];

/// A picture, a reaction, somebody typing.
fn embellish(browser: &mut Browser, alice: &Tab, bob: &Tab) -> Result<(), String> {
    let picture = format!("http://{}/sky.bmp", pictures::serve().map_err(|error| error.to_string())?);
    browser.click(bob, "#attach")?;
    browser.write(bob, "#image-url", &picture)?;
    say(browser, bob, "Yesterday, from the tower")?;
    browser.until(
        alice,
        &format!("{}?.querySelector('img')?.naturalWidth", bubble("Yesterday, from the tower")),
    )?;
    let praised = bubble("Yesterday, from the tower");
    browser.click_on(alice, &format!("{praised}.querySelector('.open-menu')"))?;
    browser.click(alice, "#emojis [data-emoji='❤️']")?;
    browser.until(bob, &format!("{praised}.querySelector('.reactions button')"))?;
    say(browser, alice, "Beautiful!")?;
    browser.until(bob, &bubble("Beautiful!")).map(drop)
}

fn in_reach(browser: &mut Browser, tab: &Tab, selectors: &[&str]) -> Result<(), String> {
    for selector in selectors {
        let is_seen = format!(
            "(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();\
             return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.top >= 0\
             && box.bottom <= innerHeight; }})()"
        );
        if browser.evaluate(tab, &is_seen)? != true {
            return Err(format!("{selector} is outside of the screen"));
        }
    }
    Ok(())
}

struct Shots<'a> {
    trial: &'a Trial,
    count: usize,
}

impl Shots<'_> {
    fn take(&mut self, browser: &mut Browser, tab: &Tab, name: &str, width: u32) -> Result<(), String> {
        // Two frames: what the last change moved is drawn.
        browser.evaluate(
            tab,
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)",
        )?;
        let drawn_width = browser.evaluate(tab, "document.documentElement.scrollWidth")?;
        if drawn_width.as_u64().is_none_or(|drawn| drawn > u64::from(width)) {
            return Err(format!("{name} is {drawn_width} pixels wide on a screen of {width}"));
        }
        self.count += 1;
        let Some(directory) = &self.trial.screenshots else { return Ok(()) };
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        browser.screenshot(tab, &directory.join(format!("{name}.png")))
    }
}
