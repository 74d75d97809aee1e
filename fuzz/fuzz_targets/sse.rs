//! However an event stream is cut, it says the same, no event is larger than the bound, and what is written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp::sse::{Decoder, Event, Flaw};

fn read(stream: &[u8], limit: usize, mut piece: impl FnMut() -> usize) -> (Vec<Event>, Result<u64, Flaw>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (next, later) = rest.split_at(piece().clamp(1, rest.len()));
        rest = later;
        match decoder.push(next) {
            Ok(more) => events.extend(more),
            Err(flaw) => return (events, Err(flaw)),
        }
    }
    // What comes after a flaw, even nothing, is answered by it.
    let ended = decoder.push(&[]).map(|more| assert!(more.is_empty()));
    (events, ended.map(|()| decoder.comments()))
}

fuzz_target!(|data: &[u8]| {
    // The first bytes say how large an event may be and how the others are cut.
    let [limit, cut, stream @ ..] = data else { return };
    let limit = usize::from(*limit) * 8 + 1;
    let whole = read(stream, limit, || usize::MAX);
    assert_eq!(read(stream, limit, || 1), whole);
    let mut state = u32::from(*cut);
    let pieces = || {
        state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        (state >> 24) as usize % 13
    };
    assert_eq!(read(stream, limit, pieces), whole);

    let (events, _) = whole;
    for event in &events {
        let size =
            event.data.len() + event.id.as_deref().map_or(0, str::len) + event.event.as_deref().map_or(0, str::len);
        assert!(size <= limit, "{size} bytes of at most {limit}");
    }
    let written: Vec<u8> = events.iter().flat_map(Event::to_bytes).collect();
    assert_eq!(read(&written, 1 << 20, || usize::MAX), (events, Ok(0)));
});
