//! Frames of the link in words, for whoever reads along.

use carillon_protocol::frame::{self, Frame};
use carillon_protocol::ids::UserId;

/// What a frame says, without what is long in it.
pub(super) fn words(bytes: &[u8]) -> String {
    match frame::read(bytes) {
        Ok(Frame::Open(it)) => format!("Open {}", it.incarnation),
        Ok(Frame::Register(it)) => {
            format!("Register {}/{} {}@{} again {}", it.session, it.request, it.user.0, it.device, it.again)
        }
        Ok(Frame::Registered(it)) => {
            let joined = it.conversations.iter().map(|one| format!("{}:{}", one.conversation.0, one.cursor));
            let joined = joined.collect::<Vec<_>>().join(" ");
            format!("Registered {}/{} [{joined}] more {}", it.session, it.request, it.more)
        }
        Ok(Frame::Unregister(it)) => format!("Unregister {} of {}", it.session, it.user.0),
        Ok(Frame::Peek(it)) => {
            let asked = it.conversations.iter().map(|one| one.0.to_string()).collect::<Vec<_>>().join(" ");
            format!("Peek {}/{} for {} [{asked}]", it.session, it.request, it.user.0)
        }
        Ok(Frame::Peeked(it)) => {
            let one = |one: &frame::ArchivedStanding| {
                format!("{}:{}/{}", one.conversation.0, one.fanned_out_seq, one.head_seq)
            };
            let standings = it.standings.iter().map(one).collect::<Vec<_>>().join(" ");
            format!("Peeked {}/{} [{standings}]", it.session, it.request)
        }
        Ok(Frame::Submit(it)) => format!(
            "Submit {}/{} of {} {} by epoch {}",
            it.session, it.request, it.user.0, it.client_msg_id, it.slot_epoch
        ),
        Ok(Frame::Accepted(it)) => format!(
            "Accepted {}/{} {}/{} duplicate {}",
            it.session, it.request, it.conversation.0, it.seq, it.duplicate
        ),
        Ok(Frame::Refused(it)) => format!("Refused {}/{} {}", it.session, it.request, it.message),
        Ok(Frame::NotOwner(it)) => format!("NotOwner {}/{} slot {}", it.session, it.request, it.slot),
        Ok(Frame::Deliver(it)) => format!(
            "Deliver {}/{} of {} to {} replayed {}",
            it.conversation.0,
            it.seq,
            it.head_seq,
            users(&it.users),
            it.replayed
        ),
        Ok(Frame::Notify(it)) => format!(
            "Notify {} {}/{} of {} epoch {} to {} replayed {}",
            it.request,
            it.conversation.0,
            it.seq,
            it.head_seq,
            it.slot_epoch,
            users(&it.users),
            it.replayed
        ),
        Ok(Frame::Notified(it)) => format!("Notified {}", it.request),
        Ok(Frame::Own(it)) => format!("Own {}, {} slots", it.request, it.slots.len()),
        Ok(Frame::Moved(it)) => format!("Moved, {} slots", it.slots.len()),
        Ok(Frame::Owned(it)) => format!("Owned {}", it.request),
        Ok(Frame::Lapsed(it)) => format!("Lapsed {}", it.request),
        Ok(Frame::Owners(it)) => {
            let routers = it.routers.iter().map(|one| one.incarnation.to_string());
            format!("Owners [{}], {} slots", routers.collect::<Vec<_>>().join(" "), it.slots.len())
        }
        Ok(Frame::Receipt(it)) => format!(
            "Receipt {}/{} of {} {} delivered {} read {}",
            it.session, it.request, it.user.0, it.conversation.0, it.delivered_seq, it.read_seq
        ),
        Ok(Frame::Watermark(it)) => {
            let senders = it.senders.iter().map(|one| format!("{}:{}", one.user.0, one.seq));
            format!(
                "Watermark {} of {} read {} [{}]",
                it.conversation.0,
                it.reader.0,
                it.read,
                senders.collect::<Vec<_>>().join(" ")
            )
        }
        Ok(Frame::Read(it)) => format!("Read {}/{} {}", it.session, it.request, it.conversation.0),
        Ok(Frame::Page(it)) => format!(
            "Page {}/{} {} to {}, fanned out {}, head {}",
            it.session,
            it.request,
            it.conversation.0,
            it.entries.last().map_or(0, |entry| entry.seq.to_native()),
            it.fanned_out_seq,
            it.head_seq
        ),
        Ok(Frame::Watch(it)) => {
            format!("Watch {}/{} {} {}", it.session, it.request, users(&it.users), it.watch)
        }
        Ok(Frame::Watched(it)) => format!("Watched {}/{}", it.session, it.request),
        Ok(Frame::Presence(it)) => format!("Presence {} online {}", it.user.user.0, it.user.online),
        Ok(Frame::Replaced(it)) => format!("Replaced {}", it.session),
        Ok(Frame::ReadSync(it)) => format!("ReadSync {} of {}", it.conversation.0, it.user.0),
        Ok(Frame::ReadBy(it)) => format!("ReadBy {} of {}", it.conversation.0, it.user.0),
        Ok(Frame::Revoked(it)) => format!("Revoked {}@{}", it.user.0, it.device),
        Ok(Frame::Typing(_)) => "Typing".to_owned(),
        Ok(Frame::Typed(_)) => "Typed".to_owned(),
        Ok(Frame::Find(it)) => format!("Find {}", it.request),
        Ok(Frame::Found(it)) => format!("Found {}", it.request),
        Err(error) => format!("{error}"),
    }
}

fn users(users: &[rkyv::Archived<UserId>]) -> String {
    users.iter().map(|user| user.0.to_string()).collect::<Vec<_>>().join("+")
}
