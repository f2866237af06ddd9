// Types of carillon.js. Ids are decimal strings, `seq`s are numbers, times are milliseconds since the epoch.

export type State = "idle" | "connecting" | "syncing" | "online" | "waiting" | "stopped";
export type Status = "sent" | "delivered" | "read";
export type MessageType = "text" | "image" | "video" | "file";

export interface Options {
  /** Of the server, `http(s)://` or `ws(s)://`; the page's own origin when absent. */
  url?: string;
  /** A JWT, or what returns a fresh one. With a function, expired tokens are replaced without losing the connection. */
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
  reactions: Reaction[];
  /** Own messages in large groups. */
  delivered_count?: number;
  read_count?: number;
}

export interface Outgoing {
  content?: string;
  message_type?: MessageType;
  media_url?: string;
  reply_to?: string;
  encoding?: "utf8" | "opaque";
  /** Minted when absent. */
  client_msg_id?: string;
}

/** A command on its way. `Done` is what its promise brings. */
export interface Entry<Done = unknown> {
  readonly client_msg_id: string;
  readonly content?: string;
  readonly media_url?: string;
  readonly message_type?: MessageType;
  readonly created_at: number;
  readonly status: "pending" | "sent" | "failed";
  readonly error?: CarillonError;
  readonly frame: Readonly<Record<string, unknown>>;
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
  last_seen_at?: number;
}

export interface Member {
  user_id: string;
  role: "owner" | "admin" | "member";
  joined_seq: number;
}

export interface Events {
  state: { state: State; retry_at?: number; code?: number; reason?: string };
  ready: { user_id: string; device_id: string };
  caught_up: Record<string, never>;
  message: { conversation: Conversation; message: Message };
  change: { conversation: Conversation };
  typing: { conversation: Conversation };
  presence: Presence;
  failed: { conversation: Conversation; entry: Entry; error: CarillonError };
  reset: { conversation: Conversation; reason: string };
}

export const BOUNDS: Readonly<Record<string, number>>;

export class CarillonError extends Error {
  /** One of protocol.md, or `disconnected`, `outbox_full`. */
  readonly code: string;
  readonly retryable: boolean;
  readonly retry_after_ms?: number;
  readonly field?: string;
  readonly request_id?: string;
  /** Of HTTP, when it came by REST. */
  readonly status?: number;
}

export class Conversation {
  readonly id: string;
  readonly type?: "one_to_one" | "group";
  readonly group_name?: string;
  /** At most 200; `members` pages through more. */
  readonly member_ids: readonly string[];
  readonly created_at: number;
  readonly created_by?: string;
  readonly history?: "from_join" | "all";
  readonly muted_until?: number;
  readonly head_seq: number;
  readonly read_seq: number;
  readonly unread_count: number;
  readonly last_message: Message | null;
  /** In seq order. */
  readonly messages: readonly Message[];
  readonly pending: readonly Entry[];
  readonly failed: readonly Entry<Message>[];
  readonly receipts: ReadonlyMap<string, { delivered_seq: number; read_seq: number }>;
  /** Its keys are the users who are typing. */
  readonly typing: ReadonlyMap<string, unknown>;
  readonly has_more: boolean;
  readonly is_left: boolean;
  readonly cursor?: number;
  readonly last_seq: number;
  message(message_id: string): Message | undefined;
}

export class Carillon extends EventTarget {
  constructor(options: Options);
  readonly url: string;
  readonly state: State;
  readonly user_id?: string;
  readonly device_id?: string;
  readonly limits: {
    frame_bytes: number;
    content_bytes: number;
    inflight: number;
    send_per_s: number;
    send_burst: number;
  };
  readonly conversations: ReadonlyMap<string, Conversation>;
  readonly presence: ReadonlyMap<string, Presence>;

  on<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): () => void;
  connect(): void;
  close(): void;
  /** Ends the back-off, if there is one. */
  retry_now(): void;

  conversation(id: string): Conversation;
  /** Latest activity first. */
  list(): Conversation[];

  /** @throws CarillonError `outbox_full` */
  send(conversation_id: string, message: string | Outgoing): Entry<Message>;
  delete_message(conversation_id: string, message_id: string): Entry;
  react(conversation_id: string, message_id: string, emoji: string): Entry;
  unreact(conversation_id: string, message_id: string, emoji: string): Entry;
  resend(entry: Entry): Entry;
  discard(entry: Entry): void;
  read(conversation_id: string, seq?: number): void;
  typing(conversation_id: string, is_typing?: boolean): void;
  subscribe(user_ids: string[]): void;
  unsubscribe(user_ids: string[]): void;

  /** One older page into `messages`; `false` when there was none. */
  history(conversation_id: string, limit?: number): Promise<boolean>;
  messages_after(
    conversation_id: string,
    after_seq: number,
    limit?: number,
  ): Promise<{ messages: Message[]; next_cursor: string | null }>;
  load_conversations(page?: {
    cursor?: string;
    limit?: number;
  }): Promise<{ conversations: Conversation[]; next_cursor: string | null }>;
  refresh(conversation_id: string): Promise<Conversation>;
  open_direct(user_id: string): Promise<Conversation>;
  create_group(
    group_name: string,
    member_ids: string[],
    options?: { history?: "from_join" | "all" },
  ): Promise<Conversation>;
  members(
    conversation_id: string,
    page?: { cursor?: string; limit?: number },
  ): Promise<{ members: Member[]; next_cursor: string | null }>;
  add_members(conversation_id: string, user_ids: string[]): Promise<unknown>;
  remove_member(conversation_id: string, user_id: string): Promise<unknown>;
  rename(conversation_id: string, group_name: string): Promise<unknown>;
  receipts(conversation_id: string, seq?: number): Promise<unknown>;
  user(user_id: string): Promise<User>;
  user_by_name(username: string): Promise<User>;
  rest(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<any>;
}
