//! The writer: one thread that owns rooms and sequence numbers. It takes whatever waits, writes it in one transaction, and
//! hands over what came of it once that is durable, to be told by [`crate::teller`] while the next one is written.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::Form;
use crate::database::{self, Statements};
use crate::frames::{self, DeliveryAck, Id, Message};
use crate::rooms::{Rooms, Said, message_id};
use crate::teller::Effect;

/// Commands of one transaction, at most.
const BATCH_MAX: usize = 1_024;
/// In larger rooms the sender is told how many have a message, not who.
const NAMED_RECEIPTS_MEMBERS_MAX: usize = 200;

/// What connections and visitors want.
pub enum Command {
    /// A client has identified itself.
    Enter { user: u64, outbox: mpsc::Sender<Utf8Bytes> },
    /// A client says something.
    Send {
        user: u64,
        id: Option<Box<RawValue>>,
        conversation: u64,
        content: String,
        client_msg_id: Option<String>,
    },
    /// A client has everything up to there.
    Delivered { user: u64, conversation: u64, seq: u64 },
    /// A room under this key, made if there is none.
    Open { key: String, members: Vec<u64>, answer: oneshot::Sender<View> },
    /// More members.
    Join { by: u64, conversation: u64, users: Vec<u64>, answer: oneshot::Sender<Option<View>> },
    /// How a room is, for a member.
    View { by: u64, conversation: u64, answer: oneshot::Sender<Option<View>> },
}

/// How a room is.
#[derive(Clone, Copy)]
pub struct View {
    pub conversation: u64,
    pub head_seq: u64,
    pub is_new: bool,
}

/// See the module.
pub struct Writer<'c> {
    statements: Statements<'c>,
    is_in_transaction: bool,
    rooms: Rooms,
    effects: Vec<Effect>,
    /// Watermarks that moved in this transaction: room and user, from where to where.
    receipts: BTreeMap<(u64, u64), (u64, u64)>,
    now_ms: u64,
}

impl<'c> Writer<'c> {
    /// Runs until nobody can want anything any more.
    pub fn run(
        connection: &'c Connection,
        form: Form,
        mut commands: mpsc::Receiver<Command>,
        durable: &mpsc::Sender<Vec<Effect>>,
    ) -> rusqlite::Result<()> {
        let mut writer = Writer {
            statements: Statements::new(connection, form)?,
            is_in_transaction: false,
            rooms: database::load(connection, form)?,
            effects: Vec::new(),
            receipts: BTreeMap::new(),
            now_ms: 0,
        };
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while commands.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            writer.now_ms = now_ms();
            for command in batch.drain(..) {
                writer.take(command)?;
            }
            writer.write_receipts()?;
            if std::mem::take(&mut writer.is_in_transaction) {
                writer.statements.commit()?;
            }
            if durable.blocking_send(std::mem::take(&mut writer.effects)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, command: Command) -> rusqlite::Result<()> {
        match command {
            Command::Enter { user, outbox } => {
                self.effects.push(Effect::Enter { user, outbox });
                Ok(())
            }
            Command::Send { user, id, conversation, content, client_msg_id } => {
                self.send(user, id.as_deref(), conversation, &content, client_msg_id.as_deref())
            }
            Command::Delivered { user, conversation, seq } => {
                self.delivered(user, conversation, seq);
                Ok(())
            }
            Command::Open { key, members, answer } => self.open(key, &members, answer),
            Command::Join { by, conversation, users, answer } => self.join(by, conversation, &users, answer),
            Command::View { by, conversation, answer } => {
                let room = self.rooms.by_id.get(&conversation).filter(|room| room.place(by).is_some());
                let view = room.map(|room| View { conversation, head_seq: room.head_seq, is_new: false });
                self.effects.push(Effect::AnswerSome { answer, view });
                Ok(())
            }
        }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        if !std::mem::replace(&mut self.is_in_transaction, true) {
            self.statements.begin()?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        user: u64,
        id: Option<&RawValue>,
        conversation: u64,
        content: &str,
        client_msg_id: Option<&str>,
    ) -> rusqlite::Result<()> {
        self.begin()?;
        let room = self.rooms.by_id.get_mut(&conversation).filter(|room| room.place(user).is_some());
        let Some(room) = room else {
            let text = frames::error(id, "forbidden", "not a member of this conversation");
            self.effects.push(Effect::Tell { user, text });
            return Ok(());
        };
        let said = room.next(user);
        let ack = |seq, timestamp, duplicate| {
            frames::delivery_ack(&DeliveryAck {
                id,
                message_id: Id(message_id(conversation, seq)),
                status: "sent",
                conversation_id: Id(conversation),
                seq,
                timestamp,
                client_msg_id,
                duplicate,
                user_id: None,
                delivered_count: None,
            })
        };
        if let Some(client_msg_id) = client_msg_id
            && let Some(earlier) = self.statements.insert_send(&said, conversation, client_msg_id)?
        {
            let text = if earlier.content == content {
                ack(earlier.seq, earlier.created_at, true)
            } else {
                frames::error(id, "idempotency_conflict", "this client_msg_id was sent with other content")
            };
            self.effects.push(Effect::Tell { user, text });
            return Ok(());
        }
        room.say(said);
        self.statements.insert_message(&said, conversation, self.now_ms, content)?;
        let pushed = frames::new_message(&Message {
            message_id: Id(message_id(conversation, said.seq)),
            conversation_id: Id(conversation),
            seq: said.seq,
            sender_id: Id(user),
            content,
            encoding: "utf8",
            message_type: "text",
            status: "sent",
            created_at: self.now_ms,
        });
        self.effects.push(Effect::Tell { user, text: ack(said.seq, self.now_ms, false) });
        self.effects.push(Effect::TellRoom { members: room.members.clone(), but: user, text: pushed });
        Ok(())
    }

    fn delivered(&mut self, user: u64, conversation: u64, seq: u64) {
        let Some(room) = self.rooms.by_id.get_mut(&conversation) else { return };
        let Some(place) = room.place(user) else { return };
        let from_seq = room.delivered_seqs[place];
        let to_seq = seq.min(room.head_seq);
        if to_seq > from_seq {
            room.delivered_seqs[place] = to_seq;
            self.receipts.entry((conversation, user)).or_insert((from_seq, to_seq)).1 = to_seq;
        }
    }

    /// Stores the watermarks that moved, and tells those whose messages arrived.
    fn write_receipts(&mut self) -> rusqlite::Result<()> {
        // Of large rooms, the highest message of each sender that somebody has confirmed.
        let mut counted: BTreeMap<(u64, u64), Said> = BTreeMap::new();
        for ((conversation, user), (from_seq, to_seq)) in std::mem::take(&mut self.receipts) {
            self.begin()?;
            self.statements.set_delivered(conversation, user, to_seq)?;
            let Some(room) = self.rooms.by_id.get(&conversation) else { continue };
            let confirmed = match room.last_of_each(from_seq, to_seq) {
                Some(recent) => recent.into_values().collect(),
                None => self.statements.last_of_each(conversation, from_seq, to_seq)?,
            };
            for said in confirmed.into_iter().filter(|said| said.sender != user) {
                if room.members.len() > NAMED_RECEIPTS_MEMBERS_MAX {
                    let highest = counted.entry((conversation, said.sender)).or_insert(said);
                    *highest = if said.seq > highest.seq { said } else { *highest };
                } else {
                    let text = self.receipt(conversation, &said, Some(user), None);
                    self.effects.push(Effect::Tell { user: said.sender, text });
                }
            }
        }
        for ((conversation, sender), said) in counted {
            let Some(room) = self.rooms.by_id.get(&conversation) else { continue };
            let count = room.delivered_seqs.iter().filter(|seq| **seq >= said.seq).count();
            let text = self.receipt(conversation, &said, None, Some(count));
            self.effects.push(Effect::Tell { user: sender, text });
        }
        Ok(())
    }

    fn receipt(&self, conversation: u64, said: &Said, user: Option<u64>, count: Option<usize>) -> Utf8Bytes {
        frames::delivery_ack(&DeliveryAck {
            id: None,
            message_id: Id(message_id(conversation, said.seq)),
            status: "delivered",
            conversation_id: Id(conversation),
            seq: said.seq,
            timestamp: self.now_ms,
            client_msg_id: None,
            duplicate: false,
            user_id: user.map(Id),
            delivered_count: count,
        })
    }

    fn open(&mut self, key: String, members: &[u64], answer: oneshot::Sender<View>) -> rusqlite::Result<()> {
        self.begin()?;
        let is_new = !self.rooms.by_key.contains_key(&key);
        let next = self.rooms.by_id.len() as u64 + 1;
        let conversation = *self.rooms.by_key.entry(key.clone()).or_insert(next);
        let room = self.rooms.by_id.entry(conversation).or_default();
        if is_new {
            self.statements.insert_room(conversation, &key)?;
            for user in members {
                room.join(*user);
                self.statements.insert_member(conversation, *user)?;
            }
        }
        let view = View { conversation, head_seq: room.head_seq, is_new };
        self.effects.push(Effect::Answer { answer, view });
        Ok(())
    }

    fn join(
        &mut self,
        by: u64,
        conversation: u64,
        users: &[u64],
        answer: oneshot::Sender<Option<View>>,
    ) -> rusqlite::Result<()> {
        self.begin()?;
        let room = self.rooms.by_id.get_mut(&conversation).filter(|room| room.place(by).is_some());
        let mut view = None;
        if let Some(room) = room {
            for user in users {
                room.join(*user);
                self.statements.insert_member(conversation, *user)?;
            }
            view = Some(View { conversation, head_seq: room.head_seq, is_new: false });
        }
        self.effects.push(Effect::AnswerSome { answer, view });
        Ok(())
    }
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
