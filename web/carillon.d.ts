// Types of carillon.js, and what each thing does. Ids are decimal strings, `seq`s are numbers, times are milliseconds
// since the epoch. What is `readonly` is the client's to write: read it freely.

/**
 * - `idle`: `connect` was not called, or `close` was.
 * - `connecting`: on the way, up to the server's `ready`.
 * - `syncing`: connected; what was missed comes in. Commands are sent already.
 * - `online`: everything that was missed is there.
 * - `waiting`: the connection was lost; the next attempt is at `retry_at`.
 * - `stopped`: the server said that there is no use in coming back (401, 403, or a close code of 4500–4999).
 */
export type State = "idle" | "connecting" | "syncing" | "online" | "waiting" | "stopped";
export type Status = "sent" | "delivered" | "read";
export type MessageType = "text" | "image" | "video" | "file";

export interface Options {
  /** Of the server, `http(s)://` or `ws(s)://`; the page's own origin when absent. */
  url?: string;
  /**
   * A JWT, or what returns a fresh one: it is asked before every connection, in time before the token expires (then the
   * connection lives on), and when REST says `token_expired`. Two clients at once need tokens of two devices.
   */
  token: string | (() => string | Promise<string>);
  /** The highest seq without a hole below it, per conversation, of a copy kept elsewhere. */
  cursors?: Record<string, number>;
  /** Keeps the outbox over a reload, for example `sessionStorage`. */
  storage?: Pick<Storage, "getItem" | "setItem">;
}

export interface Reaction {
  emoji: string;
  count: number;
  mine: boolean;
}

export interface Message {
  message_id: string;
  conversation_id: string;
  seq: number;
  sender_id: string;
  /** Empty once deleted. */
  content: string;
  encoding: "utf8" | "opaque";
  media_url?: string;
  message_type: MessageType;
  /** Of own messages: the least over all other members. */
  status: Status;
  created_at: number;
  reply_to?: string;
  client_msg_id?: string;
  deleted?: boolean;
  /** Always there on messages of a `Conversation`; from `messages_after` only when there are any. */
  reactions: Reaction[];
  /** Own messages in large groups. */
  delivered_count?: number;
  read_count?: number;
}

export interface Outgoing {
  /** May be missing or empty beside a `media_url`. */
  content?: string;
  /** `text` when absent. */
  message_type?: MessageType;
  media_url?: string;
  /** The `message_id` of a message of the same conversation. */
  reply_to?: string;
  encoding?: "utf8" | "opaque";
  /** Minted when absent. */
  client_msg_id?: string;
}

/** The answer to a command that changes the log. `seq` is `null` when nothing was to be changed. */
export interface Committed {
  conversation_id: string;
  seq: number | null;
  duplicate?: boolean;
}

/** A command on its way. */
export interface Entry<Done = Committed> {
  readonly client_msg_id: string;
  readonly content?: string;
  readonly media_url?: string;
  readonly message_type?: MessageType;
  readonly created_at: number;
  readonly status: "pending" | "sent" | "failed";
  readonly error?: CarillonError;
  /** What is said to the server. */
  readonly frame: Readonly<{ type: string; conversation_id: string; client_msg_id: string } & Record<string, unknown>>;
  /** Brings the message or the answer once it is durable; rejects with a `CarillonError` when it was refused for good. */
  readonly done: Promise<Done>;
}

export interface Presence {
  user_id: string;
  status: "online" | "offline";
  last_seen_at?: number;
}

export interface User {
  user_id: string;
  username: string;
  created_at: number;
  /** Told to those who share a conversation. */
  last_seen_at?: number;
}

export interface Member {
  user_id: string;
  role: "owner" | "admin" | "member";
  joined_seq: number;
}

export interface Receipt {
  user_id: string;
  delivered_seq: number;
  read_seq: number;
}

/** How many got so far, in groups above 200 members. */
export interface ReceiptCounts {
  delivered_count: number;
  read_count: number;
}

export interface Events {
  /** `retry_at` of `waiting`; `code` and `reason` of `waiting` and `stopped`: a close code, or a status of HTTP. */
  state: { state: State; retry_at?: number; code?: number; reason?: string };
  /** Who we are, on each connection. */
  ready: { user_id: string; device_id: string };
  caught_up: Record<string, never>;
  /** A message that was not known, own ones included; once each. */
  message: { conversation: Conversation; message: Message };
  /** Anything about a conversation: draw it again. */
  change: { conversation: Conversation };
  typing: { conversation: Conversation };
  /** Of those in `subscribe`. */
  presence: Presence;
  /** A command was refused for good. */
  failed: { conversation: Conversation; entry: Entry<unknown>; error: CarillonError };
  /** The copy was dropped, as too much was missed; if `history` was used it is being paged anew. */
  reset: { conversation: Conversation; reason: string };
}

/** The client's bounds; what happens at each stands beside it in carillon.js. */
export const BOUNDS: Readonly<
  Record<
    | "outbox"
    | "messages"
    | "ahead"
    | "cursors"
    | "users"
    | "presence_ids"
    | "rest_attempts"
    | "rest_ms"
    | "backoff_min_ms"
    | "backoff_max_ms"
    | "connect_ms"
    | "settle_ms"
    | "receipts_ms"
    | "typing_start_ms"
    | "typing_ms"
    | "burst_spare"
    | "refresh_ms"
    | "silence_ms",
    number
  >
>;

export class CarillonError extends Error {
  constructor(
    fields: {
      code: string;
      message?: string;
      retryable?: boolean;
      retry_after_ms?: number;
      field?: string;
      request_id?: string;
    },
    status?: number,
  );
  /** One of the protocol's, or `disconnected`, `outbox_full`. */
  readonly code: string;
  readonly retryable: boolean;
  readonly retry_after_ms?: number;
  readonly field?: string;
  readonly request_id?: string;
  /** Of HTTP, when it came by REST. */
  readonly status?: number;
}

/** One conversation as this client knows it. The client makes them. */
export class Conversation {
  constructor(id: string);
  readonly id: string;
  /** Unknown until REST has told. */
  readonly type?: "one_to_one" | "group";
  readonly group_name?: string;
  /** At most 200 and those added since; `members` pages through all. */
  readonly member_ids: readonly string[];
  readonly created_at: number;
  readonly created_by?: string;
  readonly history?: "from_join" | "all";
  readonly muted_until?: number;
  readonly head_seq: number;
  readonly read_seq: number;
  readonly unread_count: number;
  readonly last_message: Message | null;
  /** In seq order, at most `BOUNDS.messages`. */
  readonly messages: readonly Message[];
  /** Commands not yet committed, in the order in which they will be. */
  readonly pending: readonly Entry<any>[];
  /** Messages that were refused for good: for `resend` or `discard`. */
  readonly failed: readonly Entry<Message>[];
  readonly receipts: ReadonlyMap<string, { delivered_seq: number; read_seq: number }>;
  /** Its keys are the users who are typing. */
  readonly typing: ReadonlyMap<string, unknown>;
  /** Whether there is older history than `messages[0]`. */
  readonly has_more: boolean;
  /** Whether the user is no member any more. */
  readonly is_left: boolean;
  /** Every event up to here was applied; unknown before the first one. Kept elsewhere, it is for `Options.cursors`. */
  readonly cursor?: number;
  /** The seq of the last thing that happened, as far as is known. */
  readonly last_seq: number;
  message(message_id: string): Message | undefined;
}

export class Carillon extends EventTarget {
  constructor(options: Options);
  readonly url: string;
  readonly state: State;
  /** Since the first `ready`. */
  readonly user_id?: string;
  readonly device_id?: string;
  /** As the server told them; the outbox keeps to them. */
  readonly limits: {
    frame_bytes: number;
    content_bytes: number;
    inflight: number;
    send_per_s: number;
    send_burst: number;
  };
  readonly conversations: ReadonlyMap<string, Conversation>;
  /** Of those in `subscribe`; as of the last time that there was a connection. */
  readonly presence: ReadonlyMap<string, Presence>;

  /** Listens to an event's detail; returns what ends it. */
  on<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): () => void;
  /** Connects, and comes back after every loss, until `close` or `stopped`; after either it may be called again. */
  connect(): void;
  /** Says goodbye. The outbox stays; `connect` goes on with it. */
  close(): void;
  /** Ends the back-off, if there is one. */
  retry_now(): void;

  /** The conversation of an id; made when it is not known yet. */
  conversation(id: string): Conversation;
  /** Latest activity first: those that REST or events have told of. */
  list(): Conversation[];

  /**
   * Sends a message: now, or when there is a connection, and until the server answers definitely.
   * @throws CarillonError `outbox_full`, as do all commands
   */
  send(conversation_id: string, message: string | Outgoing): Entry<Message>;
  /** Deletes an own message for everyone. */
  delete_message(conversation_id: string, message_id: string): Entry;
  react(conversation_id: string, message_id: string, emoji: string): Entry;
  unreact(conversation_id: string, message_id: string, emoji: string): Entry;
  /** A new attempt for a failed entry, under the same `client_msg_id`, behind everything that waits. */
  resend<Done>(entry: Entry<Done>): Entry<Done>;
  /** Forgets a failed entry. */
  discard(entry: Entry<any>): void;
  /** Everything up to `seq`, or to the last message, was seen by the user. */
  read(conversation_id: string, seq?: number): void;
  /** The user types (call it at every key), or stopped doing so. */
  typing(conversation_id: string, is_typing?: boolean): void;
  /** From now on `presence` tells about these users, also after a reconnect. */
  subscribe(user_ids: string[]): void;
  unsubscribe(user_ids: string[]): void;

  /** One older page into `messages`, the newest one at first; `false` when there was none. */
  history(conversation_id: string, limit?: number): Promise<boolean>;
  /** Messages above a seq, oldest first, as the server has them; nothing is kept. */
  messages_after(
    conversation_id: string,
    after_seq: number,
    limit?: number,
  ): Promise<{ messages: Message[]; next_cursor: string | null }>;
  /** A page of the user's conversations, latest activity first; they are in `list` from then on. */
  load_conversations(page?: {
    cursor?: string | null;
    limit?: number;
  }): Promise<{ conversations: Conversation[]; next_cursor: string | null }>;
  /** Asks REST for a conversation again. */
  refresh(conversation_id: string): Promise<Conversation>;
  /** Finds or makes the conversation with one other user. */
  open_direct(user_id: string): Promise<Conversation>;
  create_group(
    group_name: string,
    member_ids: string[],
    options?: { history?: "from_join" | "all" },
  ): Promise<Conversation>;
  members(
    conversation_id: string,
    page?: { cursor?: string | null; limit?: number },
  ): Promise<{ members: Member[]; next_cursor: string | null }>;
  add_members(conversation_id: string, user_ids: string[]): Promise<Committed>;
  /** Oneself: leaves. */
  remove_member(conversation_id: string, user_id: string): Promise<Committed>;
  rename(conversation_id: string, group_name: string): Promise<Committed>;
  /** How far each member got; how many, in groups above 200. */
  receipts(conversation_id: string, seq?: number): Promise<Receipt[] | ReceiptCounts>;
  /** A profile by id, remembered. */
  user(user_id: string): Promise<User>;
  user_by_name(username: string): Promise<User>;
  /**
   * Any request of REST, with the token; rejects with a `CarillonError`. What is retryable is retried, so a `POST`
   * that must not happen twice needs an `Idempotency-Key` among the headers.
   */
  rest(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<any>;
}
