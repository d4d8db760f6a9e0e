use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::time::{UnixMillis, go_duration};

/// The header with the receiver's clock, in decimal **milliseconds**, in an answer that refuses a request because of
/// its time. It is not signed.
pub const TIME_HEADER: HeaderName = HeaderName::from_static("x-nara-time");

/// The header that names the clock that is probably wrong, `sender` or `receiver` of the request, in an answer that
/// refuses the request because of its time; absent if the receiver cannot tell. It is not signed.
pub const FAULT_HEADER: HeaderName = HeaderName::from_static("x-nara-clock-fault");

/// The clock that is probably wrong, seen from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// The clock of the judging side.
    Ours,
    /// The clock of the other side.
    Theirs,
}

impl ClockFault {
    /// Judges by the clocks of other peers: a clock that is at most half as far from their median as the other clock is
    /// the better one. `theirs` and `mesh` are **nanoseconds** ahead of our clock. `None` if neither is clearly better.
    pub fn judge(theirs: i64, mesh: i64) -> Option<Self> {
        let ours_off = mesh.unsigned_abs();
        let theirs_off = theirs.abs_diff(mesh);
        match () {
            () if ours_off == theirs_off => None,
            () if ours_off <= theirs_off / 2 => Some(Self::Theirs),
            () if theirs_off <= ours_off / 2 => Some(Self::Ours),
            () => None,
        }
    }

    /// Returns the same judgement, seen from the other side.
    #[must_use]
    pub const fn from_the_other_side(self) -> Self {
        match self {
            Self::Ours => Self::Theirs,
            Self::Theirs => Self::Ours,
        }
    }
}

/// What a receiver reports about the clocks when it refuses a request because of its time.
///
/// `Display` is the full reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRefusal {
    /// The time of the request; `None` if unknown.
    pub request: Option<UnixMillis>,
    /// The clock of the receiver.
    pub receiver: UnixMillis,
    /// The clock that is probably wrong, as the receiver sees it.
    pub fault: Option<ClockFault>,
}

impl ClockRefusal {
    /// Writes [`TIME_HEADER`] and, if it is known which clock is probably wrong, [`FAULT_HEADER`].
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(TIME_HEADER, HeaderValue::from(self.receiver.get()));
        let fault = self.fault.map(|fault| match fault {
            ClockFault::Ours => HeaderValue::from_static("receiver"),
            ClockFault::Theirs => HeaderValue::from_static("sender"),
        });
        match fault {
            Some(fault) => drop(headers.insert(FAULT_HEADER, fault)),
            None => drop(headers.remove(FAULT_HEADER)),
        }
    }

    /// Reads the headers that [`ClockRefusal::write_to`] writes; `None` without a valid time. The fault is the
    /// receiver's view. The headers are unsigned and prove nothing.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let receiver = headers.get(TIME_HEADER)?.to_str().ok()?.parse().ok()?;
        let fault = headers
            .get(FAULT_HEADER)
            .and_then(|fault| match fault.as_bytes() {
                b"receiver" => Some(ClockFault::Ours),
                b"sender" => Some(ClockFault::Theirs),
                _ => None,
            });
        Some(Self {
            request: None,
            receiver: UnixMillis::new(receiver),
            fault,
        })
    }

    /// Returns the distance between the time of the request and the receiver's clock, and whether the request is ahead.
    fn distance(&self) -> Option<(Duration, bool)> {
        let request = self.request?;
        Some((request.abs_diff(self.receiver), request > self.receiver))
    }
}

impl fmt::Display for ClockRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(request), Some((by, ahead))) = (self.request, self.distance()) {
            let side = if ahead { "ahead of" } else { "behind" };
            write!(
                f,
                "the request was signed at {request} ms, {} {side} the receiver's clock; ",
                go_duration(by, false)
            )?;
        }
        write!(f, "the receiver's clock says {} ms; ", self.receiver)?;
        f.write_str(match self.fault {
            Some(ClockFault::Theirs) => {
                "the clocks of other naras contradict the sender's: set the sender's clock"
            }
            Some(ClockFault::Ours) => {
                "the clocks of other naras contradict the receiver's: tell its operator"
            }
            None => "compare both with a third clock, and set the wrong one",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_closer_to_the_others_is_right() {
        for (theirs, mesh, fault) in [
            (40, 0, Some(ClockFault::Theirs)),
            (40, 40, Some(ClockFault::Ours)),
            (40, 13, Some(ClockFault::Theirs)),
            (40, 14, None),
            (40, 20, None),
            (40, 27, Some(ClockFault::Ours)),
            (40, -100, None),
            (-40, 0, Some(ClockFault::Theirs)),
            (0, 0, None),
            (i64::MAX, 0, Some(ClockFault::Theirs)),
            (i64::MAX, i64::MIN, None),
            (i64::MIN, i64::MIN, Some(ClockFault::Ours)),
        ] {
            assert_eq!(ClockFault::judge(theirs, mesh), fault, "{theirs} {mesh}");
        }
    }

    #[test]
    fn a_refusal_names_both_times_and_the_wrong_clock() {
        let mut refusal = ClockRefusal {
            request: Some(UnixMillis::new(100_000)),
            receiver: UnixMillis::new(140_250),
            fault: Some(ClockFault::Theirs),
        };
        assert_eq!(
            refusal.to_string(),
            "the request was signed at 100000 ms, 40.25s behind the receiver's clock; the receiver's clock says 140250 ms; \
             the clocks of other naras contradict the sender's: set the sender's clock"
        );
        refusal.fault = None;
        refusal.request = Some(UnixMillis::new(200_000));
        let text = refusal.to_string();
        assert!(
            text.contains("ahead of") && text.ends_with("set the wrong one"),
            "{text}"
        );
    }

    #[test]
    fn headers_round_trip() {
        for fault in [None, Some(ClockFault::Ours), Some(ClockFault::Theirs)] {
            let refusal = ClockRefusal {
                request: None,
                receiver: UnixMillis::new(-7),
                fault,
            };
            let mut headers = HeaderMap::new();
            headers.insert(FAULT_HEADER, HeaderValue::from_static("nobody"));
            refusal.write_to(&mut headers);
            assert_eq!(ClockRefusal::from_headers(&headers), Some(refusal));
        }
        assert_eq!(ClockRefusal::from_headers(&HeaderMap::new()), None);
        let mut headers = HeaderMap::new();
        headers.insert(TIME_HEADER, HeaderValue::from_static("noon"));
        assert_eq!(ClockRefusal::from_headers(&headers), None);
    }
}
