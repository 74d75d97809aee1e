//! HTTP headers that repeat what a message's body says, for those on the way who do not read it; and those by which a web page is
//! told from a client.
//!
//! What the gateway does not compare it does not pass on: [`mirrored`] makes the headers for a server from the message that was
//! judged.

use std::{collections::HashSet, net::Ipv4Addr};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    era::Flaw,
    json::{Json, same_number},
};

/// The header that repeats the version.
pub const VERSION: &str = "mcp-protocol-version";
/// The header that repeats the method.
pub const METHOD: &str = "mcp-method";
/// The header that repeats the name of what is asked for.
pub const NAME: &str = "mcp-name";
/// The beginning of the headers that repeat arguments.
pub const PARAM: &str = "mcp-param-";

const OPENS: &str = "=?base64?";
const CLOSES: &str = "?=";

/// The headers of a request that repeat its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// `MCP-Protocol-Version`
    pub version: Option<&'a str>,
    /// `Mcp-Method`
    pub method: Option<&'a str>,
    /// `Mcp-Name`, as it stands there.
    pub name: Option<&'a str>,
    /// `Mcp-Param-*`: what stands for the star, and the value.
    pub params: Vec<(&'a str, &'a str)>,
}

impl<'a> Headers<'a> {
    /// Picks them out of all headers of a request.
    ///
    /// # Errors
    ///
    /// [`Flaw::Header`] for one that is there twice, or that has bytes beyond printable ASCII, space and tab in it.
    pub fn read(all: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Flaw> {
        let mut headers = Self::default();
        for (name, value) in all {
            let place = if name.eq_ignore_ascii_case(VERSION) {
                Some(&mut headers.version)
            } else if name.eq_ignore_ascii_case(METHOD) {
                Some(&mut headers.method)
            } else if name.eq_ignore_ascii_case(NAME) {
                Some(&mut headers.name)
            } else if is_param(name) {
                None
            } else {
                continue;
            };
            let value = std::str::from_utf8(value).ok().filter(|value| value.bytes().all(is_plain));
            let Some(value) = value else { return Err(flaw(name, "has characters that no header may have")) };
            let value = value.trim_matches([' ', '\t']);
            match place {
                Some(Some(_)) => return Err(flaw(name, "is there twice")),
                Some(place) => *place = Some(value),
                None => {
                    let star = &name[PARAM.len()..];
                    if headers.params.iter().any(|(known, _)| known.eq_ignore_ascii_case(star)) {
                        return Err(flaw(name, "is there twice"));
                    }
                    headers.params.push((star, value));
                }
            }
        }
        Ok(headers)
    }

    /// Holds `MCP-Protocol-Version` against the body's version, if it has one.
    pub(crate) fn say_version(&self, body: Option<&str>) -> Result<(), Flaw> {
        match (self.version, body) {
            (None, _) => Err(flaw(VERSION, "is missing")),
            (Some(header), Some(body)) if header != body => {
                Err(flaw(VERSION, "does not name the version that params._meta names"))
            }
            _ => Ok(()),
        }
    }

    /// Holds `Mcp-Method` against the body's.
    pub(crate) fn say_method(&self, body: &str, has_to: bool) -> Result<(), Flaw> {
        match self.method {
            None if has_to => Err(flaw(METHOD, "is missing")),
            Some(header) if header != body => Err(flaw(METHOD, "does not name the method that the body names")),
            _ => Ok(()),
        }
    }

    /// Holds `Mcp-Name` against what the body asks for.
    pub(crate) fn say_name(&self, method: &str, params: Option<&Json>) -> Result<(), Flaw> {
        let Some(member) = name_of(method) else { return Ok(()) };
        let body = params.and_then(|params| params.get(member)).and_then(Json::as_str);
        match (self.name, body) {
            (None, _) => Err(flaw(NAME, "is missing")),
            (Some(header), Some(body)) if decode(header).as_deref() == Some(body) => Ok(()),
            _ => Err(flaw(NAME, "does not name what the body names")),
        }
    }

    /// Holds `Mcp-Param-*` against a call's arguments.
    ///
    /// # Errors
    ///
    /// [`Flaw::Header`] for the first that is missing, too much, or says something else. Those that the tool does not know are
    /// nobody's.
    pub fn say_params(&self, params: &[Param], arguments: Option<&Json>) -> Result<(), Flaw> {
        for param in params {
            let header =
                self.params.iter().find(|(star, _)| star.eq_ignore_ascii_case(&param.header)).map(|(_, value)| *value);
            let body = param.argument(arguments);
            let name = || format!("Mcp-Param-{}", param.header);
            match (header, body) {
                (None, None) => {}
                (None, Some(_)) => return Err(flaw(&name(), "is missing")),
                (Some(_), None) => return Err(flaw(&name(), "repeats an argument that is not there")),
                (Some(header), Some(body)) => {
                    let header = decode(header).ok_or_else(|| flaw(&name(), "is not encoded as it has to be"))?;
                    let same = match body {
                        Json::String(text) => **text == *header,
                        Json::Bool(bool) => header == bool.to_string(),
                        Json::Number(number) => same_number(&header, number),
                        _ => false,
                    };
                    if !same {
                        return Err(flaw(&name(), "does not say what the argument says"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn flaw(header: &str, what: &'static str) -> Flaw {
    Flaw::Header { header: header.into(), what }
}

fn is_param(name: &str) -> bool {
    name.as_bytes().get(..PARAM.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PARAM.as_bytes()))
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' ' || byte == b'\t'
}

/// The parameter that `Mcp-Name` repeats.
#[must_use]
pub fn name_of(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        // Of the extension for tasks.
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// A header's value as it is meant; nothing if it says that it is base64 and is not, or no text.
#[must_use]
pub fn decode(value: &str) -> Option<String> {
    match value.strip_prefix(OPENS).and_then(|rest| rest.strip_suffix(CLOSES)) {
        None => Some(value.to_owned()),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
    }
}

/// A text as a header's value.
#[must_use]
pub fn encode(text: &str) -> String {
    let blank = |text: &str| text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']);
    let sentinel = text.starts_with(OPENS) && text.ends_with(CLOSES);
    if text.bytes().all(is_plain) && !blank(text) && !sentinel {
        return text.to_owned();
    }
    format!("{OPENS}{}{CLOSES}", STANDARD.encode(text))
}

/// The headers for a request of the modern era, made from its body.
#[must_use]
pub fn mirrored(method: &str, params: Option<&Json>, tool: &[Param]) -> Vec<(String, String)> {
    let version = params.and_then(|params| params.at(&["_meta", crate::era::PROTOCOL_VERSION])).and_then(Json::as_str);
    let mut headers =
        vec![(VERSION.to_owned(), encode(version.unwrap_or(crate::era::MODERN))), (METHOD.to_owned(), encode(method))];
    let name = name_of(method).and_then(|member| params?.get(member)?.as_str());
    headers.extend(name.map(|name| (NAME.to_owned(), encode(name))));
    let arguments = params.and_then(|params| params.get("arguments"));
    for param in tool {
        let text = match param.argument(arguments) {
            Some(Json::String(text) | Json::Number(text)) => encode(text),
            Some(Json::Bool(bool)) => bool.to_string(),
            _ => continue,
        };
        headers.push((format!("{PARAM}{}", param.header.to_ascii_lowercase()), text));
    }
    headers
}

/// An argument that a header repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// What stands behind `Mcp-Param-`.
    header: Box<str>,
    /// Names of properties, from the arguments to the argument.
    path: Box<[Box<str>]>,
}

impl Param {
    fn argument<'j>(&self, arguments: Option<&'j Json>) -> Option<&'j Json> {
        let argument = self.path.iter().try_fold(arguments?, |value, name| value.get(name))?;
        (!argument.is_null()).then_some(argument)
    }
}

/// An annotation `x-mcp-header` that makes its tool's definition invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tool's inputSchema has an x-mcp-header {0}")]
pub struct NotAHeader(&'static str);

/// The arguments that a tool wants repeated in headers (2026-07-28, Streamable HTTP, section "Schema Extension").
///
/// # Errors
///
/// [`NotAHeader`]: clients of the modern era have to leave such a tool out.
pub fn params(tool: &Json) -> Result<Vec<Param>, NotAHeader> {
    let mut found = Vec::new();
    if let Some(schema) = tool.get("inputSchema") {
        let mut path = Vec::new();
        reachable(schema, &mut path, &mut found)?;
    }
    let mut names = HashSet::new();
    if !found.iter().all(|param| names.insert(param.header.to_ascii_lowercase())) {
        return Err(NotAHeader("that another one equals"));
    }
    Ok(found)
}

const ANNOTATION: &str = "x-mcp-header";

/// Arguments of one tool that headers may repeat.
const MOST_PARAMS: usize = 64;
/// Bytes that lead to one of them. A path is kept for each, and one long name may begin them all.
const LONGEST_PATH: usize = 1024;

/// Of a schema that only `properties` lead to.
fn reachable(schema: &Json, path: &mut Vec<Box<str>>, found: &mut Vec<Param>) -> Result<(), NotAHeader> {
    for (keyword, value) in schema.as_object().unwrap_or_default() {
        match &**keyword {
            ANNOTATION => {
                let header = value.as_str().filter(|name| is_token(name)).ok_or(NotAHeader("that names no header"))?;
                let kind = schema.get("type").and_then(Json::as_str);
                if path.is_empty() || !matches!(kind, Some("string" | "integer" | "boolean")) {
                    return Err(NotAHeader("at what is no string, integer or boolean"));
                }
                if found.len() == MOST_PARAMS || path.iter().map(|name| name.len()).sum::<usize>() > LONGEST_PATH {
                    return Err(NotAHeader("too many, or too far from the arguments"));
                }
                found.push(Param { header: header.into(), path: path.as_slice().into() });
            }
            "properties" => {
                for (name, property) in value.as_object().unwrap_or_default() {
                    path.push(name.clone());
                    reachable(property, path, found)?;
                    path.pop();
                }
            }
            keyword => unreachable_at(keyword, value)?,
        }
    }
    Ok(())
}

/// Of whatever else lies in a schema: no annotation may.
fn unreachable_at(keyword: &str, value: &Json) -> Result<(), NotAHeader> {
    match (keyword, value) {
        // Values, not schemas.
        ("const" | "default" | "enum" | "example" | "examples", _) => Ok(()),
        // Names of the schema's own choice, each with a schema.
        ("properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas", Json::Object(schemas)) => {
            schemas.iter().try_for_each(|(_, schema)| unreachable_at("", schema))
        }
        (_, Json::Object(members)) => members.iter().try_for_each(|(keyword, value)| match &**keyword {
            ANNOTATION => Err(NotAHeader("where not only properties lead to it")),
            keyword => unreachable_at(keyword, value),
        }),
        (_, Json::Array(items)) => items.iter().try_for_each(|item| unreachable_at("", item)),
        _ => Ok(()),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fit)
}

/// Whether a `Host` means this gateway: a name or address of loopback, and its port.
#[must_use]
pub fn is_own_host(host: &str, port: u16) -> bool {
    let (name, told) = match host.rsplit_once(':') {
        Some((name, told)) if !told.ends_with(']') => (name, told),
        _ => (host, "80"),
    };
    // In one spelling only: neither `09480` nor `+9480`.
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
    loopback && told == port.to_string()
}

/// Whether an `Origin` is this gateway itself. A web page's is another, and where there is no page there is none.
#[must_use]
pub fn is_own_origin(origin: &str, port: u16) -> bool {
    origin.strip_prefix("http://").is_some_and(|host| is_own_host(host, port))
}

#[cfg(test)]
mod tests;
