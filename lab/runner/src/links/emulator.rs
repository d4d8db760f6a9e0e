//! Two network devices with an emulated line between them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tun::Tun;

use super::line::{Line, Quality};

/// The largest packet of a device, in bytes.
const LARGEST: usize = 65_536;
/// Timers are no finer than a millisecond, so a packet may arrive by half of that too early.
const TOO_EARLY: Duration = Duration::from_micros(500);
/// A device that is down cannot be read.
const BROKEN: Duration = Duration::from_millis(5);
/// Packets that are read before others are written.
const AT_ONCE: usize = 64;

/// See the module. The devices exist as long as this does.
#[derive(Debug)]
pub(super) struct Emulator {
    tasks: JoinSet<()>,
}

impl Emulator {
    /// Makes devices of these names in our namespace, with a line of this quality in each direction.
    pub(super) fn start(names: [&str; 2], quality: Quality, seed: u64) -> Result<Self, String> {
        let [near, far] = names.map(|name| {
            let failed = |error: String| format!("the device {name} cannot be made: {error}");
            let mtu = i32::try_from(quality.mtu).map_err(|error| failed(error.to_string()))?;
            let made = Tun::builder().name(name).mtu(mtu).build();
            let made = made.map_err(|error| failed(error.to_string()))?;
            let device = made.into_iter().next();
            device
                .map(Arc::new)
                .ok_or_else(|| failed("there is none".to_owned()))
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

/// Carries packets in one direction. Ends with the devices.
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
            // Nobody listens there yet, or any more.
            let _ = to.send(&packet).await;
        }
    }
}
