//! The server. Its log has a line for whatever reaches it: that is what tests go by. The environment names the file, since what a
//! command line names is pinned.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    future::Future,
    io::Write,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams,
        ErrorCode, Implementation, InputRequest, InputRequests, InputRequiredResult, JsonObject, ListToolsResult,
        PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::{
        stdio,
        streamable_http_server::{
            StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
        },
    },
};
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};

use crate::Outcome;

/// Its tools; `slow` goes on for minutes, unless it is cancelled, and `hidden` is there for contracts that do not name it.
const TOOLS: [&str; 6] = ["echo", "sum", "slow", "slower", "ask", "hidden"];
const STEP: Duration = Duration::from_millis(50);
const STEPS: u32 = 6000;

#[derive(Clone)]
struct Server {
    log: Arc<File>,
}

impl Server {
    fn note(&self, what: &str) {
        // Whole lines, one write each: several sessions share the file.
        let _ = (&*self.log).write_all(format!("{what}\n").as_bytes());
    }

    async fn slow(&self, tool: &str, context: &RequestContext<RoleServer>) -> CallToolResult {
        for step in 0..STEPS {
            if let Some(token) = context.meta.get_progress_token() {
                let told = ProgressNotificationParam::new(token, f64::from(step)).with_total(f64::from(STEPS));
                let _ = context.peer.notify_progress(told).await;
            }
            tokio::select! {
                () = sleep(STEP) => {}
                () = context.ct.cancelled() => {
                    self.note(&format!("cancelled {tool}"));
                    return CallToolResult::error(vec![ContentBlock::text("cancelled")]);
                }
            }
        }
        self.note(&format!("done {tool}"));
        CallToolResult::success(vec![ContentBlock::text("done")])
    }

    /// Asks who is there: of the client's person in one era, and by its answer in the other.
    async fn ask(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
        let asked = ElicitRequestParams::FormElicitationParams {
            meta: None,
            message: "who is there?".into(),
            requested_schema: serde_json::from_value(schema).map_err(internal)?,
        };
        let modern = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let told = if !modern {
            let answer = context.peer.create_elicitation(asked).await.map_err(internal)?;
            json!(answer)
        } else if let Some(answer) = request.input_responses.as_ref().and_then(|answers| answers.get("who")) {
            json!(answer)
        } else {
            let mut wanted = InputRequests::new();
            wanted.insert("who".into(), InputRequest::Elicitation(ElicitRequest::new(asked)));
            return Ok(InputRequiredResult::new(Some(wanted), Some("asked".into())).into());
        };
        self.note(&format!("told {told}"));
        Ok(text(&format!("{} {}", told["action"].as_str().unwrap_or("?"), told["content"]["name"])).into())
    }
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

fn text(said: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(said)])
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("rmcp-party", "0"))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut schema = JsonObject::new();
        schema.insert("type".into(), json!("object"));
        let schema = Arc::new(schema);
        let tool = |name: &'static str| Tool::new(name, "of a test", Arc::clone(&schema));
        Ok(ListToolsResult { tools: TOOLS.map(tool).to_vec(), ..ListToolsResult::default() })
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = json!(request.arguments);
        self.note(&format!("call {} {arguments}", request.name));
        match &*request.name {
            "echo" => Ok(text(&format!("Echo: {}", arguments["message"].as_str().unwrap_or_default())).into()),
            "sum" => {
                let number = |name: &str| arguments[name].as_i64().unwrap_or_default();
                Ok(text(&(number("a") + number("b")).to_string()).into())
            }
            "ask" => self.ask(&request, &context).await,
            tool @ ("slow" | "slower") => Ok(self.slow(tool, &context).await.into()),
            "hidden" => Ok(text("it should not be seen").into()),
            other => Err(ErrorData::new(ErrorCode::INVALID_PARAMS, format!("Unknown tool: {other}"), None)),
        }
    }
}

/// Speaks HTTP to whoever comes.
async fn listen(server: Server, at: SocketAddr) -> Outcome {
    let config = StreamableHttpServerConfig::default();
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(LocalSessionManager::default()), config);
    let listener = TcpListener::bind(at).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let service = service.clone();
                let answer: Pin<Box<dyn Future<Output = Result<_, Infallible>> + Send>> =
                    Box::pin(async move { Ok(service.handle(request).await) });
                answer
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

pub(crate) async fn run(place: &str) -> Outcome {
    let log = std::env::var_os("LOG").ok_or("the environment has no LOG")?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let server = Server { log: Arc::new(log) };
    if place != "stdio" {
        return listen(server, place.parse()?).await;
    }
    server.note("started");
    server.serve(stdio()).await?.waiting().await?;
    Ok(())
}
