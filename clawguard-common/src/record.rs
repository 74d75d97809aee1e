//! Layouts of map keys, map values and events.
//!
//! Records that change while the kernel reads them consist of 64-bit words, each of which userspace writes by one
//! atomic store through a memory mapping; nothing relies on two words changing together.

use crate::{
    Addr,
    hello::{GREETING_BUFFER, Reader},
};

/// How many words a set of groups has.
pub const GROUP_WORDS: usize = 4;
/// How many groups a host can tell apart.
pub const MAX_GROUPS: usize = GROUP_WORDS * 64;
/// Slots for jobs; slot 0 is the job of processes that belong to none.
pub const MAX_JOBS: u32 = 16_384;
/// The slot of "no job".
pub const JOB_NONE: u32 = 0;
/// Slots for agents.
pub const MAX_AGENTS: u32 = 256;
/// Slots for contracts in force; slot 0 is "no contract".
pub const MAX_POLICIES: u32 = 1024;
/// Cgroups that can be managed at once.
pub const MAX_CGROUPS: u32 = 32_768;
/// How deep below the cgroup root a managed cgroup may lie.
pub const MAX_LEVEL: u32 = 23;
/// Where the number of the deepest level begins in [`Host::levels`].
pub const DEEPEST: u32 = 32;
/// How many levels below the agents' slice a job's cgroup lies: the agent's own slice is between them.
pub const JOB_LEVEL: u32 = 2;
/// Distinct (job, destination, reason) that one interval can record; more are counted without their destination.
pub const MAX_DECISIONS: u32 = 32_768;
/// Destinations for which a job's decisions of one kind are counted apart in an interval, so that no job takes the room that
/// others need.
pub const MAX_DESTINATIONS: u32 = 1024;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 1 << 20;
/// Addresses that answers to DNS questions opened, of all jobs together.
pub const MAX_LEARNED: u32 = 262_144;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// A set of groups, by the host's numbering.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Groups(pub [u64; GROUP_WORDS]);

impl Groups {
    /// The set with one group.
    #[must_use]
    pub const fn one(number: usize) -> Self {
        let mut words = [0; GROUP_WORDS];
        words[number / 64] = 1 << (number % 64);
        Self(words)
    }

    /// Adds a group.
    pub const fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Whether the set has the group.
    #[must_use]
    pub const fn contains(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    /// Whether the two sets share a group.
    #[inline(always)]
    #[must_use]
    pub const fn intersects(&self, other: &Self) -> bool {
        (self.0[0] & other.0[0]) | (self.0[1] & other.0[1]) | (self.0[2] & other.0[2]) | (self.0[3] & other.0[3]) != 0
    }

    /// The groups that both sets have.
    #[must_use]
    pub const fn both(&self, other: &Self) -> Self {
        let mut words = [0; GROUP_WORDS];
        let mut i = 0;
        while i < GROUP_WORDS {
            words[i] = self.0[i] & other.0[i];
            i += 1;
        }
        Self(words)
    }

    /// Adds all groups of another set.
    pub const fn add(&mut self, other: &Self) {
        let mut i = 0;
        while i < GROUP_WORDS {
            self.0[i] |= other.0[i];
            i += 1;
        }
    }
}

/// Numbers of the groups that every host has. The rest are given out as contracts name them.
pub mod group {
    /// Everything; also what own loopback traffic belongs to.
    pub const ALL: usize = 0;
    /// Every endpoint that mode `tools-off` takes away: neither `channel` nor `model`, or an MCP server's.
    pub const TOOLS: usize = 1;
    /// Model calls.
    pub const MODEL: usize = 2;
    /// Chat and messaging.
    pub const CHANNEL: usize = 3;
    /// `risk:low`
    pub const RISK_LOW: usize = 4;
    /// `risk:medium`
    pub const RISK_MEDIUM: usize = 5;
    /// `risk:high`
    pub const RISK_HIGH: usize = 6;
    /// `class:read`
    pub const CLASS_READ: usize = 7;
    /// `class:write`
    pub const CLASS_WRITE: usize = 8;
    /// `class:irreversible`
    pub const CLASS_IRREVERSIBLE: usize = 9;
    /// The first number for a group that a contract or the configuration names.
    pub const FIRST_NAMED: usize = 10;
}

/// The host's state: one record, memory mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Raised after every change of policy, switch or job: cached verdicts of an older generation are judged again.
    pub generation: u64,
    /// When the daemon last lived: nanoseconds, CLOCK_BOOTTIME.
    pub heartbeat_ns: u64,
    /// The slice that all agents lie below: its id.
    pub agents_cgroup: u64,
    /// How many levels below the cgroup root it lies.
    pub agents_level: u64,
    /// Bit n: some cgroup that is managed outside the slice lies n levels below the cgroup root. From bit [`DEEPEST`] on, the
    /// greatest such n.
    pub levels: u64,
    /// Groups killed for the whole host.
    pub killed: Groups,
    /// Port of the DNS guard; 0 while there is none.
    pub guard_port: u64,
    /// [`Job::key`] of the job whose sockets answer there: the gateway's.
    pub guard_key: u64,
    /// TCP port of loopback at which agents look for the MCP gateway; 0 while there is none.
    pub tools_port: u64,
    /// TCP port at which it listens, at [`guard::address`](crate::guard::address) for each job. Its sockets are `guard_key`'s.
    pub tools_at: u64,
    /// TCP port of loopback at which agents look for the model gateway; 0 while there is none.
    pub models_port: u64,
    /// TCP port at which it listens, as `tools_at`.
    pub models_at: u64,
}

/// An agent's state, memory mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Agent {
    /// Groups killed for this agent.
    pub killed: Groups,
}

/// A job's state, memory mapped. Slot 0 stays all zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Job {
    /// The job's own number, never used twice; 0 in a free slot.
    pub key: u64,
    /// Slot of its agent.
    pub agent: u64,
    /// Slot of the contract in force; 0 for none.
    pub policy: u64,
    /// When its token expires: nanoseconds, CLOCK_BOOTTIME, or [`NEVER`].
    pub deadline_ns: u64,
    /// See [`job`].
    pub flags: u64,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// How many levels below the cgroup root it lies.
    pub level: u64,
    /// Groups killed for this job.
    pub killed: Groups,
}

/// What a job did, counted by the kernel programs, of the job that has the slot now; memory mapped. The last two words are
/// userspace's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// TCP connections that a rule let pass, by connect(2): asked for, whether or not anybody answered.
    pub connects: u64,
    /// UDP flows that a rule let pass: as many as changes of the other end, socket by socket.
    pub flows: u64,
    /// TCP connections to the gateway, at its addresses for this job.
    pub to_gateway: u64,
    /// TCP connections to the job itself.
    pub own: u64,
    /// TCP connections, and UDP packets, that passed although no rule allows them (observe mode).
    pub unruled: u64,
    /// Whatever was denied: calls, and packets.
    pub denied: u64,
    /// Processes that processes of the job started. Threads are none.
    pub spawned: u64,
    /// Processes that ended as processes of the job, by their first thread's end.
    pub ended: u64,
    /// Of those first threads: how many ended because another thread took the process over (execve(2)), which lives on.
    pub taken_over: u64,
    /// Programs that processes of the job executed.
    pub execs: u64,
    /// The first process that executed one, or started another process, in the kernel's own pid namespace; 0 for none yet.
    pub first_pid: u64,
    /// Since when all of this is counted: nanoseconds, CLOCK_BOOTTIME.
    pub since_ns: u64,
    /// The longest time between two beats of the daemon's since then, in nanoseconds.
    pub gap_ns: u64,
}

/// What is counted exactly of a job's connections, memory mapped: they only rise while it has its slot.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// TCP connections to the model gateway that were accepted there.
    pub models: u64,
    /// TCP flows that were allowed to the endpoints of the group `model`, around the model gateway.
    pub direct: u64,
}

/// Flags of a [`Job`].
pub mod job {
    /// Everything passes and what would be denied is recorded; a kill still holds.
    pub const OBSERVE: u64 = 1;
    /// The job is over; what is left of it may send nothing.
    pub const OVER: u64 = 2;
    /// The daemon's own test job: judged like any other, counted nowhere.
    pub const CANARY: u64 = 4;
    /// The gateway's: its own DNS questions go where they are sent.
    pub const GATEWAY: u64 = 8;
}

/// What a contract's slot says about it, memory mapped and written before any job points to the slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyHead {
    /// The contract's `not_after`: nanoseconds, CLOCK_BOOTTIME, or [`NEVER`].
    pub deadline_ns: u64,
    /// Number of this loading, never used twice; stands in every record.
    pub serial: u64,
    /// See [`policy`].
    pub flags: u64,
    /// SHA-256 of the contract.
    pub hash: [u64; 4],
}

/// Flags of a [`PolicyHead`].
pub mod policy {
    /// There are exact addresses.
    pub const EXACT: u64 = 1;
    /// There are ranges.
    pub const RANGES: u64 = 2;
    /// There are `listen` rules.
    pub const LISTEN: u64 = 4;
    /// There are names.
    pub const NAMES: u64 = 8;
}

/// A managed cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cgroup {
    /// Slot of its job; 0 denies everything (no job enrolled).
    pub job: u64,
}

/// What a rule is about: protocol, direction and port in one integer, always compared whole.
#[inline(always)]
#[must_use]
pub const fn tag(side: u8, protocol: u8, port: u16) -> u32 {
    (protocol as u32) | ((side as u32) << 8) | ((port as u32) << 16)
}

/// The two sides of a rule's [`tag`].
pub mod side {
    /// An endpoint that the agent reaches: the remote address and the remote port.
    pub const EGRESS: u8 = 0;
    /// A port that the agent listens on: the remote address and the local port.
    pub const LISTEN: u8 = 1;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// Multipath TCP's number in socket(2); it has none on the wire.
    pub const MPTCP: u32 = 262;
}

/// Key of the hash of exact addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct ExactKey {
    /// See [`tag`].
    pub tag: u32,
    /// [`ADDRESS`] for the address itself; [`bound`] for "a name of this rule may be called for there".
    pub rule: u32,
    /// Canonical form.
    pub addr: Addr,
}

/// Stands where an address is looked up without a name.
pub const ADDRESS: u32 = 0;

/// Stands where it is asked whether an address belongs to the names of a rule, by the rule's number.
#[inline(always)]
#[must_use]
pub const fn bound(number: u32) -> u32 {
    number.wrapping_add(1)
}

/// Key of the addresses that answers to DNS questions opened: one agent's, under one contract.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct LearnedKey {
    /// Slot of the agent.
    pub agent: u32,
    /// Slot of the contract.
    pub policy: u32,
    /// As in [`ExactKey`].
    pub place: ExactKey,
}

/// What an answer opened.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Learned {
    /// The rule that names it.
    pub rule: Rule,
    /// [`PolicyHead::serial`] of the contract under which it was learned.
    pub serial: u64,
    /// New flows may begin before this: nanoseconds, CLOCK_BOOTTIME. Those that live may go on.
    pub expires_ns: u64,
}

/// Data of the names' LPM trie: what a name must be, from its end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct NameData {
    /// The port, in network order.
    pub port: [u8; 2],
    /// The name from its last byte to its first, in lower case, and a zero. A wildcard ends with the dot before its star.
    pub reversed: [u8; NAME_ROOM],
}

/// The longest name (RFC 1035 section 2.3.4, without the root's dot).
pub const LONGEST_NAME: usize = 253;
/// A name and the byte that ends it.
pub const NAME_ROOM: usize = LONGEST_NAME + 1;

impl NameData {
    /// Bits of a prefix that covers the port and `bytes` of the name.
    #[inline(always)]
    #[must_use]
    pub const fn prefix(bytes: u32) -> u32 {
        (2 + bytes) * 8
    }
}

impl Default for NameData {
    fn default() -> Self {
        Self { port: [0; 2], reversed: [0; NAME_ROOM] }
    }
}

/// The name that a flow called for, as a key of the names' LPM trie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Called {
    /// Bits that count; 0 for no name.
    pub prefix: u32,
    /// The name and its port.
    pub data: NameData,
}

/// What a TLS flow has said, and what follows from it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Talk {
    /// What it called for.
    pub called: Called,
    /// Number of the name's rule.
    pub rule: u32,
    /// The groups of the name's rule.
    pub groups: Groups,
    /// The flags of the name's rule.
    pub flags: u64,
    /// The last verdict on what was sent: a [`Reason`](crate::Reason) as a number.
    pub sent: u32,
    /// The last verdict on what was received.
    pub received: u32,
    /// 1 while the first refusal is to be told.
    pub news: u64,
}

/// What became of a name on a flow: told of each name that is refused.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameEvent {
    /// What was decided.
    pub key: DecisionKey,
    /// When: nanoseconds, CLOCK_BOOTTIME.
    pub at_ns: u64,
    /// `SO_COOKIE` of the socket.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// What was called for. Where nothing was, its prefix is 0 and `data.reversed` holds the first bytes of the flow, as they
    /// were sent.
    pub called: Called,
    /// How many bytes the flow had begun with; of them as many as have room are there.
    pub began: u32,
    /// The process that connected the socket.
    pub pid: u32,
    /// Zero.
    pub pad: u32,
}

/// Data of the ranges' LPM trie. The padding keeps the value, which follows it in the trie's node, aligned.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct RangeData {
    /// See [`tag`].
    pub tag: u32,
    /// Canonical form.
    pub addr: Addr,
    /// Zero.
    pub pad: u32,
}

impl RangeData {
    /// Bits of a prefix that covers the tag and `bits` of the address.
    #[must_use]
    pub const fn prefix(bits: u32) -> u32 {
        32 + bits
    }
}

/// What a look-up finds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// The groups it belongs to; killed while any of them is.
    pub groups: Groups,
    /// Its number among the contract's entries, for `explain`.
    pub number: u32,
    /// [`Reason`](crate::Reason) as a number: 0 allows, anything else denies.
    pub reason: u8,
    /// See [`rule`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// Flags of a [`Rule`].
pub mod rule {
    /// A flow must begin with a TLS ClientHello for a name that the contract allows at its address and port.
    pub const TLS: u8 = 1;
    /// The ClientHello may be an encrypted one; its outer name is judged.
    pub const ECH: u8 = 2;
}

/// One end of a flow, as it is judged.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Endpoint {
    /// Canonical form.
    pub addr: Addr,
    /// Host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 if the address on the wire is a loopback address. In decisions [`INBOUND`] may be added.
    pub loopback: u8,
}

/// Of an [`Endpoint`] in a denial: others began the TCP flow, and the port is the job's own.
pub const INBOUND: u8 = 2;

/// The last verdict on a socket's flow, so that the next packet costs one comparison.
///
/// Two CPUs may work on one UDP socket at once. `sequence` is odd while a writer is at it; a reader that sees it odd or
/// changed judges afresh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Even: the rest is whole.
    pub sequence: u64,
    /// [`Host::generation`] under which it was judged; 0 for never.
    pub generation: u64,
    /// The earlier of the contract's and the token's expiry.
    pub deadline_ns: u64,
    /// `bpf_jiffies64` when the deadline was last compared with the clock.
    pub checked: u64,
    /// The other end.
    pub remote: Endpoint,
    /// Number of the rule that allowed it.
    pub rule: u32,
    /// The groups of that rule.
    pub groups: Groups,
    /// The socket's own port; 0 where it did not matter.
    pub local_port: u64,
}

/// What a socket carries from its creation to its end, and hands on to the sockets it accepts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    /// [`Job::key`] of the job that made it.
    pub key: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Slot of that job.
    pub job: u32,
    /// See [`stamp`].
    pub flags: u32,
    /// The resolver that it believes to ask; its port is 0 for none.
    pub resolver: Endpoint,
    /// The process that connected it last (TCP).
    pub pid: u32,
    /// The flow it last carried.
    pub flow: Flow,
}

/// Flags of a [`Stamp`].
pub mod stamp {
    /// It has connected (TCP): its peer is judged as a destination, never by a `listen` rule.
    pub const OUTGOING: u32 = 1;
    /// A kill met its flow: nothing passes until it connects anew, even if the group is restored.
    pub const DEAD: u32 = 2;
    /// Its ClientHello was judged and has arrived: what follows is not looked at.
    pub const GREETED: u32 = 4;
    /// Its flow must begin with a ClientHello.
    pub const GREETS: u32 = 8;
}

/// The beginning of a TLS flow, kept until the other end has it: whatever carries bytes of it must carry these.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// See [`greeting`]. One word with `first`, so that an answer to another flow of the socket's changes nothing.
    pub stage: u32,
    /// TCP sequence number of the flow's first byte.
    pub first: u32,
    /// TCP sequence number of the answer's first byte.
    pub answer: u32,
    /// How many bytes of it are here; those it began with, once it is refused.
    pub have: u32,
    /// The packet that was held last: where it began, and its length.
    pub held: [u32; 2],
    /// How often.
    pub holds: u32,
    /// How far it is read.
    pub reader: Reader,
    /// Its bytes.
    pub bytes: [u8; GREETING_BUFFER],
}

/// Stages of a [`Greeting`].
pub mod greeting {
    /// The ClientHello is being sent.
    pub const HELLO: u32 = 0;
    /// It is whole and judged; the server's answer is awaited, before which nothing else is sent.
    pub const SENT: u32 = 1;
    /// The server has asked for another ClientHello, which is being sent.
    pub const AGAIN: u32 = 2;
    /// The server has answered.
    pub const ANSWERED: u32 = 3;
    /// It is refused: this and the [`Reason`](crate::Reason) as a number.
    pub const REFUSED: u32 = 0x100;
}

/// Key of the decisions of an interval.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct DecisionKey {
    /// [`Job::key`]
    pub job_key: u64,
    /// [`PolicyHead::serial`]
    pub serial: u64,
    /// The other end; all zero where there is none, or the job has no room for more of them.
    pub remote: Endpoint,
    /// [`Reason`](crate::Reason) as a number.
    pub reason: u8,
    /// [`Hook`](crate::Hook) as a number.
    pub hook: u8,
    /// 1 if it passed although the reason denies (observe mode).
    pub observed: u8,
    /// Zero.
    pub pad: u8,
}

/// How often, when and by whom.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DecisionCount {
    /// How many times in the interval.
    pub count: u64,
    /// The first time: nanoseconds, CLOCK_BOOTTIME.
    pub first_ns: u64,
    /// The last time: nanoseconds, CLOCK_BOOTTIME.
    pub last_ns: u64,
    /// Cgroup of the first caller; 0 where the packet path has no caller.
    pub cgroup: u64,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Number of the rule that was found; `u32::MAX` for none.
    pub rule: u32,
    /// Where the key has no other end: how many other ends the same job has in the interval's table, about.
    pub destinations: u32,
    /// Its command name.
    pub comm: [u8; 16],
}

/// No rule: [`DecisionCount::rule`] where nothing was found.
pub const NO_RULE: u32 = u32::MAX;

/// The first denial of its kind in an interval, told at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// What was decided.
    pub key: DecisionKey,
    /// When and by whom; the count is 1.
    pub first: DecisionCount,
}

/// Counters of records that did not fit.
pub mod lost {
    /// An event found no room in the ring.
    pub const EVENT: u32 = 0;
    /// A decision was counted without its destination: the job, or the interval's table, has no room for more of them.
    pub const DESTINATION: u32 = 1;
    /// A decision could not be recorded at all; the per-agent counters have it.
    pub const DECISION: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

/// A stamped socket, as the sweep's iterator writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamped {
    /// `SO_COOKIE`
    pub cookie: u64,
    /// Its stamp.
    pub stamp: Stamp,
}

/// Both sides were built for these sizes.
const _: () = {
    assert!(size_of::<Host>() == 120);
    assert!(size_of::<Agent>() == 32);
    assert!(size_of::<Job>() == 88);
    assert!(size_of::<Connections>() == 16);
    assert!(size_of::<Tally>() == 104);
    assert!(size_of::<PolicyHead>() == 56);
    assert!(size_of::<ExactKey>() == 24);
    assert!(size_of::<RangeData>() == 24);
    assert!(size_of::<Rule>() == 40);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Flow>() == 96);
    assert!(size_of::<Stamp>() == 144);
    assert!(size_of::<DecisionKey>() == 40);
    assert!(size_of::<DecisionCount>() == 64);
    assert!(size_of::<Event>() == 104);
    assert!(size_of::<LearnedKey>() == 32);
    assert!(size_of::<Learned>() == 56);
    assert!(size_of::<NameData>() == 256);
    assert!(size_of::<Called>() == 260);
    assert!(size_of::<Talk>() == 320);
    assert!(size_of::<NameEvent>() == 336);
    assert!(size_of::<Greeting>() == 40 + GREETING_BUFFER);
    assert!(size_of::<Stamped>() == 152);
};
