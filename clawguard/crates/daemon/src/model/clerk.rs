//! The thread that settles ends of calls: signs or verifies, writes, syncs once for all that wait, answers.

use std::{
    io,
    sync::{Arc, Weak, mpsc},
    thread,
};

use claw::{
    key::{Did, PrivateKey},
    time::Instant,
};
use control::{
    channel::Told,
    model::{ModelEnd, Receipt},
};
use evidence::chain::Kind;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    Errand, Missing, Models,
    receipt::{Begun, Kept, sign, verify},
};
use crate::{
    audit::Ticket,
    config::ModelGateway,
    core::{Core, Shared},
};

/// Ends that are settled at once.
const AT_ONCE: usize = 256;

/// Starts the clerk.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("receipts".into()).spawn(move || work(&weak, &receiver))?;
    // One daemon has one clerk.
    let _ = shared.models.clerk.set(sender);
    Ok(())
}

fn work(shared: &Weak<Shared>, receiver: &mpsc::Receiver<Errand>) {
    while let Ok(first) = receiver.recv() {
        let Some(shared) = shared.upgrade() else { return };
        let mut ends = Vec::new();
        let more = receiver.try_iter().take(AT_ONCE - 1);
        for errand in std::iter::once(first).chain(more) {
            match errand {
                Errand::End { channel, end, answer } => ends.push((channel, end, answer)),
                // In order: what was told before is settled first.
                Errand::HungUp(channel) => {
                    settle(&shared, std::mem::take(&mut ends));
                    shared.lock().join.hung_up(channel);
                    lost(&shared, &shared.models.give_up(Some(channel)));
                }
                Errand::Stop(done) => {
                    settle(&shared, std::mem::take(&mut ends));
                    lost(&shared, &shared.models.give_up(None));
                    // Whoever waited may have given up.
                    let _ = done.send(());
                    return;
                }
            }
        }
        settle(&shared, ends);
    }
}

fn lost(shared: &Shared, calls: &[Begun]) {
    let mut core = shared.lock();
    calls.iter().for_each(|call| core.model_lost(call));
}

/// Under what receipts are made and judged.
struct Terms {
    key: Arc<PrivateKey>,
    proxied: bool,
    signers: Vec<Did>,
}

impl Terms {
    fn of(core: &Core) -> Self {
        Self {
            key: Arc::clone(&core.receipt_key),
            proxied: matches!(core.config.model.gateway(), ModelGateway::Clawproxy(_)),
            signers: core.config.trust.receipt_signers.iter().map(|signer| signer.0).collect(),
        }
    }

    fn receipt(&self, begun: &Begun, end: &ModelEnd, now: Instant) -> Result<Kept, String> {
        if self.proxied {
            return verify(begun, end, &self.signers);
        }
        sign(begun, end, &self.key, now).map(|envelope| Kept { envelope, compared: true })
    }
}

/// A call whose end is known, and what came of its receipt.
struct Settled {
    begun: Begun,
    end: Box<ModelEnd>,
    receipt: Result<Kept, String>,
    answer: oneshot::Sender<Told>,
}

fn settle(shared: &Shared, ends: Vec<(u64, Box<ModelEnd>, oneshot::Sender<Told>)>) {
    if ends.is_empty() {
        return;
    }
    let (terms, now) = (Terms::of(&shared.lock()), Core::now());
    let mut settled = Vec::with_capacity(ends.len());
    for (channel, end, answer) in ends {
        match known(&shared.models, channel, &end) {
            Some(begun) => {
                let receipt = terms.receipt(&begun, &end, now);
                settled.push(Settled { begun, end, receipt, answer });
            }
            None => {
                tracing::error!(number = end.number, "the gateway ended a model call that it did not begin");
                let why = "no such call was begun".to_owned();
                let _ = answer.send(Told::Receipt(Receipt::Missing(why)));
            }
        }
    }
    let written: Vec<io::Result<Ticket>> = {
        let mut core = shared.lock();
        settled.iter().map(|settled| core.model_settled(settled, terms.proxied)).collect()
    };
    // One sync has all of them.
    let mut synced = Vec::with_capacity(written.len());
    for written in written.into_iter().rev() {
        synced.push(written.and_then(Ticket::wait));
    }
    for (settled, synced) in settled.into_iter().zip(synced.into_iter().rev()) {
        let told = match (synced, settled.receipt) {
            (Err(error), _) => {
                shared.lock().audit_fared(Some(&error));
                Told::Unrecorded(format!("the audit chain cannot be written: {error}"))
            }
            (Ok(()), Ok(kept)) => Told::Receipt(Receipt::Signed(kept.envelope)),
            (Ok(()), Err(why)) => Told::Receipt(Receipt::Missing(why)),
        };
        // Of a gateway that hung up.
        let _ = settled.answer.send(told);
    }
}

fn known(models: &Models, channel: u64, end: &ModelEnd) -> Option<Begun> {
    models.end(channel, end.number)
}

/// The record of how a call ended. It has no decision: that was recorded before.
fn record(begun: &Begun, end: &ModelEnd, receipt: Result<&Kept, &str>) -> Value {
    let call = &begun.call;
    let mut body = json!({
        "agent": begun.agent, "job": begun.job, "call": begun.event_hash.to_string(), "provider": call.provider,
        "model": call.model, "nonce": call.nonce, "outcome": end.outcome, "status": end.status,
        "request_sha256": call.request_hash, "response_sha256": end.response_hash, "bytes_in": call.bytes_in,
        "bytes_out": end.bytes_out, "first_byte_us": end.first_byte_us, "duration_us": end.duration_us,
        "tokens_input": end.tokens_input, "tokens_output": end.tokens_output, "wpc_hash": call.contract,
    });
    match receipt {
        Ok(kept) => {
            body["receipt"] = kept.envelope.as_str().into();
            if !kept.compared {
                body["response_compared"] = false.into();
            }
        }
        Err(why) => body["receipt_missing"] = why.into(),
    }
    body
}

impl Core {
    fn model_settled(&mut self, settled: &Settled, proxied: bool) -> io::Result<Ticket> {
        let Settled { begun, end, receipt, .. } = settled;
        let (told, result) = match receipt {
            Ok(kept) => (Ok(kept), if proxied { "verified" } else { "signed" }),
            Err(why) => (Err(why.as_str()), "missing"),
        };
        let written = self.record(Kind::Model, record(begun, end, told));
        self.counters.receipts.with_label_values(&[if written.is_ok() { result } else { "unrecorded" }]).inc();
        if let Err(why) = told {
            self.receipt_missing(&Missing::of_call(begun, "receipt_refused", why));
        }
        written
    }

    /// A call of which nobody will say how it ended.
    pub(super) fn model_lost(&mut self, begun: &Begun) {
        const WHY: &str = "nobody said how the call ended";
        let end = ModelEnd {
            number: begun.call.number,
            outcome: "unknown".into(),
            status: 0,
            response_hash: String::new(),
            bytes_out: 0,
            first_byte_us: None,
            duration_us: 0,
            tokens_input: None,
            tokens_output: None,
            receipt: None,
        };
        self.note(Kind::Model, record(begun, &end, Err(WHY)));
        self.counters.receipts.with_label_values(&["missing"]).inc();
        self.receipt_missing(&Missing::of_call(begun, "call_lost", WHY));
    }
}
