//! Changes to messages, in the places in which readers are known to differ.

/// Messages of sessions of both eras, either way.
pub(crate) const SEEDS: [&str; 22] = [
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"openclaw-bundle-mcp","version":"0.0.0"}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"method":"tools/list","params":{"cursor":"eyJwIjoyfQ=="},"jsonrpc":"2.0","id":1}"#,
    r#"{"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}},"jsonrpc":"2.0","id":2}"#,
    r#"{"jsonrpc":"2.0","id":"a-3","method":"tools/call","params":{"name":"get_case","arguments":{"id":4711,"deep":{"list":[1,-2.5,1e3,true,null,"x"],"empty":{},"none":[]}},"_meta":{"progressToken":7}}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"delete_repo","arguments":{"owner":"acme","repo":"prod","confirm":false}}}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"crm.update","arguments":{"Name":"é 😀 ﬁ","note":"line\nline\t\"quoted\" \\ \u0001","amount":9007199254740993}}}"#,
    r#"{"jsonrpc":"2.0","id":6,"method":"resources/read","params":{"uri":"file:///srv/data/report.txt"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"resources/subscribe","params":{"uri":"db://main/users?limit=10"}}"#,
    r#"{"jsonrpc":"2.0","id":8,"method":"prompts/get","params":{"name":"summary","arguments":{"style":"short"}}}"#,
    r#"{"jsonrpc":"2.0","id":9,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"summary"},"argument":{"name":"style","value":"s"}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"gone"}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":0.5,"total":1.0}}"#,
    r#"{"jsonrpc":"2.0","id":10,"method":"tools/call","params":{"name":"search","arguments":{"q":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}}}}"#,
    r#"{"jsonrpc":"2.0","id":"d","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}}}}}"#,
    r#"{"jsonrpc":"2.0","id":11,"method":"subscriptions/listen","params":{"_meta":{},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["file:///a"]}}}"#,
    r#"{"jsonrpc":"2.0","id":12,"method":"sampling/createMessage","params":{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}],"maxTokens":100,"temperature":1e-1}}"#,
    r#"{"jsonrpc":"2.0","id":13,"method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{"name":{"type":"string","minLength":1}}}}}"#,
    r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Echo: hello"}],"isError":false}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"b","inputSchema":{"type":"object"}}],"nextCursor":"2"}}"#,
    r#"{"jsonrpc":"2.0","id":10,"error":{"code":-32602,"message":"Unknown tool: search","data":{"tool":"search"}}}"#,
    r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}"#,
];

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// None.
    Nothing,
    /// A bit of a byte.
    Bit,
    /// A byte more, less, or another.
    Byte,
    /// The end is missing.
    Truncated,
    /// Something behind the end, or before the beginning.
    Around,
    /// A piece comes twice.
    Repeated,
    /// A piece of another message.
    Spliced,
    /// A member comes twice, perhaps spelled in another way, perhaps with another value.
    Duplicate,
    /// A letter of a string is escaped, rightly or wrongly.
    Escape,
    /// A number in another form.
    Number,
    /// White space between tokens, or what some take for it.
    Space,
    /// A character that is seldom seen, in a string.
    Character,
    /// Another case.
    Case,
    /// A value is of another kind.
    Kind,
    /// A member that does not belong there.
    Member,
}

impl Change {
    /// All that are made.
    pub(crate) const ALL: [Self; 14] = [
        Self::Bit,
        Self::Byte,
        Self::Truncated,
        Self::Around,
        Self::Repeated,
        Self::Spliced,
        Self::Duplicate,
        Self::Escape,
        Self::Number,
        Self::Space,
        Self::Character,
        Self::Case,
        Self::Kind,
        Self::Member,
    ];
    /// How often each is made.
    const WEIGHTS: [usize; 14] = [2, 2, 1, 1, 1, 1, 3, 5, 4, 4, 4, 1, 2, 1];
}

const NUMBERS: [&str; 32] = [
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "1.50",
    "1e0",
    "1E+2",
    "1e-7",
    "0.1",
    "0.30000000000000004",
    "9007199254740992",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "5e-324",
    "1e-400",
    "1.7976931348623157e308",
    "1e309",
    "1e999",
    "-1e999",
    "01",
    "+1",
    ".5",
    "1.",
    "1e",
    "0x10",
    "1_000",
    "NaN",
    "Infinity",
];

const SPACES: [&str; 14] =
    [" ", "\n", "\r", "\t", "\r\n", "  ", " \t", "\u{b}", "\u{c}", "\u{a0}", "\u{feff}", "\u{2028}", "\0", "/**/"];

const ESCAPES: [&str; 20] = [
    "\\n",
    "\\/",
    "\\\\",
    "\\\"",
    "\\u0000",
    "\\u0001",
    "\\u002f",
    "\\u00e9",
    "\\u00E9",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
    "\\ud800",
    "\\udc00",
    "\\ud800\\u0041",
    "\\x41",
    "\\u12",
    "\\u{41}",
    "\\'",
    "\\0",
    "\\a",
];

const CHARACTERS: [&[u8]; 20] = [
    b"\x00",
    b"\x01",
    b"\t",
    b"\n",
    b"\x7f",
    b"\xc2\x85",
    b"\xc2\xa0",
    "\u{200b}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{feff}".as_bytes(),
    "\u{fffd}".as_bytes(),
    "😀".as_bytes(),
    "ﬁ".as_bytes(),
    "e\u{301}".as_bytes(),
    "а".as_bytes(),
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
];

const VALUES: [&str; 16] = [
    "null",
    "true",
    "false",
    "0",
    "1.5",
    "\"\"",
    "\"tools/call\"",
    "\"2.0\"",
    "[]",
    "{}",
    "[1]",
    "{\"name\":\"x\"}",
    "nul",
    "True",
    "undefined",
    "'x'",
];

const AROUND: [&str; 12] =
    ["\u{feff}", "[", "]", "{}", "\0", "\n", " ", ",", "//", "null", "{\"jsonrpc\":\"2.0\"}", ")]}'"];

const MEMBERS: [&str; 12] = [
    "\"id\":1",
    "\"id\":null",
    "\"method\":\"tools/call\"",
    "\"params\":{}",
    "\"result\":{}",
    "\"error\":{\"code\":1,\"message\":\"\"}",
    "\"jsonrpc\":\"2.0\"",
    "\"name\":\"delete_repo\"",
    "\"arguments\":{}",
    "\"__proto__\":{\"name\":\"y\"}",
    "\"Method\":\"m\"",
    "\"x\":1",
];

/// Chance that is the same in every run (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn any<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }

    /// Changes a text somewhere, and says how.
    pub(crate) fn change(&mut self, text: &mut Vec<u8>) -> Change {
        let mut point = self.below(Change::WEIGHTS.iter().sum());
        let kind = Change::ALL.into_iter().zip(Change::WEIGHTS).find(|(_, weight)| {
            let here = point < *weight;
            point = point.saturating_sub(*weight);
            here
        });
        let kind = kind.map_or(Change::Bit, |(kind, _)| kind);
        self.make(kind, text);
        kind
    }

    fn make(&mut self, kind: Change, text: &mut Vec<u8>) {
        let parts = parts(text);
        let at = self.below(text.len());
        match kind {
            Change::Nothing => {}
            Change::Bit => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << (self.next() % 8);
                }
            }
            Change::Byte => {
                let end = (at + self.below(2)).min(text.len());
                let new: Vec<u8> = if self.below(3) == 0 { Vec::new() } else { vec![self.next() as u8] };
                text.splice(at..end, new);
            }
            Change::Truncated => text.truncate(at),
            Change::Around => {
                let with = self.pick(&AROUND);
                let at = if self.below(2) == 0 { 0 } else { text.len() };
                text.splice(at..at, with.bytes());
            }
            Change::Repeated => {
                let end = (at + self.below(24)).min(text.len());
                let piece = text[at..end].to_vec();
                text.splice(end..end, piece);
            }
            Change::Spliced => {
                let other = self.pick(&SEEDS).as_bytes();
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from);
                text.splice(at..at, other[from..to].iter().copied());
            }
            Change::Duplicate => self.duplicate(text, &parts),
            Change::Escape => self.escape(text, &parts),
            Change::Number => {
                if let Some((from, to)) = self.any(&parts.numbers) {
                    text.splice(from..to, self.pick(&NUMBERS).bytes());
                }
            }
            Change::Space => {
                if let Some(at) = self.any(&parts.between) {
                    // More often what is white space than what is not.
                    let with = if self.below(3) == 0 { self.pick(&SPACES) } else { self.pick(&SPACES[..7]) };
                    text.splice(at..at, with.bytes());
                }
            }
            Change::Character => {
                if let Some((from, to)) = self.any(&parts.strings) {
                    let at = from + 1 + self.below((to - from).saturating_sub(1));
                    text.splice(at..at, self.pick(&CHARACTERS).iter().copied());
                }
            }
            Change::Case => {
                if let Some((from, to)) = self.any(&parts.strings) {
                    let at = from + self.below(to - from);
                    text[at] ^= if text[at].is_ascii_alphabetic() { 0x20 } else { 0 };
                }
            }
            Change::Kind => {
                let (from, to) = match self.any(&parts.values) {
                    Some(value) => value,
                    None => return,
                };
                text.splice(from..to, self.pick(&VALUES).bytes());
            }
            Change::Member => {
                if let Some(at) = self.any(&parts.opened) {
                    let empty = text.get(at) == Some(&b'}');
                    let with = format!("{}{}", self.pick(&MEMBERS), if empty { "" } else { "," });
                    text.splice(at..at, with.bytes());
                }
            }
        }
    }

    fn duplicate(&mut self, text: &mut Vec<u8>, parts: &Parts) {
        let Some((from, to)) = self.any(&parts.names) else { return };
        let mut name = text[from..to].to_vec();
        if self.below(2) == 0 && name.len() > 2 {
            // The same name in another spelling.
            let at = 1 + self.below(name.len() - 2);
            if name[at].is_ascii_alphanumeric() {
                let spelled = format!("\\u{:04x}", name[at]);
                name.splice(at..=at, spelled.bytes());
            }
        }
        name.push(b':');
        name.extend_from_slice(self.pick(&VALUES).as_bytes());
        name.push(b',');
        text.splice(from..from, name);
    }

    fn escape(&mut self, text: &mut Vec<u8>, parts: &Parts) {
        let Some((from, to)) = self.any(&parts.strings) else { return };
        if to - from < 3 {
            return;
        }
        let at = from + 1 + self.below(to - from - 2);
        if self.below(3) > 0 && text[at].is_ascii_alphanumeric() && text[at - 1] != b'\\' {
            // The same letter in another spelling.
            let spelled =
                if self.below(2) == 0 { format!("\\u{:04x}", text[at]) } else { format!("\\u{:04X}", text[at]) };
            text.splice(at..=at, spelled.bytes());
        } else {
            text.splice(at..at, self.pick(&ESCAPES).bytes());
        }
    }
}

/// Where things stand in a text that is JSON, or nearly so.
#[derive(Default)]
struct Parts {
    /// Strings, their quotation marks included.
    strings: Vec<(usize, usize)>,
    /// Those that are names of members.
    names: Vec<(usize, usize)>,
    numbers: Vec<(usize, usize)>,
    /// Strings, numbers and words behind a colon.
    values: Vec<(usize, usize)>,
    /// Places beside tokens.
    between: Vec<usize>,
    /// Places behind the beginning of an object.
    opened: Vec<usize>,
}

fn parts(text: &[u8]) -> Parts {
    let mut parts = Parts::default();
    let mut at = 0;
    let mut after_colon = false;
    while at < text.len() {
        let from = at;
        parts.between.push(at);
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                parts.strings.push((from, at));
                let name = text[at..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                if name {
                    parts.names.push((from, at));
                } else if after_colon {
                    parts.values.push((from, at));
                }
                after_colon = false;
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                at += 1;
                after_colon = text[from] == b':';
                if text[from] == b'{' {
                    parts.opened.push(at);
                }
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            byte => {
                while at < text.len() && !b"{}[],:\" \t\r\n".contains(&text[at]) {
                    at += 1;
                }
                if byte == b'-' || byte.is_ascii_digit() {
                    parts.numbers.push((from, at));
                }
                if after_colon {
                    parts.values.push((from, at));
                }
                after_colon = false;
            }
        }
    }
    parts.between.push(text.len());
    parts
}
