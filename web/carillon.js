// Carillon's client: one WebSocket, one cursor per conversation, one outbox. No dependencies, no document: it runs in
// pages, workers and Node. What it says and hears is docs/protocol.md, nothing else.
//
// What it promises to whoever uses it:
// - Every durable event of a conversation is applied exactly once, whatever is repeated, skipped or cut off: the seq
//   decides, and a hole is filled by `sync`.
// - `conversation.messages` is in seq order at any moment (OR4), and a deleted message has no content any more (FU5b).
// - What was handed to `send` is sent until the server answers definitely, always under the same `client_msg_id`, and in
//   the order in which it was handed over, per conversation. To keep that order also when one of them is refused for a
//   moment, a conversation has one unanswered command at a time; different conversations do not wait for each other.
// - Everything has a bound (`BOUNDS`); what happens there is written beside it.

/** Bounds, and what happens at each. Times are milliseconds. */
export const BOUNDS = Object.freeze({
  outbox: 1000, // commands not yet committed: `send` and its like throw `outbox_full`
  messages: 5000, // messages held per conversation: new ones push out the oldest, and `history` ends here
  ahead: 1000, // events held beyond a hole: what is further ahead is left to `sync`
  cursors: 1000, // cursors told when connecting: the server's own cursor serves for the others
  users: 1000, // profiles remembered: the oldest are asked for again
  presence_ids: 200, // users in one frame: more go in several
  rest_attempts: 4, // then the last error is the answer
  rest_ms: 30_000, // for one of them: then it has failed
  backoff_min_ms: 250, // before the first attempt to come back, doubling up to …
  backoff_max_ms: 30_000,
  connect_ms: 10_000, // from connecting to `ready`: then the attempt is given up
  settle_ms: 1_000, // how long an early ack may wait for the events before it: then they are asked for
  receipts_ms: 50, // delivered and read watermarks gathered before they are told
  typing_start_ms: 3_000, // at most one `typing start` in this time
  typing_ms: 6_000, // how long others' typing is shown without a word
  burst_spare: 4, // messages of the server's burst that are left unused
  refresh_ms: 60_000, // before a token expires another one is asked for, or at half of its time
  silence_ms: 5_000, // beyond two heartbeats without any frame: the connection is dead
});

const RANK = { sent: 1, delivered: 2, read: 3 };
const now = () => performance.now();
const later = (a, b) => (RANK[a] >= RANK[b] ? a : b);
const uuid = () =>
  globalThis.crypto?.randomUUID?.() ??
  // Not a secure context: uniqueness is all that is asked of it.
  Array.from({ length: 4 }, () => Math.random().toString(16).slice(2, 10)).join("-");

/** What the server refused, or what became of a request: the fields of protocol.md, "Errors". */
export class CarillonError extends Error {
  constructor({ code, message, retryable = false, retry_after_ms, field, request_id }, status) {
    super(message ?? code);
    Object.assign(this, { name: "CarillonError", code, retryable, retry_after_ms, field, request_id, status });
  }
}
const disconnected = () =>
  new CarillonError({ code: "disconnected", message: "not connected", retryable: true });

/** One conversation as this client knows it. Read it freely; only the client writes. */
export class Conversation {
  /** Messages in seq order. */
  messages = [];
  /** Commands not yet committed, in the order in which they will be. */
  pending = [];
  /** Messages that were refused for good: `{client_msg_id, content, error, …}`. */
  failed = [];
  /** user_id → `{delivered_seq, read_seq}`. */
  receipts = new Map();
  /** user_id → the timer that ends their typing. */
  typing = new Map();
  type = undefined;
  group_name = undefined;
  member_ids = [];
  created_at = 0;
  read_seq = 0;
  unread_count = 0;
  head_seq = 0;
  last_message = null;
  /** Whether there is older history than `messages[0]`. */
  has_more = true;
  /** Whether the user was removed: nothing more will come. */
  is_left = false;
  /** Every event up to here was applied; `undefined` before the first one. */
  cursor = undefined;
  // What belongs to the client alone: lowest seq from which nothing is missing, highest seq that a page of history
  // covers, events beyond a hole, watermarks told and confirmed, and whether something is under way.
  _low = undefined;
  _top = undefined;
  _ahead = new Set();
  _told = { delivered: 0, read: 0 };
  _telling = { delivered: false, read: false };
  _read_wish = 0;
  _as_of = 0;
  _filling = false;
  _gap_timer = undefined;
  _history = undefined;
  _is_loaded = false;
  _is_loading = false;
  _is_stale = false;
  _is_open = false;

  constructor(id) {
    this.id = id;
  }

  /** The seq of the last thing that happened, as far as is known. */
  get last_seq() {
    return Math.max(this.cursor ?? 0, this.messages.at(-1)?.seq ?? 0, this.last_message?.seq ?? 0);
  }

  message(message_id) {
    return this.messages.findLast((message) => message.message_id === message_id);
  }
}

/**
 * A connection that comes back by itself. Events, with their `detail`: `state` `{state, retry_at?, code?, reason?}`,
 * `ready`, `caught_up`, `message` `{conversation, message}`, `change` `{conversation}` (anything about it), `typing`
 * `{conversation}`, `presence` `{user_id, status, last_seen_at?}`, `failed` `{conversation, entry, error}`, `reset`
 * `{conversation, reason}`.
 */
export class Carillon extends EventTarget {
  /** conversation_id → Conversation. */
  conversations = new Map();
  /** user_id → `{user_id, status, last_seen_at?}`, of whom we subscribed to. */
  presence = new Map();
  /** `idle` | `connecting` | `syncing` | `online` | `waiting` | `stopped`. */
  state = "idle";
  user_id = undefined;
  device_id = undefined;
  limits = { frame_bytes: 65_536, content_bytes: 16_384, inflight: 64, send_per_s: 20, send_burst: 64 };

  #options;
  #token;
  #socket;
  #generation = 0;
  #attempts = 0;
  #refusals = 0;
  #not_before = 0;
  #timers = {};
  #heard_at = 0;
  #heartbeat_ms = 30_000;
  #requests = new Map();
  #request_number = 0;
  #queues = new Map();
  #queued_count = 0;
  #tokens = 64;
  #tokens_at = 0;
  #paused_until = 0;
  #receipts_due = new Set();
  #watched = new Set();
  #typing_at = new Map();
  #users = new Map();
  #is_saving = false;
  #clock_ms = 0;
  #back_online = () => this.retry_now();

  /**
   * `url`: of the server, `http(s)://` or `ws(s)://`; the page's own origin when absent. `token`: a JWT, or a function
   * that returns (a promise of) one. `cursors`: `{conversation_id: seq}` of a copy kept elsewhere. `storage`: something
   * like `sessionStorage`, which keeps the outbox over a reload.
   */
  constructor(options) {
    super();
    this.#options = options;
    this.url = (options.url ?? globalThis.location?.origin ?? "").replace(/^ws/, "http").replace(/\/+$/, "");
    for (const [id, seq] of Object.entries(options.cursors ?? {})) {
      const conversation = this.conversation(id);
      conversation.cursor = seq;
      conversation._low = seq + 1;
    }
  }

  /** Listens to an event's detail; returns what ends it. */
  on(type, listener) {
    const heard = (event) => listener(event.detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #changed(conversation) {
    this.#emit("change", { conversation });
  }

  #become(state, detail = {}) {
    this.state = state;
    this.#emit("state", { state, ...detail });
  }

  #after(name, ms, what) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(what, ms);
  }

  // ---- Connecting -------------------------------------------------------------------------------------------------

  /** Connects, and stays so until `close` or a close code that says stop. */
  connect() {
    if (this.#socket || this.state === "connecting") return;
    clearTimeout(this.#timers.retry);
    this.#attempts = this.#refusals = 0;
    globalThis.addEventListener?.("online", this.#back_online);
    this.#open();
  }

  /** Says goodbye. The outbox stays; `connect` goes on with it. */
  close() {
    this.#say({ type: "bye" });
    this.#hang_up();
    globalThis.removeEventListener?.("online", this.#back_online);
    this.#become("idle");
  }

  async #open() {
    const generation = ++this.#generation;
    this.#become("connecting");
    this.#after("connect", BOUNDS.connect_ms, () => this.#lost(1006, "no answer"));
    let socket;
    try {
      await this.#fetch_token();
      if (generation !== this.#generation) return;
      const url = `${this.url.replace(/^http/, "ws")}/v1/ws`;
      socket = new WebSocket(url, ["carillon.v1.json", `bearer.${this.#token}`]);
    } catch (error) {
      if (generation === this.#generation) this.#lost(1006, String(error?.message ?? error));
      return;
    }
    this.#socket = socket;
    let is_open = false;
    socket.onopen = () => (is_open = true);
    socket.onmessage = ({ data }) => this.#heard(JSON.parse(data));
    socket.onclose = ({ code, reason }) => is_open && this.#lost(code, reason);
    socket.onerror = () => is_open || this.#refused_at_door();
  }

  async #fetch_token() {
    const { token } = this.#options;
    this.#token = typeof token === "function" ? await token() : token;
    return this.#token;
  }

  /** A browser does not say why an upgrade failed; the same token on REST does. */
  async #refused_at_door() {
    const generation = this.#generation;
    let error;
    try {
      await this.#fetch("GET", "/v1/conversations?limit=1");
    } catch (failed) {
      error = failed;
    }
    if (generation !== this.#generation) return;
    if (error?.status === 401 || error?.status === 403) {
      this.#refusals += 1;
      const is_final = typeof this.#options.token !== "function" || this.#refusals >= 3;
      if (is_final) return this.#stop(error.status, error.code);
    } else if (error?.retry_after_ms) {
      this.#not_before = now() + error.retry_after_ms;
    }
    this.#lost(1006, error?.code ?? "connection refused");
  }

  #hang_up() {
    this.#generation += 1;
    const socket = this.#socket;
    this.#socket = undefined;
    for (const name of ["connect", "heartbeat", "retry", "refresh", "drain"]) clearTimeout(this.#timers[name]);
    if (socket) {
      // A dead peer never answers a close: nobody waits for it.
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close(1000);
    }
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const done of requests) done(disconnected());
    for (const conversation of this.conversations.values()) {
      conversation._filling = false;
      clearTimeout(conversation._gap_timer);
    }
  }

  #stop(code, reason) {
    this.#hang_up();
    this.#become("stopped", { code, reason });
  }

  #lost(code, reason) {
    if (code >= 4500 && code <= 4999) return this.#stop(code, reason);
    this.#hang_up();
    const ceiling = Math.min(BOUNDS.backoff_max_ms, BOUNDS.backoff_min_ms * 2 ** Math.min(this.#attempts, 16));
    this.#attempts += 1;
    // Half of it is chance: those who lost the same server do not come back together (F19).
    const wait = Math.max(ceiling * (0.5 + Math.random() / 2), this.#not_before - now());
    this.#after("retry", wait, () => this.#open());
    this.#become("waiting", { code, reason, retry_at: Date.now() + wait });
  }

  /** Does not wait for the back-off any longer: the network is back, or somebody pressed a button. */
  retry_now() {
    if (this.state !== "waiting") return;
    clearTimeout(this.#timers.retry);
    this.#open();
  }

  #say(frame) {
    this.#socket?.readyState === 1 && this.#socket.send(JSON.stringify(frame));
  }

  /** Says something that is answered; `done(error, answer)` is called exactly once. */
  #ask(frame, done) {
    if (this.#socket?.readyState !== 1) return done(disconnected());
    const id = String(++this.#request_number);
    this.#requests.set(id, done);
    this.#say({ ...frame, id });
  }

  #request(frame) {
    return new Promise((resolve, reject) =>
      this.#ask(frame, (error, answer) => (error ? reject(error) : resolve(answer))),
    );
  }

  #answered(frame, error) {
    const done = this.#requests.get(String(frame.id));
    if (!done) return;
    this.#requests.delete(String(frame.id));
    done(error, frame);
    this.#pump();
  }

  #heard(frame) {
    this.#heard_at = now();
    switch (frame.type) {
      case "hello":
        return this.#greeted(frame);
      case "ready":
        return this.#is_ready(frame);
      case "caught_up":
        this.#attempts = this.#refusals = 0;
        this.#become("online");
        this.#emit("caught_up", {});
        return;
      case "delivery_ack":
        if (frame.status === "sent") return this.#answered(frame);
        return this.#receipt(this.conversation(frame.conversation_id), frame);
      case "ok":
        return this.#answered(frame);
      case "error":
        return this.#answered(frame, new CarillonError(frame.error));
      case "new_message":
      case "message_deleted":
      case "reaction_added":
      case "reaction_removed":
      case "member_added":
      case "member_removed":
      case "conversation_created":
      case "conversation_updated":
        return this.#event(frame);
      case "sync_batch":
        return this.#batch(frame);
      case "behind":
        return this.#behind(frame.conversations);
      case "reset":
        return this.#reset(frame);
      case "read_sync": {
        const conversation = this.conversation(frame.conversation_id);
        if (frame.read_seq < conversation.read_seq) return;
        conversation.read_seq = frame.read_seq;
        // Its count may be from before or after what is on its way here: what is held decides, if it is all there.
        const is_held = conversation._low <= frame.read_seq + 1;
        conversation.unread_count = is_held ? count_unread(conversation, this.user_id) : frame.unread_count;
        return this.#changed(conversation);
      }
      case "typing":
        return this.#typed(this.conversation(frame.conversation_id), frame.user_id, frame.state !== "stop");
      case "presence":
        return this.#present(frame);
      case "reconnect":
        // The server drains. Its `after_ms` spreads the clients out, so no chance is added here.
        this.#not_before = now() + frame.after_ms;
        this.#attempts = 0;
        return this.#after("drain", frame.after_ms, () => this.#lost(1012, "drain"));
      default: // unknown types are ignored
    }
  }

  #greeted({ heartbeat_interval_ms, limits, server_time }) {
    Object.assign(this.limits, limits);
    this.#heartbeat_ms = heartbeat_interval_ms;
    this.#clock_ms = server_time - Date.now();
    const recent = [...this.conversations.values()].filter((one) => one.cursor !== undefined && !one.is_left);
    recent.sort((a, b) => activity(b) - activity(a));
    const cursors = Object.fromEntries(recent.slice(0, BOUNDS.cursors).map((one) => [one.id, one.cursor]));
    this.#say({ type: "identify", cursors });
    const beat = () => {
      if (now() - this.#heard_at > 2 * this.#heartbeat_ms + BOUNDS.silence_ms) return this.#lost(1006, "silence");
      this.#say({ type: "heartbeat" });
      this.#after("heartbeat", this.#heartbeat_ms, beat);
    };
    this.#after("heartbeat", this.#heartbeat_ms, beat);
  }

  #is_ready({ user_id, device_id }) {
    clearTimeout(this.#timers.connect);
    const is_first = this.user_id === undefined;
    Object.assign(this, { user_id, device_id });
    if (is_first) this.#restore();
    this.#not_before = 0;
    this.#become("syncing");
    this.#emit("ready", { user_id, device_id });
    if (this.#watched.size) this.#subscribe([...this.#watched]);
    for (const conversation of this.conversations.values()) this.#receipts_due.add(conversation);
    this.#tell_receipts();
    this.#refresh_token_in_time();
    this.#pump();
  }

  /** A live connection outlives its token when a new one comes in time (4012 otherwise). */
  #refresh_token_in_time() {
    if (typeof this.#options.token !== "function") return;
    let expires_ms;
    try {
      const claims = this.#token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
      expires_ms = JSON.parse(atob(claims)).exp * 1_000 - Date.now() - this.#clock_ms;
    } catch {
      // Not a token that we can read: the server will say when it has expired.
    }
    if (!(expires_ms > 0)) return;
    const wait = Math.min(Math.max(expires_ms - BOUNDS.refresh_ms, expires_ms / 2, 1_000), 2 ** 31 - 1);
    this.#after("refresh", wait, async () => {
      const token = await this.#fetch_token().catch(() => undefined);
      if (!token) return;
      this.#request({ type: "refresh_token", token }).then(() => this.#refresh_token_in_time(), () => {});
    });
  }

  // ---- The log: every event once ----------------------------------------------------------------------------------

  /** The conversation of an id; made when it is not known yet. */
  conversation(id) {
    let conversation = this.conversations.get(id);
    if (!conversation) {
      conversation = new Conversation(id);
      this.conversations.set(id, conversation);
    }
    return conversation;
  }

  /** Conversations, latest activity first (OR7). */
  list() {
    return [...this.conversations.values()]
      .filter((one) => !one.is_left && one._is_loaded)
      .sort((a, b) => activity(b) - activity(a));
  }

  /**
   * A durable event, from wherever. `as_of`: the reactions inside it are counted up to that seq. `is_own`: it is the
   * answer to a command of this connection, so it may come before events with lower seqs.
   */
  #event(event, as_of, is_own = false) {
    const seq = event.message?.seq ?? event.seq;
    if (!(seq > 0)) return; // of a type that is none of the log's
    const conversation = this.conversation(event.message?.conversation_id ?? event.conversation_id);
    if (conversation.cursor === undefined && !is_own) this.#found(conversation, seq - 1);
    if (seq <= conversation.cursor || conversation._ahead.has(seq)) return;
    conversation.head_seq = Math.max(conversation.head_seq, seq, event.head_seq ?? 0);
    if (conversation._ahead.size >= BOUNDS.ahead) return this.#fill(conversation);
    this.#apply(conversation, event, as_of ?? seq);
    conversation._ahead.add(seq);
    this.#attempts = 0; // a connection that brings something was worth coming back for
    this.#advance(conversation);
    if (conversation._ahead.size) {
      if (!is_own) this.#fill(conversation);
      else this.#settle(conversation);
    }
    this.#changed(conversation);
  }

  /** The first thing heard of a conversation: the server's cursor for this device says where its log begins for us. */
  #found(conversation, before) {
    // A page of history that ends earlier leaves a hole, and the hole is filled like any other.
    conversation.cursor = Math.min(before, conversation._top ?? before);
    let low = before + 1;
    while (conversation._ahead.has(low - 1)) low -= 1;
    conversation._low ??= low;
    this.#advance(conversation);
  }

  #advance(conversation) {
    const { _ahead } = conversation;
    if (conversation.cursor === undefined) return;
    while (_ahead.delete(conversation.cursor + 1)) conversation.cursor += 1;
    for (const seq of _ahead) if (seq <= conversation.cursor) _ahead.delete(seq);
    this.#receipts_due.add(conversation);
    this.#receipts_soon();
  }

  /** An early ack: what lies before it is on its way. If it is not, it is asked for. */
  #settle(conversation) {
    clearTimeout(conversation._gap_timer);
    conversation._gap_timer = setTimeout(() => {
      if (conversation._ahead.size && conversation.cursor !== undefined) this.#fill(conversation);
    }, BOUNDS.settle_ms);
  }

  /**
   * Asks for what is missing, page by page, until nothing is. `is_behind`: until the server has nothing more, since it
   * counts off what it listed at the head that there is by then.
   */
  async #fill(conversation, is_behind = false) {
    if (conversation._filling && !is_behind) return;
    const generation = this.#generation;
    conversation._filling = true;
    try {
      for (;;) {
        const from_seq = (conversation.cursor ?? Math.max(0, conversation.head_seq - 200)) + 1;
        const answer = await this.#sync(conversation.id, from_seq);
        // A page that brought nothing would bring nothing again.
        if (answer.type === "reset" || answer.to_seq < from_seq) break;
        if (is_behind ? !answer.has_more : conversation.cursor >= conversation.head_seq) break;
      }
    } catch {
      // Disconnected: the cursor goes along with the next `identify`. Refused for good: nothing to be seen there.
    } finally {
      if (generation === this.#generation) conversation._filling = false;
    }
  }

  async #sync(conversation_id, from_seq) {
    const generation = this.#generation;
    for (;;) {
      try {
        return await this.#request({ type: "sync", conversation_id, from_seq, limit: 200 });
      } catch (error) {
        if (!error.retryable || generation !== this.#generation) throw error;
        await sleep(error.retry_after_ms ?? 1_000);
      }
    }
  }

  async #behind(conversations) {
    // One after the other: the server pages at the pace at which we read. Each of them has to be asked for, also those
    // that are whole already: the server counts them off.
    for (const { conversation_id, head_seq } of conversations) {
      const conversation = this.conversation(conversation_id);
      conversation.head_seq = Math.max(conversation.head_seq, head_seq);
      await this.#fill(conversation, true);
    }
  }

  #batch(batch) {
    const conversation = this.conversation(batch.conversation_id);
    const is_asked = this.#requests.has(String(batch.id));
    if (conversation.cursor === undefined) this.#found(conversation, batch.from_seq - 1);
    const { conversation_id } = batch;
    for (const event of batch.events) this.#event({ conversation_id, ...event }, batch.head_seq);
    // The page covers its whole range, also what we do not know how to read, and what is not for us to see.
    if (is_asked || batch.from_seq <= conversation.cursor + 1) {
      conversation.cursor = Math.max(conversation.cursor, batch.to_seq);
    }
    conversation.head_seq = Math.max(conversation.head_seq, batch.head_seq);
    if (Array.isArray(batch.receipts)) {
      for (const mark of batch.receipts) this.#mark(conversation, mark.user_id, mark);
      this.#restate(conversation);
    }
    this.#advance(conversation);
    this.#changed(conversation);
    this.#answered(batch);
  }

  #reset(frame) {
    const conversation = this.conversation(frame.conversation_id);
    conversation.messages = [];
    conversation._ahead.clear();
    conversation._low = conversation._top = undefined;
    conversation.cursor = frame.head_seq;
    conversation.head_seq = frame.head_seq;
    conversation.has_more = true;
    conversation.is_left = false;
    conversation.last_message = null;
    conversation._told.delivered = Math.min(conversation._told.delivered, frame.head_seq);
    conversation._told.read = conversation._read_wish = 0;
    this.#answered(frame);
    this.#emit("reset", { conversation, reason: frame.reason });
    this.#load(conversation, true);
    if (conversation._is_open) {
      conversation._history = undefined;
      this.history(conversation.id).catch(() => {});
    }
    this.#advance(conversation);
    this.#changed(conversation);
  }

  /** What an event does. Doing it twice does the same. */
  #apply(conversation, event, as_of) {
    switch (event.type) {
      case "new_message":
        return this.#arrived(conversation, event.message, as_of);
      case "message_deleted": {
        const { messages, last_message } = conversation;
        const target = event.target_seq ?? conversation.message(event.message_id)?.seq ?? 0;
        const held = [find(messages, target), last_message].filter((one) => one?.seq === target && !one.deleted);
        const was_counted = target > conversation.read_seq && event.seq > conversation._as_of;
        if (was_counted && held.length && held[0].sender_id !== this.user_id) {
          conversation.unread_count = Math.max(0, conversation.unread_count - 1);
        }
        held.forEach(bury);
        return;
      }
      case "reaction_added":
      case "reaction_removed": {
        const message = conversation.message(event.message_id);
        // History told of it already, if it was read after this happened.
        if (!message || event.seq <= message._as_of) return;
        react(message, event.emoji, event.type === "reaction_added", event.user_id === this.user_id);
        return;
      }
      case "conversation_created":
        Object.assign(conversation, {
          type: event.conversation_type ?? conversation.type,
          group_name: event.group_name ?? conversation.group_name,
          created_at: event.created_at ?? conversation.created_at,
          member_ids: event.user_ids ?? conversation.member_ids,
        });
        return this.#load(conversation);
      case "conversation_updated":
        conversation.group_name = event.group_name ?? conversation.group_name;
        return this.#load(conversation, true);
      case "member_added":
        for (const id of event.user_ids ?? []) {
          if (!conversation.member_ids.includes(id)) conversation.member_ids.push(id);
          // What was said before they came does not wait for their receipt.
          this.#mark(conversation, id, { delivered_seq: event.seq, read_seq: event.seq });
          if (id === this.user_id) conversation.is_left = false;
        }
        return this.#load(conversation);
      case "member_removed":
        for (const id of event.user_ids ?? []) {
          conversation.member_ids = conversation.member_ids.filter((other) => other !== id);
          conversation.receipts.delete(id);
          if (id === this.user_id) conversation.is_left = true;
        }
        this.#restate(conversation);
    }
  }

  #arrived(conversation, message, as_of) {
    this.#settled(conversation, message.client_msg_id);
    this.#place(conversation, message, as_of);
    const { messages } = conversation;
    if (messages.length > BOUNDS.messages) {
      messages.splice(0, messages.length - BOUNDS.messages);
      conversation._low = messages[0].seq;
      conversation.has_more = true;
    }
    const is_others = message.sender_id !== this.user_id;
    if (is_others) {
      this.#typed(conversation, message.sender_id, false);
      const is_counted = message.seq <= Math.max(conversation.read_seq, conversation._as_of);
      if (!is_counted && !message.deleted) conversation.unread_count += 1;
    }
    this.#load(conversation);
    this.#emit("message", { conversation, message: find(messages, message.seq) ?? message });
  }

  /** Puts a message where its seq belongs. What was known of it and cannot go back is kept. */
  #place(conversation, given, as_of) {
    const message = { reactions: [], ...given };
    Object.defineProperty(message, "_as_of", { value: as_of, writable: true });
    if (message.deleted) bury(message);
    const { messages } = conversation;
    const index = place(messages, message.seq);
    const old = messages[index]?.seq === message.seq ? messages[index] : undefined;
    if (old) {
      message.status = later(old.status, message.status);
      message.client_msg_id ??= old.client_msg_id;
      if (old.deleted) bury(message);
      if (old._as_of > as_of) {
        message.reactions = old.reactions;
        message._as_of = old._as_of;
      }
    }
    messages.splice(index, old ? 1 : 0, message);
    if (message.seq >= (conversation.last_message?.seq ?? 0)) conversation.last_message = message;
    if (message.sender_id === this.user_id) this.#restate(conversation);
  }

  // ---- Receipts ---------------------------------------------------------------------------------------------------

  #mark(conversation, user_id, { delivered_seq = 0, read_seq = 0 }) {
    const mark = conversation.receipts.get(user_id) ?? { delivered_seq: 0, read_seq: 0 };
    mark.read_seq = Math.max(mark.read_seq, read_seq);
    mark.delivered_seq = Math.max(mark.delivered_seq, delivered_seq, read_seq);
    conversation.receipts.set(user_id, mark);
  }

  #receipt(conversation, ack) {
    const seqs = ack.status === "read" ? { read_seq: ack.seq } : { delivered_seq: ack.seq };
    if (ack.user_id) {
      this.#mark(conversation, ack.user_id, seqs);
    } else {
      const message = find(conversation.messages, ack.seq);
      const counts = { delivered_count: ack.delivered_count, read_count: ack.read_count };
      for (const [name, count] of Object.entries(counts)) {
        if (message && count !== undefined) message[name] = Math.max(message[name] ?? 0, count);
      }
      // Without counts it is a statement about everybody.
      if (ack.delivered_count === undefined && ack.read_count === undefined) {
        this.#mark(conversation, "*", seqs);
      }
    }
    this.#restate(conversation);
    this.#changed(conversation);
  }

  /** Own messages' status: the least over all others, and never backwards (FR4). */
  #restate(conversation) {
    const others = conversation.member_ids.filter((id) => id !== this.user_id);
    const everybody = conversation.receipts.get("*") ?? { delivered_seq: 0, read_seq: 0 };
    const least = (name) => {
      const seqs = others.map((id) => conversation.receipts.get(id)?.[name] ?? 0);
      return Math.max(everybody[name], seqs.length ? Math.min(...seqs) : 0);
    };
    const [delivered, read] = [least("delivered_seq"), least("read_seq")];
    for (let index = conversation.messages.length - 1; index >= 0; index -= 1) {
      const message = conversation.messages[index];
      if (message.sender_id !== this.user_id) continue;
      // Below a message that everybody has read everything is read.
      if (message.status === "read" && message.seq <= read) break;
      const status = message.seq <= read ? "read" : message.seq <= delivered ? "delivered" : "sent";
      message.status = later(message.status, status);
    }
  }

  /** Everything up to `seq` (the last message when absent) was seen by the user. */
  read(conversation_id, seq) {
    const conversation = this.conversation(conversation_id);
    const up_to = Math.min(seq ?? Infinity, conversation.last_seq);
    if (up_to <= conversation._read_wish || up_to <= conversation.read_seq) return;
    conversation._read_wish = conversation.read_seq = up_to;
    conversation.unread_count = count_unread(conversation, this.user_id);
    this.#receipts_due.add(conversation);
    this.#receipts_soon();
    this.#changed(conversation);
  }

  #receipts_soon() {
    this.#timers.receipts ??= setTimeout(() => {
      this.#timers.receipts = undefined;
      this.#tell_receipts();
    }, BOUNDS.receipts_ms);
  }

  /** Watermarks, each told until it is confirmed, and of each kind one at a time per conversation. */
  #tell_receipts() {
    for (const conversation of this.#receipts_due) {
      // Commands come first: receipts leave half of what may be unanswered to them.
      if (this.#requests.size >= this.limits.inflight / 2) return this.#receipts_soon();
      this.#receipts_due.delete(conversation);
      if (conversation.is_left) continue;
      this.#tell(conversation, "read", conversation._read_wish);
      const delivered = conversation.cursor ?? 0;
      if (delivered > conversation._told.read) this.#tell(conversation, "delivered", delivered);
    }
  }

  #tell(conversation, type, seq) {
    const { _told, _telling } = conversation;
    if (_telling[type] || seq <= _told[type] || this.#socket?.readyState !== 1) return;
    _telling[type] = true;
    this.#ask({ type, conversation_id: conversation.id, seq }, (error) => {
      _telling[type] = false;
      if (error?.code === "disconnected") return;
      // Refused for good: telling it again would change nothing.
      if (!error?.retryable) _told[type] = Math.max(_told[type], seq);
      this.#receipts_due.add(conversation);
      if (error?.retryable) setTimeout(() => this.#receipts_soon(), error.retry_after_ms ?? 1_000);
      else this.#receipts_soon();
    });
  }

  // ---- The outbox -------------------------------------------------------------------------------------------------

  /**
   * Sends a message: a text, or `{content, message_type?, media_url?, reply_to?, encoding?}`. Returns its entry:
   * `{client_msg_id, content, status: "pending" | "sent" | "failed", done}`; `done` is a promise of the message.
   */
  send(conversation_id, message) {
    const fields = typeof message === "string" ? { content: message } : message;
    return this.#enqueue({ type: "send_message", conversation_id, content: "", ...fields });
  }

  /** Deletes an own message for everyone. */
  delete_message(conversation_id, message_id) {
    return this.#enqueue({ type: "delete_message", conversation_id, message_id });
  }

  react(conversation_id, message_id, emoji) {
    return this.#enqueue({ type: "react", conversation_id, message_id, emoji });
  }

  unreact(conversation_id, message_id, emoji) {
    return this.#enqueue({ type: "unreact", conversation_id, message_id, emoji });
  }

  /** Tries a failed entry again: as a new attempt under the same `client_msg_id`, behind everything that waits. */
  resend(entry) {
    if (entry.status !== "failed") return entry;
    const again = this.#enqueue(entry.frame);
    entry.status = "pending";
    this.discard(entry);
    return again;
  }

  /** Forgets a failed entry. */
  discard(entry) {
    const conversation = this.conversation(entry.frame.conversation_id);
    conversation.failed = conversation.failed.filter((one) => one !== entry);
    this.#changed(conversation);
  }

  #enqueue(frame, is_first = false) {
    if (this.#queued_count >= BOUNDS.outbox) {
      throw new CarillonError({ code: "outbox_full", message: "too much is waiting to be sent", retryable: true });
    }
    const entry = {
      client_msg_id: uuid(),
      content: frame.content,
      media_url: frame.media_url,
      message_type: frame.message_type,
      created_at: Date.now(),
      status: "pending",
      attempts: 0,
      is_asked: false,
      not_before: 0,
    };
    entry.done = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    entry.done.catch(() => {}); // whoever does not look at it hears of it by `failed`
    entry.client_msg_id = frame.client_msg_id ?? entry.client_msg_id;
    entry.frame = { ...frame, client_msg_id: entry.client_msg_id };
    const conversation = this.conversation(frame.conversation_id);
    conversation.pending[is_first ? "unshift" : "push"](entry);
    this.#queues.set(conversation.id, conversation);
    this.#queued_count += 1;
    this.#save();
    this.#changed(conversation);
    this.#pump();
    return entry;
  }

  /** Sends what may be sent: the first of each conversation, within what the server said it takes (FU4a). */
  #pump() {
    if (this.state !== "syncing" && this.state !== "online") return;
    const { send_per_s, send_burst, inflight, frame_bytes } = this.limits;
    const time = now();
    if (send_per_s) {
      const earned = ((time - this.#tokens_at) / 1_000) * send_per_s;
      // A little less than is allowed at once: what the network holds up arrives closer together than it left.
      this.#tokens = Math.min(Math.max(1, send_burst - BOUNDS.burst_spare), this.#tokens + earned);
    }
    this.#tokens_at = time;
    let wake = Infinity;
    for (const conversation of this.#queues.values()) {
      const entry = conversation.pending[0];
      if (!entry || entry.is_asked) continue;
      if (this.#requests.size >= inflight) return; // the next answer pumps again
      const wait = Math.max(entry.not_before, this.#paused_until) - time;
      const short = send_per_s ? ((1 - this.#tokens) / send_per_s) * 1_000 : 0;
      if (wait > 0 || short > 0) {
        wake = Math.min(wake, Math.max(wait, short));
        continue;
      }
      if (new TextEncoder().encode(JSON.stringify(entry.frame)).length + 64 > frame_bytes) {
        // The server would close the connection, and again after every return.
        this.#refused(conversation, entry, new CarillonError({ code: "too_large", message: "too large to be sent" }));
        continue;
      }
      this.#tokens -= 1;
      entry.is_asked = true;
      entry.attempts += 1;
      this.#ask(entry.frame, (error, answer) => {
        entry.is_asked = false;
        if (error) this.#refused(conversation, entry, error);
        else this.#committed(conversation, entry, answer);
      });
    }
    if (wake < Infinity) this.#after("pump", Math.max(wake, 1), () => this.#pump());
  }

  #dequeue(conversation, entry) {
    const index = conversation.pending.indexOf(entry);
    if (index < 0) return false;
    conversation.pending.splice(index, 1);
    if (!conversation.pending.length) this.#queues.delete(conversation.id);
    this.#queued_count -= 1;
    this.#save();
    return true;
  }

  /** Its event came before its answer: it is committed, and needs no other attempt. */
  #settled(conversation, client_msg_id) {
    const entry = client_msg_id && conversation.pending.find((one) => one.client_msg_id === client_msg_id);
    if (!entry || !this.#dequeue(conversation, entry)) return;
    entry.status = "sent";
    // The message is in its place once the event has been applied.
    queueMicrotask(() => {
      const is_it = (message) => message.client_msg_id === client_msg_id;
      entry.resolve(conversation.messages.findLast(is_it));
      this.#pump();
    });
  }

  #committed(conversation, entry, answer) {
    if (!this.#dequeue(conversation, entry)) return; // its event was faster
    entry.status = "sent";
    const { frame } = entry;
    const { seq, duplicate } = answer;
    const event = {
      send_message: () => ({
        type: "new_message",
        message: {
          message_id: answer.message_id,
          conversation_id: conversation.id,
          seq,
          sender_id: this.user_id,
          content: frame.content,
          encoding: frame.encoding ?? "utf8",
          media_url: frame.media_url,
          message_type: frame.message_type ?? "text",
          status: "sent",
          created_at: answer.timestamp,
          reply_to: frame.reply_to,
          client_msg_id: entry.client_msg_id,
        },
      }),
      delete_message: () => ({ type: "message_deleted", by: this.user_id }),
      react: () => ({ type: "reaction_added", user_id: this.user_id }),
      unreact: () => ({ type: "reaction_removed", user_id: this.user_id }),
    }[frame.type]();
    const whole = { conversation_id: conversation.id, message_id: frame.message_id, emoji: frame.emoji, seq, ...event };
    // The answer is the event, and fills its seq; that of a repeated command does not, and the event comes as well.
    if (!duplicate && seq) {
      this.#event(whole, undefined, true);
    } else if (event.message) {
      if (seq > (conversation._low ?? Infinity)) this.#place(conversation, event.message, seq);
    } else if (!seq || seq <= conversation.cursor) {
      // Nothing changed by it, except perhaps what we did not know.
      this.#apply(conversation, whole, 0);
    }
    entry.resolve(event.message ? (find(conversation.messages, seq) ?? event.message) : answer);
    this.#changed(conversation);
    this.#pump();
  }

  #refused(conversation, entry, error) {
    if (error.code === "disconnected") return; // goes out again after `ready`
    if (error.retryable) {
      const doubled = BOUNDS.backoff_min_ms * 2 ** Math.min(entry.attempts, 7);
      const until = now() + (error.retry_after_ms ?? doubled * (0.5 + Math.random() / 2));
      if (error.code === "rate_limited") {
        // It counts per user, so every conversation waits.
        this.#paused_until = until;
        this.#tokens = Math.min(this.#tokens, 1);
      } else {
        entry.not_before = until;
      }
      return this.#pump();
    }
    if (!this.#dequeue(conversation, entry)) return;
    Object.assign(entry, { status: "failed", error });
    if (entry.frame.type === "send_message") {
      conversation.failed.push(entry);
      if (conversation.failed.length > BOUNDS.outbox) conversation.failed.shift();
    }
    entry.reject(error);
    this.#emit("failed", { conversation, entry, error });
    this.#changed(conversation);
    this.#pump();
  }

  get #storage_key() {
    return `carillon.outbox.${this.user_id}.${this.device_id}`;
  }

  #save() {
    if (!this.#options.storage || this.#is_saving || !this.user_id) return;
    this.#is_saving = true;
    queueMicrotask(() => {
      this.#is_saving = false;
      const entries = [...this.#queues.values()].flatMap((one) => one.pending.map((entry) => entry.frame));
      try {
        this.#options.storage.setItem(this.#storage_key, JSON.stringify(entries));
      } catch {
        // No room: the outbox lives as long as the page then.
      }
    });
  }

  #restore() {
    let frames = [];
    try {
      frames = JSON.parse(this.#options.storage?.getItem(this.#storage_key) ?? "[]");
    } catch {
      return; // Not ours, or damaged.
    }
    const known = new Set([...this.#queues.values()].flatMap((one) => one.pending.map((entry) => entry.client_msg_id)));
    // They are older than what this page was told so far.
    for (const frame of frames.slice(0, BOUNDS.outbox - this.#queued_count).reverse()) {
      if (!known.has(frame.client_msg_id)) this.#enqueue(frame, true);
    }
    this.#save();
  }

  // ---- Typing and presence ----------------------------------------------------------------------------------------

  /** The user types, or stopped doing so. Call it at every key: it is told once in a while. */
  typing(conversation_id, is_typing = true) {
    const at = this.#typing_at.get(conversation_id);
    if (is_typing ? at !== undefined && now() - at < BOUNDS.typing_start_ms : at === undefined) return;
    if (is_typing) this.#typing_at.set(conversation_id, now());
    else this.#typing_at.delete(conversation_id);
    this.#say({ type: "typing", conversation_id, state: is_typing ? "start" : "stop" });
  }

  #typed(conversation, user_id, is_typing) {
    clearTimeout(conversation.typing.get(user_id));
    const was_typing = conversation.typing.delete(user_id);
    if (is_typing && user_id !== this.user_id) {
      const stop = () => this.#typed(conversation, user_id, false);
      conversation.typing.set(user_id, setTimeout(stop, BOUNDS.typing_ms));
    }
    if (was_typing !== is_typing) this.#emit("typing", { conversation });
  }

  /** From now on `presence` tells about these users, also after a reconnect. */
  subscribe(user_ids) {
    const added = user_ids.filter((id) => !this.#watched.has(id));
    for (const id of added) this.#watched.add(id);
    if (added.length) this.#subscribe(added);
  }

  unsubscribe(user_ids) {
    const gone = user_ids.filter((id) => this.#watched.delete(id));
    for (const id of gone) this.presence.delete(id);
    if (gone.length) this.#subscribe(gone, "presence_unsubscribe");
  }

  #subscribe(user_ids, type = "presence_subscribe") {
    for (let at = 0; at < user_ids.length; at += BOUNDS.presence_ids) {
      const some = user_ids.slice(at, at + BOUNDS.presence_ids);
      this.#ask({ type, user_ids: some }, (error, answer) => {
        for (const one of answer?.presence ?? []) this.#present(one);
        // Whoever is still of interest is asked for again; after a loss everybody is anyway.
        if (!error?.retryable || error.code === "disconnected" || type !== "presence_subscribe") return;
        const again = () => this.#subscribe(some.filter((id) => this.#watched.has(id)));
        setTimeout(again, error.retry_after_ms ?? 1_000);
      });
    }
  }

  #present({ user_id, status, last_seen_at }) {
    if (!this.#watched.has(user_id)) return;
    const known = { user_id, status, last_seen_at: last_seen_at ?? this.presence.get(user_id)?.last_seen_at };
    this.presence.set(user_id, known);
    this.#emit("presence", known);
  }

  // ---- REST -------------------------------------------------------------------------------------------------------

  async #fetch(method, path, body, headers = {}) {
    let response;
    try {
      response = await fetch(this.url + path, {
        method,
        headers: {
          Authorization: `Bearer ${this.#token ?? (await this.#fetch_token())}`,
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
          ...headers,
        },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(BOUNDS.rest_ms),
      });
    } catch (error) {
      throw new CarillonError({ code: "disconnected", message: String(error.message), retryable: true });
    }
    const answer = await response.json().catch(() => undefined);
    if (response.ok) return answer;
    const error = answer?.error ?? { code: "internal", message: response.statusText, retryable: response.status >= 500 };
    throw new CarillonError(error, response.status);
  }

  /** Any request of REST. Everything this module asks for may be asked twice, so what is retryable is retried. */
  async rest(method, path, body, headers) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#fetch(method, path, body, headers);
      } catch (error) {
        if (error.code === "token_expired" && typeof this.#options.token === "function" && attempt === 1) {
          await this.#fetch_token();
          continue;
        }
        if (!error.retryable || attempt >= BOUNDS.rest_attempts) throw error;
        await sleep(error.retry_after_ms ?? BOUNDS.backoff_min_ms * 2 ** attempt * (0.5 + Math.random() / 2));
      }
    }
  }

  #learn(object) {
    const conversation = this.conversation(object.conversation_id);
    const { type, group_name, member_ids, created_at, created_by, muted_until, history } = object;
    Object.assign(conversation, { type, created_at, created_by, muted_until, history });
    // An answer from before the events that we know says nothing about names and members any more.
    if (object.head_seq >= (conversation.cursor ?? 0) || !conversation._is_loaded) {
      Object.assign(conversation, { group_name, member_ids: [...(member_ids ?? [])], is_left: false });
    }
    conversation._is_loaded = true;
    conversation.head_seq = Math.max(conversation.head_seq, object.head_seq);
    conversation.read_seq = Math.max(conversation.read_seq, object.read_seq ?? 0);
    // What was heard later is counted on top; what was heard before is in it. A count from before our own `read` is old.
    if (object.head_seq >= (conversation.cursor ?? 0) && (object.read_seq ?? 0) >= conversation.read_seq) {
      conversation.unread_count = object.unread_count;
      conversation._as_of = object.head_seq;
    }
    const last = object.last_message;
    if (last && last.seq > (conversation.last_message?.seq ?? 0)) {
      conversation.last_message = { reactions: [], ...last };
      if (last.deleted) bury(conversation.last_message);
    }
    this.#restate(conversation);
    this.#changed(conversation);
    return conversation;
  }

  /** What REST knows of a conversation that events made known: asked for once, and again when that `is_stale`. */
  #load(conversation, is_stale = !conversation._is_loaded) {
    conversation._is_stale ||= is_stale;
    if (!conversation._is_stale || conversation._is_loading) return;
    conversation._is_loading = true;
    conversation._is_stale = false;
    this.refresh(conversation.id).then(
      () => ((conversation._is_loading = false), this.#load(conversation, false)),
      () => ((conversation._is_loading = false), (conversation._is_stale = true)), // the next event tries again
    );
  }

  async refresh(conversation_id) {
    return this.#learn(await this.rest("GET", `/v1/conversations/${conversation_id}`));
  }

  /** A page of the user's conversations, latest activity first. */
  async load_conversations({ cursor, limit } = {}) {
    const page = await this.rest("GET", `/v1/conversations${query({ cursor, limit })}`);
    return { conversations: page.conversations.map((one) => this.#learn(one)), next_cursor: page.next_cursor };
  }

  /** Finds or makes the conversation with one other user. */
  async open_direct(user_id) {
    const body = { type: "one_to_one", member_ids: [user_id] };
    return this.#learn(await this.rest("POST", "/v1/conversations", body));
  }

  async create_group(group_name, member_ids, { history } = {}) {
    const body = { type: "group", group_name, member_ids, history };
    return this.#learn(await this.rest("POST", "/v1/conversations", body, { "Idempotency-Key": uuid() }));
  }

  /** The next older page of `conversation.messages`, the newest one at first; `false` when there is none. */
  history(conversation_id, limit = 50) {
    const conversation = this.conversation(conversation_id);
    conversation._is_open = true;
    const is_full = conversation.messages.length >= BOUNDS.messages;
    if (!conversation.has_more || is_full) return Promise.resolve(false);
    conversation._history ??= this.#page(conversation, limit).finally(() => (conversation._history = undefined));
    return conversation._history;
  }

  async #page(conversation, limit) {
    const before_seq = conversation._low;
    const at_least = conversation.cursor ?? 0;
    const path = `/v1/conversations/${conversation.id}/messages${query({ before_seq, limit })}`;
    const page = await this.rest("GET", path);
    // Meanwhile the log began for us, or was reset: what lies right below it is asked for.
    if (conversation._low !== before_seq) return this.#page(conversation, limit);
    const [newest, oldest] = [page.messages[0]?.seq, page.messages.at(-1)?.seq];
    const as_of = page.head_seq ?? Math.max(at_least, newest ?? 0);
    for (const message of page.messages) this.#place(conversation, message, as_of);
    conversation._low = oldest ?? conversation._low;
    if (before_seq === undefined) conversation._top = Math.max(conversation._top ?? 0, newest ?? 0);
    conversation.has_more = page.next_cursor !== null && page.next_cursor !== undefined;
    this.#changed(conversation);
    return true;
  }

  /** Messages above a seq, oldest first, as the server has them; nothing is kept. */
  messages_after(conversation_id, after_seq, limit = 200) {
    return this.rest("GET", `/v1/conversations/${conversation_id}/messages${query({ after_seq, limit })}`);
  }

  members(conversation_id, { cursor, limit } = {}) {
    return this.rest("GET", `/v1/conversations/${conversation_id}/members${query({ cursor, limit })}`);
  }

  add_members(conversation_id, user_ids) {
    return this.rest("POST", `/v1/conversations/${conversation_id}/members`, { user_ids });
  }

  remove_member(conversation_id, user_id) {
    return this.rest("DELETE", `/v1/conversations/${conversation_id}/members/${user_id}`);
  }

  rename(conversation_id, group_name) {
    return this.rest("PATCH", `/v1/conversations/${conversation_id}`, { group_name });
  }

  /** Who received and who read what. */
  receipts(conversation_id, seq) {
    return this.rest("GET", `/v1/conversations/${conversation_id}/receipts${query({ seq })}`);
  }

  /** A profile by id, remembered. */
  user(user_id) {
    let user = this.#users.get(user_id);
    if (!user) {
      user = this.rest("GET", `/v1/users/${user_id}`);
      user.catch(() => this.#users.delete(user_id));
      this.#users.set(user_id, user);
      if (this.#users.size > BOUNDS.users) this.#users.delete(this.#users.keys().next().value);
    }
    return user;
  }

  user_by_name(username) {
    return this.rest("GET", `/v1/users${query({ username })}`);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const activity = (one) => Math.max(one.last_message?.created_at ?? 0, one.created_at);

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** Where a seq stands, or would stand, in a list that is sorted by seq. Most are looked for near the end. */
function place(messages, seq) {
  let [low, high] = [0, messages.length];
  if (high && messages[high - 1].seq < seq) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (messages[middle].seq < seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

function find(messages, seq) {
  const message = messages[place(messages, seq)];
  return message?.seq === seq ? message : undefined;
}

/** Of the messages held. */
function count_unread({ messages, read_seq }, user_id) {
  return messages.filter((one) => one.seq > read_seq && one.sender_id !== user_id && !one.deleted).length;
}

/** Deleted for everyone: nothing of it stays here but its place (FU5b). */
function bury(message) {
  Object.assign(message, { deleted: true, content: "", media_url: undefined, reactions: [] });
}

function react(message, emoji, is_added, is_mine) {
  const found = message.reactions.find((one) => one.emoji === emoji);
  const one = found ?? { emoji, count: 0, mine: false };
  if (is_mine && one.mine === is_added) return;
  if (is_mine) one.mine = is_added;
  one.count += is_added ? 1 : -1;
  if (!found && is_added) message.reactions.push(one);
  message.reactions = message.reactions.filter(({ count }) => count > 0);
}
