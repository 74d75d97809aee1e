//! What of a server's lists and greetings its client gets to see.

use std::collections::HashSet;

use crate::json::Json;

/// Leaves of a list of tools what `keep` keeps.
///
/// Here and in all of these: the order stays and so does `nextCursor`. Of two entries of one name the first counts. What has no
/// name is left out, and what is no list becomes an empty one.
pub fn tools(result: &mut Json, keep: impl FnMut(&Json) -> bool) {
    filter(result, "tools", "name", keep);
}

/// Leaves of a list of resources what `keep` keeps.
pub fn resources(result: &mut Json, keep: impl FnMut(&Json) -> bool) {
    filter(result, "resources", "uri", keep);
}

/// Leaves of a list of resource templates what `keep` keeps.
pub fn templates(result: &mut Json, keep: impl FnMut(&Json) -> bool) {
    filter(result, "resourceTemplates", "uriTemplate", keep);
}

/// Leaves of a list of prompts what `keep` keeps.
pub fn prompts(result: &mut Json, keep: impl FnMut(&Json) -> bool) {
    filter(result, "prompts", "name", keep);
}

/// Leaves of a list of tasks what `keep` keeps.
pub fn tasks(result: &mut Json, keep: impl FnMut(&Json) -> bool) {
    filter(result, "tasks", "taskId", keep);
}

fn filter(result: &mut Json, list: &str, name: &str, mut keep: impl FnMut(&Json) -> bool) {
    let items = match result.get_mut(list).map(std::mem::take) {
        Some(Json::Array(items)) => items,
        _ => Vec::new(),
    };
    let mut names = HashSet::new();
    let kept = items.into_iter().filter(|item| {
        item.get(name).and_then(Json::as_str).is_some_and(|name| names.insert(Box::<str>::from(name))) && keep(item)
    });
    let kept = kept.collect();
    result.set(list, Json::Array(kept));
}

/// Says of a result of the modern era that it is this caller's alone, and not good for later.
pub fn private(result: &mut Json) {
    result.set("ttlMs", 0.into());
    result.set("cacheScope", "private".into());
}

/// Takes a capability out of a server's greeting, and the extension of that name.
pub fn strip(greeting: &mut Json, capability: &str) {
    if let Some(capabilities) = greeting.get_mut("capabilities") {
        capabilities.remove(capability);
        if let Some(extensions) = capabilities.get_mut("extensions") {
            extensions.remove(&format!("io.modelcontextprotocol/{capability}"));
        }
    }
}

/// Says in a server's greeting that its client is told when tools change, if it has any: the gateway does so even where the
/// server does not.
pub fn tells_changes(greeting: &mut Json) {
    if let Some(tools) = greeting.get_mut("capabilities").and_then(|capabilities| capabilities.get_mut("tools")) {
        if !tools.is_object() {
            *tools = Json::object([]);
        }
        tools.set("listChanged", true.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    fn json(text: &str) -> Json {
        parse(text.as_bytes()).unwrap()
    }

    fn name_is(wanted: &str) -> impl Fn(&Json) -> bool {
        move |item| item.get("name").and_then(Json::as_str) == Some(wanted)
    }

    #[test]
    fn a_list_keeps_its_order_its_cursor_and_what_is_kept() {
        let mut result = json(
            r#"{"_meta":{"a":1},"tools":[{"name":"c","x":1},{"name":"a"},{"name":"b"},{"name":"d"}],"nextCursor":"2","ttlMs":5}"#,
        );
        tools(&mut result, |tool| !name_is("a")(tool));
        let left =
            r#"{"_meta":{"a":1},"tools":[{"name":"c","x":1},{"name":"b"},{"name":"d"}],"nextCursor":"2","ttlMs":5}"#;
        assert_eq!(result.to_string(), left);
    }

    #[test]
    fn of_two_entries_of_one_name_the_first_counts() {
        let mut result = json(r#"{"tools":[{"name":"a","n":1},{"name":"b"},{"name":"a","n":2}]}"#);
        tools(&mut result, |_| true);
        assert_eq!(result.to_string(), r#"{"tools":[{"name":"a","n":1},{"name":"b"}]}"#);
        // Not even the second is shown where the first is not kept.
        let mut result = json(r#"{"tools":[{"name":"a","n":1},{"name":"a","n":2}]}"#);
        tools(&mut result, |tool| tool.get("n").and_then(Json::as_i64) == Some(2));
        assert_eq!(result.to_string(), r#"{"tools":[]}"#);
    }

    #[test]
    fn what_has_no_name_is_left_out() {
        let mut result = json(r#"{"tools":[{"name":1},{},[],"a",null,{"Name":"a"},{"name":"a"}]}"#);
        tools(&mut result, |_| true);
        assert_eq!(result.to_string(), r#"{"tools":[{"name":"a"}]}"#);
        for no_list in [r#"{"tools":{"name":"a"}}"#, r#"{"tools":null}"#, "{}"] {
            let mut result = json(no_list);
            tools(&mut result, |_| true);
            assert_eq!(result.to_string(), r#"{"tools":[]}"#);
        }
    }

    #[test]
    fn each_list_has_names_of_its_own() {
        let mut result = json(
            r#"{"resources":[{"uri":"a:","name":"x"},{"uri":"b:","name":"x"}],"resourceTemplates":[{"uriTemplate":"a:{x}"}],"prompts":[{"name":"p"}],"tasks":[{"taskId":"1"}]}"#,
        );
        let whole = result.clone();
        resources(&mut result, |_| true);
        templates(&mut result, |_| true);
        prompts(&mut result, |_| true);
        tasks(&mut result, |_| true);
        assert_eq!(result, whole);
        resources(&mut result, |one| one.get("uri").and_then(Json::as_str) == Some("b:"));
        templates(&mut result, |_| false);
        prompts(&mut result, |_| false);
        tasks(&mut result, |_| false);
        let left = r#"{"resources":[{"uri":"b:","name":"x"}],"resourceTemplates":[],"prompts":[],"tasks":[]}"#;
        assert_eq!(result.to_string(), left);
    }

    #[test]
    fn what_is_shown_to_one_is_kept_for_nobody() {
        let mut result = json(r#"{"tools":[],"ttlMs":3600000,"cacheScope":"public"}"#);
        private(&mut result);
        assert_eq!(result.to_string(), r#"{"tools":[],"ttlMs":0,"cacheScope":"private"}"#);
        let mut result = json("{}");
        private(&mut result);
        assert_eq!(result.to_string(), r#"{"ttlMs":0,"cacheScope":"private"}"#);
    }

    #[test]
    fn a_greeting_says_what_may_be_used() {
        let mut greeting = json(
            r#"{"capabilities":{"tools":{},"tasks":{},"logging":{},"extensions":{"io.modelcontextprotocol/tasks":{},"x/y":{}}}}"#,
        );
        strip(&mut greeting, "tasks");
        strip(&mut greeting, "prompts");
        tells_changes(&mut greeting);
        let left = r#"{"capabilities":{"tools":{"listChanged":true},"logging":{},"extensions":{"x/y":{}}}}"#;
        assert_eq!(greeting.to_string(), left);
        for without in [r#"{"capabilities":{"prompts":{}}}"#, r#"{"capabilities":[]}"#, "{}"] {
            let mut greeting = json(without);
            strip(&mut greeting, "tasks");
            tells_changes(&mut greeting);
            assert_eq!(greeting.to_string(), without);
        }
    }
}
