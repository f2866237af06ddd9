//! Random operations on one conversation, through REST, and after them the real answers beside the model's: history,
//! unread counts, receipts, tombstones, reactions, membership.

use std::collections::BTreeSet;

use carillon_node::prng::Prng;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::model::{Event, Model};

/// Users who may take part; the first begins the conversation.
const USERS: u64 = 5;
const EMOJIS: [&str; 3] = ["👍", "🎉", "🧑‍🚀"];
/// Operations of one case.
const OPERATIONS: u64 = 40;

/// Plays the case of a seed.
///
/// # Errors
/// What differs, after which operations.
pub fn play(seed: u64) -> Result<(), String> {
    let mut trial = Trial::begin(seed)?;
    let count = trial.prng.between(1, OPERATIONS);
    for _ in 0..count {
        trial.step()?;
        if trial.prng.chance(1, 8) {
            trial.compare()?;
        }
    }
    trial.compare()
}

struct Trial {
    prng: Prng,
    desk: Desk,
    model: Model,
    path: String,
    /// Message ids by seq; empty for what is no message.
    ids: Vec<String>,
    said: Vec<String>,
}

impl Trial {
    fn begin(seed: u64) -> Result<Trial, String> {
        let mut prng = Prng::new(seed);
        let mut desk = Desk::new(seed);
        for user in 1..=USERS {
            desk.ask(user, "GET", "/v1/conversations", None);
        }
        let others: Vec<u64> = (2..=prng.between(2, USERS)).collect();
        let sees_all = prng.chance(1, 2);
        let members: Vec<String> = others.iter().map(ToString::to_string).collect();
        let wish = json!({"type": "group", "group_name": "name 0", "member_ids": members,
            "history": if sees_all { "all" } else { "from_join" }});
        let (status, body) = desk.ask(1, "POST", "/v1/conversations", Some(&wish));
        let id = body["conversation_id"].as_str().filter(|_| status == 201);
        let path = format!("/v1/conversations/{}", id.ok_or_else(|| format!("{status} {body}"))?);
        let model = Model::new(1, &others, sees_all, "name 0");
        Ok(Trial { prng, desk, model, path, ids: vec![String::new()], said: Vec::new() })
    }

    /// Asks, and holds the status and the seq against what the model says: `Err` names a status.
    fn expect(
        &mut self,
        user: u64,
        method: &str,
        rest: &str,
        body: Option<&Value>,
        expected: Result<Value, u16>,
    ) -> Result<Value, String> {
        let target = if rest.starts_with("/v1/") { rest.to_owned() } else { format!("{}{rest}", self.path) };
        let (status, answer) = self.desk.ask(user, method, &target, body);
        self.said
            .push(format!("{user}: {method} {rest} {} → {status} {answer}", body.unwrap_or(&Value::Null)));
        let is_right = match &expected {
            Ok(seq) => status < 300 && (status == 204 || answer["seq"] == *seq),
            Err(expected) => status == *expected,
        };
        if is_right { Ok(answer) } else { Err(self.wrong(&format!("expected {expected:?}"))) }
    }

    fn wrong(&self, what: &str) -> String {
        let name = &self.model.name;
        format!("{what}\n(owner {}, {name:?}) after\n  {}", self.model.owner, self.said.join("\n  "))
    }

    fn step(&mut self) -> Result<(), String> {
        let user = self.prng.between(1, USERS);
        let is_member = self.model.current(user).is_some();
        let guard = |seq: Value| if is_member { Ok(seq) } else { Err(403) };
        let target = self.prng.between(1, self.model.head());
        let id = self.ids[target as usize - 1].clone();
        match self.prng.below(13) {
            0..5 => {
                let content = format!("word {}", self.model.head());
                let id = self.path.rsplit('/').next().unwrap_or_default().to_owned();
                let body = json!({"conversation_id": id, "content": content, "message_type": "text"});
                let expected = guard(json!(self.model.head() + 1));
                let answer = self.expect(user, "POST", "/v1/messages", Some(&body), expected)?;
                if is_member {
                    self.model.append(Event::Message {
                        sender: user,
                        content: Some(content),
                        reactions: Vec::new(),
                    });
                    self.ids.push(answer["message_id"].as_str().unwrap_or_default().to_owned());
                }
            }
            kind @ (5 | 6) => {
                let what = if kind == 5 { "read" } else { "delivered" };
                let seq = self.prng.between(1, self.model.head() + 1);
                let expected =
                    if seq > self.model.head() && is_member { Err(400) } else { guard(Value::Null) };
                self.expect(user, "POST", &format!("/{what}"), Some(&json!({"seq": seq})), expected.clone())?;
                if expected.is_ok()
                    && let Some(member) = self.model.members.get_mut(&user)
                {
                    member.delivered = member.delivered.max(seq);
                    if kind == 5 {
                        member.read = member.read.max(seq);
                    }
                }
            }
            7 if !id.is_empty() => self.delete(user, target, &id)?,
            8 | 9 if !id.is_empty() => self.react(user, target, &id)?,
            10 => {
                let other = self.prng.between(1, USERS);
                let body = json!({"user_ids": [other.to_string()]});
                let there = self.model.current(other).map(|member| member.joined);
                let expected = guard(json!(there.unwrap_or(self.model.head() + 1)));
                self.expect(user, "POST", "/members", Some(&body), expected)?;
                if is_member && there.is_none() {
                    self.model.add(other);
                    self.ids.push(String::new());
                }
            }
            11 => self.remove(user)?,
            _ => {
                let name = format!("name {}", self.prng.below(3));
                let is_new = name != self.model.name;
                let (status, answer) =
                    self.desk.ask(user, "PATCH", &self.path.clone(), Some(&json!({"group_name": name})));
                self.said.push(format!("{user}: rename {name} → {status} {answer}"));
                let is_right = match (is_member, is_new) {
                    (false, _) => status == 403,
                    (true, true) => answer["seq"] == self.model.head() + 1,
                    (true, false) => status == 200,
                };
                if !is_right {
                    return Err(self.wrong("renaming"));
                }
                if is_member && is_new {
                    self.model.name = name;
                    self.model.append(Event::Other);
                    self.ids.push(String::new());
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, user: u64, target: u64, id: &str) -> Result<(), String> {
        let is_visible = self.model.messages(user).iter().any(|(seq, _)| *seq == target);
        let Some(Event::Message { sender, content, .. }) = self.model.log.get(target as usize - 1).cloned()
        else {
            return Ok(());
        };
        let rest = format!("/messages/{id}");
        if self.model.current(user).is_none() || (is_visible && sender != user) {
            return self.expect(user, "DELETE", &rest, None, Err(403)).map(drop);
        }
        if !is_visible {
            return self.expect(user, "DELETE", &rest, None, Err(404)).map(drop);
        }
        if content.is_none() {
            let (status, answer) = self.desk.ask(user, "DELETE", &format!("{}{rest}", self.path), None);
            self.said.push(format!("{user}: delete again {target} → {status} {answer}"));
            return if status == 200 { Ok(()) } else { Err(self.wrong("deleting again")) };
        }
        self.expect(user, "DELETE", &rest, None, Ok(json!(self.model.head() + 1)))?;
        self.model.log[target as usize - 1] = Event::Message { sender, content: None, reactions: Vec::new() };
        self.model.append(Event::Other);
        self.ids.push(String::new());
        Ok(())
    }

    fn react(&mut self, user: u64, target: u64, id: &str) -> Result<(), String> {
        let emoji = EMOJIS[self.prng.index(EMOJIS.len())];
        let add = self.prng.chance(2, 3);
        let method = if add { "PUT" } else { "DELETE" };
        let encoded: String = emoji.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let rest = format!("/messages/{id}/reactions/{encoded}");
        let is_visible = self.model.messages(user).iter().any(|(seq, _)| *seq == target);
        let head = self.model.head();
        let refused = match &self.model.log[target as usize - 1] {
            _ if self.model.current(user).is_none() => Some(403),
            _ if !is_visible => Some(404),
            Event::Message { content: None, .. } => Some(410),
            _ => None,
        };
        if let Some(status) = refused {
            return self.expect(user, method, &rest, None, Err(status)).map(drop);
        }
        let Event::Message { reactions, .. } = &mut self.model.log[target as usize - 1] else {
            return Ok(());
        };
        let place = reactions.iter().position(|(other, _)| other == emoji);
        let has = place.is_some_and(|place| reactions[place].1.contains(&user));
        if has == add {
            let (status, answer) = self.desk.ask(user, method, &format!("{}{rest}", self.path), None);
            self.said.push(format!("{user}: {method} {emoji} at {target} → {status} {answer}"));
            let is_right = status == 200 && (add || answer["seq"].is_null());
            return if is_right { Ok(()) } else { Err(self.wrong("nothing changes")) };
        }
        match place {
            None => reactions.push((emoji.to_owned(), BTreeSet::from([user]))),
            Some(place) if add => {
                reactions[place].1.insert(user);
            }
            Some(place) => {
                reactions[place].1.remove(&user);
                if reactions[place].1.is_empty() {
                    reactions.remove(place);
                }
            }
        }
        self.expect(user, method, &rest, None, Ok(json!(head + 1)))?;
        self.model.append(Event::Other);
        self.ids.push(String::new());
        Ok(())
    }

    fn remove(&mut self, user: u64) -> Result<(), String> {
        let other = if self.prng.chance(1, 3) { user } else { self.prng.between(1, USERS) };
        let rest = format!("/members/{other}");
        let Some(remover) = self.model.current(user).copied() else {
            return self.expect(user, "DELETE", &rest, None, Err(403)).map(drop);
        };
        let may =
            other == user || ((user == self.model.owner || remover.is_admin) && other != self.model.owner);
        if !may {
            return self.expect(user, "DELETE", &rest, None, Err(403)).map(drop);
        }
        if self.model.current(other).is_none() {
            let left = self.model.members.get(&other).and_then(|member| member.left);
            return self.expect(user, "DELETE", &rest, None, Ok(json!(left))).map(drop);
        }
        let head = self.model.head();
        self.expect(user, "DELETE", &rest, None, Ok(json!(head + 1)))?;
        self.model.remove(other);
        self.ids.push(String::new());
        Ok(())
    }

    /// Every user's view beside the model's.
    fn compare(&mut self) -> Result<(), String> {
        for user in 1..=USERS {
            let path = self.path.clone();
            let (status, object) = self.desk.ask(user, "GET", &path, None);
            if self.model.current(user).is_none() {
                if status != 403 {
                    return Err(self.wrong(&format!("{user} is no member and gets {status} {object}")));
                }
            } else {
                let expected =
                    (json!(self.model.unread(user)), json!(self.model.head()), json!(self.model.name));
                let found = (
                    object["unread_count"].clone(),
                    object["head_seq"].clone(),
                    object["group_name"].clone(),
                );
                if found != expected {
                    return Err(self.wrong(&format!("{user} sees {found:?} and not {expected:?}")));
                }
                let receipts: Vec<Value> = self.model.receipts(user).into_iter().map(|(user, delivered, read)| {
                    json!({"user_id": user.to_string(), "delivered_seq": delivered, "read_seq": read})
                }).collect();
                let (_, found) = self.desk.ask(user, "GET", &format!("{path}/receipts"), None);
                let found = found.get("receipts").unwrap_or(&found).clone();
                if found != json!(receipts) {
                    return Err(self.wrong(&format!("{user} gets receipts {found} and not {receipts:?}")));
                }
            }
            let (status, page) = self.desk.ask(user, "GET", &format!("{path}/messages?limit=200"), None);
            let found: Vec<Value> = page["messages"].as_array().into_iter().flatten().map(essence).collect();
            let expected: Vec<Value> = self
                .model
                .messages(user)
                .into_iter()
                .rev()
                .map(|(seq, event)| of_model(seq, event, user))
                .collect();
            let is_stranger = !self.model.members.contains_key(&user);
            if (is_stranger && status != 403) || (!is_stranger && found != expected) {
                return Err(self.wrong(&format!("{user} reads {status} {found:?}\nand not {expected:?}")));
            }
        }
        Ok(())
    }
}

fn essence(message: &Value) -> Value {
    json!({"seq": message["seq"], "sender": message["sender_id"], "content": message["content"],
        "deleted": message.get("deleted").cloned().unwrap_or(json!(false)),
        "reactions": message.get("reactions").cloned().unwrap_or(json!([]))})
}

fn of_model(seq: u64, event: &Event, user: u64) -> Value {
    let Event::Message { sender, content, reactions } = event else { return Value::Null };
    let reactions: Vec<Value> = reactions
        .iter()
        .map(|(emoji, users)| json!({"emoji": emoji, "count": users.len(), "mine": users.contains(&user)}))
        .collect();
    json!({"seq": seq, "sender": sender.to_string(), "content": content.as_deref().unwrap_or(""),
        "deleted": content.is_none(), "reactions": reactions})
}
