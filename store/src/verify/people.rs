//! Users with their names, lists and devices; pairs; markers; and what routers write about themselves.

use carillon_protocol::ids::UserId;
use carillon_protocol::placement::{SLOTS_COUNT, slot_of_conversation};
use carillon_protocol::record::{
    ConversationRow, ConversationType, DeviceRow, HeadRow, UserConversationRow, UserRow,
};

use super::{Checked, Cursor, Key, NODES_COUNT, Walk, number, remembered};
use crate::keys::{self, Parsed};
use crate::rows::{decode_member, read_slot};

/// What the rest of the walk stands on, and the rows of families that have a handful of them.
pub(super) fn control(walk: &mut Walk<'_>) -> Checked {
    walk.generation = walk.load(&keys::generation(), number)?.unwrap_or(0);
    remembered::generations(walk)?;
    let known = [&keys::BY_CONVERSATION[..], &keys::OTHERS[..], &[keys::ENGINE]].concat();
    for family in 0..u8::MAX {
        let (from, to) = keys::family(family);
        if !known.contains(&family)
            && let Some((key, _)) = walk.read.range(&from, &to, 1, false)?.first()
        {
            walk.wrong(format!("there is a row {}, of a family that nobody writes", Key(key)));
        }
    }
    for family in [keys::GENERATION, keys::ID_CEILING, keys::SLOT, keys::ROUTER, keys::BEAT, keys::ADDRESS] {
        let mut rows = Cursor::of(family);
        while let Some((key, value)) = rows.next(walk)? {
            let is_read = match keys::parse(&key) {
                Some(Parsed::IdCeiling(node, _)) => {
                    let ceiling_ms = number(&value);
                    if let (Some(held), Some(ceiling_ms)) =
                        (walk.ceilings_ms.get_mut(usize::from(node)), ceiling_ms)
                    {
                        *held = ceiling_ms.max(*held);
                    }
                    ceiling_ms.is_some() && usize::from(node) < NODES_COUNT
                }
                Some(Parsed::Slot(slot)) => slot.0 < SLOTS_COUNT && read_slot(&value).is_ok(),
                Some(Parsed::Address(_)) => std::str::from_utf8(&value).is_ok(),
                _ => number(&value).is_some(),
            };
            walk.decoded(&key, is_read.then_some(()));
        }
    }
    Ok(())
}

/// Users and everything of theirs, then pairs and markers.
pub(super) fn people(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::USER);
    while let Some((key, row)) = rows.next(walk)? {
        let Some(Parsed::User(user)) = keys::parse(&key) else { continue };
        walk.counts().users += 1;
        let Some(row) = walk.decoded(&key, UserRow::decode(&row)) else { continue };
        if walk.load(&keys::name(&row.username), number)? != Some(user.0) {
            walk.wrong(format!("the name of user {user} is another's"));
        }
    }
    let mut rows = Cursor::of(keys::NAME);
    while let Some((key, user)) = rows.next(walk)? {
        let Some(Parsed::Name(name)) = keys::parse(&key) else { continue };
        let Some(user) = walk.decoded(&key, number(&user)) else { continue };
        let named = walk.load(&keys::user(UserId(user)), UserRow::decode)?;
        if named.is_none_or(|row| row.username != name) {
            walk.wrong(format!("a name is said to be of user {user}, who has another"));
        }
    }
    lists(walk)?;
    devices(walk)?;
    pairs(walk)?;
    markers(walk)
}

/// Each conversation of a user's list has them as a member. (That it has them so is told from the other side.)
fn lists(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::USER_CONVERSATION);
    while let Some((key, row)) = rows.next(walk)? {
        let Some(Parsed::UserConversation(user, id)) = keys::parse(&key) else { continue };
        walk.decoded(&key, UserConversationRow::decode(&row));
        if walk.read.get(&keys::member(id, user))?.is_none() {
            walk.wrong_in(id, format_args!("user {user} has it in their list, and is no member"));
        }
    }
    let mut rows = Cursor::of(keys::MUTE);
    while let Some((key, until)) = rows.next(walk)? {
        let Some(Parsed::Mute(user, id)) = keys::parse(&key) else { continue };
        walk.decoded(&key, number(&until));
        if walk.read.get(&keys::member(id, user))?.is_none() {
            walk.wrong_in(id, format_args!("user {user} has muted it, and was never a member"));
        }
    }
    Ok(())
}

fn devices(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::DEVICE);
    let mut last = None;
    while let Some((key, row)) = rows.next(walk)? {
        let Some(Parsed::Device(user, _)) = keys::parse(&key) else { continue };
        walk.decoded(&key, DeviceRow::decode(&row));
        if last != Some(user) && walk.read.get(&keys::user(user))?.is_none() {
            walk.wrong(format!("there is a device of user {user}, who does not exist"));
        }
        last = Some(user);
    }
    let mut rows = Cursor::of(keys::DEVICE_CURSOR);
    while let Some((key, seq)) = rows.next(walk)? {
        let Some(Parsed::DeviceCursor(user, _, id)) = keys::parse(&key) else { continue };
        let Some(seq) = walk.decoded(&key, number(&seq)) else { continue };
        let member = walk.load(&keys::member(id, user), decode_member)?;
        if member.is_none_or(|member| member.delivered_seq < seq) {
            let words = format!("a device of user {user} has got to {seq}, which was not delivered to them");
            walk.wrong_in(id, words);
        }
    }
    Ok(())
}

fn pairs(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::PAIR);
    while let Some((key, id)) = rows.next(walk)? {
        let Some(Parsed::Pair(one, other)) = keys::parse(&key) else { continue };
        let Some(id) = walk.decoded(&key, number(&id)).map(carillon_protocol::ids::ConversationId) else {
            continue;
        };
        let row = walk.load(&keys::conversation(id), ConversationRow::decode)?;
        let is_pair = row.is_some_and(|row| row.conversation_type == ConversationType::OneToOne);
        let are_members = walk.read.get(&keys::member(id, one))?.is_some()
            && walk.read.get(&keys::member(id, other))?.is_some();
        if !is_pair || !are_members || one >= other {
            walk.wrong_in(id, format_args!("it is said to be of users {one} and {other}, and is not"));
        }
    }
    Ok(())
}

/// Each marker stands where its conversation's owner looks for it, at an event that is there.
fn markers(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::MARKER);
    while let Some((key, first)) = rows.next(walk)? {
        let Some(Parsed::Marker(slot, id)) = keys::parse(&key) else { continue };
        let Some(first) = walk.decoded(&key, number(&first)) else { continue };
        let head = walk.load(&keys::head(id), HeadRow::decode)?.map_or(0, |head| head.seq);
        if slot != slot_of_conversation(id) || !(1..=head).contains(&first) {
            walk.wrong_in(id, format_args!("its marker is at {first} of {head}, in slot {}", slot.0));
        }
    }
    Ok(())
}
