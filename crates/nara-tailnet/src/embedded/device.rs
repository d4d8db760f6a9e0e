//! The virtual device between the network stack of the node and its data plane: two bounded queues.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use ts_netstack_smoltcp::netcore::AsyncWakeDevice;
use ts_netstack_smoltcp::netcore::smoltcp::phy::{self, DeviceCapabilities, Medium};
use ts_netstack_smoltcp::netcore::smoltcp::time::Instant;

/// The maximum packet size in bytes: fits into WireGuard on any path.
pub(super) const MTU: usize = 1280;

/// WireGuard pads packets to a multiple of this, in bytes.
pub(super) const PADDING: usize = 16;

/// The capacity of the queue to the stack, in packets; more are dropped.
const UP: usize = 2048;
/// The capacity of the queue from the stack, in packets; the stack waits while it is full.
const DOWN: usize = 512;

/// The device: one queue per direction.
#[derive(Default)]
pub(super) struct Device {
    up: Mutex<VecDeque<BytesMut>>,
    down: Mutex<VecDeque<BytesMut>>,
    again: Mutex<Vec<BytesMut>>,
    up_ready: AtomicWaker,
    down_room: AtomicWaker,
    down_ready: Notify,
}

impl Device {
    /// Queues a packet for the stack. Returns `false` and drops the packet if the queue is full.
    pub(super) fn put(&self, packet: BytesMut) -> bool {
        {
            let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
            if up.len() >= UP {
                return false;
            }
            up.push_back(packet);
        }
        self.up_ready.wake();
        true
    }

    /// Puts a packet that is sent again, past the stack.
    pub(super) fn put_again(&self, packet: BytesMut) {
        self.again
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(packet);
        self.down_ready.notify_one();
    }

    /// The packets that are sent again, and those that the stack has sent; at least one. Cancel safe.
    pub(super) async fn take(&self) -> (Vec<BytesMut>, Vec<BytesMut>) {
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
                self.down_room.wake();
                return (again, packets);
            }
            ready.await;
        }
    }

    fn has_room(&self) -> bool {
        self.down.lock().unwrap_or_else(PoisonError::into_inner).len() < DOWN
    }

    /// Removes all packets for the stack, and returns their number.
    #[cfg(test)]
    pub(super) fn clear(&self) -> usize {
        self.up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .count()
    }

    fn has_packet(&self) -> bool {
        !self.up.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The stack's end of the device.
pub(super) struct StackEnd {
    device: Arc<Device>,
    /// Whether packets were received since the stack last found the queue empty.
    taken: bool,
}

impl StackEnd {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, taken: false }
    }
}

impl AsyncWakeDevice for StackEnd {
    fn poll_rx(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Wakers are registered before the check, so that no packet is missed in between.
        self.device.up_ready.register(cx.waker());
        self.device.down_room.register(cx.waker());
        if self.device.has_packet() && self.device.has_room() {
            self.taken = true;
            return Poll::Ready(());
        }
        // The stack serves readers and writers only after `receive` has returned nothing, not when this is pending.
        // Without that step it would remove a reset connection while a reader still waits for it, and panic.
        if std::mem::take(&mut self.taken) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_tx(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.device.down_room.register(cx.waker());
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
        if !self.device.has_room() {
            return None;
        }
        let packet = self
            .device
            .up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()?;
        Some((Received(packet), Sending(&self.device)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        self.device.has_room().then_some(Sending(&self.device))
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

/// A token to send one packet of the stack.
pub(super) struct Sending<'a>(&'a Device);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = BytesMut::with_capacity(len + PADDING);
        packet.resize(len, 0);
        let written = write(packet.as_mut());
        self.0
            .down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(packet);
        self.0.down_ready.notify_one();
        written
    }
}

#[cfg(test)]
mod tests {
    use ts_netstack_smoltcp::netcore::smoltcp::phy::{Device as _, RxToken as _, TxToken as _};

    use super::*;

    #[test]
    fn packets_to_a_slow_stack_are_dropped_and_memory_stays_bounded() {
        let device = Device::default();
        for n in 0..UP + 5 {
            assert_eq!(device.put(BytesMut::zeroed(40)), n < UP);
        }
        assert_eq!(device.up.lock().unwrap().len(), UP);
    }

    #[tokio::test]
    async fn the_stack_waits_while_the_queue_from_it_is_full() {
        let device = Arc::new(Device::default());
        let mut end = StackEnd::new(Arc::clone(&device));
        for n in 0..DOWN {
            let token = end
                .transmit(Instant::ZERO)
                .unwrap_or_else(|| panic!("no room for {n}"));
            token.consume(20, |packet| packet.fill(1));
        }
        assert!(end.transmit(Instant::ZERO).is_none());
        device.put(BytesMut::from(&[2; 40][..]));
        assert!(
            end.receive(Instant::ZERO).is_none(),
            "an answer would find no room"
        );
        assert_eq!(device.take().await.1.len(), DOWN);
        let (received, _) = end.receive(Instant::ZERO).unwrap();
        received.consume(|packet| assert_eq!(packet, [2; 40]));
    }
}
