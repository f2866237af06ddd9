//! Two people at two tabs: everything that the page shows of a chat.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::chromium::{Browser, Tab};
use super::{ALICE, BOB, STATE, Trial, Verdict, bubble, open_chat, pictures, say, sign_in, talk_to};
use crate::http::request;
use crate::server::{Deployment, Server};

/// Messages written before the page looks back: more than two pages of history. The last of them he has not heard yet.
const PAST_COUNT: usize = 120;
const HEARD_COUNT: usize = 90;

/// Between two keys of somebody who types, and how many are pressed before somebody else must have noticed.
const KEY: Duration = Duration::from_millis(150);
const KEYS_MAX: usize = 100;

/// The two, and what they see.
struct Two<'a> {
    browser: &'a mut Browser,
    address: SocketAddr,
    alice: Tab,
    bob: Tab,
}

/// FR3, FR4, FR7, FU5a, FU5b, FU6b, OO6: alice and bob in two tabs see messages, ticks, typing, presence, reactions,
/// deletions, pictures and history as they happen; a second tab of alice is a second device, and sees the same.
///
/// # Errors
/// What was not to be seen.
pub fn two_tabs(trial: &Trial, browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let address = server.address();
    let (alice, bob) = ticks(browser, address)?;
    let mut two = Two { browser, address, alice, bob };
    two.markup_is_text()?;
    two.typing()?;
    two.reactions()?;
    two.deletion()?;
    two.picture()?;
    two.reply()?;
    two.past()?;
    two.second_device()?;
    two.presence()?;
    let Two { browser, alice, .. } = two;
    browser.close(&alice)?;
    Ok("ticks, typing, presence, reactions, deletion, pictures, replies, history, two devices".to_owned())
}

/// Sent while bob is away, delivered when he comes, read when he looks: each is shown, in this order.
fn ticks(browser: &mut Browser, address: SocketAddr) -> Result<(Tab, Tab), String> {
    let alice = sign_in(browser, address, ALICE)?;
    talk_to(browser, &alice, BOB)?;
    // A person sees what is drawn; this notes every tick that is.
    let watch = "globalThis.ticks = []; new MutationObserver(() => {\
         const status = document.querySelector('#messages li.mine:last-child')?.dataset.status;\
         if (status && status !== ticks.at(-1)) ticks.push(status);\
     }).observe(document.querySelector('#messages'), {subtree: true, childList: true, attributes: true})";
    browser.evaluate(&alice, watch)?;
    say(browser, &alice, "hello bob")?;
    let shown = |status: &str| format!("{}?.dataset.status === '{status}'", bubble("hello bob"));
    browser.until(&alice, &shown("sent"))?;
    let bob = sign_in(browser, address, BOB)?;
    browser.until(&bob, "document.querySelector('#conversations [data-name=alice][data-unread=\"1\"]')")?;
    browser.until(&alice, &shown("delivered"))?;
    open_chat(browser, &bob, ALICE)?;
    browser.until(&bob, &bubble("hello bob"))?;
    browser.until(&alice, &shown("read"))?;
    browser.until(&bob, "document.querySelector('#conversations [data-name=alice][data-unread=\"0\"]')")?;
    let ticks = browser.evaluate(&alice, "ticks.join(' ')")?;
    // The first is drawn when the answer takes longer than a frame of the screen.
    if !matches!(ticks.as_str(), Some("pending sent delivered read" | "sent delivered read")) {
        return Err(format!("the ticks were {ticks}"));
    }
    say(browser, &bob, "hello alice")?;
    browser.until(&alice, &bubble("hello alice"))?;
    browser.until(&bob, &format!("{}?.dataset.status === 'read'", bubble("hello alice")))?;
    Ok((alice, bob))
}

impl Two<'_> {
    fn markup_is_text(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        let markup = "<img src=x onerror=\"document.title='taken over'\"><b>bold</b>";
        say(browser, alice, markup)?;
        browser.until(bob, &bubble(markup))?;
        let found =
            browser.evaluate(bob, "document.querySelectorAll('#messages img, #messages b').length")?;
        if found == 0 { Ok(()) } else { Err("a message became markup".to_owned()) }
    }

    fn typing(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        let shown = "document.querySelector('#typing').textContent";
        // Key after key, as people do: of what is typed only one state in three seconds is passed on.
        let mut written = String::new();
        let is_shown = format!("{shown} === 'typing…'");
        while browser.evaluate(bob, &is_shown)? != true {
            if written.len() >= KEYS_MAX {
                return Err(format!("nobody saw that {written:?} was being typed"));
            }
            browser.write(alice, "#composer", "a")?;
            written.push('a');
            // A person takes time between two keys: the pace is what is played.
            std::thread::sleep(KEY);
        }
        browser.until(bob, "document.querySelector('#conversations .last').textContent === 'typing…'")?;
        browser.press_enter(alice)?;
        browser.until(bob, &bubble(&written))?;
        browser.until(bob, &format!("{shown} === ''")).map(drop)
    }

    fn reactions(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        let message = bubble("hello bob");
        browser.click_on(bob, &format!("{message}.querySelector('.open-menu')"))?;
        browser.click(bob, "#emojis [data-emoji='🎉']")?;
        let chip = format!("{message}.querySelector('.reactions [data-emoji=\"🎉\"]')");
        let shows = |text: &str, is_mine: bool| {
            format!("{chip}?.textContent === '{text}' && {chip}.getAttribute('aria-pressed') === '{is_mine}'")
        };
        browser.until(bob, &shows("🎉 1", true))?;
        browser.until(alice, &shows("🎉 1", false))?;
        browser.click_on(alice, &chip)?;
        browser.until(bob, &shows("🎉 2", true))?;
        browser.until(alice, &shows("🎉 2", true))?;
        browser.click_on(bob, &chip)?;
        browser.until(alice, &shows("🎉 1", true))?;
        browser.until(bob, &shows("🎉 1", false)).map(drop)
    }

    fn deletion(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        say(browser, alice, "regrettable words")?;
        let message = bubble("regrettable words");
        browser.until(bob, &message)?;
        browser.until(alice, &format!("{message}?.querySelector('.open-menu')"))?;
        browser.click_on(alice, &format!("{message}.querySelector('.open-menu')"))?;
        browser.click(alice, "#menu-delete")?;
        for tab in [alice, bob] {
            browser.until(tab, "document.querySelector('#messages li.deleted')")?;
            browser.until(tab, "!document.documentElement.outerHTML.includes('regrettable words')")?;
        }
        Ok(())
    }

    fn picture(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        let picture = format!("http://{}/tower.svg", pictures::serve().map_err(|error| error.to_string())?);
        browser.click(alice, "#attach")?;
        browser.write(alice, "#image-url", &picture)?;
        say(browser, alice, "the sky")?;
        let loaded = format!("{}?.querySelector('img')?.naturalWidth === 320", bubble("the sky"));
        browser.until(bob, &loaded)?;
        browser.until(alice, &loaded).map(drop)
    }

    fn reply(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        browser.click_on(bob, &format!("{}.querySelector('.open-menu')", bubble("the sky")))?;
        browser.click(bob, "#menu-reply")?;
        say(browser, bob, "what a sky")?;
        let quotes =
            format!("{}?.querySelector('.quote')?.textContent.includes('the sky')", bubble("what a sky"));
        browser.until(alice, &quotes).map(drop)
    }

    /// What was said before the page was opened comes in by scrolling up, in order and without holes.
    fn past(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, address } = self;
        let token =
            browser.evaluate(alice, "JSON.parse(document.querySelector('#users').textContent)[0].token")?;
        let conversation =
            browser.evaluate(alice, "document.querySelector('#conversations li').dataset.conversation")?;
        let write = |number: usize| {
            let message = json!({"conversation_id": conversation, "content": format!("past {number}"),
                "message_type": "text"});
            let answer = request(*address, "POST", "/v1/messages", token.as_str(), &[], Some(&message));
            if answer.status == 201 { Ok(()) } else { Err(format!("a message was refused: {}", answer.text)) }
        };
        (0..HEARD_COUNT).try_for_each(write)?;
        browser.until(bob, &bubble(&format!("past {}", HEARD_COUNT - 1)))?;
        // What is said while he is away comes as events when he is back, above what history brings.
        browser.evaluate(bob, "location.href = 'about:blank'")?;
        browser.until(bob, "location.href === 'about:blank'")?;
        (HEARD_COUNT..PAST_COUNT).try_for_each(write)?;
        browser.evaluate(bob, &format!("location.href = 'http://{address}/#{BOB}'"))?;
        browser.until(bob, &format!("{STATE} === 'online'"))?;
        open_chat(browser, bob, ALICE)?;
        browser.until(bob, &bubble(&format!("past {}", PAST_COUNT - 1)))?;
        let first = bubble("hello bob");
        let seqs =
            "[...document.querySelectorAll('#messages [data-seq]')].map((one) => Number(one.dataset.seq))";
        // A page of history, and not what he was told besides: that is 30 more.
        browser.until(bob, &format!("{seqs}.length >= 50"))?;
        let shown_at_first = browser.evaluate(bob, &format!("{seqs}.length"))?;
        if shown_at_first.as_u64().is_none_or(|count| count > 60) {
            return Err(format!("{shown_at_first} messages were loaded before anybody scrolled"));
        }
        for _ in 0..10 {
            if browser.evaluate(bob, &format!("Boolean({first})"))? == true {
                break;
            }
            let before = browser.evaluate(bob, &format!("{seqs}.length"))?;
            browser.evaluate(bob, "document.querySelector('#scroll').scrollTop = 0")?;
            browser.until(bob, &format!("{seqs}.length > {before}"))?;
        }
        let shown = browser.evaluate(bob, seqs)?;
        let shown: Vec<u64> = shown.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let in_order = shown.windows(2).all(|pair| pair[0] < pair[1]);
        let past: String = (0..PAST_COUNT).map(|number| format!("past {number}\n")).collect();
        let texts = browser.evaluate(
            bob,
            "[...document.querySelectorAll('#messages .text')].map((one) => one.textContent)\
             .filter((text) => text.startsWith('past ')).join('\\n') + '\\n'",
        )?;
        if !in_order || texts.as_str() != Some(past.as_str()) {
            return Err(format!("history by scrolling is not what was written: {shown:?}, {texts}"));
        }
        Ok(())
    }

    /// Both of alice's tabs are online at once; each hears what the other says, and what was read in one is read.
    fn second_device(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, address } = self;
        let second = sign_in(browser, *address, ALICE)?;
        open_chat(browser, &second, BOB)?;
        say(browser, &second, "from my other device")?;
        browser.until(alice, &bubble("from my other device"))?;
        say(browser, alice, "and back")?;
        browser.until(&second, &bubble("and back"))?;
        // Bob looks at the past, and has read nothing of it; then at the end.
        browser.until(bob, "document.querySelector('#to-end').dataset.unread === '2'")?;
        browser.click(bob, "#to-end")?;
        for tab in [&*alice, &second] {
            browser.until(tab, &format!("{STATE} === 'online'"))?;
            browser.until(tab, &format!("{}?.dataset.status === 'read'", bubble("and back")))?;
        }
        browser.until(bob, &bubble("and back"))?;
        browser.close(&second)
    }

    /// Online while there is a tab; then last seen.
    fn presence(&mut self) -> Result<(), String> {
        let Two { browser, alice, bob, .. } = self;
        let status = "document.querySelector('#chat-status').textContent";
        browser.until(alice, &format!("{status} === 'online'"))?;
        browser
            .until(alice, "document.querySelector('#conversations [data-name=bob][data-presence=online]')")?;
        browser.close(bob)?;
        browser.until(alice, &format!("{status}.startsWith('last seen today at ')")).map(drop)
    }
}
