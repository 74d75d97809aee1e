//! What the contract has left out of a request.

use mcp::json::Json;
use policy::model::{Action, Redaction, Step};

/// What stands where something is masked.
const MASK: &str = "[REDACTED]";

/// Applies the rules to a request's body, one after the other. Answers how many places they changed.
pub(crate) fn redact(body: &mut Json, rules: &[Redaction]) -> u64 {
    let one = |rule: &Redaction| {
        let done = at(body, &rule.steps, rule.action);
        if done.gone {
            *body = Json::Object(Vec::new());
        }
        done.places
    };
    rules.iter().map(one).sum()
}

/// What became of a value.
#[derive(Default)]
struct Done {
    /// How many places in it were changed.
    places: u64,
    /// Whether it is to be taken out itself.
    gone: bool,
}

/// Follows a path, by whatever spelling and in whatever form providers take what it names: a list of one may stand without its
/// brackets, and a text for a list of one part.
fn at(value: &mut Json, steps: &[Step], action: Action) -> Done {
    let text = value.as_str().is_some() && steps.iter().all(Step::is_in_text);
    let Some((step, rest)) = steps.split_first().filter(|_| !text) else { return left_out(value, action) };
    let mut places = 0;
    let mut stays = |value: &mut Json, steps: &[Step]| {
        let done = at(value, steps, action);
        places += done.places;
        !done.gone
    };
    match (step, &mut *value) {
        (Step::Member(_), Json::Object(members)) => {
            // Messages and parts of one stand for each other: what one calls its content is the other's text, and the other way round.
            let bare = step.is_content() && !members.iter().any(|(name, _)| step.leads_to(name));
            members.retain_mut(|(name, value)| {
                let named = || Step::Member(name.as_ref().into());
                if step.leads_to(name) || (bare && named().is_text()) {
                    stays(value, rest)
                } else {
                    !(step.is_text() && named().is_content()) || stays(value, steps)
                }
            });
        }
        (Step::Member(_), Json::Array(items)) => items.retain_mut(|item| stays(item, steps)),
        (Step::Items, Json::Array(items)) => items.retain_mut(|item| stays(item, rest)),
        (Step::Item(at), Json::Array(items)) => {
            let stayed = items.get_mut(*at).is_none_or(|item| stays(item, rest));
            if !stayed {
                items.remove(*at);
            }
        }
        (Step::Items | Step::Item(0), Json::Object(_)) => return at(value, rest, action),
        _ => {}
    }
    Done { places, gone: false }
}

fn left_out(value: &mut Json, action: Action) -> Done {
    let instead = match action {
        Action::Remove => return Done { places: 1, gone: true },
        Action::Hash => format!("[HASH:sha256:{}]", value.canonical_hash()),
        Action::Mask => MASK.to_owned(),
    };
    *value = instead.into();
    Done { places: 1, gone: false }
}
