//! What the fence costs a call, against nftables with the same rules.

use std::time::Instant;

use e2e::Service;

use crate::{
    Line,
    host::{Host, addresses, contract},
    median,
};

const ROUNDS: usize = 7;
/// Where the timed calls go.
const TO: &str = "203.0.113.1:9100";
/// Where timed datagrams come from: of the same contract, which has one port.
const FROM: &str = "127.0.0.1:9100";

/// One round's figures: nobody's, nftables', an unmanaged process's beside the fence, the fenced one's.
#[derive(Default)]
struct Rounds {
    free: Vec<f64>,
    filtered: Vec<f64>,
    unmanaged: Vec<f64>,
    fenced: Vec<f64>,
}

impl Rounds {
    /// Added by (nftables, the fence to unmanaged processes, the fence): differences within a round, then their median.
    fn added(&self) -> (f64, f64, f64) {
        let over = |of: &[f64]| median(&mut of.iter().zip(&self.free).map(|(a, b)| a - b).collect::<Vec<_>>());
        (over(&self.filtered), over(&self.unmanaged), over(&self.fenced))
    }
}

pub(crate) fn connect() -> Vec<Line> {
    let listed = addresses(10_000);
    // A twentieth of a range: what is not in the table of exact addresses.
    let ranges: Vec<String> = (0..9_999_u32)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
        .chain(["203.0.113.0/30".to_owned()])
        .collect();
    let mut lines = compare_connects("10 000 addresses", &listed, false);
    lines.extend(compare_connects("10 000 ranges", &ranges, true));
    lines
}

fn compare_connects(what: &str, listed: &[String], intervals: bool) -> Vec<Line> {
    let mut host = Host::new();
    let _server = host.worker_on(&host.plain, &["serve", TO]);
    let mut rounds = Rounds::default();
    let timed = |host: &Host, service: &Service| host.worker(service, &["connect", "10000", TO]);
    for _ in 0..ROUNDS {
        rounds.free.push(timed(&host, &host.plain));
        host.nftables(listed, "tcp", intervals);
        rounds.filtered.push(timed(&host, &host.filtered));
        host.no_nftables();
        host.fence(contract(listed, "tcp"));
        rounds.unmanaged.push(timed(&host, &host.plain));
        rounds.fenced.push(timed(&host, &host.fenced));
        host.unfence();
    }
    let (filtered, unmanaged, fenced) = rounds.added();
    vec![
        Line::new(
            format!("added to a TCP connect, {what}, client fenced"),
            format!("{:.2} us; nftables {:.2} us; ratio {:.2}", fenced / 1e3, filtered / 1e3, fenced / filtered),
            "0.6 × nftables",
            fenced <= 0.6 * filtered,
        ),
        Line::new(
            "added to an unmanaged process's TCP connect",
            format!("{:.2} us", unmanaged / 1e3),
            "0.3 us",
            unmanaged <= 300.0,
        ),
    ]
}

pub(crate) fn packet() -> Vec<Line> {
    let mut host = Host::new();
    let mut listed = addresses(10_000);
    listed.push("127.0.0.1".into());
    let (mut out, mut inward) = (Rounds::default(), Rounds::default());
    let sent = |host: &Host, service: &Service| {
        let _sink = host.worker_on(&host.plain, &["sink", TO, FROM]);
        host.worker(service, &["send", "400000", FROM, TO])
    };
    let received = |host: &Host, service: &Service| {
        let _sink = host.worker_on(service, &["sink", TO, FROM]);
        host.worker(&host.plain, &["send", "400000", FROM, TO])
    };
    for _ in 0..ROUNDS {
        out.free.push(sent(&host, &host.plain));
        inward.free.push(received(&host, &host.plain));
        host.nftables(&listed, "udp", false);
        out.filtered.push(sent(&host, &host.filtered));
        inward.filtered.push(received(&host, &host.filtered));
        host.no_nftables();
        host.fence(contract(&listed, "udp"));
        out.unmanaged.push(sent(&host, &host.plain));
        inward.unmanaged.push(received(&host, &host.plain));
        out.fenced.push(sent(&host, &host.fenced));
        inward.fenced.push(received(&host, &host.fenced));
        host.unfence();
    }
    let ((filtered_out, unmanaged, fenced_out), (filtered_in, _, fenced_in)) = (out.added(), inward.added());
    let ratio = (fenced_out + fenced_in) / (filtered_out + filtered_in);
    vec![
        Line::new(
            "added per packet on an established flow, both directions hooked (out + in)",
            format!(
                "{fenced_out:.0} + {fenced_in:.0} ns; nftables {filtered_out:.0} + {filtered_in:.0} ns; ratio {ratio:.2}"
            ),
            "0.35 × nftables",
            ratio <= 0.35,
        ),
        Line::new(
            "added per packet of an unmanaged process",
            format!("{unmanaged:.0} ns of {:.0}", median(&mut out.free)),
            "0 (within the run's noise, 2 %)",
            unmanaged <= 0.02 * median(&mut out.free),
        ),
    ]
}

pub(crate) fn stream() -> Vec<Line> {
    let mut host = Host::new();
    let _server = host.worker_on(&host.plain, &["serve", TO]);
    let (mut free, mut fenced) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        free.push(host.worker(&host.plain, &["stream", "4000", TO]));
        host.fence(contract(&addresses(10_000), "tcp"));
        fenced.push(host.worker(&host.fenced, &["stream", "4000", TO]));
        host.unfence();
    }
    let share = median(&mut fenced.iter().zip(&free).map(|(a, b)| a / b).collect::<Vec<_>>());
    vec![Line::new(
        "throughput of one TCP stream, 10 000 entries",
        format!("{:.1} % of {:.1} GB/s unfenced", 100.0 * share, median(&mut free) / 1e3),
        "98 %",
        share >= 0.98,
    )]
}

/// What a fenced connect takes over an unmanaged one at the same time.
fn over_plain(host: &Host) -> f64 {
    let timed = |service: &Service| host.worker(service, &["connect", "10000", TO]);
    median(&mut (0..3).map(|_| timed(&host.fenced) - timed(&host.plain)).collect::<Vec<_>>())
}

/// A million entries against a hundred.
pub(crate) fn entries() -> Vec<Line> {
    let mut host = Host::new();
    let _server = host.worker_on(&host.plain, &["serve", TO]);
    let (few, many) = (addresses(100), addresses(1_000_000));
    let payload = host.world.payload(contract(&many, "tcp"));
    let many_signed = host.world.sign(&payload);
    let (mut small, mut large, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        host.fence(contract(&few, "tcp"));
        small.push(over_plain(&host));
        let started = Instant::now();
        let words =
            ["wpc", "use", many_signed.to_str().unwrap(), "--agent", "timed", "--allow-rollback", "--reason", "bench"];
        host.world.clawguard(&words).ok();
        loaded.push(started.elapsed().as_secs_f64());
        large.push(over_plain(&host));
        host.unfence();
    }
    let more = median(&mut large.iter().zip(&small).map(|(a, b)| a - b).collect::<Vec<_>>());
    let loaded = median(&mut loaded);
    vec![
        Line::new(
            format!("a TCP connect with {} entries, over one with 100", many.len()),
            format!("{:.2} us more", more / 1e3),
            "0.5 us",
            more <= 500.0,
        ),
        Line::new(
            format!("`wpc use` of a contract with {} entries, signature and disk included", many.len()),
            format!("{loaded:.1} s"),
            "3 s",
            loaded <= 3.0,
        ),
    ]
}
