//! What names cost: an answer of the guard's, and look-ups among many.

use e2e::Service;
use serde_json::{Value, json};

use crate::{
    Line,
    far::{AT, AT_ONCE, Far, NAME},
    host::{Host, figures},
    median,
};

const ROUNDS: usize = 7;
/// No limit that the bench reaches.
const UNLIMITED: &str = "per_second = 1000000\nnew_names_per_minute = 1000000";
/// Of the many names.
const PORT: u16 = 9100;

pub(crate) fn answers() -> Vec<Line> {
    let mut lines = latency();
    lines.extend(press());
    lines
}

/// An answer from the guard's cache against one of a resolver that is asked directly, and how many there are in a second.
fn latency() -> Vec<Line> {
    let mut host = Host::named(AT, UNLIMITED);
    let _far = Far::start(&host.world);
    host.fence(json!({ "egress": [{ "host": NAME }] }));
    host.worker(&host.fenced, &["ask", "1", AT, NAME]);
    let (mut direct, mut guarded, mut a_second, mut direct_a_second) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        direct.push(host.worker(&host.plain, &["ask", "3000", AT, NAME]));
        guarded.push(host.worker(&host.fenced, &["ask", "3000", AT, NAME]));
        direct_a_second.push(host.worker(&host.plain, &["flood", "1", AT, NAME]));
        a_second.push(host.worker(&host.fenced, &["flood", "1", AT, NAME]));
    }
    let more = median(&mut guarded.iter().zip(&direct).map(|(a, b)| a - b).collect::<Vec<_>>());
    let (direct, a_second, direct_a_second) =
        (median(&mut direct), median(&mut a_second), median(&mut direct_a_second));
    vec![
        Line::new(
            "a DNS answer of the guard's that it knows, over a resolver asked directly, p50",
            format!("{:.0} us more than {:.0} us; ratio {:.1}", more / 1e3, direct / 1e3, 1.0 + more / direct),
            "150 us",
            more <= 150_000.0,
        ),
        Line::new(
            "questions a second that the guard answers one job (no limit, 64 under way)",
            format!(
                "{a_second:.0}; the resolver directly {direct_a_second:.0}; ratio {:.2}",
                a_second / direct_a_second
            ),
            "10 000",
            a_second >= 10_000.0,
        ),
    ]
}

/// One job that asks far more than it may, under the limits as they are and under none, and another that asks little.
fn press() -> Vec<Line> {
    let limits = [("the usual limit of 100 a second", ""), ("no limit", UNLIMITED)];
    let of = |(what, limits): (&str, &str)| {
        let mut host = Host::named(AT, limits);
        let _far = Far::start(&host.world);
        let contract = json!({ "egress": [{ "host": NAME }] });
        host.fence(contract.clone());
        host.world.use_contract("other", contract);
        let little = ["press", "90", "10", AT, NAME];
        let alone = host.figures(&host.other, &little);
        let much = host.fenced.start(&["worker", "press", "10000", "12", AT, NAME]);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let beside = host.figures(&host.other, &little);
        let much = figures(&much.finish().out);
        let lost = beside[0] - beside[1];
        Line::new(
            format!("answers that a job misses while another asks 10 000 a second, {what}"),
            format!(
                "{lost} of {}; p50 {:.0} us and p99 {:.0} us, alone {:.0} and {:.0} us; the other is answered {:.0} of {:.0}",
                beside[0],
                beside[2] / 1e3,
                beside[3] / 1e3,
                alone[2] / 1e3,
                alone[3] / 1e3,
                much[1],
                much[0],
            ),
            "0",
            lost == 0.0 && much[0] >= 119_000.0,
        )
    };
    limits.into_iter().map(of).collect()
}

/// One of many names.
pub(crate) fn name(number: usize) -> String {
    format!("n{number}.many.example")
}

/// A contract of so many names.
fn named(count: usize) -> Value {
    let rule = |number| json!({ "host": name(number), "ports": [PORT], "tls": true });
    json!({ "egress": (0..count).map(rule).collect::<Vec<_>>() })
}

/// Has two agents learn so many addresses together, half of them each: one alone may not have all of them.
fn learn(host: &mut Host, count: usize, contract: &Value) {
    host.world.use_contract("other", contract.clone());
    let (half, all) = (count / AT_ONCE / 2, count / AT_ONCE);
    let of = |service: &Service, from: usize, to: usize| {
        host.worker(service, &["learn", &from.to_string(), &to.to_string(), AT])
    };
    assert_eq!((of(&host.fenced, 0, half) + of(&host.other, half, all)) as usize, count);
}

/// Medians of connect and hello, of a fenced process and of an unmanaged one at the same time. They call so many of what one
/// agent has learned in turn.
fn look_up(host: &Host, called: usize) -> [f64; 4] {
    let (names, port) = ((called / AT_ONCE).to_string(), PORT.to_string());
    let words = ["hellos", "5000", &names, &port];
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..3 {
        let figures = [&host.fenced, &host.plain].map(|service| host.figures(service, &words));
        for (of, figure) in rounds.iter_mut().zip(figures.into_iter().flatten()) {
            of.push(figure);
        }
    }
    // What is refused is quick.
    assert_eq!(host.world.json(&["explain"]), json!([]));
    rounds.map(|mut of| median(&mut of))
}

/// A hundred thousand names and learned addresses against a hundred.
pub(crate) fn look_ups() -> Vec<Line> {
    const FEW: usize = 100;
    const MANY: usize = 100_000;
    let mut host = Host::named(AT, UNLIMITED);
    let _far = Far::start(&host.world);
    // All of the names' addresses are this host's own.
    host.world.outside_runs(&["ip", "-6", "route", "add", "local", "2001:db8:1::/64", "dev", "lo"]).ok();
    let _server = host.worker_on(&host.plain, &["serve", &format!("[::]:{PORT}")]);
    let (mut few, mut many, mut in_turn) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for count in [FEW, MANY] {
            let contract = named(count);
            host.fence(contract.clone());
            learn(&mut host, count, &contract);
            if count == FEW {
                few.push(look_up(&host, FEW / 2));
            } else {
                many.push(look_up(&host, FEW / 2));
                in_turn.push(look_up(&host, MANY / 2));
            }
            host.unfence();
        }
    }
    let mut lines = compared("50 of them called", &many, &few);
    lines.extend(compared("50 000 of them called in turn", &in_turn, &few));
    lines
}

/// Connect and hello among many against those among few.
fn compared(called: &str, many: &[[f64; 4]], few: &[[f64; 4]]) -> Vec<Line> {
    let of = |all: &[[f64; 4]], n: usize| median(&mut all.iter().map(|round| round[n]).collect::<Vec<_>>()) / 1e3;
    let ratio = |n: usize| median(&mut many.iter().zip(few).map(|(many, few)| many[n] / few[n]).collect::<Vec<_>>());
    let line = |(n, what): (usize, &str)| {
        Line::new(
            format!("{what} with 100 000 names and learned addresses, {called}, over 100"),
            format!(
                "{:.2} us, over {:.2} us; ratio {:.2}; unmanaged {:.2} us, over {:.2} us; ratio {:.2}",
                of(many, n),
                of(few, n),
                ratio(n),
                of(many, n + 2),
                of(few, n + 2),
                ratio(n + 2),
            ),
            "1.15",
            ratio(n) <= 1.15,
        )
    };
    ["a TCP connect", "the send of a ClientHello"].into_iter().enumerate().map(line).collect()
}
