//! Form 3: `tools.profile`, `tools.allow` and `tools.deny`, where names of MCP tools and of OpenClaw's own stand together.

use super::{Contract, Error, Form, OpenClawLine, Profile, TokenRules, ToolLine, Tools, named, object};
use crate::{
    read::{Fields, short},
    tool::{NamePattern, ServerPattern, ToolPattern},
};

pub(super) fn read(mut fields: Fields<'_>) -> Result<Contract, Error> {
    let mut contract = named(&mut fields, Form::Profiled)?;
    let guard = &mut contract.guard;
    let openclaw = &mut guard.openclaw;
    guard.tools = object(&mut fields, "tools", |mut fields| {
        let profile = profile(&mut fields)?;
        let allow = lines(&mut fields, "allow", false, &mut openclaw.allow)?;
        let deny = lines(&mut fields, "deny", true, &mut openclaw.deny)?.unwrap_or_default();
        fields.end()?;
        Ok(Tools { profile, allow, deny, ..Tools::default() })
    })?;
    guard.token = object(&mut fields, "token_binding", TokenRules::read_binding)?;
    fields.end()?;
    Ok(contract)
}

/// A profile that is not known is a restriction that nobody understands.
fn profile(fields: &mut Fields<'_>) -> Result<Option<Profile>, Error> {
    match fields.text("profile")? {
        None => Ok(None),
        Some("readonly") => Ok(Some(Profile::Readonly)),
        Some("full") => Ok(Some(Profile::Full)),
        Some(other) => {
            let why = "the profiles are readonly and full; what another one restricts is not known here".into();
            Err(Error::Text { path: fields.path("profile"), text: short(other), why })
        }
    }
}

fn lines(
    fields: &mut Fields<'_>,
    name: &str,
    denied: bool,
    openclaw: &mut Vec<OpenClawLine>,
) -> Result<Option<Vec<ToolLine>>, Error> {
    let list = fields.path(name);
    let Some(texts) = fields.texts(name)? else { return Ok(None) };
    let mut found = Vec::new();
    for (i, text) in texts.into_iter().enumerate() {
        let path = format!("{list}[{i}]");
        match meant(text, denied) {
            Ok(Meant::Mcp(pattern)) => found.push(ToolLine { path, pattern }),
            Ok(Meant::OpenClaw) => openclaw.push(OpenClawLine { path, name: text.to_owned() }),
            Ok(Meant::Everything) => {
                let every = ToolPattern { server: ServerPattern::Any, tool: NamePattern::Prefix("".into()) };
                found.push(ToolLine { path: path.clone(), pattern: every });
                openclaw.push(OpenClawLine { path, name: text.to_owned() });
            }
            Err(why) => return Err(Error::Text { path, text: short(text), why: why.into() }),
        }
    }
    Ok(Some(found))
}

/// Whose tools a text means.
#[derive(Debug, PartialEq)]
enum Meant {
    Mcp(ToolPattern),
    OpenClaw,
    Everything,
}

const MCP: &str = "mcp.";

/// OpenClaw's own words for the tools of all MCP servers: the plugin that brings them, and the group of all plugins. OpenClaw
/// does not tell upper from lower case in them.
const ALL_MCP: [&str; 2] = ["bundle-mcp", "group:plugins"];

/// `mcp.SERVER.TOOL` and `SERVER/TOOL` are tools of MCP servers; everything else is OpenClaw's, unless it could be meant
/// for both.
///
/// OpenClaw itself calls an MCP tool `SERVER__TOOL`, with other characters than letters, digits, `_` and `-` replaced in
/// both: which tool such a denial means cannot be told from it, so it is refused.
fn meant(text: &str, denied: bool) -> Result<Meant, &'static str> {
    const FORM: &str = "an MCP tool is written mcp.SERVER.TOOL or SERVER/TOOL in printable ASCII, where either may be * and \
                        TOOL may end in *";
    if let Some(rest) = text.strip_prefix(MCP) {
        let (server, tool) = rest.split_once('.').ok_or(FORM)?;
        return match (server.parse(), tool.parse()) {
            (Ok(server), Ok(tool)) => Ok(Meant::Mcp(ToolPattern { server, tool })),
            _ => Err(FORM),
        };
    }
    if text.contains('/') {
        return text.parse().map(Meant::Mcp).map_err(|_| FORM);
    }
    if text.is_empty() || text.len() > 256 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a tool's name has 1 to 256 characters of printable ASCII and no spaces");
    }
    // `mcp__crm__get` and the like: another spelling of what the lines above mean.
    if text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("mcp")) {
        let next = text[3..].chars().next();
        if next.is_none_or(|c| !c.is_alphanumeric() && c != '*') {
            return Err(FORM);
        }
    }
    // Of MCP tools nothing is given by so few words; what denies them has to be held here too.
    if !denied {
        return Ok(Meant::OpenClaw);
    }
    if text == "*" || ALL_MCP.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Ok(Meant::Everything);
    }
    if text.contains("__") {
        return Err("OpenClaw calls MCP tools SERVER__TOOL; write what is denied as SERVER/TOOL");
    }
    match text.split_once('*') {
        Some((start, _)) if start.bytes().all(in_openclaws_name) => {
            Err("it could stand for MCP tools as well; write those as SERVER/TOOL, and OpenClaw's own without that *")
        }
        _ => Ok(Meant::OpenClaw),
    }
}

/// Whether the name that OpenClaw gives to an MCP tool can have this in it: `exec*` could be a server's `exec-mcp__run`,
/// `tools.elevated.*` is nobody's.
fn in_openclaws_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_how_they_are_written() {
        let mcp = |text: &str| Ok(Meant::Mcp(text.parse().unwrap()));
        assert_eq!(meant("mcp.graph.users.read", false), mcp("graph/users.read"));
        assert_eq!(meant("graph/users.read", false), mcp("graph/users.read"));
        assert_eq!(meant("mcp.graph.mail.*", true), mcp("graph/mail.*"));
        assert_eq!(meant("mcp.*.send", true), mcp("*/send"));
        for own in ["exec", "write", "apply_patch", "web.get", "tools.elevated.*", "mcporter", "group:fs"] {
            assert_eq!(meant(own, true), Ok(Meant::OpenClaw), "{own}");
        }
    }

    #[test]
    fn openclaws_words_for_mcp_tools_deny_them_here_too() {
        for every in ["bundle-mcp", "group:plugins", "Bundle-MCP", "GROUP:plugins"] {
            assert_eq!(meant(every, true), Ok(Meant::Everything), "{every}");
            assert_eq!(meant(every, false), Ok(Meant::OpenClaw), "{every}");
        }
        for one in ["crm__get_case", "crm__*", "*__send", "a__b__c"] {
            assert!(meant(one, true).is_err_and(|why| why.contains("SERVER/TOOL")), "{one}");
            assert_eq!(meant(one, false), Ok(Meant::OpenClaw), "{one}");
        }
        assert_eq!(meant("a__b/c", true), Ok(Meant::Mcp("a__b/c".parse().unwrap())));
    }

    #[test]
    fn what_could_mean_both_is_denied_for_both_or_refused() {
        assert_eq!(meant("*", true), Ok(Meant::Everything));
        assert_eq!(meant("*", false), Ok(Meant::OpenClaw));
        for unclear in ["m*", "mcp*", "*.send", "*s", "crm*", "bundle-*", "exec_*", "B*"] {
            assert!(meant(unclear, true).is_err(), "{unclear}");
            assert_eq!(meant(unclear, false), Ok(Meant::OpenClaw), "{unclear}");
        }
        for wrong in [
            "mcp",
            "mcp.",
            "mcp.x",
            "mcp.x.",
            "mcp..x",
            "mcp.a/b.c",
            "mcp__a__b",
            "MCP.a.b",
            "a/b/c",
            "",
            "a b",
            "ex\u{435}c",
            "exec\u{200b}",
            "mcp.crm.g\u{435}t",
            "\u{441}rm/get",
        ] {
            for denied in [true, false] {
                assert!(meant(wrong, denied).is_err(), "{wrong:?}");
            }
        }
    }
}
