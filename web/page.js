// The demo page: what `carillon.js` knows, drawn. The client holds all state of the chat; here is only what is on the
// screen. Whatever others wrote becomes text, never markup.

import { Carillon } from "./carillon.js";

const EMOJIS = ["👍", "❤️", "😂", "😮", "😢", "🎉"];
const TICKS = { pending: "pending", failed: "failed", sent: "sent", delivered: "delivered", read: "delivered" };
const SPOKEN = { pending: "waiting to be sent", failed: "not sent", sent: "sent", delivered: "delivered", read: "read" };
/** Members of a group whose presence is shown. */
const WATCHED_MAX = 50;
/** Members whose names are asked for to name a group, or to say who has read. */
const NAMES_MAX = 8;
/** Messages drawn when a conversation is opened, and how many more when its top is reached. */
const PAGE = 50;
/** Drawn messages, beyond which those at the top are let go while the end is looked at. */
const DRAWN_MAX = 300;
/** Messages of one sender belong together when no more time lies between them. Milliseconds. */
const TOGETHER_MS = 5 * 60_000;
/** From here to the end the newest message counts as seen, and new ones scroll into view. Pixels. */
const END_PX = 80;
/** The close code of a connection whose device has connected anew, as a duplicated tab does. */
const REPLACED = 4507;

/** One to three pictures and nothing else. */
const JUMBO = /^(\p{Extended_Pictographic}[\u{fe0f}\u{1f3fb}-\u{1f3ff}]?){1,3}$/u;
/** An address in a text: up to a space, without the mark that ends the sentence. */
const ADDRESS = /https?:\/\/[^\s<>"]+[^\s<>".,:;!?)]/g;

const hovers = matchMedia("(hover: hover)");
const $ = (id) => document.getElementById(id);
const users = JSON.parse($("users").textContent);
const me = users.find((user) => user.name === decodeURIComponent(location.hash.slice(1)));

// A tab is one user, for good: another choice is another page.
addEventListener("hashchange", () => location.reload());

let client;
let open; // the Conversation on the screen
let drawn_from = 0; // the seq of the oldest message of it that is drawn
let reply_to; // the message that is being replied to
let retry_at = 0; // when the client tries to come back
let stopped_code, stopped_reason; // why it does not
let is_away = false; // whether the connection was there, and is not
const names = new Map(users.map((user) => [user.user_id, user.name]));

// ---- Who are you? -------------------------------------------------------------------------------------------------

function choose() {
  $("welcome").hidden = false;
  for (const user of users) {
    const button = make("button", { type: "button", "data-user": user.name });
    button.append(avatar(user.user_id, user.name), user.name);
    button.onclick = () => (location.hash = encodeURIComponent(user.name));
    $("user-list").append(button);
  }
}

/** Each tab is a device, and stays the same one when it is loaded again: the device is in the token. */
function token_of_tab() {
  const key = `carillon.token.${me.user_id}`;
  const kept = sessionStorage.getItem(key);
  sessionStorage.setItem(key, kept ?? me.token);
  return { token: kept ?? me.token, forget: () => sessionStorage.removeItem(key) };
}

function start() {
  $("app").hidden = false;
  $("me").textContent = me.name;
  document.title = `${me.name} · Carillon`;
  dress($("me-avatar"), me.user_id, me.name);
  const others = users.filter((user) => user !== me).map((user) => user.name);
  $("known-names").append(...others.map((name) => make("option", { value: name })));
  for (const wanted of [...others, others.join(", ")]) {
    const button = make("button", { type: "button" }, wanted);
    button.onclick = () => begin(wanted);
    $("suggestions").append(button);
  }
  const { token, forget } = token_of_tab();
  client = new Carillon({ url: location.origin, token, storage: sessionStorage });
  client.on("state", (detail) => {
    retry_at = detail.retry_at ?? 0;
    [stopped_code, stopped_reason] = [detail.code, detail.reason];
    // Too old, or of a server that is no more: the page that was loaded last has another.
    if (detail.state === "stopped" && stopped_code !== REPLACED) forget();
    if (detail.state === "stopped" && stopped_code === 401 && token !== me.token) location.reload();
    draw_state();
    soon(true);
  });
  client.on("change", ({ conversation }) => soon(conversation === open));
  client.on("typing", ({ conversation }) => soon(conversation === open));
  client.on("presence", () => soon(true));
  client.on("caught_up", load_conversations);
  client.on("message", ({ conversation, message }) => (watch(conversation), speak(conversation, message)));
  client.on("reset", ({ conversation }) => conversation === open && show(open));
  setInterval(draw_state, 500);
  client.connect();
}

let next_cursor;
let is_listed = false; // whether the list came at all
async function load_conversations() {
  try {
    ({ next_cursor } = await client.load_conversations({ limit: 50 }));
    is_listed = true;
    client.list().forEach(watch);
  } catch (error) {
    notice(error.message);
  }
  soon(false);
}

// ---- Drawing ------------------------------------------------------------------------------------------------------

let is_due = false;
let is_chat_due = false;
function soon(chat_as_well) {
  is_chat_due ||= chat_as_well;
  if (is_due) return;
  is_due = true;
  // A page in the background gets no frames, but its title and its receipts go on.
  const at_once = document.visibilityState === "visible" ? requestAnimationFrame : setTimeout;
  at_once(() => {
    is_due = false;
    draw_list();
    if (is_chat_due) draw_chat();
    is_chat_due = false;
  });
}

function draw_state() {
  const { state } = client;
  const seconds = Math.max(0, Math.ceil((retry_at - Date.now()) / 1_000));
  const is_replaced = stopped_code === REPLACED;
  const texts = {
    idle: "not connected",
    connecting: "connecting…",
    syncing: "catching up…",
    online: "online",
    waiting: seconds ? `reconnecting in ${seconds} s…` : "reconnecting…",
    stopped: is_replaced ? "open in another tab" : `signed out: ${stopped_reason || stopped_code}`,
  };
  write($("state"), texts[state]);
  $("state").dataset.state = $("app").dataset.state = state;
  // Connecting again is part of being away: the banner stays until the connection is there.
  is_away = state === "waiting" || state === "stopped" || (is_away && state === "connecting");
  $("banner").hidden = !is_away;
  const stopped = is_replaced ? "This chat is open in another tab." : "You are signed out. Load the page again.";
  write($("banner-text"), state === "stopped" ? stopped : "No connection. What you write is sent when it is back.");
  $("retry").hidden = !is_away || (state === "stopped" && !is_replaced);
  write($("retry"), state === "stopped" ? "Use here" : "Now");
}

function draw_list() {
  const list = client.list();
  const unread = list.reduce((sum, one) => sum + one.unread_count, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${me.name} · Carillon`;
  $("more-conversations").hidden = !next_cursor;
  $("nobody").hidden = list.length > 0 || !is_listed;
  reconcile($("conversations"), list.map((one) => ({ key: one.id, value: one })), draw_row);
}

function draw_row(item, conversation) {
  const name = title(conversation);
  const { last_message: last, unread_count } = conversation;
  const typing = typists(conversation);
  const text = typing || (last ? preview(last, conversation) : "no messages yet");
  const peer = peer_of(conversation);
  const presence = peer && client.presence.get(peer)?.status;
  const when = last ? short_time(last.created_at) : "";
  const is_open = conversation === open;
  const is_own = last && !last.deleted && last.sender_id === client.user_id && !typing;
  if (!changed(item, [name, text, unread_count, presence, when, is_open, is_own && last.status])) return;
  const button = make("button", { type: "button", "aria-current": String(is_open) });
  const face = avatar(peer ?? conversation.id, name);
  if (peer) face.dataset.presence = presence ?? "offline";
  const first = make("span", { class: "row" }, span("name", name), span("when", when));
  const line = span(typing ? "last is-typing" : "last", text);
  if (is_own) line.prepend(ticks_of(last.status));
  const second = make("span", { class: "row" }, line);
  if (unread_count) second.append(make("span", { class: "unread", "aria-label": `${unread_count} unread` }, String(unread_count)));
  item.className = unread_count ? "is-unread" : "";
  button.append(face, make("span", { class: "grow" }, first, second));
  // The row, not the button, which may be drawn anew between pressing and letting go.
  item.onclick = () => show(conversation);
  item.dataset.conversation = conversation.id;
  item.dataset.name = name;
  item.dataset.unread = unread_count;
  item.dataset.presence = presence ?? "";
  const had_focus = item.contains(document.activeElement);
  item.replaceChildren(button);
  if (had_focus) button.focus();
}

function draw_chat() {
  if (!open) return;
  const name = title(open);
  const peer = peer_of(open);
  const presence = peer && client.presence.get(peer);
  $("chat-name").textContent = name;
  dress($("chat-avatar"), peer ?? open.id, name);
  const status = $("chat-status");
  status.dataset.presence = presence?.status ?? "";
  write(status, open.is_left ? "you are no longer a member" : peer ? presence_text(presence) : members_text(open));
  $("chat").classList.toggle("is-left", open.is_left);
  $("messages").classList.toggle("is-group", !peer);
  draw_typing(typists(open));

  const scroll = $("scroll");
  const is_at_end = (was_at_end = at_end());
  const above = first_visible();
  const rows = rows_of(open, is_at_end);
  reconcile($("messages"), rows, draw_message);
  $("silence").hidden = rows.length > 0 || open.has_more;
  write($("silence"), `Nothing was said yet. Say hello${peer ? ` to ${name}` : ""}.`);
  if (is_at_end) scroll.scrollTop = scroll.scrollHeight;
  else if (above) scroll.scrollTop += above.item.offsetTop - above.top;
  seen();
}

/** What is drawn of a conversation: days, messages with their place among those of the same sender, the outbox. */
function rows_of(conversation, is_at_end) {
  let { messages } = conversation;
  if (is_at_end && messages.at(-DRAWN_MAX)?.seq > drawn_from) drawn_from = messages.at(-PAGE).seq;
  messages = messages.filter((message) => message.seq >= drawn_from);
  const entries = [...conversation.failed, ...conversation.pending].filter((one) => one.frame.type === "send_message");
  const all = [...messages, ...entries];
  const sender = (one) => one.sender_id ?? client.user_id;
  const day = (one) => new Date(one.created_at).toDateString();
  const belong = (a, b) =>
    a && b && sender(a) === sender(b) && day(a) === day(b) && b.created_at - a.created_at < TOGETHER_MS;
  const rows = [];
  all.forEach((message, at) => {
    const before = all[at - 1];
    if (!before || day(before) !== day(message)) {
      rows.push({ key: `day ${day(message)}`, value: { day: message.created_at } });
    }
    const key = message.seq ? `m${message.seq}` : `p${message.client_msg_id}`;
    rows.push({ key, value: { message, is_first: !belong(before, message), is_last: !belong(message, all[at + 1]) } });
  });
  return rows;
}

function draw_typing(text) {
  if (!changed($("typing"), text)) return;
  const dots = make("span", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i"));
  $("typing").replaceChildren(...(text ? [dots, text] : []));
}

/** What stands at the top, so that it stays there when older messages come in above. */
function first_visible() {
  const { scrollTop } = $("scroll");
  const item = [...$("messages").children].find((one) => one.dataset.seq && one.offsetTop + one.offsetHeight > scrollTop);
  return item && { item, top: item.offsetTop };
}

function draw_message(item, { day, message, is_first, is_last }) {
  if (day) {
    item.className = "day";
    write(item, day_text(day));
    return;
  }
  const conversation = open;
  const is_mine = !message.sender_id || message.sender_id === client.user_id;
  const { status, deleted, seq, message_id, content, media_url, read_count, reactions = [], error } = message;
  item.dataset.status = is_mine ? status : "";

  const quoted = reply_of(message, conversation);
  const sender = !is_mine && conversation.type === "group" ? name_of(message.sender_id) : "";
  const place = [is_first, is_last];
  if (changed(item, [seq, deleted, content, media_url, sender, quoted, error?.message, place, JSON.stringify(reactions)])) {
    const is_jumbo = !deleted && !media_url && JUMBO.test(content);
    const classes = { mine: is_mine, deleted, first: is_first, jumbo: is_jumbo };
    item.className = Object.keys(classes).filter((name) => classes[name]).join(" ");
    if (seq) item.dataset.seq = seq;
    if (message_id) item.dataset.messageId = message_id;
    const bubble = make("div", { class: "bubble" });
    if (sender && is_first) bubble.append(tinted(span("sender", sender), message.sender_id));
    if (quoted) bubble.append(span("quote", quoted));
    const image = !deleted && image_of(message, item.querySelector("img"));
    if (image) bubble.append(image);
    bubble.append(make("span", { class: "text" }, ...(deleted ? ["message deleted"] : linked(content))));
    const meta = make("span", { class: "meta" }, clock(message.created_at));
    if (is_mine && !deleted) meta.append(ticks_of(status));
    bubble.append(meta);
    if (message_id && !deleted) {
      const label = "React, reply, delete";
      const button = make("button", { type: "button", class: "open-menu", "aria-label": label, "aria-haspopup": "menu" }, icon("smile"));
      button.onclick = (event) => (event.stopPropagation(), show_menu(button, message));
      // A finger has nothing to hover with.
      bubble.onclick = (event) => event.target.closest("a") || hovers.matches || show_menu(button, message);
      bubble.append(button);
    }
    item.replaceChildren(bubble);
    if (sender && is_last) item.prepend(avatar(message.sender_id, sender));
    if (reactions.length) item.append(reaction_row(conversation, message));
    if (status === "failed") item.append(trouble(message));
  }
  // The ticks alone change most often, and under somebody's finger nothing else may.
  const ticks = item.querySelector(".meta .ticks");
  if (ticks && changed(ticks, [status, read_count])) ticks.replaceWith(ticks_of(status, read_count));
}

/** How far a message has got, as a drawing and as a word. */
function ticks_of(status, read_count) {
  const word = read_count ? `read by ${read_count}` : SPOKEN[status];
  const ticks = make("span", { class: "ticks", role: "img", "aria-label": word, title: word, "data-status": status });
  ticks.append(icon(TICKS[status]));
  changed(ticks, [status, read_count]);
  return ticks;
}

function reaction_row(conversation, message) {
  const row = make("div", { class: "reactions" });
  for (const { emoji, count, mine } of message.reactions) {
    const label = `${emoji} ${count}, ${mine ? "take yours back" : "add yours"}`;
    const button = make("button", { type: "button", "aria-pressed": String(mine), "aria-label": label, "data-emoji": emoji });
    button.textContent = `${emoji} ${count}`;
    button.onclick = () => toggle(conversation, message, emoji);
    row.append(button);
  }
  return row;
}

function trouble(entry) {
  const again = make("button", { type: "button" }, "Try again");
  const drop = make("button", { type: "button" }, "Discard");
  again.onclick = () => client.resend(entry);
  drop.onclick = () => client.discard(entry);
  return make("div", { class: "trouble" }, entry.error.message, again, drop);
}

/** Only what is fetched over HTTP is shown: no other scheme is an image by its address. */
function image_of(message, drawn_before) {
  if (message.message_type !== "image" || !message.media_url) return undefined;
  const url = parse_url(message.media_url);
  if (!url) return span("quote", message.media_url);
  if (drawn_before?.src === url.href) return drawn_before;
  const image = make("img", { alt: message.content || "image", src: url.href, loading: "lazy", referrerpolicy: "no-referrer" });
  image.onload = keep_at_end;
  return image;
}

/** An image that gets its height, a keyboard or a banner that takes some must not push the newest message out of view. */
let was_at_end = true;
let size_seen = "";
const size = () => `${$("scroll").clientHeight} ${$("scroll").scrollHeight}`;
function keep_at_end() {
  if (was_at_end) $("scroll").scrollTop = $("scroll").scrollHeight;
}
function at_end() {
  // With another size it was moved by the layout, and by nobody who wants to read further up.
  if (size() !== size_seen) keep_at_end();
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  return scrollHeight - scrollTop - clientHeight < END_PX;
}
new ResizeObserver(keep_at_end).observe($("scroll"));

// ---- Doing --------------------------------------------------------------------------------------------------------

async function show(conversation) {
  if (open && open !== conversation) client.typing(open.id, false);
  open = conversation;
  quote(undefined);
  $("messages").replaceChildren();
  drawn.delete($("messages"));
  draw_last(conversation);
  $("chat").hidden = false;
  $("app").classList.add("is-chatting");
  watch(conversation, WATCHED_MAX);
  draw_list();
  draw_chat();
  if (hovers.matches) $("composer").focus();
  try {
    if (conversation.has_more && conversation.messages.length < PAGE) await client.history(conversation.id, PAGE);
  } catch (error) {
    notice(error.message);
  }
  if (open !== conversation) return;
  // The page came below what had come live or by catching up: together they may be more than a first look needs.
  draw_last(conversation);
  draw_chat();
  $("scroll").scrollTop = $("scroll").scrollHeight;
  seen();
}

/** Only its newest page is drawn, until somebody scrolls up. */
function draw_last(conversation) {
  drawn_from = conversation.messages.at(-PAGE)?.seq ?? 0;
}

/** More of the past: what is held already, then what the server has. */
async function show_older() {
  const { messages } = open;
  let at = messages.findIndex((one) => one.seq >= drawn_from);
  if (at <= 0) {
    if (!open.has_more) return;
    $("older").hidden = false;
    const conversation = open;
    const oldest = messages[0];
    await client.history(open.id, PAGE).catch((error) => notice(error.message));
    $("older").hidden = true;
    if (open !== conversation) return;
    at = open.messages.indexOf(oldest);
  }
  drawn_from = at > PAGE ? open.messages[at - PAGE].seq : 0;
  draw_chat();
}

/** What is on the screen at its end is read. */
function seen() {
  was_at_end = at_end();
  size_seen = size();
  $("to-end").hidden = !open || was_at_end;
  if (open?.unread_count) $("to-end").dataset.unread = open.unread_count;
  else delete $("to-end").dataset.unread;
  if (open && was_at_end && document.visibilityState === "visible" && !$("chat").hidden) client.read(open.id);
}

/** For those who listen to the page instead of looking at it. */
function speak(conversation, message) {
  if (client.state !== "online" || message.sender_id === client.user_id || message.deleted) return;
  const where = conversation === open ? "" : ` in ${title(conversation)}`;
  $("spoken").textContent = `${name_of(message.sender_id)}${where}: ${message.content || message.message_type}`;
  // Said is said: nothing that is deleted later may stay here.
  setTimeout(() => ($("spoken").textContent = ""), 1_000);
}

function watch(conversation, count_max = 1) {
  const others = conversation.member_ids.filter((id) => id !== me.user_id);
  if (conversation.type === "one_to_one" || count_max > 1) client.subscribe(others.slice(0, count_max));
}

function submit() {
  const content = $("composer").value.trim();
  const media_url = $("image").hidden ? "" : $("image-url").value.trim();
  if (!open || (!content && !media_url)) return;
  if (media_url && !parse_url(media_url)) return notice("an image needs an address that begins with https:// or http://");
  try {
    const image = media_url ? { message_type: "image", media_url } : {};
    client.send(open.id, { content, ...image, ...(reply_to ? { reply_to: reply_to.message_id } : {}) });
  } catch (error) {
    return notice(error.message);
  }
  client.typing(open.id, false);
  $("composer").value = $("image-url").value = "";
  attach(false);
  quote(undefined);
  grow();
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

async function begin(text) {
  const wanted = [...new Set(text.split(",").map((name) => name.trim()).filter(Boolean))].filter((name) => name !== me.name);
  if (!wanted.length) return notice("type the name of somebody else, or several with commas between");
  notice();
  try {
    const ids = await Promise.all(wanted.map(id_of));
    const conversation = ids.length === 1
      ? await client.open_direct(ids[0])
      : await client.create_group([me.name, ...wanted].join(", ").slice(0, 100), ids);
    $("start-names").value = "";
    await show(conversation);
  } catch (error) {
    notice(error.message);
  }
}

async function id_of(name) {
  const ready = users.find((user) => user.name === name);
  if (ready) {
    // The ready users exist from their first request on; whoever talks to one first makes it.
    await fetch("/v1/conversations?limit=1", { headers: { Authorization: `Bearer ${ready.token}` } });
    return ready.user_id;
  }
  const user = await client.user_by_name(name).catch((error) => {
    throw error.code === "not_found" ? new Error(`nobody is called ${name}`) : error;
  });
  names.set(user.user_id, user.username);
  return user.user_id;
}

function toggle(conversation, message, emoji) {
  const is_mine = message.reactions.some((one) => one.emoji === emoji && one.mine);
  const entry = is_mine
    ? client.unreact(conversation.id, message.message_id, emoji)
    : client.react(conversation.id, message.message_id, emoji);
  entry.done.catch((error) => notice(error.message));
}

function quote(message) {
  reply_to = message;
  $("reply").hidden = !message;
  $("reply-text").textContent = message ? preview(message, open) : "";
}

function attach(is_on) {
  $("image").hidden = !is_on;
  $("attach").setAttribute("aria-expanded", String(is_on));
  if (is_on) $("image-url").focus();
}

let notice_timer;
function notice(text = "") {
  clearTimeout(notice_timer);
  $("notice").textContent = text;
  $("notice").hidden = !text;
  if (text) notice_timer = setTimeout(notice, 8_000);
}

// ---- The menu of a message ----------------------------------------------------------------------------------------

let menu_of; // {button, message, conversation}
function show_menu(button, message) {
  hide_menu();
  menu_of = { button, message, conversation: open };
  const menu = $("menu");
  $("menu-delete").hidden = message.sender_id !== client.user_id;
  menu.hidden = false;
  button.setAttribute("aria-expanded", "true");
  const at = button.getBoundingClientRect();
  const left = Math.min(at.left - (at.left > innerWidth / 2 ? menu.offsetWidth - at.width : 0), innerWidth - menu.offsetWidth - 8);
  const top = Math.min(at.bottom + 4, innerHeight - menu.offsetHeight - 8);
  menu.style.left = `${Math.max(8, left)}px`;
  menu.style.top = `${Math.max(8, top)}px`;
  $("emojis").firstChild.focus();
}

function hide_menu() {
  if (!menu_of) return;
  $("menu").hidden = true;
  menu_of.button.setAttribute("aria-expanded", "false");
  if (menu_of.button.isConnected) menu_of.button.focus();
  menu_of = undefined;
}

function choose_in_menu(what) {
  const chosen = menu_of;
  hide_menu();
  if (chosen) what(chosen);
}

for (const emoji of EMOJIS) {
  const button = make("button", { type: "button", role: "menuitem", "aria-label": `React with ${emoji}`, "data-emoji": emoji }, emoji);
  button.onclick = () => choose_in_menu(({ conversation, message }) => toggle(conversation, message, emoji));
  $("emojis").append(button);
}
$("menu-reply").onclick = () => choose_in_menu(({ message }) => (quote(message), $("composer").focus()));
$("menu-delete").onclick = () =>
  choose_in_menu(({ conversation, message }) => {
    client.delete_message(conversation.id, message.message_id).done.catch((error) => notice(error.message));
  });
addEventListener("pointerdown", (event) => {
  if (menu_of && !$("menu").contains(event.target) && event.target !== menu_of.button) hide_menu();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide_menu();
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!menu_of || !step) return;
  event.preventDefault();
  const items = [...$("menu").querySelectorAll("button:not([hidden])")];
  items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
});

// ---- Wires --------------------------------------------------------------------------------------------------------

$("compose").onsubmit = (event) => (event.preventDefault(), submit());
$("start").onsubmit = (event) => (event.preventDefault(), begin($("start-names").value));
$("composer").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
};
$("composer").oninput = () => {
  grow();
  if (open) client.typing(open.id, $("composer").value !== "");
};
$("image-url").oninput = grow;
$("attach").onclick = () => attach($("image").hidden);
$("reply-off").onclick = () => quote(undefined);
$("retry").onclick = () => (client.state === "stopped" ? client.connect() : client.retry_now());
$("switch").onclick = () => (location.hash = "");
$("back").onclick = () => {
  const left = open;
  if (left) client.typing(left.id, false);
  open = undefined;
  $("app").classList.remove("is-chatting");
  $("chat").hidden = true;
  draw_list();
  $("conversations").querySelector(`[data-conversation="${left?.id}"] button`)?.focus();
};
$("more-conversations").onclick = async () => {
  const page = await client.load_conversations({ limit: 50, cursor: next_cursor }).catch((error) => notice(error.message));
  next_cursor = page?.next_cursor;
  page?.conversations.forEach((one) => watch(one));
  soon(false);
};
$("scroll").onscroll = () => {
  seen();
  if (open && $("scroll").scrollTop < 200 && $("older").hidden) show_older();
};
$("to-end").onclick = () => $("scroll").scrollTo({ top: $("scroll").scrollHeight });
document.onvisibilitychange = () => client && seen();

function grow() {
  const composer = $("composer");
  $("compose").classList.toggle("is-ready", composer.value.trim() !== "" || $("image-url").value !== "");
  composer.style.height = "auto";
  composer.style.height = `${composer.scrollHeight + 2}px`;
}

// ---- Words --------------------------------------------------------------------------------------------------------

function peer_of(conversation) {
  if (conversation.type !== "one_to_one") return undefined;
  return conversation.member_ids.find((id) => id !== me.user_id);
}

function title(conversation) {
  const peer = peer_of(conversation);
  return peer ? name_of(peer) : (conversation.group_name ?? `conversation ${conversation.id}`);
}

/** A name, once it is known; asked for when it is not. */
function name_of(user_id) {
  const name = names.get(user_id);
  if (name !== undefined) return name;
  names.set(user_id, `user ${user_id}`);
  client.user(user_id).then(
    (user) => (names.set(user_id, user.username), soon(true)),
    () => names.delete(user_id),
  );
  return names.get(user_id);
}

function typists(conversation) {
  const who = [...conversation.typing.keys()].map(name_of);
  if (!who.length) return "";
  if (conversation.type === "one_to_one") return "typing…";
  return who.length > 2 ? "several are typing…" : `${who.join(" and ")} ${who.length > 1 ? "are" : "is"} typing…`;
}

function preview(message, conversation) {
  if (message.deleted) return "message deleted";
  const who = message.sender_id === client.user_id ? "You: " : conversation.type === "group" ? `${name_of(message.sender_id)}: ` : "";
  return who + (message.content || { image: "an image", video: "a video", file: "a file" }[message.message_type] || "");
}

function reply_of(message, conversation) {
  const id = message.reply_to ?? message.frame?.reply_to;
  if (!id || message.deleted) return "";
  const target = conversation.message(id);
  return target ? preview(target, conversation) : "an earlier message";
}

function members_text(conversation) {
  const { member_ids } = conversation;
  const online = member_ids.filter((id) => id !== me.user_id && client.presence.get(id)?.status === "online").length;
  const some = member_ids.slice(0, NAMES_MAX).map((id) => (id === me.user_id ? "you" : name_of(id)));
  const counted = online && client.state === "online" ? ` · ${online} online` : "";
  return some.join(", ") + (member_ids.length > NAMES_MAX ? "…" : "") + counted;
}

function presence_text(presence) {
  // Without a connection nobody knows.
  if (!presence || client.state !== "online") return "";
  if (presence.status === "online") return "online";
  if (!presence.last_seen_at) return "offline";
  const at = new Date(presence.last_seen_at);
  const day = at.toDateString() === new Date().toDateString() ? "today" : at.toLocaleDateString();
  return `last seen ${day} at ${clock(at)}`;
}

function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
}

function day_text(time) {
  const at = new Date(time);
  const days = (ago) => new Date(Date.now() - ago * 86_400_000).toDateString();
  if (at.toDateString() === days(0)) return "Today";
  if (at.toDateString() === days(1)) return "Yesterday";
  return at.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long" });
}

function short_time(time) {
  const at = new Date(time);
  return at.toDateString() === new Date().toDateString()
    ? clock(at)
    : at.toLocaleDateString(undefined, { day: "numeric", month: "short" });
}

function parse_url(text) {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  return url && (url.protocol === "https:" || url.protocol === "http:") ? url : undefined;
}

// ---- Elements -----------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function span(name, text) {
  return make("span", { class: name }, text);
}

function tinted(element, id) {
  let hash = 0;
  for (const letter of String(id)) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  element.style.setProperty("--hue", (hash * 47) % 360);
  return element;
}

function dress(element, id, name) {
  element.textContent = [...name][0]?.toUpperCase() ?? "?";
  return tinted(element, id);
}

function avatar(id, name) {
  return dress(make("span", { class: "avatar", "aria-hidden": "true" }), id, name);
}

const SVG = "http://www.w3.org/2000/svg";
function icon(name) {
  const [drawing, use] = ["svg", "use"].map((tag) => document.createElementNS(SVG, tag));
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  drawing.append(use);
  return drawing;
}

/** A text with its addresses as links: strings and elements, never markup. */
function linked(text) {
  const parts = [];
  let end = 0;
  for (const { 0: address, index } of text.matchAll(ADDRESS)) {
    if (!parse_url(address)) continue;
    parts.push(text.slice(end, index), make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, address));
    end = index + address.length;
  }
  return [...parts, text.slice(end)];
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Whether an element has to be drawn again: what it shows is other than last time. */
const facts_of = new WeakMap();
function changed(element, facts) {
  const text = JSON.stringify(facts);
  if (facts_of.get(element) === text) return false;
  facts_of.set(element, text);
  return true;
}

/** Makes the children of `parent` those of `rows`, in order; what has the same key stays the same element. */
const drawn = new WeakMap();
function reconcile(parent, rows, draw) {
  const before = drawn.get(parent) ?? new Map();
  const after = new Map(rows.map(({ key }) => [key, before.get(key) ?? document.createElement("li")]));
  for (const [key, item] of before) if (!after.has(key)) item.remove();
  let place = parent.firstChild;
  for (const { key, value } of rows) {
    const item = after.get(key);
    draw(item, value);
    if (item === place) place = place.nextSibling;
    else parent.insertBefore(item, place);
  }
  drawn.set(parent, after);
}

if (me) start();
else choose();
