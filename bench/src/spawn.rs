//! What counting processes costs those that are nobody's: the tracepoints are of the whole host.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Instant,
};

use e2e::Service;

use crate::{
    Line,
    host::{Host, addresses, contract},
    median, percentile,
    worker::pin,
};

const ROUNDS: usize = 21;
const COUNT: &str = "1500";

/// A program of one page that does nothing but end: what else starts one, its loader and its libraries, would hide the cost.
fn nothing() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    let (machine, code): (u16, &[u8]) = (62, &[0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05]);
    #[cfg(target_arch = "aarch64")]
    let (machine, code): (u16, &[u8]) = (183, &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4]);
    const BASE: u64 = 0x40_0000;
    // ELF's header, and one for all of the file as it stands (elf(5)).
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    [BASE + 120, 64, 0].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    [64_u16, 56, 1, 64, 0, 0].iter().for_each(|half| file.extend(half.to_le_bytes()));
    [1_u32, 5].iter().for_each(|word| file.extend(word.to_le_bytes()));
    let length = 120 + code.len() as u64;
    [0, BASE, BASE, length, length, 0x1000].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(code);
    file
}

/// Nanoseconds that it takes to start a program and to see it end: the median.
pub(crate) fn spawns(count: usize, program: &str) -> f64 {
    pin(0);
    let mut command = Command::new(program);
    command.stdin(Stdio::inherit());
    let mut took: Vec<f64> = (0..count)
        .map(|_| {
            let started = Instant::now();
            assert!(command.status().unwrap().success());
            started.elapsed().as_nanos() as f64
        })
        .collect();
    median(&mut took)
}

pub(crate) fn spawn() -> Vec<Line> {
    let mut host = Host::new();
    let program = host.world.directory.join("nothing");
    fs::write(&program, nothing()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let timed =
        |host: &Host, service: &Service| host.worker(service, &["spawn", COUNT, program.to_str().unwrap()]) / 1e3;
    let (mut free, mut beside, mut managed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        free.push(timed(&host, &host.plain));
        host.fence(contract(&addresses(100), "tcp"));
        beside.push(timed(&host, &host.plain));
        managed.push(timed(&host, &host.fenced));
        host.unfence();
    }
    let ratios = |of: &[f64]| of.iter().zip(&free).map(|(a, b)| a / b).collect::<Vec<_>>();
    let (mut unmanaged, mut own) = (ratios(&beside), ratios(&managed));
    let ratio = median(&mut unmanaged);
    vec![Line::new(
        "starting a program that does nothing, and its end, by a process that is not managed, over the same without ClawGuard",
        format!(
            "ratio {ratio:.3} (of {ROUNDS} rounds a fifth below {:.3}, a fifth above {:.3}) of {:.0} us; by a managed one {:.3}",
            percentile(&mut unmanaged, 20),
            percentile(&mut unmanaged, 80),
            median(&mut free.clone()),
            median(&mut own)
        ),
        "1.05",
        ratio <= 1.05,
    )]
}
