//! What clawcontrols and clawscope answer, read for the daemon. What is signed is handed on unread.

use std::io::{BufRead, BufReader, Read};

use claw::token::TokenHash;
use control::channel::{Errand, LARGEST_CONTRACT, Outcome, Standing, What};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{Request, SMALL, STREAM, ask, call};

/// The largest page of revocations, in bytes.
const PAGE: u64 = 1 << 20;

/// Carries out an errand.
#[must_use]
pub fn carry_out(errand: &Errand) -> Outcome {
    let get = |path: &str, limit: usize| {
        let request = Request { to: errand.from.clone(), method: "GET".into(), path: path.into(), body: None };
        ask(&request, limit).map_err(|error| error.to_string())
    };
    let done = match &errand.what {
        What::Health => get("/health", SMALL).and_then(|answer| match answer.status {
            200 => Ok(Outcome::Healthy),
            status => Err(format!("{} answers /health with status {status}", errand.from.base)),
        }),
        // A little more than the envelope itself: the answer wraps it.
        What::Contract { hash } => get(&format!("/v1/wpc/{hash}"), LARGEST_CONTRACT + 4096).and_then(|answer| {
            if answer.status != 200 {
                return Err(status("the contract", answer.status, &answer.body));
            }
            let wrapped: Wrapped<'_> = serde_json::from_str(&answer.body)
                .map_err(|error| format!("the registry's answer is no wrapped envelope: {error}"))?;
            Ok(Outcome::Contract(wrapped.envelope.get().to_owned()))
        }),
        What::Keys => get("/v1/jwks", SMALL).and_then(|answer| match answer.status {
            200 => Ok(Outcome::Keys(answer.body)),
            code => Err(status("the key set", code, &answer.body)),
        }),
        What::Token { token, binder } => standing(errand, token, binder).map(Outcome::Token),
        What::Revocations => Err("a stream is followed, not fetched".into()),
    };
    done.unwrap_or_else(Outcome::Failed)
}

/// clawcontrols' answer to a contract's hash.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    envelope: &'a RawValue,
}

fn status(what: &str, status: u16, body: &str) -> String {
    let text: String = body.chars().filter(|c| !c.is_control()).take(160).collect();
    format!("the registry does not give {what}: status {status} {text}")
}

#[derive(Deserialize)]
struct Introspected {
    active: bool,
    #[serde(default)]
    revoked: bool,
    token_hash: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Asks the issuer how a token stands; binds it first, where the registry knows how.
fn standing(errand: &Errand, token: &str, binder: &str) -> Result<Standing, String> {
    let post = |path: &str, body: serde_json::Value| {
        let request = Request {
            // The token itself is the proof; nothing else of this host's goes along.
            to: control::channel::Source { bearer: None, ..errand.from.clone() },
            method: "POST".into(),
            path: path.into(),
            body: Some(body.to_string()),
        };
        ask(&request, SMALL).map_err(|error| error.to_string())
    };
    // clawscope's own words; anybody else's 401 says nothing about the token.
    let refusal = |body: &str| {
        let code = serde_json::from_str::<Refusal>(body).map(|refusal| refusal.error).ok();
        code.filter(|code| code.starts_with("TOKEN_"))
    };
    if !binder.is_empty() {
        let bound = post("/v1/tokens/bind", json!({ "token": token, "binder": binder }))?;
        match (bound.status, refusal(&bound.body)) {
            // The hosted issuer keeps no bindings: the host's own then stand alone.
            (200 | 404 | 405, _) => {}
            (409, _) => return Ok(Standing::BoundElsewhere),
            (403, Some(code)) if code == "TOKEN_REVOKED" => return Ok(Standing::Revoked),
            (401, Some(code)) => return Ok(Standing::Refused(code)),
            (code, _) => return Err(status("a binding", code, &bound.body)),
        }
    }
    let answer = post("/v1/tokens/introspect", json!({ "token": token }))?;
    match (answer.status, refusal(&answer.body)) {
        (200, _) => {}
        (401, Some(code)) => return Ok(Standing::Refused(code)),
        (code, _) => return Err(status("the token's standing", code, &answer.body)),
    }
    let told: Introspected = serde_json::from_str(&answer.body)
        .map_err(|error| format!("the registry's answer is no introspection: {error}"))?;
    if told.token_hash != TokenHash::of(token).to_string() {
        return Err("the registry answered for another token".into());
    }
    Ok(match (told.active, told.revoked) {
        (true, false) => Standing::Active,
        (_, true) => Standing::Revoked,
        (false, false) => Standing::Refused("TOKEN_INACTIVE".into()),
    })
}

/// An event of the revocations' feed.
#[derive(Deserialize)]
struct Event {
    record: Revocation,
}

#[derive(Deserialize)]
struct Revocation {
    token_hash: String,
}

/// The feed as one page, which is all that the hosted clawscope gives.
#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
}

/// Follows the stream of revocations until it ends, or for five minutes; `each` is told a hash at a time.
#[must_use]
pub fn follow_revocations(errand: &Errand, mut each: impl FnMut(TokenHash)) -> Outcome {
    let request =
        Request { to: errand.from.clone(), method: "GET".into(), path: "/v1/revocations/stream".into(), body: None };
    let mut response = match call(&request, STREAM) {
        Ok(response) if response.status().as_u16() == 200 => response,
        Ok(response) => return Outcome::Failed(status("revocations", response.status().as_u16(), "")),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut tell = |event: Event| {
        if let Ok(hash) = event.record.token_hash.parse() {
            each(hash);
        }
    };
    if kind.starts_with("application/json") {
        let text = response.body_mut().with_config().limit(PAGE).read_to_string();
        let page = text.map_err(|error| error.to_string());
        return match page.and_then(|text| serde_json::from_str::<Page>(&text).map_err(|error| error.to_string())) {
            Ok(page) => {
                page.events.into_iter().for_each(tell);
                Outcome::Ended
            }
            Err(why) => Outcome::Failed(format!("the registry's revocations cannot be read: {why}")),
        };
    }
    let mut lines = BufReader::new(response.body_mut().as_reader());
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is no reason to hold it all.
        match (&mut lines).take(SMALL as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return Outcome::Ended,
            Ok(_) => {}
        }
        let Some(data) = line.strip_prefix(b"data:") else { continue };
        if let Ok(event) = serde_json::from_slice::<Event>(data) {
            tell(event);
        }
    }
}
