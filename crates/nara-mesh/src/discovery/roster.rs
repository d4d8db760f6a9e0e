use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use nara_proto::identity::NaraName;
use tokio::time::Instant;

use crate::defaults;
use crate::transport::Candidate;

/// Identifies a node: its first address, or its host name if it has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NodeKey {
    Address(IpAddr),
    HostName(String),
}

impl NodeKey {
    fn of(candidate: &Candidate) -> Self {
        match candidate.addresses.first() {
            Some(&address) => Self::Address(address),
            None => Self::HostName(candidate.host_name.clone()),
        }
    }
}

/// A node to ask.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) key: NodeKey,
    pub(super) candidate: Candidate,
}

/// The nodes of a network, and the progress of asking each.
#[derive(Debug, Default)]
pub(super) struct Roster {
    nodes: HashMap<NodeKey, Node>,
    by_address: HashMap<IpAddr, NodeKey>,
    /// When to ask nodes next.
    due: BTreeSet<(Instant, NodeKey)>,
}

#[derive(Debug)]
struct Node {
    candidate: Candidate,
    /// Whether it may be a nara.
    is_eligible: bool,
    /// Whether a request is in progress.
    asking: bool,
    /// Whether it changed since the last request.
    changed: bool,
    /// Number of consecutive requests without answer.
    silences: u32,
    /// The nara that last answered there.
    nara: Option<NaraName>,
    due: Option<Instant>,
}

/// The changes in a new list of nodes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) ask: Vec<Asked>,
    pub(super) left: Vec<Candidate>,
    /// The previous state of nodes whose addresses changed.
    pub(super) moved: Vec<Candidate>,
    pub(super) offline: Vec<Candidate>,
    pub(super) online: Vec<Candidate>,
    pub(super) skipped: Vec<Candidate>,
}

impl Roster {
    /// Applies a list of nodes.
    pub(super) fn update(
        &mut self,
        candidates: Vec<Candidate>,
        is_excluded: impl Fn(&Candidate) -> bool,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut gone = std::mem::take(&mut self.nodes);
        self.by_address.clear();
        for candidate in candidates {
            let key = NodeKey::of(&candidate);
            for &address in &candidate.addresses {
                self.by_address.insert(address, key.clone());
            }
            let before = gone.remove(&key);
            let mut node = Node::updated(before, candidate, &is_excluded, &mut changes);
            if node.candidate.online == Some(false)
                && let Some(due) = node.due.take()
            {
                self.due.remove(&(due, key.clone()));
            }
            self.nodes.insert(key, node);
        }
        for (key, node) in gone {
            if let Some(due) = node.due {
                self.due.remove(&(due, key));
            }
            changes.left.push(node.candidate);
        }
        changes.ask = self.take_wanted();
        changes
    }

    /// Returns the nodes to ask at once.
    fn take_wanted(&mut self) -> Vec<Asked> {
        let mut wanted: Vec<Asked> = Vec::new();
        for (key, node) in &mut self.nodes {
            if node.changed && !node.asking && node.may_be_asked() {
                wanted.push(node.ask(key));
            }
        }
        for asked in &wanted {
            self.unschedule(&asked.key);
        }
        wanted.sort_by(|a, b| a.key.cmp(&b.key));
        wanted
    }

    /// Records which nara answered at a node, if any did. Returns whether the result still applies.
    pub(super) fn concluded(&mut self, key: &NodeKey, nara: Option<NaraName>) -> bool {
        let Some(node) = self.nodes.get_mut(key) else {
            return false;
        };
        node.asking = false;
        if node.changed || !node.may_be_asked() {
            return false;
        }
        let pause = match &nara {
            Some(_) => {
                node.silences = 0;
                defaults::DISCOVERY_REFRESH
            }
            None => {
                node.silences = node.silences.saturating_add(1);
                let factor = 1_u32 << (node.silences - 1).min(16);
                (defaults::DISCOVERY_RETRY_MIN * factor).min(defaults::DISCOVERY_RETRY_MAX)
            }
        };
        node.nara = nara;
        self.schedule(key, pause);
        true
    }

    /// Rejects the answer of a node: it is asked again later, and does not hold the name.
    pub(super) fn distrust(&mut self, key: &NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.nara = None;
            self.schedule(key, defaults::DISCOVERY_RETRY_MAX);
        }
    }

    /// Returns the host name of the node with this address, if this nara answered there and the node is not
    /// offline.
    pub(super) fn host_of(&self, address: IpAddr, name: &NaraName) -> Option<&str> {
        let node = self.nodes.get(self.by_address.get(&address)?)?;
        let holds = node.nara.as_ref() == Some(name) && node.candidate.online != Some(false);
        holds.then_some(node.candidate.host_name.as_str())
    }

    /// Returns a node that changed while it was asked, to ask it again.
    pub(super) fn ask_again(&mut self, key: &NodeKey) -> Option<Asked> {
        let node = self.nodes.get_mut(key)?;
        (node.changed && !node.asking && node.may_be_asked()).then(|| node.ask(key))
    }

    /// Returns when the next node is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the nodes that are due now.
    pub(super) fn take_due(&mut self) -> Vec<Asked> {
        let now = Instant::now();
        let mut taken = Vec::new();
        while self.next_due().is_some_and(|due| due <= now)
            && let Some((_, key)) = self.due.pop_first()
        {
            if let Some(node) = self.nodes.get_mut(&key) {
                node.due = None;
                if !node.asking && node.may_be_asked() {
                    taken.push(node.ask(&key));
                }
            }
        }
        taken
    }

    fn schedule(&mut self, key: &NodeKey, pause: Duration) {
        self.unschedule(key);
        if let Some(node) = self.nodes.get_mut(key) {
            // Jitter, so that nodes asked together are not retried together.
            let spread = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
            let due = Instant::now() + pause.mul_f64(0.75 + spread / 2.0);
            node.due = Some(due);
            self.due.insert((due, key.clone()));
        }
    }

    fn unschedule(&mut self, key: &NodeKey) {
        let due = self.nodes.get_mut(key).and_then(|node| node.due.take());
        if let Some(due) = due {
            self.due.remove(&(due, key.clone()));
        }
    }
}

impl Node {
    fn updated(
        before: Option<Self>,
        candidate: Candidate,
        is_excluded: &impl Fn(&Candidate) -> bool,
        changes: &mut Changes,
    ) -> Self {
        let is_eligible = !is_excluded(&candidate);
        let Some(mut node) = before else {
            if !is_eligible {
                changes.skipped.push(candidate.clone());
            } else if candidate.online == Some(false) {
                changes.offline.push(candidate.clone());
            }
            return Self {
                candidate,
                is_eligible,
                asking: false,
                changed: true,
                silences: 0,
                nara: None,
                due: None,
            };
        };
        if node.candidate == candidate {
            return node;
        }
        let was_offline = node.candidate.online == Some(false);
        let is_offline = candidate.online == Some(false);
        if is_offline && !was_offline {
            changes.offline.push(candidate.clone());
        } else if was_offline && !is_offline {
            changes.online.push(candidate.clone());
        }
        if !is_eligible && node.is_eligible {
            changes.skipped.push(candidate.clone());
        }
        let before = std::mem::replace(&mut node.candidate, candidate);
        if before.addresses != node.candidate.addresses {
            changes.moved.push(before);
        }
        node.is_eligible = is_eligible;
        node.changed = true;
        node.silences = 0;
        node
    }

    fn may_be_asked(&self) -> bool {
        self.is_eligible && self.candidate.online != Some(false)
    }

    fn ask(&mut self, key: &NodeKey) -> Asked {
        self.asking = true;
        self.changed = false;
        Asked {
            key: key.clone(),
            candidate: self.candidate.clone(),
        }
    }
}
