//! Questions for names as a process has them that is timed.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{median, names, percentile, worker::pin};

/// Types of records (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u8 = 1;
const AAAA: u8 = 28;
/// Questions that wait for their answers at once, in a flood.
const WINDOW: u16 = 64;

pub(crate) fn main(name: &str, words: &[&str]) {
    match (name, words) {
        ("ask", [count, resolver, name]) => println!("{}", ask(count.parse().unwrap(), resolver, name)),
        ("flood", [seconds, resolver, name]) => println!("{}", flood(seconds.parse().unwrap(), resolver, name)),
        ("press", [rate, seconds, resolver, name]) => {
            let [asked, answered, half, most] = press(rate.parse().unwrap(), seconds.parse().unwrap(), resolver, name);
            println!("{asked} {answered} {half} {most}");
        }
        ("learn", [from, to, resolver]) => {
            println!("{}", learn(from.parse().unwrap(), to.parse().unwrap(), resolver));
        }
        other => panic!("no such worker: {other:?}"),
    }
}

/// A question with recursion desired, which takes what passes everywhere in one piece (RFC 6891 section 6.1.2).
fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn number(question: &mut [u8], number: u16) {
    question[..2].copy_from_slice(&number.to_be_bytes());
}

/// How many addresses an answer has.
fn addresses(answer: &[u8]) -> usize {
    assert_eq!(answer[3] & 0xf, 0, "an error is answered");
    usize::from(u16::from_be_bytes([answer[6], answer[7]]))
}

fn socket(resolver: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((resolver, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket
}

/// Nanoseconds to the median answer.
fn ask(count: u16, resolver: &str, name: &str) -> f64 {
    pin(0);
    let (socket, mut question, mut buffer) = (socket(resolver), question(name, A), [0; 2048]);
    let mut took: Vec<f64> = (0..count)
        .map(|n| {
            number(&mut question, n);
            let started = Instant::now();
            socket.send(&question).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            let took = started.elapsed().as_nanos() as f64;
            assert_eq!((addresses(&buffer[..length]), &buffer[..2]), (1, &question[..2]));
            took
        })
        .collect();
    median(&mut took)
}

/// Answers a second to one who always waits for many.
fn flood(seconds: f64, resolver: &str, name: &str) -> f64 {
    let (socket, mut question, mut buffer) = (socket(resolver), question(name, A), [0; 2048]);
    for n in 0..WINDOW {
        number(&mut question, n);
        socket.send(&question).unwrap();
    }
    let (started, mut answers) = (Instant::now(), 0_u32);
    while started.elapsed().as_secs_f64() < seconds {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(addresses(&buffer[..length]), 1);
        answers += 1;
        question[..2].copy_from_slice(&buffer[..2]);
        socket.send(&question).unwrap();
    }
    f64::from(answers) / started.elapsed().as_secs_f64()
}

/// Asks so often a second, whatever is answered. Answers how many were asked and how many answered with addresses, and the
/// nanoseconds that these took: the median's, and those of the 99th of 100.
fn press(rate: f64, seconds: f64, resolver: &str, name: &str) -> [f64; 4] {
    let (socket, mut question, mut buffer) = (socket(resolver), question(name, A), [0; 2048]);
    let own = socket.try_clone().unwrap();
    let started = Instant::now();
    let now = move || started.elapsed().as_nanos() as u64;
    // When each question was asked, by its number; 0 once it is answered.
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..=u16::MAX).map(|_| AtomicU64::new(0)).collect());
    let times = Arc::clone(&sent);
    let asker = thread::spawn(move || {
        let mut asked = 0_u32;
        while started.elapsed().as_secs_f64() < seconds {
            if f64::from(asked) >= started.elapsed().as_secs_f64() * rate {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            number(&mut question, asked as u16);
            times[usize::from(asked as u16)].store(now(), Relaxed);
            asked += 1;
            // One that is lost is not answered.
            let _ = own.send(&question);
        }
        asked
    });
    let mut took = Vec::new();
    while started.elapsed().as_secs_f64() < seconds + 1.0 {
        let Ok(_) = socket.recv(&mut buffer) else { break };
        let at = sent[usize::from(u16::from_be_bytes([buffer[0], buffer[1]]))].swap(0, Relaxed);
        if at != 0 && buffer[3] & 0xf == 0 {
            took.push((now() - at) as f64);
        }
    }
    let asked = f64::from(asker.join().unwrap());
    [asked, took.len() as f64, median(&mut took.clone()), percentile(&mut took, 99)]
}

/// Asks for some of the many names; answers how many addresses they have.
fn learn(from: usize, to: usize, resolver: &str) -> usize {
    let (socket, mut buffer) = (socket(resolver), [0; 2048]);
    let mut learnt = 0;
    for n in from..to {
        let mut question = question(&names::name(n), AAAA);
        number(&mut question, n as u16);
        socket.send(&question).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        learnt += addresses(&buffer[..length]);
    }
    learnt
}
