//! What the API can be asked.

/// A method and a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// What is in force.
    Status,
    /// The groups and their state.
    Groups,
    /// Kills a group.
    Kill,
    /// Gives a group back.
    Restore,
    /// Takes another mode.
    Mode,
    /// Tests the switch.
    Drill,
    /// The jobs.
    Jobs,
    /// Makes a job.
    StartJob,
    /// Ends a job.
    EndJob,
    /// Moves a process of the caller's into a job.
    AddProcess,
    /// Takes a token for a job that runs.
    PresentToken,
    /// Mints the key of a job's agent.
    MintKey,
    /// Revokes a token on this host.
    RevokeToken,
    /// What the kernel decided.
    Decisions,
    /// An agent's contract.
    Contract,
    /// Puts a contract in force.
    UseContract,
    /// What an agent in observe mode was seen to do.
    Observed,
    /// Begins that anew.
    ForgetObserved,
    /// Calls that wait for a person.
    Approvals,
    /// A person's word on one.
    DecideApproval,
    /// Tool definitions as accepted and offered.
    Pins,
    /// The same of one server, with the texts.
    PinsOf,
    /// Accepts or withdraws definitions.
    SetPins,
    /// What happened to a job, for others to verify.
    Evidence,
}

/// Every route with its method and the form of its path.
pub const TABLE: [(Route, &str, &str); 24] = [
    (Route::Status, "GET", "/v1/status"),
    (Route::Groups, "GET", "/v1/groups"),
    (Route::Kill, "POST", "/v1/groups/{name}/kill"),
    (Route::Restore, "POST", "/v1/groups/{name}/restore"),
    (Route::Mode, "POST", "/v1/mode"),
    (Route::Drill, "POST", "/v1/drill"),
    (Route::Jobs, "GET", "/v1/jobs"),
    (Route::StartJob, "POST", "/v1/jobs"),
    (Route::EndJob, "DELETE", "/v1/jobs/{name}"),
    (Route::AddProcess, "POST", "/v1/jobs/{name}/processes"),
    (Route::PresentToken, "PUT", "/v1/jobs/{name}/cst"),
    (Route::MintKey, "POST", "/v1/jobs/{name}/key"),
    (Route::RevokeToken, "POST", "/v1/tokens/revoke"),
    (Route::Decisions, "GET", "/v1/decisions"),
    (Route::Contract, "GET", "/v1/agents/{name}/wpc"),
    (Route::UseContract, "PUT", "/v1/agents/{name}/wpc"),
    (Route::Observed, "GET", "/v1/agents/{name}/observed"),
    (Route::ForgetObserved, "DELETE", "/v1/agents/{name}/observed"),
    (Route::Approvals, "GET", "/v1/approvals"),
    (Route::DecideApproval, "POST", "/v1/approvals/{name}"),
    (Route::Pins, "GET", "/v1/pins"),
    (Route::PinsOf, "GET", "/v1/pins/{name}"),
    (Route::SetPins, "POST", "/v1/pins/{name}"),
    (Route::Evidence, "GET", "/v1/evidence/{name}"),
];

/// Why nothing answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No such path.
    Path,
    /// Another method is needed.
    Method,
}

/// Finds the route for a request, with the name that its path carries.
///
/// # Errors
///
/// [`NoRoute`].
pub fn find(method: &str, path: &str) -> Result<(Route, Option<String>), NoRoute> {
    let mut wrong = NoRoute::Path;
    for (route, with, form) in TABLE {
        if let Some(name) = fits(form, path) {
            if with == method {
                return Ok((route, name));
            }
            wrong = NoRoute::Method;
        }
    }
    Err(wrong)
}

/// `Some(name)` if the path has the form; the name is `None` where the form has none.
fn fits(form: &str, path: &str) -> Option<Option<String>> {
    let (mut form, mut path) = (form.split('/'), path.split('/'));
    let mut name = None;
    loop {
        match (form.next(), path.next()) {
            (None, None) => return Some(name),
            (Some("{name}"), Some(part)) if !part.is_empty() => name = Some(decode(part)?),
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

/// Undoes percent encoding; groups have colons.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let [high, low, after @ ..] = after else { return None };
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            bytes.push((digit(high)? * 16 + digit(low)?) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The values of a query string, each name once.
#[must_use]
pub fn query(text: Option<&str>) -> Vec<(String, String)> {
    text.unwrap_or_default()
        .split('&')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_route_and_their_name() {
        assert_eq!(find("POST", "/v1/groups/mcp:crm/kill"), Ok((Route::Kill, Some("mcp:crm".into()))));
        assert_eq!(find("POST", "/v1/groups/mcp%3Acrm/kill"), Ok((Route::Kill, Some("mcp:crm".into()))));
        assert_eq!(
            find("POST", "/v1/groups/tool%3Acrm%2FgetCase/kill"),
            Ok((Route::Kill, Some("tool:crm/getCase".into())))
        );
        assert_eq!(find("GET", "/v1/jobs"), Ok((Route::Jobs, None)));
        assert_eq!(find("PUT", "/v1/status"), Err(NoRoute::Method));
        for wrong in
            ["/", "/v1", "/v1/status/", "/v1/groups//kill", "/v1/groups/a/b/kill", "/v1/groups/%zz/kill", "/v2/status"]
        {
            assert_eq!(find("GET", wrong), Err(NoRoute::Path), "{wrong}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(query(Some("job=a%2Db&since=5&x")), [("job".into(), "a-b".into()), ("since".into(), "5".into())]);
        assert_eq!(query(None), []);
    }
}
