//! The far end, from this side.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A process in its own network namespace that answers questions about what arrived.
pub struct Far {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Far {
    pub fn start(probe: &std::path::Path) -> Self {
        let mut child = Command::new(probe)
            .arg("far")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the far end starts");
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut far = Self { child, to, from };
        assert_eq!(far.line(), "ready");
        far
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the far end answers");
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, question: &str) -> String {
        writeln!(self.to, "{question}").expect("the far end listens");
        self.line()
    }

    pub fn clear(&mut self) {
        assert_eq!(self.ask("clear"), "ok");
    }

    /// How many frames have these bytes in them.
    pub fn seen(&mut self, bytes: &[u8]) -> usize {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("seen {hex}")).parse().unwrap()
    }

    /// How many frames came that are not the network's own housekeeping.
    pub fn traffic(&mut self) -> u64 {
        self.ask("traffic").parse().unwrap()
    }

    /// How many TCP (6) or UDP (17) frames came to a port.
    pub fn frames(&mut self, protocol: u8, port: u16) -> u64 {
        self.ask(&format!("port {protocol} {port}")).parse().unwrap()
    }

    /// How many payload bytes came to a port.
    pub fn bytes(&mut self, protocol: u8, port: u16) -> u64 {
        self.ask(&format!("bytes {protocol} {port}")).parse().unwrap()
    }

    /// Calls a port of the near end and says something; answers what came back.
    pub fn call(&mut self, to: &str, text: &str) -> String {
        self.speak("call", to, text)
    }

    /// The same by datagram.
    pub fn datagram(&mut self, to: &str, text: &str) -> String {
        self.speak("datagram", to, text)
    }

    /// Has it call a port of the near end a few times over the next moments, by `call` or `datagram`.
    pub fn visit(&mut self, verb: &str, to: &str, text: &str) {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(self.ask(&format!("visit {verb} {to} {hex}")), "ok");
    }

    fn speak(&mut self, verb: &str, to: &str, text: &str) -> String {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let answer = self.ask(&format!("{verb} {to} {hex}"));
        match answer.strip_prefix("got ") {
            Some(hex) => {
                (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap() as char).collect()
            }
            None => format!("<{answer}>"),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
