//! What became of what a contract says of models.

use super::super::{Compiler, GUARD};
use crate::{
    contract::{Form, Model, OnBypass},
    finding::Outcome,
    model::{Action, ModelPolicy},
};

const NO_MODEL: &str = "no model call is mediated on this host, and direct ones are only to what egress names";
const NOT_GIVEN: &str = "the contract gives no model: neither allowed_providers nor allowed_models is there";
const WAY: &str = "models are called through the gateway alone";

impl Compiler<'_> {
    /// What only form 1 has.
    pub(super) fn describe_model_calls(&mut self) {
        let contract = self.contract;
        let policy = ModelPolicy::of(contract);
        let lists = [("allowed_providers", &contract.allowed_providers), ("allowed_models", &contract.allowed_models)];
        for (name, list) in lists {
            let Some(list) = list else { continue };
            let (outcome, note) = match policy.unkept() {
                _ if !self.host.model_gateway => (Outcome::Denied, format!("needs the model gateway: {NO_MODEL}")),
                Some((reason, path)) => {
                    (Outcome::Denied, format!("no model call is made for {path}: {}", reason.sentence()))
                }
                None if list.is_empty() => (Outcome::Gateway, "empty: no model is given".into()),
                None => (Outcome::Gateway, WAY.into()),
            };
            self.found(name, outcome, note);
        }
        for (name, word) in &contract.model_rules {
            let refused = policy.unkept().filter(|(_, path)| path.starts_with(name));
            let (outcome, note) = match (*name, refused) {
                _ if !self.host.model_gateway => {
                    (Outcome::Denied, format!("restricts calls that are not given: {NO_MODEL}"))
                }
                _ if contract.allowed_providers.is_none() && contract.allowed_models.is_none() => {
                    (Outcome::Denied, format!("restricts calls that are not given: {NOT_GIVEN}"))
                }
                (_, Some((reason, _))) => (Outcome::Gateway, format!("no model call is made: {}", reason.sentence())),
                ("minimum_model_identity_tier", _) => {
                    (Outcome::Gateway, format!("{word}: every model behind a provider's API is of it"))
                }
                ("receipt_privacy_mode", _) => {
                    (Outcome::Gateway, "receipts hold hashes, and nothing of what was said".into())
                }
                ("redaction_rules", _) => (Outcome::Gateway, "before a request leaves".into()),
                _ => (Outcome::Recorded, "asks for nothing".into()),
            };
            self.found(*name, outcome, note);
        }
        if self.host.model_gateway {
            self.describe_redactions(&policy);
        }
    }

    fn describe_redactions(&mut self, policy: &ModelPolicy) {
        for (i, rule) in self.contract.redactions.iter().enumerate() {
            let path = format!("redaction_rules[{i}]");
            if policy.unkept().is_some_and(|(_, unread)| unread.starts_with(&path)) {
                let note = format!("{}: {}", rule.path, crate::model::NotAPath);
                self.found(path, Outcome::Gateway, note);
                continue;
            }
            let instead = match rule.action {
                Action::Remove => "is taken out",
                Action::Mask => "[REDACTED] takes its place",
                Action::Hash => {
                    "[HASH:sha256:…] of its canonical JSON takes its place: who can guess a short text can tell it by that"
                }
            };
            self.found(path, Outcome::Gateway, format!("{}: {instead}", rule.path));
        }
    }

    pub(super) fn describe_model(&mut self, model: &Model) {
        let form = self.contract.form;
        let (outcome, note) = if model.require_proxy_receipts {
            (Outcome::Kernel, "no model host is opened, so that no call goes without a receipt")
        } else {
            (Outcome::Recorded, "no receipt is asked for")
        };
        self.found(form.receipts(), outcome, note);
        if model.require_proxy_receipts && self.host.model_gateway {
            self.found(form.receipts(), Outcome::Gateway, "each call's receipt is on disk before its answer ends");
            let note = "the kernel's count of connections is matched with calls and receipts: a job of which they do not fit \
                        reaches nothing more";
            self.found(form.receipts(), Outcome::Daemon, note);
        }
        if let Some(provider) = &model.provider {
            let (outcome, note) = if !self.host.model_gateway {
                (Outcome::Denied, format!("needs the model gateway: {NO_MODEL}"))
            } else if ModelPolicy::of(self.contract).gives() {
                (
                    Outcome::Gateway,
                    format!("{WAY}, which has clawproxy's routes and receipts: every model that the host reaches"),
                )
            } else {
                (
                    Outcome::Denied,
                    format!("no model is given: the gateway stands for clawproxy, not for \"{provider}\""),
                )
            };
            self.found("model_egress.provider", outcome, note);
        }
        if form == Form::Registered {
            let note = match model.on_bypass {
                OnBypass::Alert => "told by metric and record",
                OnBypass::ReadOnly => "told, and the groups class:write and class:irreversible of the agent are killed",
                OnBypass::Halt => "told, and the group all of the agent is killed",
            };
            self.found(format!("{GUARD}.model.on_bypass"), Outcome::Daemon, note);
        }
    }
}
