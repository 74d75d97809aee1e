//! `iter/bpf_sk_storage_map`: lists every stamped socket of the host, in every network namespace.
//!
//! By the stamp and not by the cgroup, because a socket can outlive its cgroup. The context's layout is that of
//! `struct bpf_iter__bpf_sk_storage_map`:
//! <https://github.com/torvalds/linux/blob/v6.12/net/core/bpf_sk_storage.c#L690>.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
};
use clawguard_common::{Stamp, Stamped};

#[repr(C)]
pub(crate) struct Meta {
    seq: *mut seq_file,
}

#[repr(C)]
pub(crate) struct Context {
    meta: *mut Meta,
    map: *mut c_void,
    socket: *mut c_void,
    stamp: *const Stamp,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub(crate) fn sweep(ctx: *mut Context) -> i32 {
    // SAFETY: the verifier knows the context; a null socket or value marks the end.
    unsafe {
        let (socket, stamp, meta) = ((*ctx).socket, (*ctx).stamp, (*ctx).meta);
        if socket.is_null() || stamp.is_null() {
            return 0;
        }
        let found = Stamped { cookie: bpf_get_socket_cookie(socket), stamp: *stamp };
        bpf_seq_write((*meta).seq, ptr::from_ref(&found).cast(), size_of::<Stamped>() as u32);
    }
    0
}
