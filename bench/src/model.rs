//! What the model gateway costs a call and a stream, against nginx in the same place.

use e2e::{Outside, Service};
use serde_json::json;

use crate::{
    Line,
    daemon::processor,
    host::Host,
    mcp::{NGINX, UNLIMITED, nginx},
    ways::Ways,
};

const ROUNDS: usize = 9;
const PROVIDER: &str = "127.0.0.1:9473";
const GATEWAY: &str = "127.0.0.1:9481";

/// A host whose agent reaches the provider by the gateway; and the provider, and nginx before it.
struct Models {
    host: Host,
    _provider: Outside,
    _nginx: (Service, Outside),
}

impl Models {
    fn new() -> Self {
        let keys = "keys = { openai = \"sk-of-the-host\" }";
        let model = format!("[model]\nproxy = \"builtin\"\n{keys}\nendpoints = {{ openai = \"http://{PROVIDER}\" }}\n");
        let mut host = Host::with(&format!("{UNLIMITED}{model}"));
        let provider = host.worker_on(&host.plain, &["model-provider", PROVIDER]);
        host.world.start();
        let mut payload = host.world.payload(json!({ "model": { "require_proxy_receipts": true } }));
        payload["allowed_providers"] = json!(["openai"]);
        payload["allowed_models"] = json!(["gpt-*"]);
        let path = host.world.sign(&payload);
        host.world.json(&["wpc", "use", path.to_str().unwrap(), "--agent", "timed"]);
        // What is read is passed on at once, as it has to be for events.
        let nginx = nginx(&host, PROVIDER, "proxy_buffering off;\n");
        let models = Self { host, _provider: provider, _nginx: nginx };
        models.by(2, "model-call", &["gpt-first", "1"]);
        models
    }

    /// A worker's figures by one of the ways: none, nginx, the gateway.
    fn by(&self, way: usize, name: &str, words: &[&str]) -> Vec<f64> {
        let (service, at) = match way {
            0 => (&self.host.plain, PROVIDER),
            1 => (&self.host.plain, NGINX),
            _ => (&self.host.fenced, GATEWAY),
        };
        self.host.figures(service, &[&[name, at], words].concat())
    }

    /// Microseconds of processor that gateway and daemon take for each thing that is done by the gateway's way.
    fn spent(&self, each: f64, name: &str, words: &[&str]) -> [f64; 2] {
        let processes = [self.host.gateway(), self.host.world.daemon_pid()];
        let before = processes.map(processor);
        self.by(2, name, words);
        let after = processes.map(processor);
        [0, 1].map(|at| (after[at] - before[at]) * 1e6 / each)
    }
}

/// How much later an answer begins, and ends.
pub(crate) fn calls() -> Vec<Line> {
    let models = Models::new();
    let line = |what: &str, model: &str| {
        let mut ways = Ways::default();
        for number in 0..ROUNDS {
            ways.round(number, |way| models.by(way, "model-call", &[model, "1000"]));
        }
        let [processor, daemons] = models.spent(3000.0, "model-call", &[model, "3000"]);
        let [first, most, end] = [0, 1, 2].map(|figure| ways.added(figure));
        let directly = [0, 1, 2].map(|figure| ways.of(0, figure) / 1e3);
        Line::new(
            format!("added to a model call's {what}, one caller, p50 / p99"),
            format!(
                "{:.0} / {:.0} us; nginx {:.0} / {:.0} us; directly {:.0} / {:.0} us; its end, with the receipt on disk, {:.0} us \
                 later than {:.0} us, nginx {:.0} us; {processor:.0} us of processor in the gateway, {daemons:.0} us in the daemon",
                first[1], most[1], first[0], most[0], directly[0], directly[1], end[1], directly[2], end[0]
            ),
            "300 us p50",
            first[1] <= 300.0,
        )
    };
    vec![line("first event, streamed", "gpt-first"), line("first byte of the answer's body, whole", "gpt-whole")]
}

/// How fast a stream may be, and how late its events are at a provider's pace.
pub(crate) fn stream() -> Vec<Line> {
    const PACE: [&str; 2] = ["64", "300"];
    const EVENTS: f64 = 64.0 * 300.0;
    let models = Models::new();
    let fast = |what: &str, model: &str| {
        let mut ways = Ways::default();
        for number in 0..ROUNDS {
            ways.round(number, |way| models.by(way, "model-stream", &[model]));
        }
        let [nginx, gateway] = ways.share(0);
        let rates = [0, 1, 2].map(|way| ways.of(way, 0));
        Line::new(
            format!("one streamed answer as fast as it goes over loopback, {what}"),
            format!(
                "{:.0} MB/s, {gateway:.0} % of direct; nginx {:.0} MB/s, {nginx:.0} %; directly {:.0} MB/s",
                rates[2], rates[1], rates[0]
            ),
            "95 % of direct",
            gateway >= 95.0,
        )
    };
    let mut lines = vec![
        fast("events of 200 bytes, each sent by itself", "gpt-small-40"),
        fast("events of 16 KiB, each sent by itself", "gpt-large-400"),
    ];
    let mut paced = Ways::default();
    for number in 0..ROUNDS {
        paced.round(number, |way| models.by(way, "model-pace", &PACE));
    }
    let [gateway, daemon] = models.spent(EVENTS, "model-pace", &PACE);
    let ([half, most], share) = ([0, 1].map(|figure| paced.added(figure)), paced.share(4)[1]);
    let late = [0, 1, 2].map(|way| paced.of(way, 3) / 1e4);
    lines.push(Line::new(
        "64 streamed answers at a provider's pace, each of 100 events of 200 bytes a second",
        format!(
            "{:.0} events a second, {share:.1} % of direct; an event is {:.0} / {:.0} us later (p50 / p99), by nginx {:.0} / {:.0} us, \
             than {:.0} / {:.0} us directly; longer than a millisecond on their way are {:.2} %, nginx {:.2} %, directly {:.2} %; \
             {gateway:.0} us of processor in the gateway for an event, {daemon:.1} us in the daemon",
            paced.of(2, 4),
            half[1],
            most[1],
            half[0],
            most[0],
            paced.of(0, 0) / 1e3,
            paced.of(0, 1) / 1e3,
            late[2],
            late[1],
            late[0]
        ),
        "95 % of direct",
        share >= 95.0,
    ));
    lines
}
