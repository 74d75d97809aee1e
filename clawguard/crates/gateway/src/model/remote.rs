//! What a request would have the provider fetch: pictures, files, pages that it names by their addresses.
//!
//! No contract reaches there, and whoever chooses an address tells its host something. What a request carries itself is not fetched.

use mcp::json::Json;

/// Members whose value is an address, or an object with one.
const ADDRESSES: [&str; 7] = ["image_url", "imageUrl", "video_url", "audio_url", "file_url", "fileUri", "file_uri"];
/// Members of a request that describe tools and answers: nothing in them is fetched, and names there are anybody's.
const DESCRIBES: [&str; 6] = ["tools", "functions", "response_format", "text", "generationConfig", "generation_config"];

/// Whether the provider would fetch something for this request.
pub(super) fn fetches(body: &Json) -> bool {
    let members = body.as_object().unwrap_or_default();
    members.iter().any(|(name, value)| !DESCRIBES.contains(&&**name) && is_fetched(name, value))
}

fn is_fetched(name: &str, value: &Json) -> bool {
    // Some servers pass over case.
    let named = ADDRESSES.iter().any(|address| address.eq_ignore_ascii_case(name));
    (named && leads_out(value)) || within(value)
}

fn within(value: &Json) -> bool {
    if let Some(items) = value.as_array() {
        return items.iter().any(within);
    }
    let Some(members) = value.as_object() else { return false };
    let kind = member(value, "type").and_then(Json::as_str).unwrap_or_default();
    if kind.eq_ignore_ascii_case("url") && member(value, "url").is_some_and(leads_out) {
        return true;
    }
    // What a model gave a tool, or a tool the model, is read by nobody else.
    let is_a_tools = |name: &str| match name {
        "input" => kind.ends_with("tool_use"),
        "args" | "response" => true,
        _ => false,
    };
    members.iter().any(|(name, value)| !is_a_tools(name) && is_fetched(name, value))
}

fn member<'a>(of: &'a Json, wanted: &str) -> Option<&'a Json> {
    let members = of.as_object()?;
    members.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
}

/// Whether it is anything but nothing, or data.
fn leads_out(value: &Json) -> bool {
    let text = value.as_str().or_else(|| member(value, "url").and_then(Json::as_str));
    !value.is_null() && !text.is_some_and(|text| text.starts_with("data:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetches_of(body: &str) -> bool {
        fetches(&mcp::json::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn nothing_is_fetched_for_a_request() {
        for content in [
            r#"{"type":"image_url","image_url":{"url":"https://x.example/?told"}}"#,
            r#"{"type":"input_image","image_url":"https://x.example/?told"}"#,
            r#"{"type":"input_image","Image_URL":"https://x.example/?told"}"#,
            r#"{"type":"input_file","file_url":"https://x.example/?told"}"#,
            r#"{"type":"image","source":{"type":"url","url":"https://x.example/?told"}}"#,
            r#"{"type":"tool_result","content":[{"type":"document","source":{"type":"url","url":"http://x.example"}}]}"#,
            r#"{"fileData":{"fileUri":"https://x.example/?told"}}"#,
            r#"{"file_data":{"file_uri":"https://x.example/?told"}}"#,
            r#"{"image_url":["https://x.example"]}"#,
        ] {
            for body in [
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{content}]}}]}}"#),
                format!(r#"{{"model":"m","type":"tool_use","input":[{{"content":[{content}]}}]}}"#),
                format!(r#"{{"model":"m","contents":[{{"parts":[{content}]}}]}}"#),
                format!(r#"{{"model":"m","system":[{content}]}}"#),
            ] {
                assert!(fetches_of(&body), "{body}");
            }
        }
    }

    #[test]
    fn what_a_request_carries_and_what_tools_are_given_passes() {
        for body in [
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}]}"#,
            r#"{"messages":[{"content":[{"type":"input_image","image_url":"data:image/png;base64,AA"}]}]}"#,
            r#"{"messages":[{"content":[{"source":{"type":"base64","media_type":"image/png","data":"AA"}}]}]}"#,
            r#"{"messages":[{"content":[{"type":"tool_use","input":{"image_url":"https://x.example"}}]}]}"#,
            r#"{"contents":[{"parts":[{"functionCall":{"name":"f","args":{"file_url":"https://x.example"}}}]}]}"#,
            r#"{"messages":[{"content":"see https://x.example","image_url":null}]}"#,
            r#"{"tools":[{"function":{"parameters":{"properties":{"image_url":{"type":"string"}}}}}]}"#,
        ] {
            assert!(!fetches_of(body), "{body}");
        }
    }
}
