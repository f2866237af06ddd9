//! Some conversations of a world gain and lose members while everything else goes wrong. Who wants it and when is here,
//! and what the log then says of who may see what (G11): a roll for each conversation.
//!
//! A seq is decided somewhere between the first time that anybody wanted it and the first time that anybody knew of it.
//! So whatever somebody was told in between is right either way; outside of it there is one truth, which is judged.

use std::collections::BTreeMap;

use carillon_node::prng::Prng;
use carillon_protocol::frame::{Change, Command, LinkFrame as _, Submit};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{Body, History};
use carillon_store::verb::{ChangeOp, Outcome};

use super::World;
use super::agenda::Event;
use super::book::Book;
use super::lanes::Way;
use super::plan::MS;

/// Requests of REST for changes are numbered from here, out of the way of the gateway's own and of creations.
const REST_REQUEST: u64 = (1 << 60) + (1 << 40);
/// How often a change is asked for until it is decided.
const CHANGE_AGAIN_MS: u64 = 150;

/// A change of a conversation's members that somebody wants.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    conversation: ConversationId,
    by: UserId,
    change: Change,
    /// When it was first asked for, in virtual nanoseconds.
    since: u64,
    attempts: u64,
    is_decided: bool,
}

/// A membership, by seq: from the event that began it to the one that ended it, both included.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Seq,
    to: Option<Seq>,
}

/// What a log says of its members.
pub(super) struct Roll {
    history: History,
    spans: BTreeMap<UserId, Vec<Span>>,
    owner: Option<UserId>,
    /// When each change was decided at the earliest and at the latest.
    times: BTreeMap<Seq, (u64, u64)>,
}

/// Something that is right only if a user was no member, or was one, at some moment of this time.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) promise: &'static str,
    pub(super) user: UserId,
    pub(super) conversation: ConversationId,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Else: that they were not.
    pub(super) was_member: bool,
    pub(super) words: String,
}

impl World<'_> {
    /// Somebody wants to change who is a member, again and again until it is decided.
    pub(super) fn change_members(&mut self, number: usize) {
        if !self.book.wishes.contains_key(&number) {
            match self.draw_wish() {
                Some(wish) => self.book.wishes.insert(number, wish),
                None => return,
            };
        }
        let gateway = self.prng.index(self.gateways.len());
        let lane = self.lane_of(gateway);
        let Some(wish) = self.book.wishes.get_mut(&number).filter(|wish| !wish.is_decided) else { return };
        if let Some(lane) = lane {
            wish.attempts += 1;
            let command = Command::Change { conversation: wish.conversation, change: wish.change.clone() };
            let submit = Submit {
                slot_epoch: 0,
                session: 0,
                request: REST_REQUEST + ((number as u64) << 16) + wish.attempts,
                user: wish.by,
                said_after: Vec::new(),
                client_msg_id: name(number),
                command,
            };
            self.send_frame(lane, Way::Up, submit.to_frame());
        }
        self.agenda.put(self.now + CHANGE_AGAIN_MS * MS, Event::Change { number });
    }

    /// Most of what people do, and now and then what they may not.
    fn draw_wish(&mut self) -> Option<Wish> {
        let World { book, prng, plan, now, .. } = self;
        let moving: Vec<ConversationId> = book.moving.keys().copied().collect();
        let conversation = *moving.get(prng.index(moving.len()))?;
        let members = book.members.get(&conversation)?.clone();
        let mut others: Vec<UserId> = (1..=plan.users_count as u64).map(UserId).collect();
        others.retain(|user| !members.contains(user));
        let one_of = |prng: &mut Prng, users: &[UserId]| users.get(prng.index(users.len())).copied();
        let owner = book.moving.get(&conversation).copied().flatten();
        let by = one_of(prng, &members)?;
        let drawn = prng.below(20);
        let (by, change) = match drawn {
            0..9 if !others.is_empty() => {
                prng.shuffle(&mut others);
                others.truncate(prng.between(1, 2) as usize);
                (by, Change::AddMembers { users: others })
            }
            _ if members.len() < 2 => (by, Change::AddMembers { users: vec![one_of(prng, &others)?] }),
            9..14 => (owner.unwrap_or(by), Change::RemoveMember { user: one_of(prng, &members)? }),
            14..18 => (by, Change::RemoveMember { user: by }),
            18 => (one_of(prng, &others).unwrap_or(by), Change::RemoveMember { user: by }),
            _ => (by, Change::Rename { group_name: format!("named at {now}") }),
        };
        Some(Wish { conversation, by, change, since: *now, attempts: 0, is_decided: false })
    }

    /// The store decided about a change.
    pub(super) fn changed(&mut self, op: &ChangeOp, outcome: &Outcome) {
        let World { book, now, .. } = self;
        let Some(number) = number(&op.client_msg_id) else { return };
        let Some(wish) = book.wishes.get_mut(&number).filter(|wish| !wish.is_decided) else { return };
        wish.is_decided = true;
        let appended = match outcome {
            Outcome::Appended(appended) => appended,
            Outcome::Refused(_) => {
                book.stats.changes_refused += 1;
                return;
            }
            _ => return,
        };
        let members = book.members.entry(wish.conversation).or_default();
        match &wish.change {
            Change::AddMembers { users } => {
                book.stats.members_added += 1;
                members.extend(users);
                members.sort_unstable();
                members.dedup();
            }
            Change::RemoveMember { user } => {
                *(if *user == wish.by {
                    &mut book.stats.members_left
                } else {
                    &mut book.stats.members_removed
                }) += 1;
                members.retain(|member| member != user);
                if book.moving.get(&wish.conversation) == Some(&Some(*user)) {
                    book.moving.insert(wish.conversation, members.first().copied());
                }
            }
            _ => {}
        }
        book.known_at.entry((wish.conversation, appended.seq)).or_insert(*now);
    }
}

/// What a wish of this number is called.
fn name(number: usize) -> String {
    format!("change-{number}")
}

fn number(name: &str) -> Option<usize> {
    name.strip_prefix("change-")?.parse().ok()
}

/// How everybody writes these events down.
pub(super) fn words(body: &Body<'_>) -> String {
    match body {
        Body::Created { .. } => "created".to_owned(),
        Body::MembersAdded { users, .. } => added(users),
        Body::MemberRemoved { user, heir } => removed(*user, *heir),
        Body::Renamed { group_name } => renamed(group_name.unwrap_or_default()),
        other => format!("{other:?}"),
    }
}

pub(super) fn added(users: &[UserId]) -> String {
    format!("added {users:?}")
}

pub(super) fn removed(user: UserId, heir: Option<UserId>) -> String {
    format!("removed {user}, owned by {heir:?} then")
}

pub(super) fn renamed(group_name: &str) -> String {
    format!("renamed {group_name}")
}

impl Wish {
    pub(super) fn is_decided(&self) -> bool {
        self.is_decided
    }
}

impl Roll {
    /// Of a conversation that nothing is known of yet.
    pub(super) fn new() -> Roll {
        Roll { history: History::FromJoin, spans: BTreeMap::new(), owner: None, times: BTreeMap::new() }
    }

    /// The next event of the log. Whoever made it was a member, and allowed to, at just that place (G11).
    pub(super) fn note(
        &mut self,
        (conversation, seq): (ConversationId, Seq),
        (sender, client_msg_id): (UserId, &str),
        body: &Body<'_>,
        book: &mut Book,
    ) {
        if seq > 1 && !self.is_current(sender) {
            book.wrong(
                "G11",
                format!("{conversation}/{seq} is by {sender}, who is no member there: {body:?}"),
            );
        }
        if !matches!(body, Body::Message(_)) {
            let wish = number(client_msg_id).and_then(|number| book.wishes.get(&number));
            let since = wish.map_or(0, |wish| wish.since);
            let known_at = book.known_at.get(&(conversation, seq)).copied();
            self.times.insert(seq, (since, known_at.unwrap_or(u64::MAX)));
        }
        if (seq == 1) != matches!(body, Body::Created { .. }) {
            book.wrong("G3", format!("{conversation}/{seq} is {body:?}"));
        }
        match body {
            Body::Created { members, history, .. } => {
                (self.history, self.owner) = (*history, Some(sender));
                self.begin(members, seq);
            }
            Body::MembersAdded { users, .. } => {
                if let Some(user) = users.iter().find(|user| self.is_current(**user)) {
                    book.wrong("G2", format!("{conversation}/{seq} adds {user}, who is a member"));
                }
                self.begin(users, seq);
            }
            Body::MemberRemoved { user, heir } => {
                if *user != sender && self.owner != Some(sender) {
                    book.wrong("G11", format!("{conversation}/{seq}: {sender} may not remove {user}"));
                }
                if self.owner == Some(*user) {
                    self.owner = *heir;
                }
                match self.spans.get_mut(user).and_then(|spans| spans.last_mut()) {
                    Some(span) if span.to.is_none() => span.to = Some(seq),
                    _ => book.wrong("G2", format!("{conversation}/{seq} removes {user}, who is no member")),
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, users: &[UserId], seq: Seq) {
        for user in users {
            self.spans.entry(*user).or_default().push(Span { from: seq, to: None });
        }
    }

    fn is_current(&self, user: UserId) -> bool {
        self.spans.get(&user).and_then(|spans| spans.last()).is_some_and(|span| span.to.is_none())
    }

    /// Who is a member at the end.
    pub(super) fn members(&self) -> Vec<UserId> {
        self.spans.keys().copied().filter(|user| self.is_current(*user)).collect()
    }

    /// What a user's devices have to hold at the end, when the log ends at `head` (G7).
    pub(super) fn visible(&self, user: UserId, head: Seq) -> Option<(Seq, Seq)> {
        let last = self.spans.get(&user)?.last()?;
        Some((self.first_of(last), last.to.unwrap_or(head)))
    }

    /// What a user may at most be shown as confirmed by them: joining itself counts what was before.
    pub(super) fn joined(&self, user: UserId) -> Seq {
        let last = self.spans.get(&user).and_then(|spans| spans.last());
        last.filter(|_| self.history == History::FromJoin).map_or(0, |span| span.from - 1)
    }

    fn first_of(&self, span: &Span) -> Seq {
        if self.history == History::All { 1 } else { span.from }
    }

    /// Whether somebody may begin here.
    pub(super) fn is_first(&self, user: UserId, first_seq: Seq) -> bool {
        self.spans.get(&user).into_iter().flatten().any(|span| self.first_of(span) == first_seq)
    }

    /// Whether a user was rightly shown an event at that time.
    pub(super) fn may_see(&self, user: UserId, seq: Seq, at: u64) -> bool {
        self.spans.get(&user).into_iter().flatten().any(|span| {
            let is_theirs = self.first_of(span) <= seq && span.to.is_none_or(|to| seq <= to);
            // Who comes back may see what was between from then on.
            is_theirs && (span.from <= seq || self.time(span.from).0 <= at)
        })
    }

    fn time(&self, seq: Seq) -> (u64, u64) {
        self.times.get(&seq).copied().unwrap_or((0, u64::MAX))
    }

    /// Whether a claim is wrong beyond doubt.
    pub(super) fn refutes(&self, claim: &Claim) -> bool {
        let spans = self.spans.get(&claim.user).map_or(&[][..], Vec::as_slice);
        if claim.was_member {
            // Away from the end of one membership to the beginning of the next.
            let begins = spans.iter().map(|span| self.time(span.from).0).chain([u64::MAX]);
            let ends = [0].into_iter().chain(spans.iter().map(|span| {
                let ended = span.to.map(|to| self.time(to).1);
                ended.unwrap_or(u64::MAX)
            }));
            return ends.zip(begins).any(|(end, begin)| end <= claim.from && claim.to < begin);
        }
        spans.iter().any(|span| {
            let ends = span.to.map_or(u64::MAX, |to| self.time(to).0);
            self.time(span.from).1 <= claim.from && claim.to < ends
        })
    }
}
