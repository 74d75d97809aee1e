//! Which paths there are: clawproxy's, and Google's own.

use hyper::Method;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Whether the gateway is there.
    Health,
    /// Whose receipts these are.
    Did,
    /// The receipt of a call, by its nonce.
    Receipt(&'a str),
    /// A model call.
    Call(Api<'a>),
    /// A path that is known, by another method.
    Method,
    /// Nothing that is known.
    Unknown,
}

/// As what a model is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api<'a> {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/proxy/PROVIDER`: in the shape of the provider's own, or for Google in OpenAI's.
    Proxy(&'a str),
    /// `POST /v1beta/models/MODEL:generateContent`, or `:streamGenerateContent`.
    Google {
        /// The model.
        model: &'a str,
        /// Which of the two.
        streamed: bool,
    },
}

/// What of a query goes on to a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `alt=sse`, of Google.
    pub(crate) events: bool,
    /// `beta=true`, of Anthropic.
    pub(crate) beta: bool,
}

/// Tells what a request is for.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let (wanted, route) = match path {
        "/health" => (Method::GET, Route::Health),
        "/v1/did" => (Method::GET, Route::Did),
        "/v1/chat/completions" => (Method::POST, Route::Call(Api::Chat)),
        "/v1/responses" => (Method::POST, Route::Call(Api::Responses)),
        "/v1/messages" => (Method::POST, Route::Call(Api::Messages)),
        _ => {
            let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty() && !rest.contains('/'));
            if let Some(nonce) = below("/v1/receipt/") {
                (Method::GET, Route::Receipt(nonce))
            } else if let Some(provider) = below("/v1/proxy/") {
                (Method::POST, Route::Call(Api::Proxy(provider)))
            } else if let Some(api) = below("/v1beta/models/").and_then(google) {
                (Method::POST, Route::Call(api))
            } else {
                return Route::Unknown;
            }
        }
    };
    if *method == wanted { route } else { Route::Method }
}

fn google(rest: &str) -> Option<Api<'_>> {
    let (model, does) = rest.rsplit_once(':')?;
    // Nothing that a URL would have to spell otherwise: what is judged is what is asked for.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let streamed = match does {
        "generateContent" => false,
        "streamGenerateContent" => true,
        _ => return None,
    };
    (!model.is_empty() && model.bytes().all(fits)).then_some(Api::Google { model, streamed })
}

/// Reads a query. What says who calls is left out, and what is not known is not passed over.
pub(crate) fn query(text: Option<&str>) -> Result<Query, &'static str> {
    let mut query = Query::default();
    for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair {
            "alt=sse" => query.events = true,
            "alt=json" | "%24alt=json" | "$alt=json" => {}
            "beta=true" => query.beta = true,
            _ if pair.starts_with("key=") => {}
            _ => return Err("a parameter of the query is not known: alt=sse and beta=true are"),
        }
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_clawproxy_and_google_have() {
        let post = |path| route(&Method::POST, path);
        assert_eq!(post("/v1/chat/completions"), Route::Call(Api::Chat));
        assert_eq!(post("/v1/proxy/anthropic"), Route::Call(Api::Proxy("anthropic")));
        let google = |model, streamed| Route::Call(Api::Google { model, streamed });
        assert_eq!(post("/v1beta/models/gemini-2.5-pro:generateContent"), google("gemini-2.5-pro", false));
        assert_eq!(post("/v1beta/models/g:streamGenerateContent"), google("g", true));
        assert_eq!(route(&Method::GET, "/v1/receipt/n-1"), Route::Receipt("n-1"));
        assert_eq!((route(&Method::GET, "/v1/messages"), post("/health")), (Route::Method, Route::Method));
        for unknown in [
            "/v1/proxy/",
            "/v1/proxy/a/b",
            "/v1/messages/",
            "/v1beta/models/g:countTokens",
            "/v1beta/models/a%2fb:generateContent",
            "/v1beta/models/a/b:generateContent",
            "/v1beta/models/:generateContent",
            "//v1/messages",
            "/V1/messages",
        ] {
            assert_eq!(post(unknown), Route::Unknown, "{unknown}");
        }
    }

    #[test]
    fn a_query_says_nothing_that_is_not_understood() {
        assert_eq!(query(Some("alt=sse&key=AIza")), Ok(Query { events: true, beta: false }));
        assert_eq!(query(Some("beta=true")), Ok(Query { events: false, beta: true }));
        assert_eq!((query(None), query(Some(""))), (Ok(Query::default()), Ok(Query::default())));
        assert!(query(Some("api-version=1")).is_err() && query(Some("alt=sse&alt=x")).is_err());
    }
}
