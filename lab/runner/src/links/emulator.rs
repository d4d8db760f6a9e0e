//! A pair of network devices connected by an emulated line.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tun::Tun;

use super::line::{Line, Quality};

/// The maximum packet size of a device, in bytes.
const LARGEST: usize = 65_536;
/// The tolerance for early arrivals: timers have a resolution of one millisecond.
const TOO_EARLY: Duration = Duration::from_micros(500);
/// The pause after a failed read: a device that is down cannot be read.
const BROKEN: Duration = Duration::from_millis(5);
/// The maximum number of packets read before arrived ones are written.
const AT_ONCE: usize = 64;

/// A pair of connected devices. They are removed on drop.
#[derive(Debug)]
pub(super) struct Emulator {
    tasks: JoinSet<()>,
}

impl Emulator {
    /// Creates devices with these names in our namespace, with a line of this quality in each direction.
    pub(super) fn start(names: [&str; 2], quality: Quality, seed: u64) -> Result<Self, String> {
        let [near, far] = names.map(|name| {
            let failed = |error: String| format!("cannot create the device {name}: {error}");
            let mtu = i32::try_from(quality.mtu).map_err(|error| failed(error.to_string()))?;
            let made = Tun::builder().name(name).mtu(mtu).build();
            let made = made.map_err(|error| failed(error.to_string()))?;
            let device = made.into_iter().next();
            device
                .map(Arc::new)
                .ok_or_else(|| failed("no device was returned".to_owned()))
        });
        let (near, far) = (near?, far?);
        let mut tasks = JoinSet::new();
        tasks.spawn(carry(
            Arc::clone(&near),
            Arc::clone(&far),
            Line::new(quality, seed),
        ));
        tasks.spawn(carry(far, near, Line::new(quality, !seed)));
        Ok(Self { tasks })
    }

    /// Removes the devices.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Forwards packets in one direction. Runs until it is aborted.
async fn carry(from: Arc<Tun>, to: Arc<Tun>, mut line: Line) {
    let begin = Instant::now();
    let mut buffer = vec![0; LARGEST];
    loop {
        let next = line.next();
        tokio::select! {
            read = from.recv(&mut buffer) => {
                if read.is_err() {
                    sleep(BROKEN).await;
                }
                let mut read = read;
                for _ in 0..AT_ONCE {
                    let Ok(len) = read else { break };
                    line.push(buffer[..len].to_vec(), begin.elapsed());
                    read = from.try_recv(&mut buffer);
                }
            }
            () = async {
                match next {
                    Some(next) => sleep_until(begin + next).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
        while let Some(packet) = line.pop(begin.elapsed() + TOO_EARLY) {
            // The device may be down.
            let _ = to.send(&packet).await;
        }
    }
}
