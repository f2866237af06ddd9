//! The rows: what the product is asked for so far, each in one line of our own words.

/// One requirement.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its id, for ever.
    pub id: &'static str,
    /// What it asks for.
    pub what: &'static str,
    /// What it belongs to.
    pub section: &'static str,
}

macro_rules! rows {
    ($($section:literal { $($id:literal $what:literal)+ })+) => {
        /// Every row, by section; the order inside a family is what a range such as `OO1–OO6` runs through.
        pub const ROWS: &[Row] = &[$($(Row { id: $id, what: $what, section: $section },)+)+];
    };
}

rows! {
    "What people do" {
        "FR1" "One-to-one messages: text, image, video, file"
        "FR2" "Groups of up to a thousand members, each of whom gets each message once"
        "FR3" "Online, offline and last seen"
        "FR4" "Sent, delivered, read: in this order, never backwards"
        "FR5" "What was acknowledged is in the history after a kill of everything"
        "FR6" "History is paged both ways, each message once, in order"
        "FR7" "A second device ends with the same list as the first"
        "FR9" "Typing: at once, and nowhere to be found afterwards"
        "OOS1" "What is out of scope is said to be"
    }
    "REST" {
        "AP1" "POST /v1/messages with its four fields"
        "AP2" "and message_id, timestamp, status in the answer"
        "AP3" "GET …/messages with and without a cursor, 50 by default"
        "AP4" "next_cursor: null at the end, good across restarts and new messages"
        "AP5" "GET /v1/conversations: one's own, latest activity first"
        "AP6" "with last_message and unread_count that a recount confirms"
        "AP7" "media_url may be missing, message_type may not"
        "AP8" "Every route refuses who is no member"
    }
    "WebSocket" {
        "WS1" "The three-field send_message is enough"
        "WS2" "new_message carries the whole data model and the seq"
        "WS3" "delivery_ack for sent, delivered and read"
        "WS4" "typing reaches the other members only"
        "WS5" "presence reaches subscribers only"
        "WS6" "A thousand messages, one HTTP request"
    }
    "Data" {
        "DM1" "A user's fields come back; names are unique"
        "DM2" "A conversation's fields come back; a pair has one conversation, whoever creates it when"
        "DM3" "Message ids sort by creation and are unique, also after a clock stepped back"
        "DM4" "A message has the fields that the published schema says"
        "DM5" "A page is one range read in one place"
        "DB1" "An ordered, append-heavy, range-read message store; every engine passes one suite"
        "DB2" "Users by name and conversations of a user are index keys, not scans"
    }
    "One to one" {
        "OO1" "A send arrives at a gateway"
        "OO2" "and goes to the router that owns the conversation"
        "OO3" "sent comes back with message_id and seq, after the commit"
        "OO4" "The store has it at that seq"
        "OO5a" "Who is online gets it pushed"
        "OO5b" "and confirms that it arrived"
        "OO5c" "which the sender hears"
        "OO5e" "Who is offline finds it over REST"
        "OO5f" "and on coming back gets everything pending, in order, before what is new"
        "OO6" "Reading is told to the sender, and nothing is unread then"
        "OO7" "What was not confirmed comes again, and is seen once"
    }
    "Groups" {
        "GF1" "Only a member may send"
        "GF2" "A group's message takes the same way to its owner"
        "GF3" "Who sees a message is who was a member at its seq"
        "GF4" "Every online member gets it, nobody else does"
        "GF5" "Every recipient's device confirms for itself"
    }
    "Transports" {
        "TR1" "One connection, kept open by heartbeats"
        "TR2" "The whole chat over plain HTTP requests"
        "TR3" "A poll is held until something comes, or its time is over"
        "TR4" "The same scenarios with the same assertions over every transport"
        "TR5" "Server-sent events to receive, REST to send"
    }
    "Order" {
        "OR1" "The server's time counts, never a client's"
        "OR2" "Consecutive seqs under concurrent senders"
        "OR3" "All members hold the same order"
        "OR4" "Clients place by seq"
        "OR5" "Conversations do not wait for each other's counters"
        "OR6" "A stalled conversation stalls no other"
        "OR7" "The list of conversations is by latest message"
    }
    "Presence" {
        "PR1" "Online while heartbeats are recent"
        "PR2" "A heartbeat of 30 s, and no write where nothing changes"
        "PR3" "Who has not subscribed hears nothing"
        "PR4" "Subscribing and unsubscribing, and silence after it"
        "PR5" "Only those who share a conversation may know"
        "PR6" "Coming and going touch no store, but for last seen"
        "PR7" "Last seen is kept"
        "PR8" "What an idle connection costs is known"
    }
    "Large groups" {
        "BG1" "Small groups are told directly, in milliseconds"
        "BG2" "In a crowd of 5,000 the sender's ack is as fast as between two"
        "BG3" "The sender does not wait for the crowd"
        "BG4" "In small groups receipts have names"
        "BG5" "In large ones they are counted, or off"
        "BG6" "A muted conversation keeps its history and its counts"
        "BG7" "How many hear a message is measured"
    }
    "Caches" {
        "CA1" "Opening a conversation again reads no store"
        "CA2" "A cached page takes less than a millisecond"
        "CA3" "Metadata is never stale after one's own write"
        "CA4" "Presence lives in memory"
        "CA5" "A changed profile is seen at once"
    }
    "Decisions" {
        "TO1" "WebSocket and long polling are weighed"
        "TO2" "The time from commit to delivery is measured"
        "TO3" "Fan-out on write and on read are weighed, with thresholds"
        "T1" "sent means durable"
        "T2" "One seq for pairs and groups; created_at never decreases with it"
        "T3" "status for the sender's eyes, watermarks for the truth"
        "T4" "A key per member; member_ids in the answer up to a bound"
        "T5" "Three ways of fan-out, one visible behaviour"
        "T6" "Offline after two missed heartbeats and some slack"
        "T7" "REST and WebSocket send through the same path"
        "T9" "A thousand members are a setting, not a limit of the design"
        "T10" "Queue, cache and database are roles, filled by our own parts"
    }
    "Encrypted content" {
        "E1" "Opaque content comes out as it went in"
        "E2" "and is never looked into"
        "E3" "Rules work on who, when and how much"
    }
    "Many of them" {
        "FU1" "People at different gateways and routers talk to each other"
        "NF3" "No message is lost when a process is killed"
        "NF4" "nor when a client's connection ends anywhere"
        "NF5" "nor when links between processes are cut"
        "SV1" "Gateways hold the sockets; people cross them"
        "SV2" "Failures of the store that pass are tried again, under the same id"
        "SV9" "Who sends does not wait for who reads"
        "SV10" "Who serves whom is computed, not looked up"
        "SC2" "A machine more moves its share of people and no more"
        "SC3" "Between gateways and routers everything finds its way"
        "SC4" "the same for conversations"
        "SC7" "What may be pushed twice is shown once"
        "SC8" "Gateways and routers join and leave while everything runs"
        "DC3" "Tiers speak QUIC; one lane does not hold up another"
        "DC4" "Seqs are committed in FoundationDB, every outcome decided"
    }
    "And then" {
        "FU2" "A killed gateway's clients go on at another"
        "FU3a" "A user's devices are online at once"
        "FU3b" "All of them get everything, also what one of them sent"
        "FU3c" "Each has its own cursor, and catches up its own gap"
        "FU4a" "A client that is told to slow down does"
        "FU4b" "A flood is refused with a time, and harms nobody else"
        "FU5a" "Deleting for everyone is an event"
        "FU5b" "Clients forget the content"
        "FU5c" "History keeps a tombstone without it"
        "FU6a" "Reactions have keys of their own; the message stays as it is"
        "FU6b" "and are told like messages, once for each user and emoji"
        "RL1" "Buckets by connection, user, device, address and conversation"
        "DS1" "Stored while away, delivered on return"
        "DS2" "Under pressure typing and presence go first, messages never"
    }
    "Capacity" {
        "NF6" "Nothing in one process grows with all users"
        "CP1" "Two billion users fit"
        "CP2" "500 million of them on a day"
        "CP3" "40 messages each"
        "CP4" "20 billion messages a day"
        "CP5" "230 thousand a second"
        "CP6" "700 thousand at the peak"
        "CP7" "100 million connections"
        "CP8" "Less than 10 KB for each"
        "CP9" "A terabyte for all of them"
        "CP10" "At most 200 stored bytes for a message of 100"
        "CP11" "4 TB of messages a day"
    }
}

/// Rows without a test so far. It only shrinks.
pub const NOT_YET: &[&str] = &[];
