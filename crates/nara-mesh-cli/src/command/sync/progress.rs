use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nara_mesh::client::SyncProgress;
use tokio::sync::watch;

use crate::printer::Printer;

const KNOWN_TOTAL: &str = "{bar:30} {human_pos} of {human_len} events ({per_sec}, {eta} left)  {msg}";
const UNKNOWN_TOTAL: &str = "{spinner} {human_pos} events ({per_sec})  {msg}";

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// The progress bar on stderr; hidden if stderr is not a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(printer: Printer) -> Self {
        let bar = if printer.may_animate() {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        set_style(&bar, UNKNOWN_TOTAL);
        Self(bar)
    }

    /// Shows the number of received events, and the total if known.
    pub(super) fn show(&self, received: usize, total: Option<u64>) {
        if let Some(total) = total.filter(|&total| self.0.length() != Some(total)) {
            set_style(&self.0, KNOWN_TOTAL);
            self.0.set_length(total);
        }
        self.0.set_position(received as u64);
    }

    /// Shows the progress of a transfer until it ends.
    pub(super) async fn follow<T>(
        &self,
        mut progress: watch::Receiver<SyncProgress>,
        transfer: impl Future<Output = T>,
    ) -> T {
        let show = async {
            // The transfer owns the sender, so this loop ends with it.
            while progress.changed().await.is_ok() {
                let now = progress.borrow_and_update().clone();
                let total = now.remaining.map(|remaining| remaining + now.received as u64);
                self.show(now.received, total);
                let refused = match now.refused {
                    0 => String::new(),
                    refused => format!(", {refused} refused"),
                };
                self.0.set_message(format!("{}{refused}", HumanBytes(now.bytes)));
            }
            std::future::pending().await
        };
        tokio::select! {
            done = transfer => done,
            never = show => never,
        }
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
