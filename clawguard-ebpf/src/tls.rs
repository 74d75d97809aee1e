//! TLS flows: the name that the ClientHello calls for decides whether they live.
//!
//! A flow's first bytes are kept until the other end has them. Whatever carries bytes of them, a retransmission too, must
//! carry the same: the pages of a file that was sent can be rewritten after they were judged. Nothing else leaves before the
//! server has answered, and should it ask for another ClientHello, that one is judged as well.
//!
//! Only one CPU at a time sends for a socket, because TCP holds its lock meanwhile; an answer may arrive on another. The
//! answer's side therefore writes `answer`, and moves `stage` on only for the flow that it answers.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_loop, bpf_sk_fullsock, bpf_skb_load_bytes, bpf_tcp_sock},
    maps::lpm_trie::Key,
};
use clawguard_common::{
    Addr, Called, Endpoint, Greeting, Groups, Hook, NO_RULE, NameData, Reason, Stamp, Talk, greeting,
    hello::{AGAIN_RANDOM, ANSWER_RANDOM, GREETING_CHUNK, LONGEST_HELLO, MOST_STEPS, Reader, Step, name_byte, seen},
    job, protocol, rule, stamp,
};

use crate::{
    atomic, flow,
    maps::{GREETINGS, JOBS, NAMES, POLICIES, TALKS},
    record::count_direct,
    verdict::{Verdict, forget, is_bound, is_killed},
};

const ALLOWED: u32 = Reason::Allowed as u32;
/// Stands where a [`Reason`] stands otherwise: nothing can be said of the packet yet, and it does not leave.
const HOLD: u32 = 0x200;
const ETH_P_IP: u16 = 0x0800;
/// A TLS record's kind (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// Bytes of an alert's record.
const ALERT_BYTES: u32 = 7;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// What a TCP packet carries.
struct Segment {
    /// Where in the packet.
    at: u32,
    /// How many bytes.
    length: u32,
    /// Sequence number of the first of them.
    sequence: u32,
    flags: u8,
    /// What it acknowledges.
    acknowledges: u32,
    /// The other end.
    remote: Endpoint,
}

/// Reads a packet's headers. Whoever judges the address sees to it that they are plain ones.
#[inline(always)]
unsafe fn segment(skb: *mut __sk_buff, hook: Hook) -> Option<Segment> {
    let mut head = MaybeUninit::<[u8; 16]>::uninit();
    let mut words = MaybeUninit::<[u32; 4]>::uninit();
    let egress = matches!(hook, Hook::Egress);
    // SAFETY: the verifier knows the context; what is not loaded is not read.
    unsafe {
        let v4 = (*skb).protocol as u16 == ETH_P_IP.to_be();
        let (ip, at, bytes): (u32, u32, u32) = match (v4, egress) {
            (true, true) => (20, 16, 4),
            (true, false) => (20, 12, 4),
            (false, true) => (40, 24, 16),
            (false, false) => (40, 8, 16),
        };
        if bpf_skb_load_bytes(skb.cast(), ip, head.as_mut_ptr().cast(), 16) != 0
            || bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), bytes) != 0
        {
            return None;
        }
        let head = &*head.as_ptr();
        let words = &*words.as_ptr();
        let addr = if v4 { Addr::from_v4(words[0]) } else { Addr([words[0], words[1], words[2], words[3]]) };
        let [a, b] = if egress { [head[2], head[3]] } else { [head[0], head[1]] };
        let remote = flow::endpoint(addr.canonical(), u16::from_be_bytes([a, b]), protocol::TCP, false);
        let at = ip + (u32::from(head[12] >> 4) << 2);
        let total = (*skb).len;
        if at < ip + 20 || at > total {
            return None;
        }
        let flags = head[13];
        let sequence = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        // A SYN takes a number of its own, before what it carries.
        let sequence = if flags & SYN != 0 { sequence.wrapping_add(1) } else { sequence };
        let acknowledges = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        Some(Segment { at, length: total - at, sequence, flags, acknowledges, remote })
    }
}

/// Begins a flow: at connect(2), under the rule of its address. Answers whether the socket is ready for it.
///
/// # Safety
///
/// `socket` is a socket pointer that the verifier knows not to be null.
#[inline(always)]
pub(crate) unsafe fn begin(socket: *mut c_void, tls: bool) -> bool {
    // SAFETY: the caller's promise; zero bytes are a talk.
    unsafe {
        GREETINGS.remove(socket);
        if !tls {
            TALKS.remove(socket);
            return true;
        }
        let Some(talk) = TALKS.get_or_make(socket) else { return false };
        talk.called.prefix = 0;
        talk.groups = Groups::default();
        talk.rule = NO_RULE;
        (talk.sent, talk.received, talk.news) = (ALLOWED, ALLOWED, 0);
        true
    }
}

/// What a packet of a TLS flow came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It was judged.
    Judged,
    /// It was judged, and the flow is refused here for the first time.
    News,
    /// It ends inside a name, or comes after one that did. It is not sent; TCP sends it again, together with more.
    Nothing,
}

/// Takes what a TLS flow has said into the verdict on its address.
#[inline(always)]
pub(crate) fn conclude(verdict: &mut Verdict, talk: Option<&'static mut Talk>, hook: Hook) -> Heard {
    let Some(talk) = talk else {
        // It began under a contract that did not ask for TLS.
        verdict.reason = Reason::NotTls;
        return Heard::Judged;
    };
    let reason = if matches!(hook, Hook::Egress) { talk.sent } else { talk.received };
    verdict.groups.add(&talk.groups);
    if talk.rule != NO_RULE {
        verdict.rule = talk.rule;
    }
    if reason == HOLD {
        return Heard::Nothing;
    }
    if reason != ALLOWED {
        verdict.reason = Reason::from_number(reason as u8).unwrap_or(Reason::Internal);
        let news = talk.news != 0;
        talk.news = 0;
        return if news { Heard::News } else { Heard::Judged };
    }
    if is_killed(verdict) {
        verdict.reason = Reason::Killed;
    }
    Heard::Judged
}

/// Judges what a TLS flow sends; the verdict stands in its [`Talk`].
///
/// # Safety
///
/// The pointers are live, and the verifier knows what they point to; called in the egress program.
#[inline(never)]
pub(crate) unsafe fn sent(skb: *mut __sk_buff, socket: *mut c_void, stamp: *mut Stamp) {
    // SAFETY: the caller's promise.
    let Some(talk) = (unsafe { TALKS.get(socket) }) else { return };
    // SAFETY: as above.
    let reason = unsafe { hear(skb, socket, stamp, talk) };
    talk.sent = reason;
}

#[inline(always)]
unsafe fn hear(skb: *mut __sk_buff, socket: *mut c_void, stamp: *mut Stamp, talk: &mut Talk) -> u32 {
    // SAFETY: the caller's promise. Other CPUs may change the flags.
    let (job, flags) = unsafe { ((*stamp).job, (&raw const (*stamp).flags).read_volatile()) };
    let mut greeted = flags & stamp::GREETED != 0;
    // SAFETY: the caller's promise.
    let Some(mut segment) = (unsafe { segment(skb, Hook::Egress) }) else {
        return Reason::Malformed as u32;
    };
    if !forget(&mut segment) {
        return Reason::Internal as u32;
    }
    if segment.flags & SYN != 0 {
        // SAFETY: as above; zero bytes are a greeting.
        let Some(greeting) = (unsafe { GREETINGS.get_or_make(socket) }) else {
            return Reason::Internal as u32;
        };
        if greeting.first != segment.sequence || greeting.stage >= greeting::REFUSED {
            greeting.stage = greeting::HELLO;
            greeting.first = segment.sequence;
            greeting.have = 0;
            greeting.answer = 0;
            greeting.holds = 0;
            greeting.reader = Reader::default();
            talk.called.prefix = 0;
        }
        atomic::clear(stamp, stamp::GREETED);
        greeted = false;
    }
    if talk.called.prefix != 0 {
        let reason = allows(job, talk, &segment.remote, 0);
        if reason != ALLOWED {
            // Another contract is in force.
            talk.news |= u64::from(talk.sent == ALLOWED);
            return reason;
        }
    }
    if greeted || segment.length == 0 {
        return ALLOWED;
    }
    // SAFETY: as above.
    let Some(greeting) = (unsafe { GREETINGS.get(socket) }) else {
        return Reason::NotTls as u32;
    };
    if greeting.stage >= greeting::REFUSED {
        return greeting.stage & 0xff;
    }
    // SAFETY: as above.
    let reason = unsafe { judge(skb, &segment, greeting, talk, job) };
    let reason = if reason == HOLD { hold(greeting, &segment, job) } else { reason };
    if reason == HOLD {
        return HOLD;
    }
    if reason != ALLOWED {
        greeting.stage = greeting::REFUSED | (reason & 0xff);
        talk.news = 1;
        return reason;
    }
    if greeting.stage == greeting::ANSWERED && greeting.have != 0 {
        // SAFETY: as above.
        let arrived = unsafe { acknowledged(socket.cast()) };
        if arrived.wrapping_sub(greeting.first) as i32 >= greeting.have as i32 && arrived != 0 {
            atomic::set(stamp, stamp::GREETED);
            // SAFETY: as above; nobody uses the greeting after this.
            unsafe { GREETINGS.remove(socket) };
        }
    }
    ALLOWED
}

/// How often a packet is held before its flow is given up: TCP cannot send it together with more.
const MOST_HOLDS: u32 = 5;

/// Holds a packet, or gives its flow up that could go on like this for ever. Where a job is only observed, it passes.
#[inline(always)]
fn hold(greeting: &mut Greeting, segment: &Segment, job: u32) -> u32 {
    if is_observed(job) {
        return ALLOWED;
    }
    let packet = [segment.sequence, segment.length];
    greeting.holds = if greeting.held == packet { greeting.holds + 1 } else { 0 };
    greeting.held = packet;
    if greeting.holds < MOST_HOLDS { HOLD } else { Reason::NotTls as u32 }
}

/// The first sequence number that the other end has not acknowledged.
#[inline(always)]
unsafe fn acknowledged(socket: *mut bpf_sock) -> u32 {
    // SAFETY: the caller's socket.
    unsafe {
        let full = bpf_sk_fullsock(socket);
        if full.is_null() {
            return 0;
        }
        let tcp = bpf_tcp_sock(full);
        if tcp.is_null() { 0 } else { (*tcp).snd_una }
    }
}

#[inline(always)]
unsafe fn judge(skb: *mut __sk_buff, segment: &Segment, greeting: &mut Greeting, talk: &mut Talk, job: u32) -> u32 {
    let refused = Reason::NotTls as u32;
    let offset = segment.sequence.wrapping_sub(greeting.first);
    let have = greeting.have;
    let answered = greeting.stage == greeting::ANSWERED && have != 0;
    if offset >= have && answered {
        return ALLOWED;
    }
    // An urgent byte is one that the other end takes out of the stream.
    if have > LONGEST_HELLO as u32 || segment.flags & URG != 0 {
        return refused;
    }
    // A gap, which what was not sent leaves.
    if offset > have {
        return if greeting.stage == greeting::SENT { refused } else { HOLD };
    }
    let known = have - offset;
    let again = if segment.length < known { segment.length } else { known };
    // SAFETY: the caller's promise.
    if again != 0 && !unsafe { same(skb, greeting, segment.at, offset, again) } {
        return refused;
    }
    let left = segment.length - again;
    if left == 0 || answered {
        return ALLOWED;
    }
    if greeting.stage == greeting::SENT {
        return refused;
    }
    if greeting.stage == greeting::AGAIN && greeting.reader.seen & seen::AGAIN == 0 {
        greeting.reader.again();
    }
    let remote = &raw const segment.remote;
    let mut walk = Walk { skb, greeting, talk, remote, job, from: segment.at + again, left, end: Walk::ON };
    walk.go();
    let end = walk.end;
    // SAFETY: both live as long as the program runs.
    let (greeting, talk) = unsafe { (&mut *walk.greeting, &*walk.talk) };
    let seen = greeting.reader.seen;
    if talk.called.prefix != 0 && seen & seen::ECH != 0 && talk.flags & u64::from(rule::ECH) == 0 {
        return Reason::Ech as u32;
    }
    match end {
        Walk::WAIT if greeting.reader.is_inside_name(greeting.have) && !is_observed(job) => {
            // Not even the beginning of a name leaves before all of it is judged.
            greeting.have = greeting.reader.at;
            HOLD
        }
        Walk::WAIT => ALLOWED,
        Walk::DONE if seen & seen::NAME == 0 => Reason::NoSni as u32,
        // More than a ClientHello, before the server has answered.
        Walk::DONE if greeting.have != u32::from(greeting.reader.end) || walk.left != 0 => refused,
        Walk::DONE => {
            greeting.stage = if seen & seen::AGAIN != 0 { greeting::ANSWERED } else { greeting::SENT };
            ALLOWED
        }
        Walk::ON | Walk::REFUSED => refused,
        reason => reason,
    }
}

/// Whether a job is only observed.
#[inline(always)]
fn is_observed(job: u32) -> bool {
    JOBS.get(job).is_some_and(|job| job.flags & job::OBSERVE != 0)
}

/// Whether the contract that a job is under allows a name at an address and port; one that is called for now, by an answer that is
/// good after `now_ns`.
#[inline(always)]
fn allows(slot: u32, talk: &mut Talk, remote: &Endpoint, now_ns: u64) -> u32 {
    let Some(job) = JOBS.get(slot) else {
        return Reason::Internal as u32;
    };
    let policy = job.policy as u32;
    let (Some(head), Some(names)) = (POLICIES.get(policy), NAMES.get(policy)) else {
        return Reason::SniMismatch as u32;
    };
    // SAFETY: both are the prefix and then the data.
    let key = unsafe { &*ptr::from_ref(&talk.called).cast::<Key<NameData>>() };
    let Some(rule) = names.get(key) else {
        return Reason::SniMismatch as u32;
    };
    let reason = u32::from(rule.reason);
    if reason != ALLOWED {
        return if reason == Reason::NotInContract as u32 { Reason::SniMismatch as u32 } else { reason };
    }
    if !is_bound(job.agent as u32, policy, (head.serial, now_ns), remote, rule.number) {
        return Reason::SniMismatch as u32;
    }
    if talk.rule == NO_RULE {
        count_direct(slot, &rule.groups);
    }
    talk.rule = rule.number;
    talk.groups = rule.groups;
    talk.flags = u64::from(rule.flags);
    ALLOWED
}

/// Reads what a packet carries, step by step.
struct Walk {
    skb: *mut __sk_buff,
    greeting: *mut Greeting,
    talk: *mut Talk,
    remote: *const Endpoint,
    job: u32,
    /// Where in the packet the bytes begin that were not taken yet.
    from: u32,
    /// How many there are.
    left: u32,
    /// How it ended: as below, or the [`Reason`] for which a name is refused.
    end: u32,
}

impl Walk {
    const ON: u32 = 0x100;
    const WAIT: u32 = 0x101;
    const DONE: u32 = 0x102;
    const REFUSED: u32 = 0x103;

    #[inline(always)]
    fn go(&mut self) {
        // Each chunk is one turn more, and so is each wait.
        let turns = MOST_STEPS + 2 * (LONGEST_HELLO / GREETING_CHUNK) as u32 + 4;
        // SAFETY: the callback takes what it is given here.
        unsafe { bpf_loop(turns, step as *mut c_void, ptr::from_mut(self).cast(), 0) };
    }
}

/// One turn of [`Walk::go`]: 1 to stop.
unsafe extern "C" fn step(_turn: u32, walk: *mut Walk) -> i64 {
    // SAFETY: as `go` promises.
    let walk = unsafe { &mut *walk };
    // SAFETY: as above.
    let (greeting, talk) = unsafe { (&mut *walk.greeting, &mut *walk.talk) };
    let have = greeting.have;
    if have > LONGEST_HELLO as u32 {
        walk.end = Walk::REFUSED;
        return 1;
    }
    walk.end = match greeting.reader.step(&greeting.bytes, have) {
        Step::More => return 0,
        Step::Wait if walk.left == 0 => Walk::WAIT,
        Step::Wait => {
            let most = GREETING_CHUNK as u32;
            let count = if walk.left < most { walk.left } else { most };
            // SAFETY: the buffer has room for a chunk after the longest ClientHello.
            if unsafe { load(walk.skb, walk.from, greeting, have, count) } {
                greeting.have = have + count;
                walk.from += count;
                walk.left -= count;
                return 0;
            }
            Walk::REFUSED
        }
        Step::Name(name, length) => {
            // SAFETY: as above.
            let remote = unsafe { &*walk.remote };
            talk.called.data.port = remote.port.to_be_bytes();
            let reason = if call(greeting, &mut talk.called, name, length) {
                // SAFETY: the helper takes nothing and reads a clock.
                allows(walk.job, talk, remote, unsafe { bpf_ktime_get_boot_ns() })
            } else {
                Reason::SniMismatch as u32
            };
            if reason == ALLOWED {
                return 0;
            }
            reason
        }
        Step::Done => Walk::DONE,
        Step::Refused => Walk::REFUSED,
    };
    1
}

/// Takes bytes of a packet to the greeting's `at`.
#[inline(always)]
unsafe fn load(skb: *mut __sk_buff, from: u32, greeting: &mut Greeting, at: u32, count: u32) -> bool {
    if at > LONGEST_HELLO as u32 || count == 0 || count > GREETING_CHUNK as u32 {
        return false;
    }
    // SAFETY: `at` and `count` together stay inside the buffer.
    unsafe { bpf_skb_load_bytes(skb.cast(), from, greeting.bytes.as_mut_ptr().add(at as usize).cast(), count) == 0 }
}

/// A name that is put into the form in which it is looked up.
struct Reverse {
    greeting: *const Greeting,
    called: *mut Called,
    name: u32,
    length: u32,
    wrong: bool,
}

/// Puts a name into the form in which it is looked up. Answers whether it is one.
#[inline(always)]
fn call(greeting: &Greeting, called: &mut Called, name: u32, length: u32) -> bool {
    let mut reversed = Reverse { greeting, called, name, length, wrong: false };
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(length, reverse as *mut c_void, ptr::from_mut(&mut reversed).cast(), 0) };
    // SAFETY: as above.
    let called = unsafe { &mut *reversed.called };
    let end = length as usize;
    if reversed.wrong || end >= called.data.reversed.len() {
        return false;
    }
    called.data.reversed[end] = 0;
    called.prefix = NameData::prefix(length + 1);
    true
}

unsafe extern "C" fn reverse(turn: u32, reverse: *mut Reverse) -> i64 {
    // SAFETY: as `go` promises.
    let (greeting, reverse) = unsafe { (&*(*reverse).greeting, &mut *reverse) };
    // SAFETY: as above.
    let called = unsafe { &mut *reverse.called };
    let from = reverse.name as usize + turn as usize;
    let to = (reverse.length as usize).wrapping_sub(1 + turn as usize);
    if from < greeting.bytes.len()
        && to < called.data.reversed.len()
        && let Some(byte) = name_byte(greeting.bytes[from])
    {
        called.data.reversed[to] = byte;
        return 0;
    }
    reverse.wrong = true;
    1
}

/// Compares what a packet carries once more with what was judged.
struct Compare {
    skb: *mut __sk_buff,
    greeting: *mut Greeting,
    /// Where in the packet.
    from: u32,
    /// Where among the bytes that were judged.
    at: u32,
    left: u32,
    same: bool,
}

/// Whether `count` bytes of a packet are those that were judged at `at`.
#[inline(always)]
unsafe fn same(skb: *mut __sk_buff, greeting: &mut Greeting, from: u32, at: u32, count: u32) -> bool {
    let mut compare = Compare { skb, greeting, from, at, left: count, same: true };
    let chunks = (LONGEST_HELLO / GREETING_CHUNK) as u32 + 2;
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(chunks, compare_chunk as *mut c_void, ptr::from_mut(&mut compare).cast(), 0) };
    compare.same && compare.left == 0
}

unsafe extern "C" fn compare_chunk(_turn: u32, compare: *mut Compare) -> i64 {
    // SAFETY: as `same` promises.
    let compare = unsafe { &mut *compare };
    // SAFETY: as above.
    let greeting = unsafe { &mut *compare.greeting };
    if compare.left == 0 {
        return 1;
    }
    let most = GREETING_CHUNK as u32;
    let count = if compare.left < most { compare.left } else { most };
    let have = greeting.have;
    // Behind what is known the buffer has room for a chunk, which the next bytes overwrite.
    // SAFETY: as `load` checks.
    if !unsafe { load(compare.skb, compare.from, greeting, have, count) } {
        compare.same = false;
        return 1;
    }
    let mut bytes = CompareBytes { greeting, one: compare.at, other: have, same: true };
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(count, compare_byte as *mut c_void, ptr::from_mut(&mut bytes).cast(), 0) };
    if !bytes.same {
        compare.same = false;
        return 1;
    }
    compare.from += count;
    compare.at += count;
    compare.left -= count;
    0
}

struct CompareBytes {
    greeting: *const Greeting,
    one: u32,
    other: u32,
    same: bool,
}

unsafe extern "C" fn compare_byte(turn: u32, bytes: *mut CompareBytes) -> i64 {
    // SAFETY: as `compare_chunk` promises.
    let (greeting, bytes) = unsafe { (&*(*bytes).greeting, &mut *bytes) };
    let (one, other) = (bytes.one as usize + turn as usize, bytes.other as usize + turn as usize);
    if one < greeting.bytes.len() && other < greeting.bytes.len() && greeting.bytes[one] == greeting.bytes[other] {
        return 0;
    }
    bytes.same = false;
    1
}

/// Looks at what comes back: whether the server has answered, or asks for another ClientHello. The verdict stands in the flow's
/// [`Talk`].
///
/// # Safety
///
/// As for [`sent`], in the ingress program.
#[inline(never)]
pub(crate) unsafe fn received(skb: *mut __sk_buff, socket: *mut c_void, stamp: *mut Stamp) {
    // SAFETY: the caller's promise.
    let Some(talk) = (unsafe { TALKS.get(socket) }) else { return };
    // SAFETY: as above.
    let reason = unsafe { answer(skb, socket, &*stamp, talk) };
    talk.received = reason;
}

#[inline(always)]
unsafe fn answer(skb: *mut __sk_buff, socket: *mut c_void, stamp: &Stamp, talk: &mut Talk) -> u32 {
    // SAFETY: the caller's promise.
    let Some(mut segment) = (unsafe { segment(skb, Hook::Ingress) }) else {
        return Reason::Malformed as u32;
    };
    if !forget(&mut segment) {
        return Reason::Internal as u32;
    }
    if talk.called.prefix != 0 {
        let reason = allows(stamp.job, talk, &segment.remote, 0);
        if reason != ALLOWED {
            talk.news |= u64::from(talk.received == ALLOWED);
            return reason;
        }
    }
    // SAFETY: as above.
    let Some(greeting) = (unsafe { GREETINGS.get(socket) }) else {
        return ALLOWED;
    };
    let (first, have) = (greeting.first, greeting.have);
    // Only who has seen the flow's own numbers answers it: TCP has not looked at the packet yet.
    if segment.flags & (SYN | ACK) == SYN | ACK && segment.acknowledges.wrapping_sub(first) <= have {
        greeting.answer = segment.sequence;
    }
    let begins = segment.length != 0 && segment.sequence == greeting.answer;
    let answers = segment.acknowledges == first.wrapping_add(have);
    if greeting.stage != greeting::SENT || !begins || !answers {
        return ALLOWED;
    }
    let mut head = MaybeUninit::<[u8; 8]>::uninit();
    let mut random = MaybeUninit::<[u64; 4]>::uninit();
    // SAFETY: as above; what is not loaded is not read.
    let (kind, random) = unsafe {
        let mut at = segment.at;
        if bpf_skb_load_bytes(skb.cast(), at, head.as_mut_ptr().cast(), 1) != 0 {
            return ALLOWED;
        }
        // A warning may come before the answer.
        if (*head.as_ptr())[0] == ALERT && segment.length >= ALERT_BYTES {
            greeting.answer = segment.sequence.wrapping_add(ALERT_BYTES);
            at += ALERT_BYTES;
            if segment.length == ALERT_BYTES || bpf_skb_load_bytes(skb.cast(), at, head.as_mut_ptr().cast(), 1) != 0 {
                return ALLOWED;
            }
        }
        let kind = (*head.as_ptr())[0];
        if bpf_skb_load_bytes(skb.cast(), at + ANSWER_RANDOM, random.as_mut_ptr().cast(), 32) != 0 {
            // Less than a whole hello is no answer yet.
            if kind != HANDSHAKE {
                atomic::advance(greeting, first, greeting::SENT, greeting::ANSWERED);
            }
            return ALLOWED;
        }
        (kind, random.assume_init())
    };
    let again = random[0] == AGAIN_RANDOM[0]
        && random[1] == AGAIN_RANDOM[1]
        && random[2] == AGAIN_RANDOM[2]
        && random[3] == AGAIN_RANDOM[3];
    let next = if kind == HANDSHAKE && again { greeting::AGAIN } else { greeting::ANSWERED };
    atomic::advance(greeting, first, greeting::SENT, next);
    ALLOWED
}
