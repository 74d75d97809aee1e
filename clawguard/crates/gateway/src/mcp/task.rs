//! Calls that a server goes on with after it answered: each belongs to the call it came of, and ends with it.

use std::sync::Arc;

use hyper::{HeaderMap, Method};
use mcp::{
    era::{self, Era},
    header,
    json::Json,
    message::{self, Id},
};
use tokio::time::{Duration, timeout};

use super::{
    carry,
    message::headers,
    running::Call,
    session::{Link, Session},
    standing::Server,
    upstream::Failure,
};

/// How long a server may take to say that it cancelled.
const CANCELLING: Duration = Duration::from_secs(30);
/// Where results say of which task they are.
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// A task, and what is needed to end it in the gateway's own name.
#[derive(Clone)]
pub(crate) struct Task {
    /// The call that it came of.
    pub(crate) call: Arc<Call>,
    era: Era,
    passed: HeaderMap,
    /// Whether it has ended, or the server was told to end it.
    pub(crate) over: bool,
}

/// The task that has ended, by what a server says of it.
pub(crate) fn ended(said: &Json) -> Option<&str> {
    let text = |path: &[&str]| said.at(path).and_then(Json::as_str);
    if matches!(text(&["status"]), Some("completed" | "failed" | "cancelled")) {
        return text(&["taskId"]);
    }
    // A result that was waited for.
    text(&["_meta", RELATED, "taskId"]).filter(|_| said.get("content").is_some())
}

impl Task {
    pub(crate) fn new(call: &Arc<Call>, era: Era, passed: &HeaderMap) -> Self {
        Self { call: Arc::clone(call), era, passed: passed.clone(), over: false }
    }

    /// Has the server end it; nobody waits for that.
    pub(crate) fn cancel(self, id: &str, session: Arc<Session>, server: Arc<Server>) {
        let mut params = Json::object([("taskId", Json::String(id.into()))]);
        let mut passed = Some(self.passed);
        if self.era == Era::Modern {
            params.set("_meta", era::own_meta_with_tasks());
            passed = headers(&header::mirrored("tasks/cancel", Some(&params), &[]));
        }
        let name = Id::String(format!("clawguard-cancel-{id}").into());
        let request = message::request(name, "tasks/cancel", Some(params));
        tokio::spawn(async move {
            let told = async {
                match (&session.link, &server.http, passed) {
                    (Link::Duplex(duplex), _, _) => {
                        let (mut arrivals, _asked) = duplex.ask(&request).await?;
                        arrivals.next().await.map(drop)
                    }
                    (Link::Http, Some(http), Some(passed)) => {
                        let headers = carry::headers(session.upstream.as_ref(), &passed);
                        let body = request.to_bytes().into();
                        let mut answer = http.send(Method::POST, http.target(), headers, body).await?;
                        answer.whole(1 << 16).await.map(drop)
                    }
                    _ => Err(Failure::Unreachable("there is no way to say it".into())),
                }
            };
            if let Err(failure) = timeout(CANCELLING, told).await.unwrap_or(Err(Failure::Late)) {
                tracing::warn!(server = %session.server, %failure, "a server was not told that a task is cancelled");
            }
        });
    }
}
