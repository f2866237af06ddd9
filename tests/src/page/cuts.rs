//! The client module alone, on a blank page: connections cut at any byte, more messages than the server takes, and how
//! large it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chromium::{Browser, Tab};
use super::proxy::{Cutting, Proxy};
use super::{Trial, Verdict};
use crate::http::request;
use crate::server::{Deployment, Server};

/// A page of the server's origin that runs no script of its own.
const BLANK: &str = "carillon.d.ts";
/// The cut run may take this long at the most; it is over as soon as everything has arrived.
const CUTS_PATIENCE: Duration = Duration::from_secs(240);
/// Bytes a connection lives for: from the middle of its handshake to a few dozen messages.
const CUT_AFTER_BYTES: (u64, u64) = (300, 12_000);
/// What the module may weigh, compressed.
const GZIP_BYTES_MAX: usize = 15_000;
/// Messages of the throttled run: far more than the default burst of 64.
const THROTTLED_COUNT: usize = 150;
/// Of each of the two devices that share one allowance afterwards.
const SHARED_COUNT: usize = 40;

/// Alice and bob both write into both of their conversations, through the proxy. Nobody runs ahead of the other by more
/// than a connection lives for: a page of what was missed has to fit into one.
const CUT_RUN: &str = r#"(async ({tokens, count}) => {
  const { Carillon } = await import("/carillon.js");
  const clients = tokens.map((token) => new Carillon({ token }));
  const until = async (what) => { while (!what()) await new Promise((resolve) => setTimeout(resolve, 5)); };
  globalThis.run = { clients, sent: 0, losses: 0, failed: [], resets: 0, conversations: [] };
  for (const client of clients) {
    client.on("state", ({ state }) => state === "waiting" && (run.losses += 1));
    client.on("failed", ({ error }) => run.failed.push(String(error)));
    client.on("reset", () => (run.resets += 1));
    client.connect();
  }
  await until(() => clients.every((client) => client.user_id));
  const direct = await clients[0].open_direct(clients[1].user_id);
  const group = await clients[0].create_group("cuts", [clients[1].user_id]);
  run.conversations = [direct.id, group.id];
  const held = (client) =>
    run.conversations.reduce((sum, id) => sum + client.conversation(id).messages.length, 0);
  const entries = [];
  for (let number = 0; number < count; number += 1) {
    const client = clients[number % 2];
    const conversation = run.conversations[(number >> 1) % 2];
    await until(() => clients.every((one) => held(one) >= number - 24));
    entries.push(client.send(conversation, `${client.user_id} ${number}`).done);
    run.sent += 1;
  }
  await Promise.all(entries);
  const is_idle = (client) => run.conversations.every((id) => !client.conversation(id).pending.length);
  const has_all = (client) => held(client) >= count && is_idle(client);
  await until(() => clients.every((client) => client.state === "online" && has_all(client)));
  run.is_done = true;
})"#;

/// NF4, SC7, OR3, OR4: thousands of messages over connections that are cut at random bytes again and again. At the end
/// both clients hold exactly what REST history holds: nothing lost, nothing doubled, in one order.
///
/// # Errors
/// What differs.
pub fn two_hundred_cuts(trial: &Trial, browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let cutting = Cutting { cuts_count: trial.cuts_count, bytes: CUT_AFTER_BYTES, seed: trial.seed };
    let proxy = Proxy::start(server.address(), cutting).map_err(|error| error.to_string())?;
    // Through the proxy as well: a page may only talk to where it came from.
    let tab = browser.open(&format!("http://{}/{BLANK}", proxy.address()))?;
    let tokens = [server.token(1, "cuts"), server.token(2, "cuts")];
    let given = json!({"tokens": tokens, "count": trial.messages_count});
    let script = format!(
        "{CUT_RUN}({given}).catch((error) => (run.failed.push(String(error.stack)), run.is_done = true)), 0"
    );
    browser.evaluate(&tab, &script)?;
    let started = Instant::now();
    let mut told = 0;
    while browser.evaluate(&tab, "Boolean(globalThis.run?.is_done)")? != true {
        let state = "({sent: run.sent, states: run.clients.map((one) => one.state), pending: run.clients.map((one) =>\
             run.conversations.map((id) => one.conversation(id).pending.length)), failed: run.failed})";
        if started.elapsed() > CUTS_PATIENCE {
            return Err(format!("not done, {} cuts: {}", proxy.cuts_done(), browser.evaluate(&tab, state)?));
        }
        if started.elapsed().as_secs() / 5 > told {
            told = started.elapsed().as_secs() / 5;
            println!("  {} cuts, {}", proxy.cuts_done(), browser.evaluate(&tab, "run.sent + ' messages'")?);
        }
        // Between two looks of a bounded wait.
        std::thread::sleep(Duration::from_millis(100));
    }
    let failed = browser.evaluate(&tab, "run.failed")?;
    if failed != json!([]) {
        return Err(format!("refused: {failed}"));
    }
    judge(browser, &tab, &server, &tokens, trial.messages_count)?;
    let losses = browser.evaluate(&tab, "run.losses")?;
    browser.close(&tab)?;
    if proxy.cuts_done() < trial.cuts_count {
        return Err(format!("only {} of {} cuts fell into the run", proxy.cuts_done(), trial.cuts_count));
    }
    Ok(format!(
        "{} messages, {} cuts ({losses} returns): 0 lost, 0 doubled, in order, {:.0} s",
        trial.messages_count,
        proxy.cuts_done(),
        started.elapsed().as_secs_f64()
    ))
}

fn judge(
    browser: &mut Browser,
    tab: &Tab,
    server: &Server,
    tokens: &[String; 2],
    count: usize,
) -> Result<(), String> {
    let held = "run.clients.map((client) => Object.fromEntries(run.conversations.map((id) => [id,\
         client.conversation(id).messages.map((one) => [one.seq, one.message_id, one.sender_id, one.content])])))";
    let held = browser.evaluate(tab, held)?;
    let conversations = browser.evaluate(tab, "run.conversations")?;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for conversation in conversations.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let stored = history(server, conversation, &tokens[0])?;
        for (who, held) in held.as_array().into_iter().flatten().enumerate() {
            if held[conversation] != Value::Array(stored.clone()) {
                let held = held[conversation].as_array().map_or(0, Vec::len);
                return Err(format!(
                    "client {who} holds {held} messages, or others, in another order, than the {} of {conversation}",
                    stored.len()
                ));
            }
        }
        let mut last = BTreeMap::new();
        for message in &stored {
            let content = message[3].as_str().unwrap_or_default();
            let number = content.split(' ').nth(1).and_then(|number| number.parse::<usize>().ok());
            let number = number.ok_or_else(|| format!("nobody wrote {message}"))?;
            *times.entry(content.to_owned()).or_default() += 1;
            if last.insert(message[2].to_string(), number).is_some_and(|before| before >= number) {
                return Err(format!("{conversation}: {content} stands behind what was sent after it (G9)"));
            }
        }
        for (who, token) in tokens.iter().enumerate() {
            let path = format!("/v1/conversations/{conversation}");
            let known = request(server.address(), "GET", &path, Some(token), &[], None);
            let shown = browser
                .evaluate(tab, &format!("run.clients[{who}].conversation('{conversation}').unread_count"))?;
            if known.body["unread_count"] != shown {
                return Err(format!(
                    "client {who} counts {shown} unread, the server {}",
                    known.body["unread_count"]
                ));
            }
        }
    }
    let doubled: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    if times.len() != count || !doubled.is_empty() {
        return Err(format!("{} of {count} messages are there, doubled: {doubled:?}", times.len()));
    }
    Ok(())
}

/// All messages of a conversation as `[seq, message_id, sender_id, content]`, oldest first.
fn history(server: &Server, conversation: &str, token: &str) -> Result<Vec<Value>, String> {
    let mut messages = Vec::new();
    let mut after_seq = 0;
    loop {
        let path = format!("/v1/conversations/{conversation}/messages?limit=200&after_seq={after_seq}");
        let page = request(server.address(), "GET", &path, Some(token), &[], None);
        let found = page.body["messages"].as_array().ok_or_else(|| page.text.clone())?;
        for one in found {
            messages.push(json!([one["seq"], one["message_id"], one["sender_id"], one["content"]]));
            after_seq = one["seq"].as_u64().unwrap_or(after_seq);
        }
        if page.body["next_cursor"].is_null() {
            return Ok(messages);
        }
    }
}

/// Counts refusals by looking at the frames beside the module; then two devices of one user share what one may send.
const THROTTLE_RUN: &str = r#"(async ({tokens, count, shared}) => {
  const { Carillon } = await import("/carillon.js");
  let refused = 0;
  globalThis.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => (refused += data.includes('"rate_limited"')));
    }
  };
  const clients = tokens.map((token) => new Carillon({ token }));
  const [phone, laptop, bob] = clients;
  clients.forEach((client) => client.connect());
  const until = async (what) => { while (!what()) await new Promise((resolve) => setTimeout(resolve, 5)); };
  await until(() => clients.every((client) => client.state === "online"));
  const { id } = await phone.open_direct(bob.user_id);
  const began = performance.now();
  const write = (client, name, count) => Array.from({ length: count }, (_, at) => client.send(id, `${name} ${at}`).done);
  await Promise.all(write(phone, "phone", count));
  const took_ms = performance.now() - began;
  const refused_alone = refused;
  await Promise.all([...write(phone, "both-phone", shared), ...write(laptop, "both-laptop", shared)]);
  await until(() => bob.conversation(id).messages.length >= count + 2 * shared);
  const contents = bob.conversation(id).messages.map((one) => one.content);
  clients.forEach((client) => client.close());
  return { took_ms, refused_alone, refused_together: refused - refused_alone, contents };
})"#;

/// FU4a: with limits at their default a client holds itself to the rate that it was told; what is refused all the same
/// is sent again under the same id, and everything arrives once and in order.
///
/// # Errors
/// What was refused without need, lost or doubled.
pub fn throttle(trial: &Trial, browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &[]);
    let tab = browser.open(&format!("http://{}/{BLANK}", server.address()))?;
    let tokens = [server.token(1, "phone"), server.token(1, "laptop"), server.token(2, "default")];
    let given = json!({"tokens": tokens, "count": THROTTLED_COUNT, "shared": SHARED_COUNT});
    let found = browser.evaluate(&tab, &format!("{THROTTLE_RUN}({given})"))?;
    browser.close(&tab)?;
    let contents: Vec<&str> =
        found["contents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, count) in
        [("phone", THROTTLED_COUNT), ("both-phone", SHARED_COUNT), ("both-laptop", SHARED_COUNT)]
    {
        let prefix = format!("{name} ");
        let of_name: Vec<&str> = contents.iter().copied().filter(|one| one.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..count).map(|number| format!("{name} {number}")).collect();
        if of_name != expected {
            return Err(format!("{name} wrote {count}, there are {of_name:?}"));
        }
    }
    if found["refused_alone"] != 0 {
        return Err(format!("a client alone was refused {} times", found["refused_alone"]));
    }
    if found["refused_together"] == 0 {
        return Err("two devices together were never refused: this showed nothing".to_owned());
    }
    Ok(format!(
        "{THROTTLED_COUNT} messages without a refusal in {:.1} s; {} refusals of two devices, nothing lost",
        found["took_ms"].as_f64().unwrap_or(0.0) / 1_000.0,
        found["refused_together"]
    ))
}

/// The module is small: what `gzip -9` leaves of the bytes that the server serves.
///
/// # Errors
/// It is too large.
pub fn size(trial: &Trial, _browser: &mut Browser) -> Verdict {
    let server = Server::start(&trial.binary, Deployment::OneProcess, &[]);
    let module = request(server.address(), "GET", "/carillon.js", None, &[], None);
    if module.status != 200 {
        return Err(format!("GET /carillon.js: {}", module.status));
    }
    let failed = |error: std::io::Error| format!("gzip: {error}");
    let mut gzip = Command::new("gzip")
        .args(["-9", "-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = gzip.stdin.take().ok_or("gzip has no input")?;
    let text = module.text.clone();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = gzip.wait_with_output().map_err(failed)?;
    writing.join().map_err(|_| "gzip was not fed")?.map_err(failed)?;
    let bytes = output.stdout.len();
    if bytes == 0 || bytes >= GZIP_BYTES_MAX {
        return Err(format!("carillon.js is {bytes} bytes gzipped, at most {GZIP_BYTES_MAX} are allowed"));
    }
    Ok(format!("carillon.js is {bytes} bytes gzipped ({} as it is)", module.text.len()))
}
