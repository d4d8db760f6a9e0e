use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::super::{Gossip, Input, Output, Ring, RingPosition, passes_on};
use super::nara::{Entry, Nara, Subscription};
use super::{EventReport, Plan, Report};

/// A scheduled event of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A nara's timer fires.
    Tick(usize),
    /// A request for a stream reaches its publisher.
    Request {
        subscriber: usize,
        publisher: usize,
        stream: u64,
    },
    /// The head of a stream reaches its subscriber.
    Head {
        subscriber: usize,
        publisher: usize,
        stream: u64,
    },
    /// An event reaches a subscriber; `position` is its position in the publisher's ledger.
    Event {
        subscriber: usize,
        publisher: usize,
        stream: u64,
        position: usize,
    },
    /// A publisher learns that a subscriber has left.
    Farewell {
        subscriber: usize,
        publisher: usize,
        stream: u64,
    },
    /// A subscriber has received nothing for too long.
    Silence {
        subscriber: usize,
        publisher: usize,
        stream: u64,
    },
    /// A zine reaches a nara; the sender's ledger had `known` events when it was made.
    Zine {
        from: usize,
        to: usize,
        known: usize,
        answer: bool,
    },
    /// A nara makes an event.
    Make { nara: usize, event: usize },
    /// A nara is cut off.
    Cut(usize),
    /// A nara is connected again.
    Restore(usize),
}

/// The naras of a simulation and the network between them.
#[derive(Debug)]
pub(super) struct Network<'a> {
    plan: &'a Plan,
    ring: Ring<usize>,
    naras: Vec<Nara>,
    /// The scheduled events, by time; the number keeps the order of simultaneous ones.
    queue: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    sequence: u64,
    now: Duration,
    random: Xoshiro256PlusPlus,
    streams: u64,
    made_at: Vec<Duration>,
    events: Vec<EventReport>,
    subscriptions: usize,
    zines: usize,
}

impl<'a> Network<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let position = |nara: usize| RingPosition::of(format!("nara-{nara}"));
        let nara = |nara| {
            Nara::new(
                Gossip::new(nara, position(nara), plan.config.clone()),
                plan.events,
            )
        };
        let mut network = Self {
            plan,
            ring: Ring::new((0..plan.naras).map(|nara| (position(nara), nara))),
            naras: (0..plan.naras).map(nara).collect(),
            queue: BinaryHeap::new(),
            sequence: 0,
            now: Duration::ZERO,
            random: Xoshiro256PlusPlus::seed_from_u64(plan.seed),
            streams: 0,
            made_at: vec![Duration::ZERO; plan.events],
            events: vec![EventReport::default(); plan.events],
            subscriptions: 0,
            zines: 0,
        };
        network.prepare();
        network
    }

    /// Draws which naras are down, which are cut off and which make the events; all start within a second.
    fn prepare(&mut self) {
        let mut drawn: Vec<usize> = (0..self.plan.naras).collect();
        drawn.shuffle(&mut self.random);
        let part = |part: f64| (part * self.plan.naras as f64).round() as usize;
        let (dead, others) = drawn.split_at(part(self.plan.dead).min(drawn.len()));
        let (cut, steady) = others.split_at(part(self.plan.cut).min(others.len()));
        for &nara in dead {
            self.naras[nara].down = true;
            self.naras[nara].steady = false;
        }
        let span = self.plan.event_pause * u32::try_from(self.plan.events).unwrap_or(u32::MAX);
        for &nara in cut {
            self.naras[nara].steady = false;
            let at = Plan::WARM_UP + span.mul_f64(self.random.random_range(0.0..1.0));
            self.at(at, Happening::Cut(nara));
            self.at(at + Plan::CUT, Happening::Restore(nara));
        }
        for &nara in others {
            let at = Duration::from_secs(1).mul_f64(self.random.random_range(0.0..1.0));
            self.naras[nara].next_tick = Some(at);
            self.at(at, Happening::Tick(nara));
        }
        if steady.is_empty() {
            return;
        }
        let mut at = Plan::WARM_UP;
        for event in 0..self.plan.events {
            let nara = steady[self.random.random_range(0..steady.len())];
            self.at(at, Happening::Make { nara, event });
            at += self.plan.event_pause;
        }
    }

    pub(super) fn run(mut self) -> Report {
        let span = self.plan.event_pause * u32::try_from(self.plan.events).unwrap_or(u32::MAX);
        let cuts = if self.plan.cut > 0.0 {
            Plan::CUT
        } else {
            Duration::ZERO
        };
        let end = Plan::WARM_UP + span + cuts + Plan::SETTLE;
        while let Some(Reverse((at, _, happening))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
        self.report()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick(nara) => {
                if self.naras[nara].next_tick == Some(self.now) {
                    self.naras[nara].next_tick = None;
                    self.tell(nara, Input::Tick);
                }
            }
            Happening::Request {
                subscriber,
                publisher,
                stream,
            } => self.request(subscriber, publisher, stream),
            Happening::Head {
                subscriber,
                publisher,
                stream,
            } => {
                let nara = &mut self.naras[subscriber];
                if nara.down || !nara.expects(publisher, stream) {
                    return;
                }
                nara.subscriptions
                    .insert(publisher, Subscription { stream, open: true });
                self.tell(subscriber, Input::Opened(publisher));
            }
            Happening::Event {
                subscriber,
                publisher,
                stream,
                position,
            } => {
                let nara = &mut self.naras[subscriber];
                if nara.down
                    || self.naras[publisher].down
                    || !self.naras[subscriber].expects(publisher, stream)
                {
                    return;
                }
                self.naras[subscriber].cursors.insert(publisher, position + 1);
                let entry = self.naras[publisher].ledger[position];
                self.events[entry.event].copies += 1;
                self.receive(subscriber, publisher, entry);
            }
            Happening::Farewell {
                subscriber,
                publisher,
                stream,
            } => {
                let subscribers = &mut self.naras[publisher].subscribers;
                if subscribers.get(&subscriber) == Some(&stream) {
                    subscribers.remove(&subscriber);
                }
            }
            Happening::Silence {
                subscriber,
                publisher,
                stream,
            } => {
                if self.naras[subscriber].expects(publisher, stream) {
                    self.tell(subscriber, Input::Lost(publisher));
                    if self.naras[subscriber].subscriptions.contains_key(&publisher) {
                        self.dial(subscriber, publisher, Duration::ZERO);
                    }
                }
            }
            Happening::Zine {
                from,
                to,
                known,
                answer,
            } => {
                if self.naras[from].down || self.naras[to].down {
                    return;
                }
                for position in 0..known {
                    let entry = self.naras[from].ledger[position];
                    self.receive(to, from, entry);
                }
                if !answer {
                    self.send_zine(to, from, true);
                }
            }
            Happening::Make { nara, event } => {
                self.made_at[event] = self.now;
                self.store(
                    nara,
                    Entry {
                        event,
                        told_by: None,
                        hops: 0,
                    },
                );
            }
            Happening::Cut(nara) => self.cut(nara),
            Happening::Restore(nara) => {
                self.naras[nara].down = false;
                self.tell(nara, Input::Tick);
            }
        }
    }

    /// Passes an input to a nara, and performs the outputs.
    fn tell(&mut self, nara: usize, input: Input<usize>) {
        let gossip = &mut self.naras[nara].gossip;
        let outputs = gossip.handle(input, &self.ring, self.now, &mut self.random);
        for output in outputs {
            match output {
                Output::Subscribe(peer) => {
                    self.subscriptions += 1;
                    self.dial(nara, peer, Duration::ZERO);
                }
                Output::Unsubscribe(peer) => {
                    if let Some(Subscription { stream, .. }) = self.naras[nara].subscriptions.remove(&peer) {
                        let farewell = Happening::Farewell {
                            subscriber: nara,
                            publisher: peer,
                            stream,
                        };
                        self.at(self.now + self.latency(nara, peer), farewell);
                    }
                }
                Output::ExchangeZine(peer) => {
                    self.zines += 1;
                    self.send_zine(nara, peer, false);
                }
            }
        }
        let next = self.naras[nara].gossip.next_tick(self.now);
        if self.naras[nara].next_tick.is_none_or(|planned| planned > next) {
            self.naras[nara].next_tick = Some(next);
            self.at(next, Happening::Tick(nara));
        }
    }

    /// A subscriber opens a connection and requests a stream: one and a half round trips.
    fn dial(&mut self, subscriber: usize, publisher: usize, pause: Duration) {
        self.streams += 1;
        let stream = self.streams;
        let subscription = Subscription { stream, open: false };
        self.naras[subscriber]
            .subscriptions
            .insert(publisher, subscription);
        let at = self.now + pause + self.latency(subscriber, publisher) * 3;
        let request = Happening::Request {
            subscriber,
            publisher,
            stream,
        };
        self.at(at, request);
    }

    fn request(&mut self, subscriber: usize, publisher: usize, stream: u64) {
        if !self.naras[subscriber].expects(publisher, stream) {
            return;
        }
        if self.naras[subscriber].down || self.naras[publisher].down {
            self.dial(subscriber, publisher, Plan::REDIAL);
            return;
        }
        self.naras[publisher].subscribers.insert(subscriber, stream);
        let at = self.now + self.latency(subscriber, publisher);
        let head = Happening::Head {
            subscriber,
            publisher,
            stream,
        };
        self.at(at, head);
        // Missed events come first, then new ones: there is no gap between them.
        let from = self.naras[subscriber]
            .cursors
            .get(&publisher)
            .copied()
            .unwrap_or_default();
        for position in from..self.naras[publisher].ledger.len() {
            self.publish(publisher, subscriber, stream, position);
        }
    }

    /// Sends the event at a position of the ledger to a subscriber, unless the subscriber sent it.
    fn publish(&mut self, publisher: usize, subscriber: usize, stream: u64, position: usize) {
        let told_by = self.naras[publisher].ledger[position].told_by;
        if !passes_on(told_by.as_ref(), &subscriber) {
            return;
        }
        let at = self.now + self.latency(subscriber, publisher) + self.plan.processing;
        let event = Happening::Event {
            subscriber,
            publisher,
            stream,
            position,
        };
        self.at(at, event);
    }

    fn receive(&mut self, nara: usize, told_by: usize, entry: Entry) {
        if self.naras[nara].has[entry.event] {
            return;
        }
        let entry = Entry {
            event: entry.event,
            told_by: Some(told_by),
            hops: entry.hops + 1,
        };
        self.store(nara, entry);
    }

    fn store(&mut self, nara: usize, entry: Entry) {
        self.naras[nara].has[entry.event] = true;
        self.naras[nara].ledger.push(entry);
        if self.naras[nara].steady {
            let report = &mut self.events[entry.event];
            report.delays.push(self.now - self.made_at[entry.event]);
            report.hops = report.hops.max(entry.hops);
        }
        let position = self.naras[nara].ledger.len() - 1;
        let subscribers: Vec<(usize, u64)> = self.naras[nara]
            .subscribers
            .iter()
            .map(|(&subscriber, &stream)| (subscriber, stream))
            .collect();
        for (subscriber, stream) in subscribers {
            self.publish(nara, subscriber, stream, position);
        }
    }

    fn send_zine(&mut self, from: usize, to: usize, answer: bool) {
        let known = self.naras[from].ledger.len();
        // A zine first opens a connection; its answer uses the same one.
        let ways = if answer { 1 } else { 3 };
        let at = self.now + self.latency(from, to) * ways;
        let zine = Happening::Zine {
            from,
            to,
            known,
            answer,
        };
        self.at(at, zine);
    }

    /// Cuts a nara off without notice: its streams fall silent in both directions.
    fn cut(&mut self, nara: usize) {
        self.naras[nara].down = true;
        let silence = self.now + Plan::SILENCE;
        let own: Vec<(usize, u64)> = self.naras[nara]
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.open)
            .map(|(&publisher, subscription)| (publisher, subscription.stream))
            .collect();
        for (publisher, stream) in own {
            self.naras[publisher].subscribers.remove(&nara);
            let silent = Happening::Silence {
                subscriber: nara,
                publisher,
                stream,
            };
            self.at(silence, silent);
        }
        for (subscriber, stream) in std::mem::take(&mut self.naras[nara].subscribers) {
            let silent = Happening::Silence {
                subscriber,
                publisher: nara,
                stream,
            };
            self.at(silence, silent);
        }
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, happening)));
    }

    /// Returns the latency of a link, the same in both directions and at all times.
    fn latency(&self, one: usize, other: usize) -> Duration {
        let (low, high) = (one.min(other) as u64, one.max(other) as u64);
        let link = self.plan.seed ^ low.rotate_left(32) ^ high;
        let random: f64 = Xoshiro256PlusPlus::seed_from_u64(link).random_range(0.0..1.0);
        let (shortest, longest) = self.plan.latency;
        shortest + longest.saturating_sub(shortest).mul_f64(random)
    }

    fn report(mut self) -> Report {
        let live: Vec<usize> = (0..self.naras.len())
            .filter(|&nara| !self.naras[nara].down)
            .collect();
        let missing = live
            .iter()
            .map(|&nara| self.naras[nara].has.iter().filter(|has| !**has).count())
            .sum();
        for event in &mut self.events {
            event.delays.sort();
        }
        let open = |nara: &Nara| nara.subscriptions.values().filter(|stream| stream.open).count();
        Report {
            live: live.len(),
            missing,
            connected: self.is_connected(&live),
            streams: live.iter().map(|&nara| open(&self.naras[nara])).sum(),
            events: self.events,
            subscriptions: self.subscriptions,
            zines: self.zines,
        }
    }

    /// Returns whether the open streams connect all naras: from one nara to all, and from all to it.
    fn is_connected(&self, live: &[usize]) -> bool {
        let Some(&first) = live.first() else { return true };
        let mut forward = vec![Vec::new(); self.naras.len()];
        let mut backward = vec![Vec::new(); self.naras.len()];
        for &subscriber in live {
            for (&publisher, subscription) in &self.naras[subscriber].subscriptions {
                if subscription.open && !self.naras[publisher].down {
                    forward[publisher].push(subscriber);
                    backward[subscriber].push(publisher);
                }
            }
        }
        [forward, backward]
            .iter()
            .all(|links| reached(first, links) == live.len())
    }
}

fn reached(first: usize, links: &[Vec<usize>]) -> usize {
    let mut seen = vec![false; links.len()];
    seen[first] = true;
    let (mut waiting, mut count) = (vec![first], 0);
    while let Some(nara) = waiting.pop() {
        count += 1;
        for &next in &links[nara] {
            if !std::mem::replace(&mut seen[next], true) {
                waiting.push(next);
            }
        }
    }
    count
}
