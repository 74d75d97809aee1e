//! The maps. Their names are the pins' names.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, RingBuf},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use clawguard_common::{
    Agent, Cgroup, Connections, DecisionCount, DecisionKey, EVENT_RING_BYTES, Event, ExactKey, Greeting, Host, Job,
    Learned, LearnedKey, MAX_AGENTS, MAX_CGROUPS, MAX_DECISIONS, MAX_JOBS, MAX_LEARNED, MAX_POLICIES, NameData,
    PolicyHead, REASONS, RangeData, Rule, Stamp, Talk, Tally, guard, lost,
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// The host's switch and generation; one record.
#[btf_map]
pub(crate) static HOST: Array<Host, 1, MAPPED> = Array::new();

/// The agents' switches.
#[btf_map]
pub(crate) static AGENTS: Array<Agent, { MAX_AGENTS as usize }, MAPPED> = Array::new();

/// The jobs.
#[btf_map]
pub(crate) static JOBS: Array<Job, { MAX_JOBS as usize }, MAPPED> = Array::new();

/// What the jobs did.
#[btf_map]
pub(crate) static TALLIES: Array<Tally, { MAX_JOBS as usize }, MAPPED> = Array::new();

/// What is counted of the jobs' connections.
#[btf_map]
pub(crate) static CONNECTIONS: Array<Connections, { MAX_JOBS as usize }, MAPPED> = Array::new();

/// The contracts in force.
#[btf_map]
pub(crate) static POLICIES: Array<PolicyHead, { MAX_POLICIES as usize }, MAPPED> = Array::new();

/// Managed cgroups by id.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, Cgroup, { MAX_CGROUPS as usize }> = HashMap::new();

pub(crate) type Exact = HashMap<ExactKey, Rule, 1>;
pub(crate) type Ranges = LpmTrie<RangeData, Rule, 1>;
pub(crate) type Names = LpmTrie<NameData, Rule, 1>;
pub(crate) type Decisions = HashMap<DecisionKey, DecisionCount, { MAX_DECISIONS as usize }>;

/// Exact addresses, by contract slot.
#[btf_map]
pub(crate) static EXACT: ArrayOfMaps<Exact, { MAX_POLICIES as usize }> = ArrayOfMaps::new();

/// Ranges and `listen` rules, by contract slot.
#[btf_map]
pub(crate) static RANGES: ArrayOfMaps<Ranges, { MAX_POLICIES as usize }> = ArrayOfMaps::new();

/// Names, by contract slot.
#[btf_map]
pub(crate) static NAMES: ArrayOfMaps<Names, { MAX_POLICIES as usize }> = ArrayOfMaps::new();

/// Addresses that answers to DNS questions opened.
#[btf_map]
pub(crate) static LEARNED: HashMap<LearnedKey, Learned, { MAX_LEARNED as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Which job asked last from each port of `::1`.
#[btf_map]
pub(crate) static CALLERS: Array<u64, { guard::MAX_CALLERS as usize }> = Array::new();

/// The interval's decisions: one map, which userspace swaps for an empty one to read it.
#[btf_map]
pub(crate) static DECISIONS: ArrayOfMaps<Decisions, 1> = ArrayOfMaps::new();

/// Counts by agent, reason and whether it passed all the same; exact, whatever else overflows.
#[btf_map]
pub(crate) static TOTALS: PerCpuArray<u64, { MAX_AGENTS as usize * REASONS * 2 }> = PerCpuArray::new();

/// Counts of records that did not fit.
#[btf_map]
pub(crate) static LOST: PerCpuArray<u64, { lost::COUNT as usize }> = PerCpuArray::new();

/// First denials of their kind.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

/// The sockets' stamps.
#[btf_map]
pub(crate) static STAMPS: Storage<Stamp, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> = Storage::new();

/// How TLS flows begin, until they have begun.
#[btf_map]
pub(crate) static GREETINGS: Storage<Greeting, { BPF_F_NO_PREALLOC as usize }> = Storage::new();

/// What TLS flows have said.
#[btf_map]
pub(crate) static TALKS: Storage<Talk, { BPF_F_NO_PREALLOC as usize }> = Storage::new();

/// Socket storage. `aya_ebpf`'s own type cannot set `BPF_F_CLONE`, by which values are cloned to accepted sockets.
#[repr(C)]
pub(crate) struct Storage<T, const FLAGS: usize> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only describe the map to the loader; no program reads them.
unsafe impl<T, const FLAGS: usize> Sync for Storage<T, FLAGS> {}

impl<T, const FLAGS: usize> Storage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    const fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// What a socket has stored.
    ///
    /// # Safety
    ///
    /// `socket` is a socket pointer that the verifier knows not to be null.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, socket: *mut c_void) -> Option<&'static mut T> {
        // SAFETY: the caller's promise; the helper answers null or a value that lives as long as the program runs.
        unsafe { bpf_sk_storage_get(self.as_ptr(), socket, ptr::null_mut(), 0).cast::<T>().as_mut() }
    }

    /// What a socket has stored; zero bytes if it had nothing. `None` if there is no memory for it.
    ///
    /// # Safety
    ///
    /// As for [`Storage::get`]; zero bytes are a `T`.
    #[inline(always)]
    pub(crate) unsafe fn get_or_make(&self, socket: *mut c_void) -> Option<&'static mut T> {
        let make = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the caller's promise.
        unsafe { bpf_sk_storage_get(self.as_ptr(), socket, ptr::null_mut(), make).cast::<T>().as_mut() }
    }

    /// Stores something; answers whether the socket has it now.
    ///
    /// # Safety
    ///
    /// As for [`Storage::get`].
    #[inline(always)]
    pub(crate) unsafe fn put(&self, socket: *mut c_void, value: &mut T) -> bool {
        let make = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the caller's promise; `value` is as long as the map's value.
        let found = unsafe { bpf_sk_storage_get(self.as_ptr(), socket, ptr::from_mut(value).cast(), make) };
        !found.is_null()
    }

    /// Takes what a socket has stored away.
    ///
    /// # Safety
    ///
    /// As for [`Storage::get`].
    #[inline(always)]
    pub(crate) unsafe fn remove(&self, socket: *mut c_void) {
        // SAFETY: the caller's promise. Nothing stored is nothing to be taken away.
        unsafe { bpf_sk_storage_delete(self.as_ptr(), socket) };
    }
}

/// Adds to a counter that no other CPU writes.
#[inline(always)]
pub(crate) fn count_lost(source: u32) {
    if let Some(counter) = LOST.get_ptr_mut(source) {
        // SAFETY: a per-CPU slot, which lives as long as the map.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
