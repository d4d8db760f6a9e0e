//! The virtual device between the network stacks of the node and its data plane: bounded queues.
//!
//! There are two stacks, because all connections of a stack have buffers of the same size.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use ts_netstack_smoltcp::netcore::AsyncWakeDevice;
use ts_netstack_smoltcp::netcore::smoltcp::phy::{self, DeviceCapabilities, Medium};
use ts_netstack_smoltcp::netcore::smoltcp::time::Instant;

use super::settings::{FAR_TCP_BUFFER, TCP_BUFFER};

/// The maximum packet size in bytes: fits into WireGuard on any path.
pub(super) const MTU: usize = 1280;

/// WireGuard pads packets to a multiple of this, in bytes.
pub(super) const PADDING: usize = 16;

/// The capacity of the queue to the stack, in packets; more are dropped.
const UP: usize = 2048;
/// The capacity of the queue from the stack, in packets; the stack waits while it is full.
const DOWN: usize = 512;

/// The capacity of the queue of retransmitted packets, which go past the stack; more are dropped.
const AGAIN: usize = 4096;
/// The maximum number of packets that a stack takes in a round.
const ROUND: usize = 64;

/// Selects the network stack of a connection, and so the size of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    Near,
    Far,
}

impl Distance {
    pub(super) const ALL: [Self; 2] = [Self::Near, Self::Far];

    /// Returns the size of each of the two buffers of a connection, in bytes.
    pub(super) const fn buffer(self) -> usize {
        match self {
            Self::Near => TCP_BUFFER,
            Self::Far => FAR_TCP_BUFFER,
        }
    }
}

/// The device: one queue to each stack, and one from both.
#[derive(Default)]
pub(super) struct Device {
    near: Up,
    far: Up,
    down: Mutex<VecDeque<(Distance, BytesMut)>>,
    again: Mutex<Vec<BytesMut>>,
    down_ready: Notify,
}

/// The queue to a stack.
#[derive(Default)]
struct Up {
    packets: Mutex<VecDeque<BytesMut>>,
    ready: AtomicWaker,
    /// Wakes the stack when the queue from it has room.
    down_room: AtomicWaker,
}

impl Up {
    fn packets(&self) -> MutexGuard<'_, VecDeque<BytesMut>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device {
    const fn up(&self, distance: Distance) -> &Up {
        match distance {
            Distance::Near => &self.near,
            Distance::Far => &self.far,
        }
    }

    /// Queues a packet for a stack. Returns `false` and drops the packet if the queue is full.
    pub(super) fn put(&self, distance: Distance, packet: BytesMut) -> bool {
        let up = self.up(distance);
        {
            let mut packets = up.packets();
            if packets.len() >= UP {
                return false;
            }
            packets.push_back(packet);
        }
        up.ready.wake();
        true
    }

    /// Puts a packet that is sent again, past the stack.
    pub(super) fn put_again(&self, packet: BytesMut) {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if again.len() < AGAIN {
            again.push(packet);
        }
        drop(again);
        self.down_ready.notify_one();
    }

    /// The retransmitted packets, and those that the stacks have sent; at least one. Cancel safe.
    pub(super) async fn take(&self) -> (Vec<BytesMut>, Vec<(Distance, BytesMut)>) {
        loop {
            let ready = self.down_ready.notified();
            let again = std::mem::take(&mut *self.again.lock().unwrap_or_else(PoisonError::into_inner));
            let packets: Vec<_> = self
                .down
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
                .collect();
            if !packets.is_empty() || !again.is_empty() {
                self.near.down_room.wake();
                self.far.down_room.wake();
                return (again, packets);
            }
            ready.await;
        }
    }

    fn has_room(&self) -> bool {
        self.down.lock().unwrap_or_else(PoisonError::into_inner).len() < DOWN
    }

    /// Removes all packets for a stack, and returns their number.
    #[cfg(test)]
    pub(super) fn clear(&self, distance: Distance) -> usize {
        self.up(distance).packets().drain(..).count()
    }
}

/// The stack's end of the device.
pub(super) struct StackEnd {
    device: Arc<Device>,
    distance: Distance,
    /// Whether packets were received since the stack last found the queue empty.
    taken: bool,
    /// The number of packets left in this round; without rounds, no limit.
    left: usize,
    round: Arc<Round>,
}

/// A round of a stack: a limited number of packets.
#[derive(Default)]
pub(super) struct Round {
    is_over: AtomicBool,
}

impl Round {
    /// Waits until the stack has asked for more packets than the round has. To be polled after the stack, which does
    /// not wake it.
    pub(super) async fn is_over(&self) {
        poll_fn(|_| {
            if self.is_over.load(Ordering::Relaxed) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl StackEnd {
    pub(super) fn new(device: Arc<Device>, distance: Distance) -> Self {
        Self {
            device,
            distance,
            taken: false,
            left: usize::MAX,
            round: Arc::default(),
        }
    }

    /// Begins the next round of the stack.
    pub(super) fn begin_round(&mut self) -> Arc<Round> {
        self.left = ROUND;
        self.round.is_over.store(false, Ordering::Relaxed);
        Arc::clone(&self.round)
    }

    fn up(&self) -> &Up {
        self.device.up(self.distance)
    }
}

impl AsyncWakeDevice for StackEnd {
    fn poll_rx(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Wakers are registered before the check, so that no packet is missed in between.
        self.up().ready.register(cx.waker());
        self.up().down_room.register(cx.waker());
        if !self.up().packets().is_empty() && self.device.has_room() {
            if self.left > 0 {
                self.taken = true;
                return Poll::Ready(());
            }
            self.round.is_over.store(true, Ordering::Relaxed);
        }
        // The stack serves readers and writers only after `receive` has returned nothing, not when this is pending.
        // Without that step it would remove a reset connection while a reader still waits for it, and panic.
        if std::mem::take(&mut self.taken) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_tx(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.up().down_room.register(cx.waker());
        if self.device.has_room() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl phy::Device for StackEnd {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let left = self.left.checked_sub(1)?;
        if !self.device.has_room() {
            return None;
        }
        let packet = self.up().packets().pop_front()?;
        self.left = left;
        Some((Received(packet), Sending(&self.device, self.distance)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        self.device
            .has_room()
            .then_some(Sending(&self.device, self.distance))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = MTU;
        capabilities.medium = Medium::Ip;
        capabilities
    }
}

/// A packet for the stack.
pub(super) struct Received(BytesMut);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0.as_ref())
    }
}

/// A token to send one packet of a stack.
pub(super) struct Sending<'a>(&'a Device, Distance);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = BytesMut::with_capacity(len + PADDING);
        packet.resize(len, 0);
        let written = write(packet.as_mut());
        self.0
            .down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((self.1, packet));
        self.0.down_ready.notify_one();
        written
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use ts_netstack_smoltcp::netcore::smoltcp::phy::{Device as _, RxToken as _, TxToken as _};

    use super::*;

    #[test]
    fn packets_to_a_slow_stack_are_dropped_and_memory_stays_bounded() {
        let device = Device::default();
        for n in 0..UP + 5 {
            assert_eq!(device.put(Distance::Near, BytesMut::zeroed(40)), n < UP);
        }
        assert_eq!(device.clear(Distance::Near), UP);
    }

    /// Without a pause, a steady stream of packets would keep the stack from its commands.
    #[test]
    fn a_stack_pauses_after_a_limited_number_of_packets() {
        let device = Arc::new(Device::default());
        let mut end = StackEnd::new(Arc::clone(&device), Distance::Near);
        while device.put(Distance::Near, BytesMut::zeroed(40)) {}
        let mut context = Context::from_waker(Waker::noop());
        for n in 1..3 {
            let round = end.begin_round();
            let mut is_over = pin!(round.is_over());
            assert!(is_over.as_mut().poll(&mut context).is_pending());
            while Pin::new(&mut end).poll_rx(&mut context).is_ready() {
                end.receive(Instant::ZERO);
            }
            assert!(is_over.poll(&mut context).is_ready());
            assert_eq!(end.up().packets().len(), UP - n * ROUND);
        }
        device.clear(Distance::Near);
        let round = end.begin_round();
        assert!(Pin::new(&mut end).poll_rx(&mut context).is_pending());
        assert!(
            pin!(round.is_over()).poll(&mut context).is_pending(),
            "the stack waits for packets"
        );
    }

    #[tokio::test]
    async fn retransmitted_packets_wait_in_a_bounded_queue() {
        let device = Device::default();
        for _ in 0..AGAIN + 5 {
            device.put_again(BytesMut::new());
        }
        assert_eq!(device.take().await.0.len(), AGAIN);
    }

    #[tokio::test]
    async fn the_stack_waits_while_the_queue_from_it_is_full() {
        let device = Arc::new(Device::default());
        let mut end = StackEnd::new(Arc::clone(&device), Distance::Far);
        for n in 0..DOWN {
            let token = end
                .transmit(Instant::ZERO)
                .unwrap_or_else(|| panic!("no room for {n}"));
            token.consume(20, |packet| packet.fill(1));
        }
        assert!(end.transmit(Instant::ZERO).is_none());
        device.put(Distance::Far, BytesMut::from(&[2; 40][..]));
        assert!(
            end.receive(Instant::ZERO).is_none(),
            "an answer would find no room"
        );
        assert_eq!(device.take().await.1.len(), DOWN);
        let (received, _) = end.receive(Instant::ZERO).unwrap();
        received.consume(|packet| assert_eq!(packet, [2; 40]));
    }
}
