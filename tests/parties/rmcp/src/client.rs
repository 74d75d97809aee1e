//! The client. It says what happens in lines, a word and JSON:
//!
//! ```text
//! ready {version, server}        once it is connected
//! listed [NAME…]                 to `list`
//! answer {tool, is_error, said}  to `call NAME ARGUMENTS`, when it comes; of an error of the protocol {tool, code, message}
//! progress NUMBER                of a call under way
//! asked {message}                by the server, who is told "somebody"
//! changed                        the server said that its tools did
//! ```

use std::sync::Arc;

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
        Implementation, ProgressNotificationParam, ProtocolVersion,
    },
    service::{NotificationContext, RequestContext, RunningService},
    transport::{StreamableHttpClientTransport, TokioChildProcess},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    task::JoinSet,
};

use crate::Outcome;

struct Client;

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("rmcp-party", "0"))
    }

    async fn on_progress(&self, told: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        println!("progress {}", told.progress);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        println!("changed");
    }

    async fn create_elicitation(
        &self,
        asked: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, .. } = asked else {
            return Ok(ElicitResult::new(ElicitationAction::Decline));
        };
        println!("asked {}", json!({ "message": message }));
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "name": "somebody" })))
    }
}

pub(crate) async fn run(era: &str, place: &str, arguments: &[&str]) -> Outcome {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let era = match era {
        "legacy" => ClientLifecycleMode::Initialize,
        "modern" => ClientLifecycleMode::Discover { preferred_versions },
        _ => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
    };
    let client = if place.starts_with("http://") {
        Client.serve_with_lifecycle(StreamableHttpClientTransport::from_uri(place.to_owned()), era).await?
    } else {
        let mut command = Command::new(place);
        command.args(arguments);
        Client.serve_with_lifecycle(TokioChildProcess::new(command)?, era).await?
    };
    let client = Arc::new(client);
    let server = client.peer_info();
    println!(
        "ready {}",
        json!({
            "version": server.as_ref().map(|server| server.protocol_version.to_string()),
            "server": server.as_ref().and_then(|server| server.server_info.as_ref()).map(|server| &server.name),
        })
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut calls = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words[..] {
            ["list"] => {
                let tools = client.list_all_tools().await?;
                println!("listed {}", json!(tools.iter().map(|tool| &tool.name).collect::<Vec<_>>()));
            }
            ["call", tool, arguments] => {
                let mut params = CallToolRequestParams::new(tool.to_owned());
                params.arguments = serde_json::from_str(arguments)?;
                let client = Arc::clone(&client);
                calls.spawn(async move { println!("answer {}", call(&client, params).await) });
            }
            _ => return Err(format!("\"{line}\": list, or call NAME ARGUMENTS").into()),
        }
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

async fn call(client: &RunningService<RoleClient, Client>, params: CallToolRequestParams) -> Value {
    let tool = params.name.clone();
    match client.call_tool(params).await {
        Ok(result) => {
            let said: Vec<&str> =
                result.content.iter().filter_map(|part| part.as_text()).map(|part| part.text.as_str()).collect();
            json!({ "tool": tool, "is_error": result.is_error.unwrap_or(false), "said": said })
        }
        Err(ServiceError::McpError(error)) => json!({ "tool": tool, "code": error.code.0, "message": error.message }),
        Err(error) => json!({ "tool": tool, "message": error.to_string() }),
    }
}
