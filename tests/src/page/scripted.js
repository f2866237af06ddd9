// The module against a server that follows a script: what a real one does too rarely to wait for. Each step says what
// the server says, and what must follow. Evaluated in a page of the server's origin; gives the list of what was wrong.
(async () => {
  const { Carillon } = await import("/carillon.js");
  const wrong = [];
  const same = (what, found, wanted) => {
    const [left, right] = [JSON.stringify(found), JSON.stringify(wanted)];
    if (left !== right) wrong.push(`${what}: ${left}, wanted ${right}`);
  };
  const sockets = [];
  class Socket {
    readyState = 1;
    said = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
      queueMicrotask(() => this.onopen());
    }
    send(text) {
      this.said.push(JSON.parse(text));
    }
    close() {
      this.readyState = 3;
    }
    hear(...frames) {
      for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
    }
    of(type) {
      return this.said.filter((frame) => frame.type === type);
    }
  }
  let history = [];
  // What REST knows of a conversation, and how often it was asked.
  const stored = { type: "group", group_name: "g", member_ids: ["1", "2", "3"], created_at: 1, head_seq: 0, read_seq: 0,
    unread_count: 0, last_message: null, history: "all" };
  let asked = 0;
  globalThis.WebSocket = Socket;
  globalThis.fetch = async (url, { signal }) => {
    same("no request without an end", signal instanceof AbortSignal, true);
    const path = new URL(url).pathname.split("/");
    if (path[4] === "messages") return new Response(JSON.stringify({ messages: history, next_cursor: null }));
    asked += 1;
    return new Response(JSON.stringify({ ...stored, conversation_id: path[3] }));
  };
  // How long the module's timers wait, so that nobody has to.
  const waits = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (what, ms) => (waits.push(ms), setTimeout(what, ms));
  const until = async (what, expression) => {
    const end = Date.now() + 5_000;
    while (!expression() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 2));
    if (!expression()) wrong.push(`never: ${what}`);
  };
  const message = (seq, more = {}) => ({ message_id: `${1000 + seq}`, conversation_id: "7", seq, sender_id: "2", content: `m${seq}`,
    encoding: "utf8", message_type: "text", status: "sent", created_at: seq, ...more });
  const pushed = (seq, more) => ({ type: "new_message", message: message(seq, more), head_seq: seq });
  const page = (id, from, to, head, events) => ({ type: "sync_batch", id, conversation_id: "7", from_seq: from, to_seq: to,
    head_seq: head, has_more: to < head, receipts: [], events });
  const hello = { type: "hello", protocol: 1, server_time: 1, heartbeat_interval_ms: 30_000,
    limits: { frame_bytes: 65_536, content_bytes: 16_384, inflight: 64, send_per_s: 20, send_burst: 64 } };
  const ready = { type: "ready", user_id: "1", device_id: "d", pending_conversations: 0, pending_events: 0 };
  const caught_up = { type: "caught_up" };

  const client = new Carillon({ url: "http://there", token: "t" });
  const heard = [];
  client.on("message", (detail) => heard.push(detail.message.seq));
  client.connect();
  await until("a socket", () => sockets.length === 1 && sockets[0].onmessage);
  let socket = sockets[0];
  same("subprotocols", socket.protocols, ["carillon.v1.json", "bearer.t"]);
  socket.hear(hello, ready, caught_up);
  same("state", client.state, "online");
  const chat = client.conversation("7");
  const seqs = () => chat.messages.map((one) => one.seq);

  // A hole is asked for, once, and filled; what is repeated is not applied again.
  socket.hear(pushed(1), pushed(2), pushed(5));
  same("asked for the hole", socket.of("sync").map((one) => [one.from_seq]), [[3]]);
  same("what came is shown in order", seqs(), [1, 2, 5]);
  socket.hear(pushed(4));
  same("still one question", socket.of("sync").length, 1);
  socket.hear(page(socket.of("sync")[0].id, 3, 5, 5, [pushed(3), { type: "of_tomorrow", seq: 4 }, pushed(5)]));
  socket.hear(pushed(5), pushed(3), { type: "of_tomorrow", conversation_id: "7", seq: 9 });
  same("filled", [seqs(), chat.cursor], [[1, 2, 3, 4, 5], 5]);
  same("each told once", heard, [1, 2, 5, 4, 3]);
  same("unread", chat.unread_count, 5);

  // An own ack fills its seq and may come early: what lies before it is not asked for.
  const sent = client.send("7", "mine");
  const send = socket.of("send_message")[0];
  const ack = (frame, seq, more) => ({ type: "delivery_ack", id: frame.id, status: "sent", conversation_id: "7", seq,
    message_id: `${1000 + seq}`, timestamp: seq, client_msg_id: frame.client_msg_id, ...more });
  socket.hear(ack(send, 7));
  same("early", [seqs(), chat.cursor, socket.of("sync").length], [[1, 2, 3, 4, 5, 7], 5, 1]);
  socket.hear(pushed(6));
  same("caught up with it", [chat.cursor, (await sent.done).seq], [7, 7]);

  // A refusal for now: the same command again, later. A duplicate does not fill: the event comes as well.
  client.send("7", "again");
  const first = socket.of("send_message")[1];
  socket.hear({ type: "error", id: first.id, error: { code: "rate_limited", message: "", retryable: true, retry_after_ms: 20 } });
  same("not at once", socket.of("send_message").length, 2);
  await until("sent again", () => socket.of("send_message").length === 3);
  const second = socket.of("send_message")[2];
  same("under the same id", second.client_msg_id, first.client_msg_id);
  socket.hear(ack(second, 8, { duplicate: true }));
  same("not filled", [chat.cursor, chat.pending.length], [7, 0]);
  socket.hear(pushed(8, { sender_id: "1", content: "again", client_msg_id: first.client_msg_id }));
  same("filled by the event", [chat.cursor, seqs().filter((seq) => seq === 8).length], [8, 1]);

  // Statuses: the least over all others, and never backwards.
  const status = () => chat.messages.filter((one) => one.sender_id === "1").map((one) => one.status);
  await until("members", () => chat.member_ids.length === 3);
  const receipt = (kind, user_id, seq) => ({ type: "delivery_ack", status: kind, conversation_id: "7", message_id: `${1000 + seq}`, seq, user_id, timestamp: 1 });
  socket.hear(receipt("delivered", "2", 8), receipt("delivered", "3", 7));
  same("delivered to all", status(), ["delivered", "sent"]);
  socket.hear(receipt("read", "2", 7), receipt("read", "3", 8), receipt("delivered", "3", 7));
  same("read by all", status(), ["read", "delivered"]);

  // Reactions count once, whether they come as an answer, as an event, or inside a page that was read later.
  const reaction = (seq, type, user_id) => ({ type, conversation_id: "7", seq, message_id: "1005", user_id, emoji: "x" });
  const shown = () => chat.message("1005").reactions;
  client.react("7", "1005", "x");
  await until("the reaction", () => socket.of("react").length);
  socket.hear({ type: "ok", id: socket.of("react")[0].id, conversation_id: "7", seq: 9 });
  socket.hear(reaction(9, "reaction_added", "1"), reaction(10, "reaction_added", "3"), reaction(10, "reaction_added", "3"));
  same("two reactions", shown(), [{ emoji: "x", count: 2, mine: true }]);
  socket.hear(page(undefined, 11, 12, 13, [pushed(11, { reactions: [{ emoji: "y", count: 1, mine: false }] })]));
  socket.hear({ type: "reaction_added", conversation_id: "7", seq: 13, message_id: "1011", user_id: "3", emoji: "y" });
  same("told by the page already", chat.message("1011").reactions[0].count, 1);
  socket.hear(reaction(14, "reaction_removed", "1"));
  same("one left", shown(), [{ emoji: "x", count: 1, mine: false }]);

  // Deleted: nothing of it is left (FU5b), and it is unread no more.
  const unread = chat.unread_count;
  socket.hear({ type: "message_deleted", conversation_id: "7", seq: 15, message_id: "1005", target_seq: 5, by: "2" });
  const { content, deleted, reactions } = chat.message("1005");
  same("buried", [content, deleted, reactions, unread - chat.unread_count], ["", true, [], 1]);

  // Behind: every conversation that is listed is asked for up to its head.
  socket.hear({ type: "behind", conversations: [{ conversation_id: "7", head_seq: 17 }, { conversation_id: "8", head_seq: 4 }] });
  const syncs = () => socket.of("sync").slice(1).map((one) => [one.conversation_id, one.from_seq]);
  same("the first", syncs(), [["7", 16]]);
  socket.hear(page(socket.of("sync")[1].id, 16, 16, 17, [pushed(16)]));
  await until("its second page", () => syncs().length === 2);
  socket.hear(page(socket.of("sync")[2].id, 17, 17, 17, [pushed(17)]));
  await until("the second", () => syncs().length === 3);
  same("asked", syncs(), [["7", 16], ["7", 17], ["8", 1]]);
  // The head went on meanwhile. The server counts a conversation off at the head that it has then.
  socket.hear({ ...page(socket.of("sync")[3].id, 1, 4, 5, []), conversation_id: "8" });
  await until("its new head", () => syncs().length === 4);
  socket.hear({ ...page(socket.of("sync")[4].id, 5, 5, 5, []), conversation_id: "8" }, caught_up);
  same("whole", [chat.cursor, client.conversation("8").cursor], [17, 5]);

  // Lost: what is unanswered is sent again under its id, and the cursors go along.
  client.send("7", "in between");
  await until("sent", () => socket.of("send_message").length === 4);
  const lost = socket.of("send_message").at(-1);
  await until("receipts", () => socket.of("delivered").length);
  socket.onclose({ code: 1006, reason: "" });
  same("waiting", [client.state, chat.pending.length], ["waiting", 1]);
  client.retry_now();
  await until("a second socket", () => sockets.length === 2 && sockets[1].onmessage);
  socket = sockets[1];
  socket.hear(hello);
  same("cursors", socket.of("identify")[0].cursors, { 7: 17, 8: 5 });
  same("nothing before ready", socket.of("send_message").length, 0);
  socket.hear(ready);
  await until("resent", () => socket.of("send_message").length);
  same("resent", socket.of("send_message").map((one) => one.client_msg_id), [lost.client_msg_id]);
  same("receipts again", socket.of("delivered").find((one) => one.conversation_id === "7")?.seq, 17);
  // Its event comes first: then it needs no answer any more.
  socket.hear(pushed(18, { sender_id: "1", content: "in between", client_msg_id: lost.client_msg_id }), caught_up);
  same("settled by its event", [chat.pending.length, chat.cursor], [0, 18]);
  socket.hear(ack(socket.of("send_message")[0], 18, { duplicate: true }));
  same("once", seqs().filter((seq) => seq === 18).length, 1);

  // Reset: the copy is dropped, history is paged anew, live events go on behind the head.
  await client.history("7");
  history = [message(100), message(99)];
  Object.assign(stored, { head_seq: 100, unread_count: 40, last_message: message(100) });
  const asked_before = asked;
  socket.hear({ type: "reset", conversation_id: "7", first_seq: 90, head_seq: 100, reason: "too_far" });
  await until("paged", () => chat.messages.length === 2);
  await until("counted anew", () => chat.unread_count === 40);
  same("asked once", asked - asked_before, 1);
  socket.hear(pushed(101));
  same("after the reset", [seqs(), chat.cursor, chat.unread_count], [[99, 100, 101], 101, 41]);

  // Another device read. Its count may have been made before or after what is on its way: what is held decides.
  socket.hear({ type: "read_sync", conversation_id: "7", read_seq: 100, unread_count: 2 }, pushed(102));
  same("counted from what is held", chat.unread_count, 2);

  // A new name: it stays in the list meanwhile, and what REST knew before does not bring the old one back.
  const listed = () => client.list().map((one) => one.group_name);
  socket.hear({ type: "conversation_updated", conversation_id: "7", seq: 103, by: "2", group_name: "new" });
  same("still there", listed().includes("new"), true);
  await client.refresh("7");
  same("not the old name", chat.group_name, "new");
  socket.hear({ type: "member_removed", conversation_id: "7", seq: 104, user_ids: ["1"], by: "2" });
  await client.refresh("7");
  same("gone for good", [chat.is_left, listed().includes("new")], [true, false]);
  Object.assign(stored, { head_seq: 105, group_name: "new" });
  socket.hear({ type: "reset", conversation_id: "7", first_seq: 105, head_seq: 105, reason: "membership" });
  await until("back again", () => listed().includes("new"));

  // Far ahead of a hole: what cannot be held is asked for in the end, also when nothing more is said.
  const far = client.conversation("9");
  socket.hear({ ...pushed(1), message: { ...message(1), conversation_id: "9" } });
  const of_9 = (seq) => ({ type: "new_message", message: message(seq, { conversation_id: "9" }), head_seq: seq });
  for (let seq = 3; seq <= 1_003; seq += 1) socket.hear(of_9(seq));
  const first_sync = socket.of("sync").at(-1);
  socket.hear({ ...page(first_sync.id, 2, 2, 2, [of_9(2)]), conversation_id: "9" });
  await until("asked for the rest", () => socket.of("sync").at(-1) !== first_sync);
  same("where it breaks off", [far.cursor, socket.of("sync").at(-1).from_seq], [1_002, 1_003]);
  socket.hear({ ...page(socket.of("sync").at(-1).id, 1_003, 1_003, 1_003, [of_9(1_003)]), conversation_id: "9" });
  same("all of it", far.cursor, 1_003);

  // Presence that is refused for now is asked for again.
  client.subscribe(["2"]);
  await until("subscribed", () => socket.of("presence_subscribe").length);
  const refusal = (id, code, more) => ({ type: "error", id, error: { code, message: "", retryable: false, ...more } });
  const hurried = { retryable: true, retry_after_ms: 5 };
  socket.hear(refusal(socket.of("presence_subscribe")[0].id, "rate_limited", hurried));
  await until("subscribed again", () => socket.of("presence_subscribe").length === 2);

  // Refused for good: it can be tried again, once, and is not lost when there is no room to.
  const refused = client.send("9", "refused");
  await until("sent to be refused", () => socket.of("send_message").at(-1).content === "refused");
  socket.hear(refusal(socket.of("send_message").at(-1).id, "forbidden"));
  same("kept", [refused.status, far.failed.length], ["failed", 1]);
  const filler = Array.from({ length: 1_000 }, () => client.send("9", "filler"));
  let thrown;
  try {
    client.resend(refused);
  } catch (error) {
    thrown = error.code;
  }
  same("no room", [thrown, far.failed.length], ["outbox_full", 1]);
  await until("the filler is sent", () => socket.of("send_message").at(-1).content === "filler");
  socket.hear(refusal(socket.of("send_message").at(-1).id, "forbidden"));
  const again = client.resend(refused);
  client.resend(refused);
  same("once again", [again.client_msg_id, far.pending.filter((one) => one.content === "refused").length, far.failed.length],
    [refused.client_msg_id, 1, 1]);
  same("the first of the filler failed", filler[0].status, "failed");

  // Drain: the server says when, and that is when, whether it closes or we do.
  const next_socket = async () => {
    const count = sockets.length;
    await until("another socket", () => sockets.length > count && sockets.at(-1).onclose);
    return sockets.at(-1);
  };
  socket.hear({ type: "reconnect", after_ms: 20, reason: "drain" });
  await until("hung up", () => client.state === "waiting");
  client.retry_now();
  socket = await next_socket();
  socket.hear(hello, ready, caught_up);
  socket.hear({ type: "reconnect", after_ms: 7_000, reason: "drain" });
  socket.onclose({ code: 1012, reason: "" });
  same("drained", [client.state, waits.at(-1) > 6_900 && waits.at(-1) <= 7_000], ["waiting", true]);
  client.close();
  same("closed", client.state, "idle");

  // Codes: 4000 to 4499 come back, by chance a little later each time; from 4500 on the answer is no.
  for (const code of [1001, 1006, 1011, 1012, 1013, 4000, 4003, 4008, 4010, 4011, 4012, 4499]) {
    const other = new Carillon({ url: "http://there", token: "t" });
    other.connect();
    for (const [from, to] of [[125, 250], [250, 500], [500, 1_000]]) {
      const its = await next_socket();
      its.hear(hello, ready);
      its.onclose({ code, reason: "" });
      const wait = waits.at(-1);
      same(`${code} waits`, [other.state, wait >= from && wait <= to], ["waiting", true]);
      other.retry_now();
    }
    other.close();
  }
  for (const code of [4500, 4501, 4503, 4505, 4506, 4507, 4999]) {
    const other = new Carillon({ url: "http://there", token: "t" });
    other.connect();
    const its = await next_socket();
    its.hear(hello, ready, caught_up);
    const timers_before = waits.length;
    its.onclose({ code, reason: "no" });
    same(`${code} stops`, [other.state, waits.length - timers_before], ["stopped", 0]);
  }

  // A token is replaced in time by the server's clock, and a short-lived one not all the time.
  let given = 0;
  const claims = btoa(JSON.stringify({ exp: 1_060 }));
  const fresh = new Carillon({ url: "http://there", token: async () => (given += 1, `x.${claims}.y`) });
  fresh.connect();
  const its = await next_socket();
  const waits_before = waits.length;
  its.hear({ ...hello, heartbeat_interval_ms: 50_000, server_time: 1_000_000 }, ready);
  same("at half of its minute", [waits.slice(waits_before).some((ms) => ms > 29_000 && ms <= 30_000), given], [true, 1]);
  fresh.close();
  return wrong;
})()
