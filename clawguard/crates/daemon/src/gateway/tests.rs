//! What a channel takes of a gateway that means harm.

use super::*;

#[test]
fn questions_that_wait_have_so_many_bytes_and_no_more() {
    let waits = Arc::new(Semaphore::new(MOST_WAITING));
    let places: Vec<_> = std::iter::from_fn(|| place_to_wait(&waits, LONGEST)).take(100).collect();
    assert_eq!(places.len(), MOST_WAITING / LONGEST);
    drop(places);
    // As many as ever, of those that an honest one asks.
    let places: Vec<_> = std::iter::from_fn(|| place_to_wait(&waits, 700)).take(100_000).collect();
    assert_eq!(places.len(), 16_384);
}
