//! Form 2: `allowed_tools` and `denied_tools`, lists of tools by server.

use claw::Value;

use super::{Contract, DataClasses, Error, Form, Model, TokenRules, ToolEntry, ToolLine, Tools, named, object};
use crate::{
    read::{Fields, short},
    tool::{NamePattern, NotAPattern, ServerPattern, ToolPattern},
};

/// The only kind of tools that a gateway stands before.
const MCP: &str = "mcp";

pub(super) fn read(mut fields: Fields<'_>) -> Result<Contract, Error> {
    let mut contract = named(&mut fields, Form::Listed)?;
    let mut tools = Tools::default();
    tools.allow = lines(&mut fields, "allowed_tools", &mut tools.entries)?;
    let allowed = tools.entries.len();
    tools.deny = lines(&mut fields, "denied_tools", &mut tools.entries)?.unwrap_or_default();
    // A grant of an unknown kind is not given. Of a restriction of an unknown kind nobody knows what it forbids.
    if let Some(entry) = tools.entries[allowed..].iter().find(|entry| entry.kind != MCP) {
        let why = "a kind of tools that this version does not know, so that nothing could hold an agent to it".into();
        return Err(Error::Text { path: format!("{}.kind", entry.path), text: short(&entry.kind), why });
    }
    let guard = &mut contract.guard;
    guard.tools = Some(tools);
    guard.data_classes = object(&mut fields, "data_classes", DataClasses::read_listed)?;
    guard.model = object(&mut fields, "model_egress", model)?;
    guard.token = object(&mut fields, "token_constraints", TokenRules::read)?;
    fields.end()?;
    Ok(contract)
}

fn lines(fields: &mut Fields<'_>, name: &str, entries: &mut Vec<ToolEntry>) -> Result<Option<Vec<ToolLine>>, Error> {
    let list = fields.path(name);
    let Some(items) = fields.list(name)? else { return Ok(None) };
    let mut found = Vec::new();
    for (i, item) in items.iter().enumerate() {
        entries.push(entry(format!("{list}[{i}]"), item, &mut found)?);
    }
    Ok(Some(found))
}

fn entry(path: String, item: &Value, found: &mut Vec<ToolLine>) -> Result<ToolEntry, Error> {
    let mut fields = Fields::of(path.clone(), item)?;
    let hash = item.canonical_hash();
    let kind = fields.required_text("kind")?;
    if kind != MCP {
        return Ok(ToolEntry { path, kind: short(kind), server: None, hash });
    }
    let wrong =
        |path: String, text: &str, why: NotAPattern| Error::Text { path, text: short(text), why: why.to_string() };
    let text = fields.required_text("server")?;
    let server: ServerPattern = text.parse().map_err(|why| wrong(fields.path("server"), text, why))?;
    let list = fields.path("tools");
    let names = fields.texts("tools")?.ok_or_else(|| Error::Missing { path: list.clone() })?;
    for (i, text) in names.into_iter().enumerate() {
        let path = format!("{list}[{i}]");
        let tool: NamePattern = text.parse().map_err(|why| wrong(path.clone(), text, why))?;
        found.push(ToolLine { path, pattern: ToolPattern { server: server.clone(), tool } });
    }
    fields.end()?;
    Ok(ToolEntry { path, kind: kind.to_owned(), server: Some(server), hash })
}

fn model(mut fields: Fields<'_>) -> Result<Model, Error> {
    let model = Model {
        require_proxy_receipts: fields.flag("require_proxy_receipts")?.unwrap_or(false),
        provider: fields.text("provider")?.map(str::to_owned),
        ..Model::default()
    };
    fields.end()?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_kind_that_is_not_known_as_much_is_kept_as_is_shown() {
        let kind = Value::String("k".repeat(1000).into());
        let item = Value::Object(vec![("kind".into(), kind)]);
        assert_eq!(entry("allowed_tools[0]".into(), &item, &mut Vec::new()).unwrap().kind.len(), 80);
    }
}
