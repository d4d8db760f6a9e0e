//! Runs a network stack.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::time::sleep;
use ts_netstack_smoltcp::netcore::smoltcp;
use ts_netstack_smoltcp::netcore::{self, Channel};
use ts_netstack_smoltcp::{CoreStack, HasChannel as _};

use crate::embedded::device::StackEnd;

/// The task of a network stack.
///
/// Works in rounds, each with a limited number of packets and then all commands. The loop of the library serves commands
/// only when the device has no packets, so a steady stream of packets would delay them without limit.
pub(in crate::embedded) struct Runner {
    stack: CoreStack,
    end: StackEnd,
    start: Instant,
}

impl Runner {
    pub(super) fn new(end: StackEnd, config: netcore::Config) -> Self {
        Self {
            stack: CoreStack::new(config, smoltcp::time::Instant::ZERO),
            end,
            start: Instant::now(),
        }
    }

    pub(super) fn channel(&self) -> Channel {
        self.stack.command_channel()
    }

    /// Runs the stack. Never returns.
    pub(in crate::embedded) async fn run(mut self) {
        loop {
            // A panic in the library must not end all connections.
            if std::panic::AssertUnwindSafe(self.run_rounds())
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!("the network stack panicked; it continues");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn run_rounds(&mut self) {
        loop {
            self.stack.process_cmds();
            let round = self.end.begin_round();
            let micros = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
            let now = smoltcp::time::Instant::from_micros(micros);
            let until_timer = self.stack.poll_delay(now);
            let command = self.stack.wait_for_cmd();
            let command = tokio::select! {
                biased;
                () = self.stack.wait_io_async(now, &mut self.end) => None,
                () = round.is_over() => None,
                () = sleep(until_timer.unwrap_or_default()), if until_timer.is_some() => None,
                command = command => command,
            };
            if let Some(command) = command {
                self.stack.process_one_cmd(command);
            }
        }
    }
}
