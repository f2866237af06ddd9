//! What is done over HTTP, on the same port: conversations are made before a run, histories read after it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::frames::{Id, Message, error_object};
use crate::rooms::message_id;
use crate::writer::{Command, View};
use crate::{Form, House, database};

const IDS_MAX: usize = 1_000;
const PAGE_MAX: usize = 200;

/// Serves HTTP connections as they are handed over.
pub async fn serve(waiting: mpsc::Receiver<(TcpStream, SocketAddr)>, house: Arc<House>) {
    let routes = Router::new()
        .route("/v1/conversations", post(open))
        .route("/v1/conversations/{id}", get(view))
        .route("/v1/conversations/{id}/members", post(join))
        .route("/v1/conversations/{id}/messages", get(history))
        .with_state(house);
    // It never returns: connections that fail are its own matter.
    let _ = axum::serve(Waiting(waiting), routes).await;
}

/// Connections that were accepted elsewhere.
struct Waiting(mpsc::Receiver<(TcpStream, SocketAddr)>);

impl axum::serve::Listener for Waiting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        match self.0.recv().await {
            Some(visitor) => visitor,
            // Nobody accepts any more: nothing comes, ever.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Why there is no answer.
struct Refused(StatusCode, &'static str, &'static str);

const FORBIDDEN: Refused = Refused(StatusCode::FORBIDDEN, "forbidden", "not a member of this conversation");
const BAD_REQUEST: Refused =
    Refused(StatusCode::BAD_REQUEST, "bad_request", "ids are decimal strings, at most 1,000");
const INTERNAL: Refused = Refused(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the database failed");

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(status, code, words) = self;
        (status, Json(json!({ "error": error_object(code, words) }))).into_response()
    }
}

fn user(house: &House, headers: &HeaderMap) -> Result<u64, Refused> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let refused = Refused(StatusCode::UNAUTHORIZED, "unauthenticated", "send a valid bearer token");
    house.door.user(token).ok_or(refused)
}

fn ids(texts: &[String]) -> Result<Vec<u64>, Refused> {
    let ids: Result<Vec<u64>, _> = texts.iter().map(|text| text.parse()).collect();
    ids.ok().filter(|ids| ids.len() <= IDS_MAX).ok_or(BAD_REQUEST)
}

async fn asked<T>(house: &House, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refused> {
    let (answer, answered) = oneshot::channel();
    house.writer.send(command(answer)).await.map_err(|_| INTERNAL)?;
    answered.await.map_err(|_| INTERNAL)
}

fn shown(view: View) -> Response {
    let status = if view.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let View { conversation, head_seq, .. } = view;
    (status, Json(json!({ "conversation_id": Id(conversation), "head_seq": head_seq }))).into_response()
}

#[derive(Deserialize)]
struct Wish {
    r#type: String,
    member_ids: Vec<String>,
}

async fn open(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    Json(wish): Json<Wish>,
) -> Result<Response, Refused> {
    let by = user(&house, &headers)?;
    let mut members = ids(&wish.member_ids)?;
    members.push(by);
    members.sort_unstable();
    members.dedup();
    let key = match (&*wish.r#type, headers.get("idempotency-key").and_then(|key| key.to_str().ok())) {
        // One per pair, whoever of the two makes it.
        ("one_to_one", _) if members.len() == 2 => format!("{}:{}", members[0], members[1]),
        ("group", Some(key)) => format!("{by}:{key}"),
        _ => return Err(BAD_REQUEST),
    };
    asked(&house, |answer| Command::Open { key, members, answer }).await.map(shown)
}

async fn view(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    Path(conversation): Path<u64>,
) -> Result<Response, Refused> {
    let by = user(&house, &headers)?;
    let view = asked(&house, |answer| Command::View { by, conversation, answer }).await?;
    view.map(shown).ok_or(FORBIDDEN)
}

#[derive(Deserialize)]
struct More {
    user_ids: Vec<String>,
}

async fn join(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    Path(conversation): Path<u64>,
    Json(more): Json<More>,
) -> Result<Response, Refused> {
    let by = user(&house, &headers)?;
    let users = ids(&more.user_ids)?;
    let view = asked(&house, |answer| Command::Join { by, conversation, users, answer }).await?;
    view.map(shown).ok_or(FORBIDDEN)
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    after_seq: u64,
    #[serde(default = "fifty")]
    limit: usize,
}

fn fifty() -> usize {
    50
}

async fn history(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    Path(conversation): Path<u64>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refused> {
    let by = user(&house, &headers)?;
    if house.form == Form::Plain {
        return Err(Refused(StatusCode::NOT_FOUND, "not_found", "the plain form tells no history"));
    }
    asked(&house, |answer| Command::View { by, conversation, answer }).await?.ok_or(FORBIDDEN)?;
    let Wanted { after_seq, limit } = wanted;
    let path = house.database.clone();
    // A reader of its own: in WAL mode it hinders nobody.
    let read = tokio::task::spawn_blocking(move || {
        database::history(&path, conversation, after_seq, limit.min(PAGE_MAX))
    });
    let page = read.await.map_err(|_| INTERNAL)?.map_err(|_| INTERNAL)?;
    let messages: Vec<Message<'_>> = page
        .iter()
        .map(|stored| Message {
            message_id: Id(message_id(conversation, stored.seq)),
            conversation_id: Id(conversation),
            seq: stored.seq,
            sender_id: Id(stored.sender),
            content: &stored.content,
            encoding: "utf8",
            message_type: "text",
            status: "sent",
            created_at: stored.created_at,
        })
        .collect();
    Ok(Json(json!({ "messages": messages, "next_cursor": null })).into_response())
}
