//! Everything that is neither an endpoint nor a tool.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use claw::{Hash, time::Instant, token::LONGEST_LIFE};

use super::{ChangeKind, Changes};
use crate::{
    contract::{Contract, DataClass, DataClasses, Lifetime, Model, TokenRules},
    read::short,
};

pub(super) fn of(changes: &mut Changes, old: &Contract, new: &Contract) {
    if old.form != new.form {
        changes.push(ChangeKind::Changes, "form", format!("changes from {} to {}", old.form.label(), new.form.label()));
    }
    text(changes, "policy_id", Some(&old.policy_id), Some(&new.policy_id));
    text(changes, "issuer_did", old.issuer.as_ref(), new.issuer.as_ref());
    time(changes, old, new);
    text(changes, "sequence", Some(&old.guard.sequence), Some(&new.guard.sequence));
    changes.flag("unix_sockets", "unix sockets", old.guard.unix_sockets, new.guard.unix_sockets);
    token(changes, old.guard.token, new.guard.token);
    model(changes, old, new);
    data(changes, old, new);
    foreign(changes, old, new);
}

fn text<T: Display + PartialEq>(changes: &mut Changes, path: &str, old: Option<&T>, new: Option<&T>) {
    if old != new {
        changes.push(ChangeKind::Changes, path, format!("changes from {} to {}", word(old), word(new)));
    }
}

fn word<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "nothing".into(), |value| value.to_string())
}

fn time(changes: &mut Changes, old: &Contract, new: &Contract) {
    // When it ends: the host's word, a moment, or never.
    let end = |contract: &Contract| match (contract.lifetime(), contract.guard.not_after) {
        (Lifetime::Default, _) => "[trust] default_lifetime after it is put in force".into(),
        (Lifetime::Stated, None) => "never".to_owned(),
        (Lifetime::Stated, Some(at)) => at.format(),
    };
    let text = format!("changes the end from {} to {}", end(old), end(new));
    let (was, is) = (old.guard.not_after, new.guard.not_after);
    match (old.lifetime(), new.lifetime()) {
        (Lifetime::Stated, Lifetime::Stated) if was != is => {
            let later = is.is_none_or(|is| was.is_some_and(|was| is > was));
            changes.push(if later { ChangeKind::Widens } else { ChangeKind::Narrows }, "not_after", text);
        }
        (Lifetime::Stated, Lifetime::Default) if was.is_none() => changes.push(ChangeKind::Narrows, "not_after", text),
        (Lifetime::Default, Lifetime::Stated) if is.is_none() => changes.push(ChangeKind::Widens, "not_after", text),
        (one, other) if one != other => changes.unjudged("not_after", text),
        _ => {}
    }
    let (was, is) = (old.guard.not_before, new.guard.not_before);
    if was != is {
        let kind = if is > was { ChangeKind::Narrows } else { ChangeKind::Widens };
        let at = |at: Option<Instant>| word(at.map(Instant::format));
        changes.push(kind, "not_before", format!("changes the beginning from {} to {}", at(was), at(is)));
    }
}

fn token(changes: &mut Changes, old: Option<TokenRules>, new: Option<TokenRules>) {
    const TOKEN: &str = "token";
    changes.demand(TOKEN, "a token for each job", old.is_some(), new.is_some());
    let (was, is) = (old.unwrap_or_default(), new.unwrap_or_default());
    // Where nobody says, there is a longest life even so.
    let life = |rules: TokenRules| rules.max_ttl_seconds.unwrap_or(LONGEST_LIFE);
    if life(was) != life(is) {
        let limit = |rules: TokenRules| match rules.max_ttl_seconds {
            Some(seconds) => format!("{seconds} s"),
            None => format!("{LONGEST_LIFE} s (unsaid)"),
        };
        let kind = if life(is) > life(was) { ChangeKind::Widens } else { ChangeKind::Narrows };
        changes.push(kind, TOKEN, format!("changes the longest life of a token from {} to {}", limit(was), limit(is)));
    }
    changes.demand(TOKEN, "the hash of a token's scope", was.require_scope_hash, is.require_scope_hash);
    changes.demand(TOKEN, "the contract's hash in the token", was.require_pin, is.require_pin);
    if old.is_some() && new.is_some() && was.job_scoped != is.job_scoped {
        let text = "says otherwise whether a token is good for one job; it is in any case";
        changes.push(ChangeKind::Changes, TOKEN, text);
    }
}

fn model(changes: &mut Changes, old: &Contract, new: &Contract) {
    let none = Model::default();
    let (was, is) = (old.guard.model.as_ref().unwrap_or(&none), new.guard.model.as_ref().unwrap_or(&none));
    changes.demand("model", "a receipt of every model call", was.require_proxy_receipts, is.require_proxy_receipts);
    if was.on_bypass != is.on_bypass {
        let kind = if is.on_bypass > was.on_bypass { ChangeKind::Narrows } else { ChangeKind::Widens };
        let text = format!("changes on_bypass from {} to {}", was.on_bypass.label(), is.on_bypass.label());
        changes.push(kind, "model", text);
    }
    if was.provider != is.provider {
        let (was, is) = (word(was.provider.as_ref()), word(is.provider.as_ref()));
        changes.unjudged("model", format!("changes the provider from {was} to {is}"));
    }
    let lists = [
        ("allowed_providers", "the provider", &old.allowed_providers, &new.allowed_providers),
        ("allowed_models", "the model", &old.allowed_models, &new.allowed_models),
    ];
    for (path, what, was, is) in lists {
        grants(changes, path, what, was.as_deref(), is.as_deref());
    }
    for (name, value) in &new.model_rules {
        match old.model_rules.iter().find(|(other, _)| other == name) {
            None => changes.push(ChangeKind::Narrows, *name, format!("restricts model calls to {value}")),
            Some((_, was)) if was != value => changes.unjudged(*name, format!("changes from {was} to {value}")),
            Some(_) => {}
        }
    }
    for (name, value) in &old.model_rules {
        if !new.model_rules.iter().any(|(other, _)| other == name) {
            changes.push(ChangeKind::Widens, *name, format!("no longer restricts model calls to {value}"));
        }
    }
}

/// Told by what becomes of each class, whichever list says so.
fn data(changes: &mut Changes, old: &Contract, new: &Contract) {
    const DATA: &str = "data_classes";
    let none = DataClasses::default();
    let (was, is) =
        (old.guard.data_classes.as_ref().unwrap_or(&none), new.guard.data_classes.as_ref().unwrap_or(&none));
    for class in DataClass::ALL {
        let (was, is) = (was.handling(class), is.handling(class));
        if was != is {
            let kind = if is > was { ChangeKind::Narrows } else { ChangeKind::Widens };
            changes.push(kind, DATA, format!("changes what becomes of {class} from {} to {}", was.label(), is.label()));
        }
    }
    // Names of no known class give nothing.
    let unknown = |classes: &DataClasses| -> BTreeSet<String> {
        let names = classes.allow.iter().flatten().filter(|name| name.parse::<DataClass>().is_err());
        names.map(|name| short(name)).collect()
    };
    let (was, is) = (unknown(was), unknown(is));
    for (names, text) in [(is.difference(&was), "adds"), (was.difference(&is), "takes away")] {
        for name in names {
            let text = format!("{text} {name}, which is no class that can be told by its form");
            changes.push(ChangeKind::Changes, "data_classes.allow", text);
        }
    }
}

/// A list of grants. What its absence means is for a gateway to say.
fn grants(changes: &mut Changes, path: &str, what: &str, old: Option<&[String]>, new: Option<&[String]>) {
    if old.is_some() != new.is_some() {
        let text = if new.is_some() { "begins to list what is allowed" } else { "no longer lists what is allowed" };
        changes.unjudged(path, text);
    }
    let (old, new) = (old.unwrap_or_default().iter(), new.unwrap_or_default().iter());
    changes.list(path, what, false, old.map(|s| &**s), new.map(|s| &**s));
}

fn foreign(changes: &mut Changes, old: &Contract, new: &Contract) {
    fn members(contract: &Contract) -> BTreeMap<&str, Hash> {
        contract.foreign_metadata.iter().map(|(name, hash)| (&**name, *hash)).collect()
    }
    let (before, after) = (members(old), members(new));
    let mut push = |name: &str, text| {
        let cut = if name.chars().count() > 80 { "..." } else { "" };
        changes.push(ChangeKind::Changes, format!("metadata.{}{cut}", short(name)), text);
    };
    for (name, hash) in &after {
        match before.get(name) {
            None => push(name, "is added; it is not ClawGuard's"),
            Some(was) if was != hash => push(name, "changes; it is not ClawGuard's"),
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        push(name, "is taken away; it was not ClawGuard's");
    }
}
