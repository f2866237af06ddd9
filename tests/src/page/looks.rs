//! How the page looks: on a phone and on a desktop, in light and in dark, with chats that people could have had.

use std::net::SocketAddr;

use serde_json::json;

use super::chromium::{Browser, Tab};
use super::{ALICE, BOB, CAROL, STATE, Trial, Verdict, bubble, open_chat, pictures, say, sign_in, talk_to};
use crate::http::request;
use crate::server::{Deployment, Process, Server};

const GROUP: &str = "Saturday at the tower";

/// Who says what in the group: indices into the three.
const GROUP_TALK: [(usize, &str); 9] = [
    (1, "Morning! Did the new bells arrive?"),
    (2, "They did. Twenty-three of them."),
    (2, "The smallest fits into a coat pocket, the largest needed a crane."),
    (0, "And is every single one there?"),
    (2, "Counted them twice: none lost, none doubled, and they ring in the order in which I pull."),
    (0, "Then it is a carillon."),
    (1, "🎉"),
    (2, "We play on Saturday at noon, with soup afterwards for all who helped to carry."),
    (0, "I'll be there. Shall I bring bread?"),
];
/// What carol shows them, and what bob says to it.
const PICTURED: &str = "Yesterday evening, seen from the bridge";
const PRAISE: &str = "Beautiful. That goes on the poster!";

/// Window sizes, and whether fingers are used there.
const SCREENS: [(&str, u32, u32, bool); 2] = [("desktop", 1280, 800, false), ("phone", 390, 844, true)];

/// The page fits a phone (390 × 844) and a desktop (1280 × 800): nothing sticks out, and what has to be reached is in
/// reach: with nobody there yet, in a group's chat, in the list, and without a connection. Screenshots go where they
/// are wanted.
///
/// # Errors
/// What does not fit.
pub fn phone_and_desktop(trial: &Trial, browser: &mut Browser) -> Verdict {
    let mut server = Server::start(&trial.binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let address = server.address();
    let mut shots = Shots { trial, count: 0 };
    let welcome = browser.open(&format!("http://{address}/"))?;
    browser.until(&welcome, "document.querySelectorAll('#user-list button').length >= 3")?;
    shots.of_all_screens(browser, &welcome, "welcome", &["#user-list button"])?;
    browser.close(&welcome)?;

    // In a tab of its own: once a tab had a touch screen, it has no mouse any more.
    let nobody = sign_in(browser, address, ALICE)?;
    browser.until(&nobody, "document.querySelector('#suggestions button').offsetWidth")?;
    shots.of_all_screens(browser, &nobody, "nobody", &["#start-names", "#suggestions button", "#state"])?;
    browser.close(&nobody)?;

    let mut tabs = Vec::new();
    for user in [ALICE, BOB, CAROL] {
        tabs.push(sign_in(browser, address, user)?);
    }
    let [alice, bob, carol] = tabs.as_slice() else { return Err("three are needed".to_owned()) };
    group_chat(browser, &server, [alice, bob, carol])?;
    asides(browser, alice, [bob, carol])?;
    open_chat(browser, alice, GROUP)?;
    for (screen, width, height, is_phone) in SCREENS {
        browser.screen(alice, width, height, is_phone)?;
        for (shade, is_dark) in [("light", false), ("dark", true)] {
            browser.darken(alice, is_dark)?;
            browser.evaluate(alice, "document.querySelector('#scroll').scrollTop = 1e6")?;
            in_reach(browser, alice, &["#composer", "#send", "#chat-name"])?;
            shots.take(browser, alice, &format!("chat-{screen}-{shade}"), width)?;
        }
    }
    browser.click(alice, "#back")?;
    for (shade, is_dark) in [("dark", true), ("light", false)] {
        browser.darken(alice, is_dark)?;
        in_reach(browser, alice, &["#start-names", "#conversations li", "#state"])?;
        shots.take(browser, alice, &format!("list-phone-{shade}"), 390)?;
    }
    open_chat(browser, alice, GROUP)?;
    if let Some(file) = &trial.picture {
        poster(browser, [alice, bob], file)?;
    }
    server.gateway.as_mut().map(Process::kill).ok_or("no server")?;
    browser.until(alice, &format!("{STATE} === 'waiting'"))?;
    // The banner takes some room, and a phone has less: what was said last stays in sight.
    let last = "#messages li:last-child";
    shots.of_all_screens(browser, alice, "away", &["#banner", "#retry", "#composer", last])?;
    for tab in &tabs {
        browser.close(tab)?;
    }
    Ok(format!("{} screens fit", shots.count))
}

/// A group that has a name, a lively talk, a picture, a reply and reactions.
fn group_chat(browser: &mut Browser, server: &Server, tabs: [&Tab; 3]) -> Result<(), String> {
    let [alice, bob, carol] = tabs;
    talk_to(browser, alice, "bob, carol")?;
    rename(browser, alice, server.address())?;
    for tab in [bob, carol] {
        open_chat(browser, tab, GROUP)?;
    }
    for (speaker, text) in GROUP_TALK {
        say(browser, tabs[speaker], text)?;
        for tab in tabs {
            browser.until(tab, &bubble(text))?;
        }
    }
    let picture = format!("http://{}/tower.svg", pictures::serve().map_err(|error| error.to_string())?);
    browser.click(carol, "#attach")?;
    browser.write(carol, "#image-url", &picture)?;
    say(browser, carol, PICTURED)?;
    for tab in tabs {
        browser.until(tab, &format!("{}?.querySelector('img')?.naturalWidth", bubble(PICTURED)))?;
    }
    reply(browser, bob, PICTURED, PRAISE)?;
    // The next click is on what stays where it is: everything moves up when a message comes, and one is drawn anew when a
    // reaction comes.
    let last = format!("{}?.querySelector('.quote')", bubble(PRAISE));
    for tab in [alice, bob] {
        browser.until(tab, &last)?;
    }
    for (tab, text, emoji) in [(alice, PICTURED, "❤️"), (bob, PICTURED, "❤️"), (bob, GROUP_TALK[8].1, "👍")]
    {
        browser.click_on(tab, &format!("{}.querySelector('.open-menu')", bubble(text)))?;
        browser.click(tab, &format!("#emojis [data-emoji='{emoji}']"))?;
        for tab in [alice, bob] {
            browser.until(tab, &format!("{}?.querySelector('.reactions button')", bubble(text)))?;
        }
    }
    let all_read = format!("{}?.dataset.status === 'read'", bubble(GROUP_TALK[8].1));
    browser.until(alice, &all_read).map(drop)
}

/// As any client may; the page shows it.
fn rename(browser: &mut Browser, alice: &Tab, address: SocketAddr) -> Result<(), String> {
    let token =
        browser.evaluate(alice, "JSON.parse(document.querySelector('#users').textContent)[0].token")?;
    let group =
        browser.evaluate(alice, "document.querySelector('#conversations li').dataset.conversation")?;
    let path = format!("/v1/conversations/{}", group.as_str().unwrap_or_default());
    let answer = request(address, "PATCH", &path, token.as_str(), &[], Some(&json!({"group_name": GROUP})));
    if answer.status != 200 {
        return Err(format!("the group was not renamed: {}", answer.text));
    }
    browser.until(alice, &format!("document.querySelector('#chat-name').textContent === '{GROUP}'")).map(drop)
}

/// What alice has not read yet, and what she wrote last.
fn asides(browser: &mut Browser, alice: &Tab, [bob, carol]: [&Tab; 2]) -> Result<(), String> {
    talk_to(browser, alice, CAROL)?;
    say(browser, alice, "Thank you for the soup!")?;
    // Rows move while news come in; then they lie still.
    let unread = |name: &str, count: usize| {
        format!("document.querySelector('#conversations [data-name={name}][data-unread=\"{count}\"]')")
    };
    browser.until(carol, &unread(ALICE, 1))?;
    open_chat(browser, carol, ALICE)?;
    browser.until(carol, &bubble("Thank you for the soup!"))?;
    open_chat(browser, alice, GROUP)?;
    talk_to(browser, bob, ALICE)?;
    say(browser, bob, "Have you seen my other glove?")?;
    say(browser, bob, "The left one, of course.")?;
    browser.until(alice, &unread(BOB, 2))?;
    open_chat(browser, bob, GROUP)
}

fn reply(browser: &mut Browser, tab: &Tab, to: &str, text: &str) -> Result<(), String> {
    browser.click_on(tab, &format!("{}.querySelector('.open-menu')", bubble(to)))?;
    browser.click(tab, "#menu-reply")?;
    say(browser, tab, text)
}

fn in_reach(browser: &mut Browser, tab: &Tab, selectors: &[&str]) -> Result<(), String> {
    for selector in selectors {
        let is_seen = format!(
            "(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();\
             return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.top >= 0\
             && box.bottom <= innerHeight; }})()"
        );
        // The page learns of a screen's size a frame later than the browser.
        browser.until(tab, &is_seen).map_err(|why| format!("{selector} is outside of the screen: {why}"))?;
    }
    Ok(())
}

struct Shots<'a> {
    trial: &'a Trial,
    count: usize,
}

impl Shots<'_> {
    /// On each screen, in light; what has to be in reach is.
    fn of_all_screens(
        &mut self,
        browser: &mut Browser,
        tab: &Tab,
        name: &str,
        selectors: &[&str],
    ) -> Result<(), String> {
        for (screen, width, height, is_phone) in SCREENS {
            browser.screen(tab, width, height, is_phone)?;
            in_reach(browser, tab, selectors)?;
            self.take(browser, tab, &format!("{name}-{screen}"), width)?;
        }
        Ok(())
    }

    fn take(&mut self, browser: &mut Browser, tab: &Tab, name: &str, width: u32) -> Result<(), String> {
        let drawn_width = browser.evaluate(tab, "document.documentElement.scrollWidth")?;
        if drawn_width.as_u64().is_none_or(|drawn| drawn > u64::from(width)) {
            return Err(format!("{name} is {drawn_width} pixels wide on a screen of {width}"));
        }
        self.count += 1;
        let Some(directory) = &self.trial.screenshots else { return Ok(()) };
        browser.screenshot(tab, &directory.join(format!("{name}.png")))
    }
}

/// What the picture of the README may weigh, in bytes.
const POSTER_BYTES_MAX: u64 = 200_000;

/// A desktop, and a phone in the dark beside it, in one picture, while bob writes.
fn poster(browser: &mut Browser, [alice, bob]: [&Tab; 2], file: &std::path::Path) -> Result<(), String> {
    browser.write(bob, "#composer", "W")?;
    browser.until(alice, "document.querySelector('#typing').textContent")?;
    let mut pictures = Vec::new();
    for (width, height, is_phone) in [(940, 700, false), (360, 760, true)] {
        browser.screen(alice, width, height, is_phone)?;
        browser.darken(alice, is_phone)?;
        browser.evaluate(
            alice,
            "document.activeElement.blur(); document.querySelector('#scroll').scrollTop = 1e6",
        )?;
        pictures.push(browser.picture(alice)?);
    }
    browser.darken(alice, false)?;
    let [desktop, phone] = pictures.as_slice() else { return Err("two are needed".to_owned()) };
    let paper = browser.open("data:text/html,<title>poster</title>")?;
    browser.screen(&paper, 1336, 764, false)?;
    let html = format!(
        "<style>body {{margin: 0; background: #e9e4d6}} img {{position: absolute; box-shadow: 0 10px 30px #0004}}</style>\
         <img src='data:image/png;base64,{desktop}' style='left: 30px; top: 32px; border-radius: 12px; width: 940px'>\
         <img src='data:image/png;base64,{phone}' style='left: 976px; top: 46px; border-radius: 26px; width: 322px;\
          outline: 7px solid #16191a'>"
    );
    let drawn = format!(
        "document.body.innerHTML = {}; Promise.all([...document.images].map((one) => one.decode())).then(() => 0)",
        serde_json::Value::from(html)
    );
    browser.evaluate(&paper, &drawn)?;
    browser.screenshot(&paper, file)?;
    browser.close(&paper)?;
    let bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if bytes > POSTER_BYTES_MAX {
        return Err(format!("{} has {bytes} bytes, at most {POSTER_BYTES_MAX} are wanted", file.display()));
    }
    Ok(())
}
