//! What the look at a TLS flow's name costs, against the same endpoint by a rule without it.

use serde_json::{Value, json};

use crate::{
    Line,
    far::{AT, CHECKED, Far, NAME, UNCHECKED},
    host::Host,
    median,
};

/// Many short ones: another load on the machine then spoils a few, and the same ones of both.
const ROUNDS: usize = 21;
const CONNECTIONS: &str = "200";
const MEGABYTES: &str = "300";

/// A host whose agent may call the far end with the check and, at another port, without.
fn host() -> (Host, Far) {
    let mut host = Host::named(AT, "per_second = 100000");
    let far = Far::start(&host.world);
    let rule = |port: u16, tls: bool| -> Value { json!({ "host": NAME, "ports": [port], "tls": tls }) };
    host.fence(json!({ "egress": [rule(CHECKED, true), rule(UNCHECKED, false)] }));
    host.worker(&host.fenced, &["ask", "1", AT, NAME]);
    (host, far)
}

pub(crate) fn throughput() -> Vec<Line> {
    let (host, far) = host();
    let certificate = far.certificate.to_str().unwrap();
    let timed = |how: &str, port: u16| {
        host.worker(&host.fenced, &["move", how, MEGABYTES, &format!("{AT}:{port}"), certificate])
    };
    [("d", "download"), ("u", "upload")]
        .into_iter()
        .map(|(how, what)| {
            let (mut checked, mut unchecked) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                let mut turns = [(CHECKED, &mut checked), (UNCHECKED, &mut unchecked)];
                turns.rotate_left(round % 2);
                for (port, into) in turns {
                    into.push(timed(how, port));
                }
            }
            let share = median(&mut checked.iter().zip(&unchecked).map(|(a, b)| a / b).collect::<Vec<_>>());
            Line::new(
                format!("throughput of one TLS stream with the check of its name, {what}"),
                format!("{:.1} % of {:.2} GB/s without", 100.0 * share, median(&mut unchecked) / 1e3),
                "98 %",
                share >= 0.98,
            )
        })
        .collect()
}

pub(crate) fn first_byte() -> Vec<Line> {
    let (host, far) = host();
    let certificate = far.certificate.to_str().unwrap();
    let (checked, unchecked) = (format!("{AT}:{CHECKED}"), format!("{AT}:{UNCHECKED}"));
    let words = ["first-bytes", CONNECTIONS, checked.as_str(), unchecked.as_str(), certificate];
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let figures = host.figures(&host.fenced, &words);
        with.push(figures[0]);
        without.push(figures[1]);
    }
    let later = median(&mut with.iter().zip(&without).map(|(a, b)| a - b).collect::<Vec<_>>());
    let without = median(&mut without);
    vec![Line::new(
        "first byte of a TLS connection with the check of its name, over one without, p50",
        format!("{:.1} us later than {:.0} us; ratio {:.3}", later / 1e3, without / 1e3, 1.0 + later / without),
        "30 us",
        later <= 30_000.0,
    )]
}
