//! bpf(2), where `aya` has no call: links of every cgroup kind by one path, their atomic update, pins, batches.
//!
//! Field offsets are those of `union bpf_attr`:
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L1466>.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::check;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const MAP_UPDATE_BATCH: i32 = 26;
const MAP_LOOKUP_BATCH: i32 = 24;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const ITER_CREATE: i32 = 33;
const LINK_DETACH: i32 = 34;

const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_TRACE_ITER: u32 = 28;

/// What a link attaches to (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_INET_INGRESS`
    Ingress = 0,
    /// `BPF_CGROUP_INET_EGRESS`
    Egress = 1,
    /// `BPF_CGROUP_INET_SOCK_CREATE`
    SockCreate = 2,
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6 = 11,
    /// `BPF_CGROUP_UDP4_SENDMSG`
    Sendmsg4 = 14,
    /// `BPF_CGROUP_UDP6_SENDMSG`
    Sendmsg6 = 15,
    /// `BPF_CGROUP_UDP4_RECVMSG`
    Recvmsg4 = 19,
    /// `BPF_CGROUP_UDP6_RECVMSG`
    Recvmsg6 = 20,
    /// `BPF_CGROUP_SETSOCKOPT`
    Setsockopt = 22,
    /// `BPF_CGROUP_INET4_GETPEERNAME`
    Getpeername4 = 29,
    /// `BPF_CGROUP_INET6_GETPEERNAME`
    Getpeername6 = 30,
}

/// Calls bpf(2). `attributes` is one of the structures below, whose pointers are live.
unsafe fn call<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the caller's promise; the size is the structure's own, and what the kernel knows beyond it is taken as 0.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}

/// The same for commands that answer a new descriptor.
unsafe fn open<T>(command: i32, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the descriptor is new and nobody else's.
    unsafe {
        let fd = call(command, attributes)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
}

/// Runs a raw tracepoint's program once, as this task, with these arguments; answers what it returned.
///
/// # Errors
///
/// If the kernel refuses.
pub fn run_raw_tracepoint(program: impl AsFd, arguments: &[u64]) -> io::Result<u32> {
    let mut attributes = TestRun {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        ctx_size_in: size_of_val(arguments) as u32,
        ctx_in: arguments.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the arguments live until the call returns.
    unsafe { call(PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.retval)
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

/// Attaches a program to a cgroup by a link. Other programs of the same kind stay where they are.
///
/// # Errors
///
/// EPERM where a program holds the hook for itself alone (attached without `BPF_F_ALLOW_MULTI`).
pub fn link_create(program: impl AsFd, cgroup: impl AsFd, kind: AttachType) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: kind as u32,
        flags: 0,
        iter_info: 0,
        iter_info_len: 0,
        pad: 0,
    };
    // SAFETY: no pointers.
    unsafe { open(LINK_CREATE, &mut attributes) }
}

#[repr(C)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    pad: u32,
    cookie: u64,
}

/// Attaches a program to a tracepoint of the kernel's, by a link. (Such a link takes no other program later, and is detached by
/// closing and unpinning it alone.)
///
/// # Errors
///
/// ENOENT if this kernel has no tracepoint of that name; EPERM where programs may not trace.
pub fn raw_tracepoint(program: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let name = path(Path::new(name))?;
    let mut attributes =
        RawTracepoint { name: name.as_ptr() as u64, prog_fd: program.as_fd().as_raw_fd() as u32, pad: 0, cookie: 0 };
    // SAFETY: the name lives until the call returns.
    unsafe { open(RAW_TRACEPOINT_OPEN, &mut attributes) }
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts another program behind a link, atomically: no packet sees none or both.
///
/// With `expected`, only if that program is behind it now.
///
/// # Errors
///
/// ENOLINK if the link's cgroup is gone.
pub fn link_update(link: impl AsFd, program: impl AsFd, expected: Option<&OwnedFd>) -> io::Result<()> {
    let mut attributes = LinkUpdate {
        link_fd: link.as_fd().as_raw_fd() as u32,
        new_prog_fd: program.as_fd().as_raw_fd() as u32,
        flags: if expected.is_some() { BPF_F_REPLACE } else { 0 },
        old_prog_fd: expected.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: no pointers.
    unsafe { call(LINK_UPDATE, &mut attributes) }?;
    Ok(())
}

/// Detaches a link now. (Closing its last descriptor may detach it a moment later.)
///
/// # Errors
///
/// If the kernel refuses.
pub fn link_detach(link: impl AsFd) -> io::Result<()> {
    let mut attributes = link.as_fd().as_raw_fd() as u32;
    // SAFETY: no pointers.
    unsafe { call(LINK_DETACH, &mut attributes) }?;
    Ok(())
}

#[repr(C)]
struct Obj {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a map, program or link on a bpffs.
///
/// # Errors
///
/// EEXIST if the path is taken.
pub fn pin(object: impl AsFd, at: &Path) -> io::Result<()> {
    let at = path(at)?;
    let mut attributes = Obj { pathname: at.as_ptr() as u64, bpf_fd: object.as_fd().as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: `at` lives until the call returns.
    unsafe { call(OBJ_PIN, &mut attributes) }?;
    Ok(())
}

/// Opens a pinned object.
///
/// # Errors
///
/// ENOENT if nothing is pinned there.
pub fn pinned(at: &Path) -> io::Result<OwnedFd> {
    let at = path(at)?;
    let mut attributes = Obj { pathname: at.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `at` lives until the call returns.
    unsafe { open(OBJ_GET, &mut attributes) }
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens a loaded program by its id.
///
/// # Errors
///
/// ENOENT if it is no longer loaded.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: no pointers.
    unsafe { open(PROG_GET_FD_BY_ID, &mut attributes) }
}

/// Opens a map by its id, as an array of maps tells it.
///
/// # Errors
///
/// ENOENT if it is gone.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: no pointers.
    unsafe { open(MAP_GET_FD_BY_ID, &mut attributes) }
}

#[repr(C)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn info<T>(object: impl AsFd, into: &mut T) -> io::Result<()> {
    let mut attributes = Info {
        bpf_fd: object.as_fd().as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(into) as u64,
    };
    // SAFETY: `into` is plain integers, lives until the call returns and is as long as said.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(())
}

#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    tail: u32,
}

#[repr(C)]
#[derive(Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
}

/// A program's id.
///
/// # Errors
///
/// If the descriptor is no program.
pub fn program_id(program: impl AsFd) -> io::Result<u32> {
    let mut raw = RawProgramInfo::default();
    info(program, &mut raw)?;
    Ok(raw.id)
}

/// A hash of a program's instructions: what two programs have in common that do the same.
///
/// # Errors
///
/// If the descriptor is no program.
pub fn program_tag(program: impl AsFd) -> io::Result<[u8; 8]> {
    let mut raw = RawProgramInfo::default();
    info(program, &mut raw)?;
    Ok(raw.tag)
}

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The program behind it.
    pub program: u32,
    /// The cgroup it is attached to; 0 once that is gone.
    pub cgroup: u64,
    /// `enum bpf_attach_type`
    pub attach_type: u32,
}

/// Asks about a cgroup link.
///
/// # Errors
///
/// If the descriptor is no link.
pub fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    let mut raw = RawLinkInfo::default();
    info(link, &mut raw)?;
    Ok(LinkInfo { program: raw.prog_id, cgroup: raw.cgroup_id, attach_type: raw.attach_type })
}

#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
}

/// What a map looks like: two maps of one shape can stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// `enum bpf_map_type`
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many entries it can have.
    pub max_entries: u32,
    /// `BPF_F_*`
    pub flags: u32,
}

/// Asks for a map's shape.
///
/// # Errors
///
/// If the descriptor is no map.
pub fn map_shape(map: impl AsFd) -> io::Result<MapShape> {
    let mut raw = RawMapInfo::default();
    info(map, &mut raw)?;
    Ok(MapShape {
        kind: raw.kind,
        key_size: raw.key_size,
        value_size: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.map_flags,
    })
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Makes a map of a shape. The name is for those who list maps; at most 15 bytes of it are used.
///
/// # Errors
///
/// If the kernel refuses the shape or has no memory.
pub fn map_create(shape: MapShape, name: &str) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: shape.kind,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        map_flags: shape.flags,
        inner_map_fd: 0,
        numa_node: 0,
        name: [0; 16],
    };
    for (to, from) in attributes.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    // SAFETY: no pointers.
    unsafe { open(MAP_CREATE, &mut attributes) }
}

/// Plain old data: any bytes are a value, and there is no padding to leak.
///
/// # Safety
///
/// The type is `repr(C)`, `Copy`, without padding, pointers or values that some bytes would not be.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// The kernel's records are plain: `clawguard-common` asserts their sizes, which are those of their fields.
mod records {
    use clawguard_common::{
        Agent, Called, Cgroup, Connections, DecisionCount, DecisionKey, Event, ExactKey, Host, Job, Learned,
        LearnedKey, NameEvent, PolicyHead, RangeData, Rule, Stamped,
    };

    use super::Plain;

    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Host {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Agent {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Job {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Connections {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for PolicyHead {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Cgroup {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for DecisionKey {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for DecisionCount {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Event {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for ExactKey {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Rule {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Stamped {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for LearnedKey {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Learned {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for Called {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for NameEvent {}
    // SAFETY: words and bytes without padding.
    unsafe impl Plain for RangeKey {}

    /// Key of an LPM trie over [`RangeData`], as the kernel wants it: the prefix length, then the data.
    #[repr(C)]
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RangeKey {
        /// Bits that count.
        pub prefix: u32,
        /// What is matched.
        pub data: RangeData,
    }

    const _: () = assert!(size_of::<RangeKey>() == 28);
}
pub use records::RangeKey;

#[repr(C)]
struct Elem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Puts one entry into a map. Into an array of maps, the value is a descriptor and the call returns only once no program
/// uses the map that was there before.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c#L144>
///
/// # Errors
///
/// E2BIG if the map is full.
pub fn map_update<K: Plain, V: Plain>(map: impl AsFd, key: &K, value: &V) -> io::Result<()> {
    let mut attributes = Elem {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    // SAFETY: both live until the call returns. Their sizes are the map's, which the fence compares when it opens one.
    unsafe { call(MAP_UPDATE_ELEM, &mut attributes) }?;
    Ok(())
}

/// Takes one entry out of a map; one that is not there is no error.
///
/// # Errors
///
/// If the kernel refuses.
pub fn map_delete<K: Plain>(map: impl AsFd, key: &K) -> io::Result<()> {
    let mut attributes = Elem {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: as for `map_update`.
    match unsafe { call(MAP_DELETE_ELEM, &mut attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Reads one entry of a map whose values are plain.
///
/// # Errors
///
/// If the kernel refuses. A missing entry is `None`.
pub fn map_lookup<K: Plain, V: Plain + Default>(map: impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attributes = Elem {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: as for `map_update`.
    match unsafe { call(MAP_LOOKUP_ELEM, &mut attributes) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one entry of a per-CPU map and adds it up over the CPUs. `cpus` is the number of possible ones.
///
/// # Errors
///
/// If the kernel refuses.
pub fn per_cpu_sum(map: impl AsFd, key: u32, cpus: usize) -> io::Result<u64> {
    let mut values = vec![0_u64; cpus];
    let mut attributes = Elem {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: values.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel writes one word for each possible CPU, for which there is room.
    unsafe { call(MAP_LOOKUP_ELEM, &mut attributes) }?;
    Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
}

/// The keys of a map, for one that nobody fills meanwhile.
///
/// # Errors
///
/// If the kernel refuses.
pub fn map_keys<K: Plain + Default>(map: impl AsFd) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    loop {
        let mut next = K::default();
        let mut attributes = Elem {
            map_fd: map.as_fd().as_raw_fd() as u32,
            pad: 0,
            key: keys.last().map_or(0, |key| std::ptr::from_ref(key) as u64),
            value: std::ptr::from_mut(&mut next) as u64,
            flags: 0,
        };
        // SAFETY: as for `map_update`.
        match unsafe { call(MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => keys.push(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Puts many entries into a map with one system call.
///
/// # Errors
///
/// E2BIG if the map is full; entries before the failing one are in.
pub fn map_update_batch<K: Plain, V: Plain>(map: impl AsFd, keys: &[K], values: &[V]) -> io::Result<()> {
    if keys.len() != values.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut done = 0;
    while done < keys.len() {
        let mut attributes = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys[done..].as_ptr() as u64,
            values: values[done..].as_ptr() as u64,
            count: (keys.len() - done) as u32,
            map_fd: map.as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: both slices live until the call returns and are `count` long.
        unsafe { call(MAP_UPDATE_BATCH, &mut attributes) }?;
        if attributes.count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += attributes.count as usize;
    }
    Ok(())
}

/// Reads all entries of a hash map that nobody changes meanwhile.
///
/// # Errors
///
/// If the kernel refuses.
pub fn map_entries<K: Plain + Default, V: Plain + Default>(map: impl AsFd) -> io::Result<Vec<(K, V)>> {
    const AT_ONCE: usize = 4096;
    let mut found = Vec::new();
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut keys = vec![K::default(); AT_ONCE];
        let mut values = vec![V::default(); AT_ONCE];
        let mut attributes = Batch {
            in_batch: if first { 0 } else { std::ptr::from_ref(&from) as u64 },
            out_batch: std::ptr::from_mut(&mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map_fd: map.as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: both vectors and both positions live until the call returns; a hash's position is a u32.
        let answer = unsafe { call(MAP_LOOKUP_BATCH, &mut attributes) };
        let last = match answer {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = (attributes.count as usize).min(AT_ONCE);
        found.extend(keys.into_iter().zip(values).take(count));
        if last {
            return Ok(found);
        }
        first = false;
        from = to;
    }
}

/// Runs an iterator program over all that its kind of iterator has; what the program writes is read from the file.
///
/// # Errors
///
/// If the kernel refuses.
pub fn iterate(program: impl AsFd) -> io::Result<File> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info: 0,
        iter_info_len: 0,
        pad: 0,
    };
    // SAFETY: no pointers.
    let link = unsafe { open(LINK_CREATE, &mut attributes) }?;
    let mut attributes = [link.as_raw_fd() as u32, 0];
    // SAFETY: no pointers.
    Ok(File::from(unsafe { open(ITER_CREATE, &mut attributes) }?))
}

/// Reads `T`s from an iterator's file to its end.
///
/// # Errors
///
/// If reading fails, or the program wrote half a record.
pub fn read_all<T: Plain>(file: &mut File) -> io::Result<Vec<T>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    if bytes.len() % size_of::<T>() != 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes
        .chunks_exact(size_of::<T>())
        .map(|chunk| {
            // SAFETY: the chunk is as long as a `T`, of which any bytes are a value.
            unsafe { chunk.as_ptr().cast::<T>().read_unaligned() }
        })
        .collect())
}

/// Reads one `T` from the front of some bytes.
#[must_use]
pub fn read_one<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the bytes are at least as long as a `T`, of which any bytes are a value.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// How many CPUs the kernel keeps per-CPU values for (`/sys/devices/system/cpu/possible`).
///
/// # Errors
///
/// If the file cannot be read or understood.
pub fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    text.trim()
        .rsplit([',', '-'])
        .next()
        .and_then(|last| last.parse::<usize>().ok())
        .map(|last| last + 1)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
