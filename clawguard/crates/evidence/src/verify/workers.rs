//! Work on all processors.

use std::{
    num::NonZero,
    thread::{self, Builder},
};

/// How many are worth it: one for every so many items, and no more than there are processors.
pub(super) fn count(items: usize, each: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(16);
    processors.min(items / each.max(1)).max(1)
}

/// Cuts items into as many pieces as there are workers. Answers what each made of its own, in the items' order.
pub(super) fn split<'a, T: Sync, R: Send>(
    items: &'a [T],
    workers: usize,
    work: &(dyn Fn(usize, &'a [T]) -> R + Sync),
) -> Vec<R> {
    let each = items.len().div_ceil(workers.max(1)).max(1);
    let pieces = items.chunks(each).enumerate().map(|(n, piece)| (n * each, piece));
    if workers < 2 {
        return pieces.map(|(first, piece)| work(first, piece)).collect();
    }
    thread::scope(|scope| {
        let started: Vec<_> = pieces
            .map(|(first, piece)| {
                let worker = Builder::new().spawn_scoped(scope, move || work(first, piece));
                (first, piece, worker.ok())
            })
            .collect();
        // A thread that there was no room for is done without.
        let ended = |(first, piece, worker): (usize, &'a [T], Option<thread::ScopedJoinHandle<'_, R>>)| {
            worker.and_then(|worker| worker.join().ok()).unwrap_or_else(|| work(first, piece))
        };
        started.into_iter().map(ended).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_in_its_order() {
        for items in [0, 1, 2, 7, 1000] {
            let items: Vec<usize> = (0..items).collect();
            for workers in [1, 2, 3, 16] {
                let made = split(&items, workers, &|first, piece| {
                    assert!(piece.iter().enumerate().all(|(i, item)| first + i == *item));
                    piece.to_vec()
                });
                assert_eq!(made.concat(), items, "{workers}");
            }
        }
        assert_eq!(count(100, 128), 1);
        assert!(count(10_000, 128) >= 1);
    }
}
