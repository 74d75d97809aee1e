//! The maps, opened and typed.

use std::{io, os::fd::OwnedFd, path::Path};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use clawguard_common::{
    Agent, Called, Cgroup, Connections, DecisionCount, DecisionKey, EVENT_RING_BYTES, ExactKey, Greeting, Groups, Host,
    Job, Learned, LearnedKey, MAX_AGENTS, MAX_CGROUPS, MAX_DECISIONS, MAX_JOBS, MAX_LEARNED, MAX_POLICIES, PolicyHead,
    REASONS, RangeData, Rule, Stamp, Talk, Tally, guard, lost,
};
use sys::{
    bpf::{self, MapShape},
    mapped::Words,
};

use crate::Error;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

const F_NO_PREALLOC: u32 = 1;
const F_CLONE: u32 = 1 << 9;
const F_MMAPABLE: u32 = 1 << 10;

const fn shape(kind: u32, key_size: usize, value_size: usize, max_entries: u32, flags: u32) -> MapShape {
    MapShape { kind, key_size: key_size as u32, value_size: value_size as u32, max_entries, flags }
}

/// What the maps of this ABI look like, by name: what a pin is compared with before it is used again.
pub(crate) const SHAPES: [(&str, MapShape); 19] = [
    ("HOST", shape(ARRAY, 4, size_of::<Host>(), 1, F_MMAPABLE)),
    ("AGENTS", shape(ARRAY, 4, size_of::<Agent>(), MAX_AGENTS, F_MMAPABLE)),
    ("JOBS", shape(ARRAY, 4, size_of::<Job>(), MAX_JOBS, F_MMAPABLE)),
    ("TALLIES", shape(ARRAY, 4, size_of::<Tally>(), MAX_JOBS, F_MMAPABLE)),
    ("CONNECTIONS", shape(ARRAY, 4, size_of::<Connections>(), MAX_JOBS, F_MMAPABLE)),
    ("POLICIES", shape(ARRAY, 4, size_of::<PolicyHead>(), MAX_POLICIES, F_MMAPABLE)),
    ("CGROUPS", shape(HASH, 8, size_of::<Cgroup>(), MAX_CGROUPS, 0)),
    ("EXACT", shape(ARRAY_OF_MAPS, 4, 4, MAX_POLICIES, 0)),
    ("RANGES", shape(ARRAY_OF_MAPS, 4, 4, MAX_POLICIES, 0)),
    ("NAMES", shape(ARRAY_OF_MAPS, 4, 4, MAX_POLICIES, 0)),
    ("LEARNED", shape(HASH, size_of::<LearnedKey>(), size_of::<Learned>(), MAX_LEARNED, F_NO_PREALLOC)),
    ("CALLERS", shape(ARRAY, 4, 8, guard::MAX_CALLERS, 0)),
    ("DECISIONS", shape(ARRAY_OF_MAPS, 4, 4, 1, 0)),
    ("TOTALS", shape(PERCPU_ARRAY, 4, 8, MAX_AGENTS * REASONS as u32 * 2, 0)),
    ("LOST", shape(PERCPU_ARRAY, 4, 8, lost::COUNT, 0)),
    ("EVENTS", shape(RINGBUF, 0, 0, EVENT_RING_BYTES, 0)),
    ("STAMPS", shape(SK_STORAGE, 4, size_of::<Stamp>(), 0, F_NO_PREALLOC | F_CLONE)),
    ("GREETINGS", shape(SK_STORAGE, 4, size_of::<Greeting>(), 0, F_NO_PREALLOC)),
    ("TALKS", shape(SK_STORAGE, 4, size_of::<Talk>(), 0, F_NO_PREALLOC)),
];

/// Makes a map for a contract's exact addresses.
pub(crate) fn new_exact(entries: u32) -> io::Result<OwnedFd> {
    bpf::map_create(shape(HASH, size_of::<ExactKey>(), size_of::<Rule>(), entries.max(1), 0), "cg_exact")
}

/// Makes a map for a contract's ranges.
pub(crate) fn new_ranges(entries: u32) -> io::Result<OwnedFd> {
    let key = 4 + size_of::<RangeData>();
    bpf::map_create(shape(LPM_TRIE, key, size_of::<Rule>(), entries.max(1), F_NO_PREALLOC), "cg_ranges")
}

/// Makes a map for a contract's names.
pub(crate) fn new_names(entries: u32) -> io::Result<OwnedFd> {
    bpf::map_create(shape(LPM_TRIE, size_of::<Called>(), size_of::<Rule>(), entries.max(1), F_NO_PREALLOC), "cg_names")
}

/// Makes a map for an interval's decisions.
pub(crate) fn new_decisions() -> io::Result<OwnedFd> {
    let shape = shape(HASH, size_of::<DecisionKey>(), size_of::<DecisionCount>(), MAX_DECISIONS, 0);
    bpf::map_create(shape, "cg_decisions")
}

/// One array of `T`s, whose words are in this process's memory.
pub(crate) struct Table<T> {
    words: Words,
    map: MapData,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    fn open(map: MapData, entries: u32) -> io::Result<Self> {
        let words = Words::new(map.fd(), size_of::<T>() * entries as usize)?;
        Ok(Self { words, map, of: std::marker::PhantomData })
    }

    /// The same memory once more, for another thread.
    pub(crate) fn again(&self, entries: u32) -> io::Result<Words> {
        Words::new(self.map.fd(), size_of::<T>() * entries as usize)
    }

    /// Reads a whole record by a system call: another way than the one by which it was written.
    pub(crate) fn read_back(&self, slot: u32) -> io::Result<T>
    where
        T: bpf::Plain + Default,
    {
        bpf::map_lookup(self.map.fd(), &slot)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn index(slot: u32, offset: usize) -> usize {
        (slot as usize * size_of::<T>() + offset) / 8
    }

    /// Reads the word of a record that lies `offset` bytes from its start.
    pub(crate) fn get(&self, slot: u32, offset: usize) -> u64 {
        self.words.load(Self::index(slot, offset))
    }

    /// Writes it.
    pub(crate) fn set(&self, slot: u32, offset: usize, value: u64) {
        self.words.store(Self::index(slot, offset), value);
    }

    /// Adds to it.
    pub(crate) fn add(&self, slot: u32, offset: usize, by: u64) -> u64 {
        self.words.add(Self::index(slot, offset), by)
    }

    /// Writes a set of groups, word by word.
    pub(crate) fn set_groups(&self, slot: u32, offset: usize, groups: &Groups) {
        for (i, word) in groups.0.iter().enumerate() {
            self.set(slot, offset + 8 * i, *word);
        }
    }
}

/// All maps of a loaded fence.
pub(crate) struct Maps {
    pub(crate) host: Table<Host>,
    pub(crate) agents: Table<Agent>,
    pub(crate) jobs: Table<Job>,
    pub(crate) tallies: Table<Tally>,
    pub(crate) connections: Table<Connections>,
    pub(crate) policies: Table<PolicyHead>,
    pub(crate) cgroups: MapData,
    pub(crate) exact: MapData,
    pub(crate) ranges: MapData,
    pub(crate) names: MapData,
    pub(crate) learned: MapData,
    pub(crate) callers: MapData,
    pub(crate) decisions: MapData,
    pub(crate) totals: MapData,
    pub(crate) lost: MapData,
    pub(crate) events: RingBuf<MapData>,
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut take = |name: &'static str| -> Result<MapData, Error> {
            match ebpf.take_map(name).ok_or(Error::ObjectLacks(name))? {
                Map::Array(map)
                | Map::HashMap(map)
                | Map::ArrayOfMaps(map)
                | Map::PerCpuArray(map)
                | Map::RingBuf(map)
                | Map::SkStorage(map) => Ok(map),
                _ => Err(Error::ObjectLacks(name)),
            }
        };
        let mapped = |source| Error::System { what: "map the fence's state into memory", source };
        let events = RingBuf::try_from(Map::RingBuf(take("EVENTS")?)).map_err(|source| Error::Load(source.into()))?;
        Ok(Self {
            host: Table::open(take("HOST")?, 1).map_err(mapped)?,
            agents: Table::open(take("AGENTS")?, MAX_AGENTS).map_err(mapped)?,
            jobs: Table::open(take("JOBS")?, MAX_JOBS).map_err(mapped)?,
            tallies: Table::open(take("TALLIES")?, MAX_JOBS).map_err(mapped)?,
            connections: Table::open(take("CONNECTIONS")?, MAX_JOBS).map_err(mapped)?,
            policies: Table::open(take("POLICIES")?, MAX_POLICIES).map_err(mapped)?,
            cgroups: take("CGROUPS")?,
            exact: take("EXACT")?,
            ranges: take("RANGES")?,
            names: take("NAMES")?,
            learned: take("LEARNED")?,
            callers: take("CALLERS")?,
            decisions: take("DECISIONS")?,
            totals: take("TOTALS")?,
            lost: take("LOST")?,
            events,
        })
    }
}

/// Compares the pinned maps with what this build expects. `Ok(false)`: there are none.
pub(crate) fn pinned(directory: &Path) -> Result<bool, Error> {
    let mut present = 0;
    for (name, expected) in SHAPES {
        let path = directory.join(name);
        match bpf::pinned(&path) {
            Ok(map) => {
                let found =
                    bpf::map_shape(&map).map_err(|source| Error::System { what: "ask about a pinned map", source })?;
                if found != expected {
                    return Err(Error::Shape { path, found, expected });
                }
                present += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::System { what: "open a pinned map", source }),
        }
    }
    match present {
        0 => Ok(false),
        n if n == SHAPES.len() => Ok(true),
        _ => Err(Error::Incomplete { path: directory.to_owned() }),
    }
}
