//! The same work by each of three ways in turn: directly, by nginx, by the gateway.

use crate::{Line, median};

/// Figures of one kind of callers, by way and round.
#[derive(Default)]
pub(crate) struct Ways([Vec<Vec<f64>>; 3]);

impl Ways {
    /// One round, its ways in another order each time.
    pub(crate) fn round(&mut self, number: usize, by: impl Fn(usize) -> Vec<f64>) {
        let mut order = [0, 1, 2];
        order.rotate_left(number % 3);
        for way in order {
            self.0[way].push(by(way));
        }
    }

    pub(crate) fn of(&self, way: usize, figure: usize) -> f64 {
        median(&mut self.0[way].iter().map(|round| round[figure]).collect::<Vec<_>>())
    }

    /// What nginx and the gateway make of a figure that it is directly: within a round, then the median of the rounds.
    fn against(&self, figure: usize, compare: impl Fn(f64, f64) -> f64) -> [f64; 2] {
        [1, 2].map(|way| {
            let pairs = self.0[way].iter().zip(&self.0[0]);
            median(&mut pairs.map(|(by, directly)| compare(by[figure], directly[figure])).collect::<Vec<_>>())
        })
    }

    /// Microseconds, of nanoseconds, that nginx and the gateway add.
    pub(crate) fn added(&self, figure: usize) -> [f64; 2] {
        self.against(figure, |by, directly| (by - directly) / 1e3)
    }

    /// Percent of the direct figure that nginx and the gateway reach.
    pub(crate) fn share(&self, figure: usize) -> [f64; 2] {
        self.against(figure, |by, directly| 100.0 * by / directly)
    }

    pub(crate) fn line(&self, what: &str, figure: usize, promised: &'static str, most: impl Fn(f64) -> f64) -> Line {
        let [nginx, gateway] = self.added(figure);
        let directly = self.of(0, figure) / 1e3;
        Line::new(
            format!("added to {what}"),
            format!("{gateway:.0} us; nginx {nginx:.0} us; ratio {:.1}; directly {directly:.0} us", gateway / nginx),
            promised,
            gateway <= most(nginx),
        )
    }
}
