//! The kernel programs, embedded.

/// Bytes at an address that the ELF parser can read words from.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/clawguard.bpf.o")));

/// The object file, or nothing if this build had no toolchain for it.
pub(crate) fn bytes() -> Option<&'static [u8]> {
    (!OBJECT.0.is_empty()).then_some(&OBJECT.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_object_is_aligned() {
        assert_eq!(super::OBJECT.0.as_ptr() as usize % 8, 0);
    }
}
