//! `iter/tcp` and `iter/udp`: list the stamped sockets of the network namespace in which they are opened.
//!
//! By the stamp and not by the cgroup, because a socket can outlive its cgroup. The kernel has an iterator over the stamps themselves,
//! `bpf_sk_storage_map`, which would list those of all namespaces at once; but there are kernels that refuse it (docs/KERNEL.md).
//! The contexts' layouts are those of `struct bpf_iter__tcp` and `struct bpf_iter__udp`:
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L3010>,
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/udp.c#L3384>.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
};
use clawguard_common::{Stamp, Stamped};

use crate::maps::STAMPS;

#[repr(C)]
pub(crate) struct Meta {
    seq: *mut seq_file,
}

/// What both kinds begin with.
#[repr(C)]
pub(crate) struct Context {
    meta: *mut Meta,
    socket: *mut c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub(crate) fn sweep_tcp(ctx: *mut Context) -> i32 {
    sweep(ctx)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub(crate) fn sweep_udp(ctx: *mut Context) -> i32 {
    sweep(ctx)
}

#[inline(always)]
fn sweep(ctx: *mut Context) -> i32 {
    // SAFETY: the verifier knows the context; a null socket marks the end. A socket that has no stamp, or is not whole yet, has
    // nothing in the storage.
    unsafe {
        let (socket, meta) = ((*ctx).socket, (*ctx).meta);
        if socket.is_null() {
            return 0;
        }
        let stamp: *const Stamp = match STAMPS.get(socket.cast()) {
            Some(stamp) => ptr::from_ref(stamp),
            None => return 0,
        };
        let found = Stamped { cookie: bpf_get_socket_cookie(socket), stamp: *stamp };
        bpf_seq_write((*meta).seq, ptr::from_ref(&found).cast(), size_of::<Stamped>() as u32);
    }
    0
}
