//! The teller: one task that knows who is connected, and says what has become durable. It runs beside the connections, so
//! that waking them costs no system call each.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::frames;
use crate::writer::View;

/// What happens once a transaction is durable.
pub enum Effect {
    /// A client has identified itself.
    Enter { user: u64, outbox: mpsc::Sender<Utf8Bytes> },
    /// A frame for one user.
    Tell { user: u64, text: Utf8Bytes },
    /// A frame for the members of a room, but for one.
    TellRoom { members: Arc<Vec<u64>>, but: u64, text: Utf8Bytes },
    /// A room, for who asked for it.
    Answer { answer: oneshot::Sender<View>, view: View },
    /// The same, if it is theirs to see.
    AnswerSome { answer: oneshot::Sender<Option<View>>, view: Option<View> },
}

/// Tells, transaction by transaction, until the writer ends.
pub async fn run(mut durable: mpsc::Receiver<Vec<Effect>>) {
    let mut connected = HashMap::new();
    while let Some(effects) = durable.recv().await {
        for effect in effects {
            match effect {
                Effect::Enter { user, outbox } => {
                    // A few frames find room in a new outbox.
                    let _ = outbox.try_send(frames::ready(user));
                    let _ = outbox.try_send(frames::caught_up());
                    connected.insert(user, outbox);
                }
                Effect::Tell { user, text } => tell(&mut connected, user, text),
                Effect::TellRoom { members, but, text } => {
                    for member in members.iter().filter(|member| **member != but) {
                        tell(&mut connected, *member, text.clone());
                    }
                }
                // Who asked may have gone.
                Effect::Answer { answer, view } => drop(answer.send(view)),
                Effect::AnswerSome { answer, view } => drop(answer.send(view)),
            }
        }
    }
}

/// Puts a frame into the outbox of whoever is there. Who is gone, or too slow, is forgotten, which ends the connection.
fn tell(connected: &mut HashMap<u64, mpsc::Sender<Utf8Bytes>>, user: u64, text: Utf8Bytes) {
    if let Some(outbox) = connected.get(&user)
        && outbox.try_send(text).is_err()
    {
        connected.remove(&user);
    }
}
