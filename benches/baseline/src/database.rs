//! The database: its schema and its statements. WAL, synchronous FULL: what is committed is on the disk.

use std::path::Path;

use rusqlite::{Connection, Result, Statement, params};

use crate::Form;
use crate::rooms::{Rooms, Said};

/// The log grows to this many pages before it is copied into the database.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Both forms: rooms outlive the process, and so does the place of each message.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS rooms (room_id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
    CREATE TABLE IF NOT EXISTS members (room_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        PRIMARY KEY (room_id, user_id)) WITHOUT ROWID;
";

/// Messages at the end of one table: nobody reads them but whoever starts again.
const SCHEMA_PLAIN: &str = "
    CREATE TABLE IF NOT EXISTS messages (room_id INTEGER NOT NULL, seq INTEGER NOT NULL, sender_id INTEGER NOT NULL,
        created_at INTEGER NOT NULL, content TEXT NOT NULL);
";

/// Messages in the order in which a history is read, one row per idempotency key, and watermarks.
const SCHEMA_EQUAL: &str = "
    CREATE TABLE IF NOT EXISTS messages (room_id INTEGER NOT NULL, seq INTEGER NOT NULL, sender_id INTEGER NOT NULL,
        created_at INTEGER NOT NULL, content TEXT NOT NULL, PRIMARY KEY (room_id, seq)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sends (room_id INTEGER NOT NULL, sender_id INTEGER NOT NULL, client_msg_id TEXT NOT NULL,
        seq INTEGER NOT NULL, PRIMARY KEY (room_id, sender_id, client_msg_id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS receipts (room_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        delivered_seq INTEGER NOT NULL, PRIMARY KEY (room_id, user_id)) WITHOUT ROWID;
";

/// Opens it for the writer, and makes it where there is none.
pub fn open(path: &Path, form: Form) -> Result<Connection> {
    let connection = Connection::open(path)?;
    if form == Form::Plain {
        // Nobody else reads: no locks, and no index of the log in shared memory.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.execute_batch(SCHEMA)?;
    connection.execute_batch(match form {
        Form::Plain => SCHEMA_PLAIN,
        Form::Equal => SCHEMA_EQUAL,
    })?;
    Ok(connection)
}

/// A message as it is kept.
pub struct Stored {
    pub seq: u64,
    pub sender: u64,
    pub created_at: u64,
    pub content: String,
}

/// A page of a history: up to `limit` messages above `after_seq`, oldest first.
pub fn history(path: &Path, room: u64, after_seq: u64, limit: usize) -> Result<Vec<Stored>> {
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare(
        "SELECT seq, sender_id, created_at, content FROM messages
         WHERE room_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    statement.query_map(params![room, after_seq, limit], stored)?.collect()
}

fn stored(row: &rusqlite::Row<'_>) -> Result<Stored> {
    Ok(Stored { seq: row.get(0)?, sender: row.get(1)?, created_at: row.get(2)?, content: row.get(3)? })
}

/// The writer's statements, prepared once.
pub struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    insert_room: Statement<'c>,
    insert_member: Statement<'c>,
    insert_message: Statement<'c>,
    equal: Option<Equal<'c>>,
}

struct Equal<'c> {
    insert_send: Statement<'c>,
    earlier_send: Statement<'c>,
    set_delivered: Statement<'c>,
    last_of_each: Statement<'c>,
}

impl<'c> Statements<'c> {
    pub fn new(connection: &'c Connection, form: Form) -> Result<Statements<'c>> {
        let equal = || {
            Ok::<_, rusqlite::Error>(Equal {
                insert_send: connection.prepare(
                    "INSERT INTO sends (room_id, sender_id, client_msg_id, seq) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO NOTHING",
                )?,
                earlier_send: connection.prepare(
                    "SELECT seq, sender_id, created_at, content FROM messages WHERE room_id = ?1 AND seq =
                     (SELECT seq FROM sends WHERE room_id = ?1 AND sender_id = ?2 AND client_msg_id = ?3)",
                )?,
                set_delivered: connection.prepare(
                    "INSERT INTO receipts (room_id, user_id, delivered_seq) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET delivered_seq = excluded.delivered_seq",
                )?,
                last_of_each: connection.prepare(
                    "SELECT sender_id, MAX(seq) FROM messages WHERE room_id = ?1 AND seq > ?2 AND seq <= ?3
                     GROUP BY sender_id",
                )?,
            })
        };
        Ok(Statements {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            insert_room: connection.prepare("INSERT INTO rooms (room_id, key) VALUES (?1, ?2)")?,
            insert_member: connection
                .prepare("INSERT OR IGNORE INTO members (room_id, user_id) VALUES (?1, ?2)")?,
            insert_message: connection.prepare(
                "INSERT INTO messages (room_id, seq, sender_id, created_at, content) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            equal: (form == Form::Equal).then(equal).transpose()?,
        })
    }

    pub fn begin(&mut self) -> Result<()> {
        self.begin.execute([]).map(drop)
    }

    /// Durable when it returns.
    pub fn commit(&mut self) -> Result<()> {
        self.commit.execute([]).map(drop)
    }

    pub fn insert_room(&mut self, room: u64, key: &str) -> Result<()> {
        self.insert_room.execute(params![room, key]).map(drop)
    }

    pub fn insert_member(&mut self, room: u64, user: u64) -> Result<()> {
        self.insert_member.execute(params![room, user]).map(drop)
    }

    pub fn insert_message(&mut self, said: &Said, room: u64, created_at: u64, content: &str) -> Result<()> {
        let Said { seq, sender } = said;
        self.insert_message.execute(params![room, seq, sender, created_at, content]).map(drop)
    }

    /// Takes an idempotency key for a message. When it was taken before: the message of then.
    pub fn insert_send(&mut self, said: &Said, room: u64, client_msg_id: &str) -> Result<Option<Stored>> {
        let Some(equal) = &mut self.equal else { return Ok(None) };
        let Said { seq, sender } = said;
        if equal.insert_send.execute(params![room, sender, client_msg_id, seq])? == 1 {
            return Ok(None);
        }
        equal.earlier_send.query_row(params![room, sender, client_msg_id], stored).map(Some)
    }

    pub fn set_delivered(&mut self, room: u64, user: u64, seq: u64) -> Result<()> {
        let Some(equal) = &mut self.equal else { return Ok(()) };
        equal.set_delivered.execute(params![room, user, seq]).map(drop)
    }

    /// The last message of each sender among those after `from_seq` up to `to_seq`.
    pub fn last_of_each(&mut self, room: u64, from_seq: u64, to_seq: u64) -> Result<Vec<Said>> {
        let Some(equal) = &mut self.equal else { return Ok(Vec::new()) };
        let said = |row: &rusqlite::Row<'_>| Ok(Said { sender: row.get(0)?, seq: row.get(1)? });
        equal.last_of_each.query_map(params![room, from_seq, to_seq], said)?.collect()
    }
}

/// Everything that is kept in memory.
pub fn load(connection: &Connection, form: Form) -> Result<Rooms> {
    let mut rooms = Rooms::default();
    let mut each = |words: &str, take: &mut dyn FnMut(&mut Rooms, &rusqlite::Row<'_>) -> Result<()>| {
        let mut statement = connection.prepare(words)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(&mut rooms, row)?;
        }
        Ok::<_, rusqlite::Error>(())
    };
    each("SELECT room_id, key FROM rooms", &mut |rooms, row| {
        rooms.by_key.insert(row.get(1)?, row.get(0)?);
        rooms.by_id.entry(row.get(0)?).or_default();
        Ok(())
    })?;
    each("SELECT room_id, user_id FROM members", &mut |rooms, row| {
        rooms.by_id.entry(row.get(0)?).or_default().join(row.get(1)?);
        Ok(())
    })?;
    each("SELECT room_id, MAX(seq) FROM messages GROUP BY room_id", &mut |rooms, row| {
        rooms.by_id.entry(row.get(0)?).or_default().head_seq = row.get(1)?;
        Ok(())
    })?;
    if form == Form::Equal {
        each("SELECT room_id, user_id, delivered_seq FROM receipts", &mut |rooms, row| {
            let room = rooms.by_id.entry(row.get(0)?).or_default();
            if let Some(place) = room.place(row.get(1)?) {
                room.delivered_seqs[place] = row.get(2)?;
            }
            Ok(())
        })?;
    }
    Ok(rooms)
}
