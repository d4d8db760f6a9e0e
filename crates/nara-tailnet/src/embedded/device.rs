//! The wire between the network stack of the node and its data plane: two bounded queues.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use ts_netstack_smoltcp::netcore::AsyncWakeDevice;
use ts_netstack_smoltcp::netcore::smoltcp::phy::{self, DeviceCapabilities, Medium};
use ts_netstack_smoltcp::netcore::smoltcp::time::Instant;
use ts_packet::PacketMut;

/// The largest packet, in bytes: what fits into WireGuard everywhere.
pub(super) const MTU: usize = 1280;

/// What WireGuard adds to a packet, in bytes: padding, its header and its authentication code.
const SEAL: usize = 3 * 16;

/// Packets on their way to the stack; more are dropped.
const UP: usize = 2048;
/// Packets on their way down. When they are this many, the stack waits.
const DOWN: usize = 512;

/// Both queues.
#[derive(Default)]
pub(super) struct Device {
    up: Mutex<VecDeque<PacketMut>>,
    down: Mutex<VecDeque<PacketMut>>,
    again: Mutex<Vec<PacketMut>>,
    up_ready: AtomicWaker,
    down_room: AtomicWaker,
    down_ready: Notify,
}

impl Device {
    /// Puts a packet for the stack. `false`: the stack does not keep up, and the packet is dropped.
    pub(super) fn put(&self, packet: PacketMut) -> bool {
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
    pub(super) fn put_again(&self, packet: PacketMut) {
        self.again
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(packet);
        self.down_ready.notify_one();
    }

    /// The packets that are sent again, and those that the stack has sent; at least one. Cancel safe.
    pub(super) async fn take(&self) -> (Vec<PacketMut>, Vec<PacketMut>) {
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

    /// Takes all packets for the stack away, and says how many there were.
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

/// The end of the wire that the stack holds.
pub(super) struct StackEnd {
    device: Arc<Device>,
    /// Packets were taken, and the stack has not been told yet that there are no more.
    taken: bool,
}

impl StackEnd {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, taken: false }
    }
}

impl AsyncWakeDevice for StackEnd {
    fn poll_rx(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before looking, so that a packet in between is not missed.
        self.device.up_ready.register(cx.waker());
        self.device.down_room.register(cx.waker());
        if self.device.has_packet() && self.device.has_room() {
            self.taken = true;
            return Poll::Ready(());
        }
        // The stack looks after readers and writers when `receive` finds nothing, not when this is pending. If it
        // did not, it would remove a connection that was reset while a reader of it still waits, and panic.
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
pub(super) struct Received(PacketMut);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0.as_ref())
    }
}

/// Room for a packet of the stack.
pub(super) struct Sending<'a>(&'a Device);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = PacketMut::with_capacity(len + SEAL);
        packet.resize(len);
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
    fn a_stack_that_does_not_keep_up_loses_packets_instead_of_memory() {
        let device = Device::default();
        for n in 0..UP + 5 {
            assert_eq!(device.put(PacketMut::new(40)), n < UP);
        }
        assert_eq!(device.up.lock().unwrap().len(), UP);
    }

    #[tokio::test]
    async fn the_stack_waits_while_the_way_down_is_full() {
        let device = Arc::new(Device::default());
        let mut end = StackEnd::new(Arc::clone(&device));
        for n in 0..DOWN {
            let token = end
                .transmit(Instant::ZERO)
                .unwrap_or_else(|| panic!("no room for {n}"));
            token.consume(20, |packet| packet.fill(1));
        }
        assert!(end.transmit(Instant::ZERO).is_none());
        device.put(PacketMut::from(&[2; 40]));
        assert!(
            end.receive(Instant::ZERO).is_none(),
            "an answer would find no room"
        );
        assert_eq!(device.take().await.1.len(), DOWN);
        let (received, _) = end.receive(Instant::ZERO).unwrap();
        received.consume(|packet| assert_eq!(packet, [2; 40]));
    }
}
