use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], n + 1))
}

fn pings(wishes: &[Wish]) -> Vec<SocketAddr> {
    let ping = |wish: &Wish| match wish {
        Wish::Ping(address) => Some(*address),
        _ => None,
    };
    wishes.iter().filter_map(ping).collect()
}

/// Returns an active session with a path to `address(0)`.
fn direct(now: Instant, latency: Duration) -> Session {
    let mut session = Session::new(&[address(0), address(1)], now);
    session.set_active(true, now);
    session.wishes();
    session.ponged(address(0), latency, now);
    assert_eq!(session.wishes(), [Wish::Route(Some(address(0)))]);
    session
}

/// Advances the time, without answering pings, until a matching request.
fn run_until(session: &mut Session, limit: Instant, is_wanted: impl Fn(&Wish) -> bool) -> Option<Instant> {
    while let Some(next) = session.next_timeout().filter(|next| *next <= limit) {
        session.timeout(next);
        if session.wishes().iter().any(&is_wanted) {
            return Some(next);
        }
    }
    None
}

#[test]
fn an_idle_peer_is_not_pinged() {
    let now = Instant::now();
    let mut session = Session::new(&[address(0)], now);
    session.timeout(now + Duration::from_secs(60));
    assert_eq!(session.wishes(), []);
    assert_eq!(session.next_timeout(), None);
}

#[test]
fn traffic_starts_a_search_that_slows_down() {
    let now = Instant::now();
    let mut session = Session::new(&[address(0), address(1)], now);
    session.set_active(true, now);
    let wishes = session.wishes();
    assert_eq!(pings(&wishes), [address(0), address(1)]);
    assert!(wishes.contains(&Wish::Call));
    let mut at = Vec::new();
    while let Some(next) = run_until(&mut session, now + Duration::from_secs(64), |wish| {
        *wish == Wish::Call
    }) {
        at.push((next - now).as_secs());
    }
    assert_eq!(at[..3], [1, 3, 7]);
    // As often as tsnet, so that a restored path is found within seconds.
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 5), "{at:?}");
}

#[test]
fn the_first_address_that_answers_is_the_path() {
    let now = Instant::now();
    let mut session = direct(now, 10 * MS);
    session.ponged(address(1), 9 * MS, now);
    assert_eq!(
        (session.wishes().as_slice(), session.path()),
        (&[][..], Some(address(0)))
    );
}

#[test]
fn only_a_much_faster_path_replaces_a_good_one() {
    let now = Instant::now();
    let mut session = direct(now, 30 * MS);
    session.ponged(address(1), 10 * MS, now);
    assert_eq!(session.wishes(), [Wish::Route(Some(address(1)))]);
    // On one machine all paths are fast, so the absolute difference is too small.
    let mut session = direct(now, MS / 2);
    session.ponged(address(1), MS / 10, now);
    assert_eq!(session.path(), Some(address(0)));
}

#[test]
fn a_path_that_answers_stays() {
    let mut now = Instant::now();
    let mut session = direct(now, 10 * MS);
    for _ in 0..100 {
        now = session.next_timeout().unwrap();
        session.timeout(now);
        for to in pings(&session.wishes()) {
            if to == address(0) {
                session.ponged(to, 10 * MS, now + 10 * MS);
            }
        }
        assert_eq!(session.path(), Some(address(0)));
    }
}

#[test]
fn one_lost_answer_does_not_end_a_path() {
    let mut now = Instant::now();
    let mut session = direct(now, 10 * MS);
    for n in 0..60 {
        now = session.next_timeout().unwrap();
        session.timeout(now);
        if n % 3 != 0 && pings(&session.wishes()).contains(&address(0)) {
            session.ponged(address(0), 10 * MS, now + 10 * MS);
        }
        assert_eq!(session.path(), Some(address(0)), "{n}");
    }
}

#[test]
fn a_path_that_loses_pings_does_not_have_the_others_asked_each_time() {
    let start = Instant::now();
    let mut session = direct(start, 10 * MS);
    let (mut now, mut beats, mut others) = (start, 0, 0);
    while now < start + Duration::from_secs(120) {
        now = session.next_timeout().unwrap();
        session.timeout(now);
        for to in pings(&session.wishes()) {
            if to != address(0) {
                others += 1;
                continue;
            }
            beats += 1;
            if beats % 3 != 0 {
                session.ponged(to, 10 * MS, now + 10 * MS);
            }
        }
    }
    assert_eq!(session.path(), Some(address(0)));
    assert!(
        (4..=16).contains(&others),
        "{others} with {beats} pings of the path"
    );
}

#[test]
fn a_dead_path_is_left_within_five_seconds_and_looked_for_again() {
    for latency in [MS, 100 * MS, 3000 * MS] {
        let now = Instant::now();
        let mut session = direct(now, latency);
        let left = run_until(&mut session, now + Duration::from_secs(60), |wish| {
            *wish == Wish::Route(None)
        });
        let took = left.unwrap() - now;
        assert!(took <= Duration::from_secs(5), "{latency:?}: {took:?}");
        assert_eq!(session.path(), None);
        // The path is used again once it answers.
        session.ponged(address(0), latency, now + took);
        assert_eq!(session.path(), Some(address(0)));
    }
}

#[test]
fn a_path_that_the_system_refuses_is_left_at_once() {
    let now = Instant::now();
    let mut session = direct(now, 10 * MS);
    session.refused(address(1), now);
    assert_eq!(session.path(), Some(address(0)));
    session.refused(address(0), now);
    assert_eq!(session.wishes(), [Wish::Route(None)]);
    // The session does not retry in a loop.
    assert!(session.next_timeout().unwrap() >= now + FIRST_SEARCH);
}

#[test]
fn after_a_sleep_the_path_is_left_and_looked_for_at_once() {
    let now = Instant::now();
    let mut session = direct(now, 10 * MS);
    session.slept(now);
    let wishes = session.wishes();
    assert_eq!(session.path(), None);
    assert_eq!(wishes.first(), Some(&Wish::Route(None)));
    assert_eq!(pings(&wishes), [address(0), address(1)]);
    assert!(
        wishes.contains(&Wish::Call),
        "the peer's firewall blocks our pings"
    );

    let mut idle = Session::new(&[address(0)], now);
    idle.slept(now);
    assert_eq!(idle.wishes(), []);
}

#[test]
fn pings_stop_when_the_traffic_ends() {
    let now = Instant::now();
    let mut session = direct(now, 10 * MS);
    session.set_active(false, now);
    assert_eq!(session.wishes(), [Wish::Route(None)]);
    assert_eq!(session.next_timeout(), None);
    assert!(!session.is_over(now + Duration::from_secs(60)));
    assert!(session.is_over(now + FORGET));
    // A late answer does not restart the pings.
    session.ponged(address(0), MS, now);
    assert_eq!(session.path(), None);
}

#[test]
fn a_call_is_answered_with_pings_but_not_with_a_flood() {
    let now = Instant::now();
    let mut session = Session::new(&[], now);
    let called = [address(5), address(6)];
    session.called(&called, now);
    assert_eq!(pings(&session.wishes()), called);
    for _ in 0..100 {
        session.called(&called, now + MS);
        session.pinged(address(5), now + MS);
    }
    assert_eq!(session.wishes(), []);
    session.called(&called, now + PING_AGAIN);
    assert_eq!(pings(&session.wishes()), called);
}

#[test]
fn a_new_invitation_replaces_the_old_one_but_not_the_path() {
    let now = Instant::now();
    let mut session = Session::new(&[address(9)], now);
    session.set_active(true, now);
    session.called(&[address(0), address(1)], now);
    session.ponged(address(0), MS, now);
    session.called(&[address(2)], now);
    let known = [0, 1, 2, 9].map(|n| session.knows(&address(n)));
    assert_eq!(known, [true, false, true, true]);
}

#[test]
fn candidates_are_bounded_and_those_of_control_stay() {
    let now = Instant::now();
    let mut session = Session::new(&[address(0), address(1)], now);
    session.set_active(true, now);
    for n in 2..500 {
        session.pinged(address(n), now);
    }
    assert_eq!(session.candidates.len(), MAX_CANDIDATES);
    assert!(session.knows(&address(0)) && session.knows(&address(1)));
    // The latest address is known, so that a peer that moves is found.
    assert!(session.knows(&address(499)));
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_session_bounded_and_consistent(
        steps in prop::collection::vec((0u8..8, 0u16..64, 0u64..3000), 1..200),
    ) {
        let mut now = Instant::now();
        let mut session = Session::new(&[address(0)], now);
        let mut routed = None;
        for (step, n, wait) in steps {
            now += Duration::from_millis(wait);
            match step {
                0 => session.set_active(true, now),
                1 => session.set_active(false, now),
                2 => session.called(&[address(n), address(n + 1)], now),
                3 => session.pinged(address(n), now),
                4 => session.ponged(address(n), Duration::from_millis(wait), now),
                5 => session.refused(address(n), now),
                6 => session.set_listed(&[address(n)]),
                _ => session.timeout(now),
            }
            let wishes = session.wishes();
            prop_assert!(wishes.len() <= 2 * MAX_CANDIDATES + 2);
            for wish in wishes {
                if let Wish::Route(to) = wish {
                    routed = to;
                }
            }
            prop_assert_eq!(routed, session.path());
            prop_assert!(session.candidates.len() <= MAX_CANDIDATES);
            prop_assert!(session.path().is_none_or(|path| session.knows(&path)));
            // `timeout` has handled all due work, so the caller cannot loop without a pause.
            session.timeout(now);
            prop_assert!(session.next_timeout().is_none_or(|next| next > now));
            for wish in session.wishes() {
                if let Wish::Route(to) = wish {
                    routed = to;
                }
            }
        }
    }
}

#[test]
fn packets_take_the_relay_when_a_peer_calls_whose_path_is_silent() {
    let now = Instant::now();
    let mut session = direct(now, 600 * MS);
    session.called(&[address(5)], now + MS);
    assert_eq!(session.path(), Some(address(0)), "the path may still work");
    session.ponged(address(0), 600 * MS, now + 601 * MS);
    session.wishes();
    // A ping, and its timeout.
    for _ in 0..2 {
        session.timeout(session.next_timeout().unwrap());
    }
    session.wishes();
    let called = now + Duration::from_secs(3);
    session.called(&[address(6)], called);
    let wishes = session.wishes();
    assert_eq!(wishes.first(), Some(&Wish::Route(None)));
    assert!(pings(&wishes).contains(&address(6)));
    session.ponged(address(6), 600 * MS, called + 600 * MS);
    assert_eq!(session.wishes(), [Wish::Route(Some(address(6)))]);
}

#[test]
fn an_address_that_answers_replaces_a_path_whose_answer_is_late() {
    let now = Instant::now();
    let at = |ms| now + ms * MS;
    for (late, replaced) in [(190, false), (210, true)] {
        let mut session = direct(now, 200 * MS);
        session.called(&[address(5)], at(500));
        assert_eq!(pings(&session.wishes()), [address(0), address(5)]);
        session.ponged(address(5), late * MS, at(500 + late));
        assert_eq!(session.path() == Some(address(5)), replaced, "after {late} ms");
    }
}
