use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::held::Place;

/// Draws a sample in one pass: all critical events, and a weighted choice of the others without replacement
/// (Efraimidis and Spirakis, 2006: those with the largest `u^(1/weight)`, compared by logarithm).
///
/// The same seed and the same events in the same order give the same sample.
pub(super) struct Sampler {
    size: usize,
    random: Xoshiro256PlusPlus,
    critical: BTreeSet<Place>,
    others: BinaryHeap<Reverse<Ticket>>,
}

impl Sampler {
    pub(super) fn new(size: usize, seed: u64) -> Self {
        Self {
            size,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            critical: BTreeSet::new(),
            others: BinaryHeap::new(),
        }
    }

    /// Offers a critical event.
    pub(super) fn offer_critical(&mut self, place: Place) {
        self.critical.insert(place);
        if self.critical.len() > self.size {
            self.critical.pop_last();
        }
    }

    /// Offers another event. `place` is called only if the event is in the sample so far.
    pub(super) fn offer(&mut self, weight: f64, place: impl FnOnce() -> Place) {
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - self.random.random::<f64>();
        let draw = uniform.ln() / weight;
        let full = self.others.len() >= self.size;
        let beats = |worst: &Reverse<Ticket>| draw.total_cmp(&worst.0.draw) == Ordering::Greater;
        if full && !self.others.peek().is_some_and(beats) {
            return;
        }
        if full {
            self.others.pop();
        }
        self.others.push(Reverse(Ticket { draw, place: place() }));
    }

    /// Returns the sample, oldest first.
    pub(super) fn finish(self) -> Vec<Place> {
        let room = self.size - self.critical.len();
        // Ascending order of `Reverse`: best first.
        let others = self.others.into_sorted_vec();
        let mut sample: Vec<_> = self.critical.into_iter().collect();
        sample.extend(others.into_iter().take(room).map(|Reverse(ticket)| ticket.place));
        sample.sort_unstable();
        sample
    }
}

struct Ticket {
    draw: f64,
    place: Place,
}

impl Ord for Ticket {
    fn cmp(&self, other: &Self) -> Ordering {
        self.draw
            .total_cmp(&other.draw)
            .then_with(|| self.place.cmp(&other.place))
    }
}

impl PartialOrd for Ticket {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ticket {}
