//! How much a user may command and a conversation may take, across all gateways.
//!
//! # Invariants
//! - What is refused for one reason is not counted for the other.
//! - Refused means before anything was done: the command has no effect (G5).
//! - How much is going on in a conversation is nothing that strangers hear of: they are refused as where there is none.

use carillon_node::rates::{Rate, Rates, wait_ms};
use carillon_protocol::frame::{Change, Command, Submit};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;

use crate::meters::{LimitedBy, Metric};
use crate::outbox::Outbox;
use crate::settings::LimitsSettings;

/// See the module.
#[derive(Debug)]
pub struct Limits {
    /// What users say: messages, deletions, reactions.
    users: Rates<UserId>,
    /// What else they command. A bucket of its own with the same rate, so that creating a group takes nothing off what
    /// can be said in it.
    managers: Rates<UserId>,
    conversations: Rates<ConversationId>,
}

impl Limits {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(settings: LimitsSettings) -> Limits {
        let LimitsSettings { send_per_s, send_burst, conversation_per_s, conversation_burst } = settings;
        Limits {
            users: Rates::new(Rate::new(send_per_s, send_burst)),
            managers: Rates::new(Rate::new(send_per_s, send_burst)),
            conversations: Rates::new(Rate::new(conversation_per_s, conversation_burst)),
        }
    }

    /// Counts a command, unless its user or its conversation has to wait. `is_stranger`: whether the user is known to be no
    /// member of it.
    ///
    /// # Errors
    /// `rate_limited`, and how long to wait.
    pub fn admit(
        &mut self,
        now: Time,
        submit: &Submit,
        is_stranger: impl FnOnce(ConversationId, UserId) -> bool,
        outbox: &Outbox,
    ) -> Result<(), Refusal> {
        let Limits { users, managers, conversations } = self;
        let (users, conversation) = match &submit.command {
            Command::Send { conversation, .. } => (users, Some(*conversation)),
            Command::Change { conversation, change } => match change {
                Change::Delete { .. } | Change::React { .. } | Change::Unreact { .. } => {
                    (users, Some(*conversation))
                }
                Change::AddMembers { .. }
                | Change::RemoveMember { .. }
                | Change::Rename { .. }
                | Change::SetRole { .. } => (managers, Some(*conversation)),
            },
            Command::Create { .. }
            | Command::Mute { .. }
            | Command::Profile { .. }
            | Command::PushToken { .. }
            | Command::Revoke { .. } => (managers, None),
            // Said by the gateway itself, or by administrators.
            Command::Provision { .. } | Command::CreateUser { .. } => return Ok(()),
        };
        let refused = |by: LimitedBy, wait, message: &'static str| {
            outbox.meter.add_at(Metric::RateLimited, by as usize, 1);
            Err(Refusal::new(Code::RateLimited, message).retry_after(wait_ms(wait)))
        };
        if let Some(wait) = users.wait(now.0, &submit.user) {
            return refused(LimitedBy::User, wait, "too many messages: wait before sending the next");
        }
        if let Some(conversation) = conversation
            && let Err(wait) = conversations.admit(now.0, conversation)
            && !is_stranger(conversation, submit.user)
        {
            let message = "too much is happening in this conversation: wait before sending the next";
            return refused(LimitedBy::Conversation, wait, message);
        }
        // The user does not have to wait, as was just asked.
        let _ = users.admit(now.0, submit.user);
        Ok(())
    }
}
